"""Where a model runs and in which precision: the words of --device and --amp."""

from pathlib import Path

import torch

from zoo.errors import InputError, nearest

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}
CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86's two instruction sets; Arm's two


def resolve_device(word: str = "auto", local: int = 0) -> torch.device:
    """`auto` (a CUDA device where there is one), `cpu`, `cuda` or `cuda:N`.  Raises InputError.

    local: which of the machine's devices `auto` and `cuda` are, for process `local` of several on it.
    """
    if word in ("auto", "cuda") and local:
        word = f"cuda:{local}" if torch.cuda.is_available() or word == "cuda" else "cpu"
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = word.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        known = nearest(kind, ("auto", "cpu", "cuda", "cuda:0"))
        raise InputError(f"--device {word}: not known; {known}")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise InputError(f"--device {word}: torch finds no CUDA device here; use --device cpu")
        if int(number or 0) >= count:
            raise InputError(f"--device {word}: the devices here are cuda:0 to cuda:{count - 1}")
    return torch.device(word)


def resolve_amp(word: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast on `device`, None for float32 throughout.  Raises InputError.

    `auto` is bf16 where the processor computes in it, else off: never fp16, whose narrow range overflows,
    and never bf16 by emulation, which is slower than float32 and less exact.
    """
    if word == "auto":
        return torch.bfloat16 if has_bf16(device) else None
    if word not in AMP:
        raise InputError(f"--amp {word}: not known; {nearest(word, ('auto', *AMP))}")
    return AMP[word]


def amp_word(amp: torch.dtype | None) -> str:
    """The word of --amp that means this dtype on every device."""
    return next(word for word, dtype in AMP.items() if dtype is amp)


def has_bf16(device: torch.device) -> bool:
    """Whether `device` has bfloat16 arithmetic of its own."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return any(name in cpu_features() for name in CPU_BF16)
    return False


def cpu_features() -> set[str]:
    """Names of the CPU's instruction sets, empty where they cannot be known."""
    if hasattr(torch.cpu, "get_capabilities"):  # newer than the oldest torch that we allow
        return {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    return _cpuinfo(Path("/proc/cpuinfo"))


def _cpuinfo(path: Path) -> set[str]:
    """The words of Linux's first `flags` (x86) or `Features` (Arm) line; Arm's `svebf16` as `sve_bf16`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    words = next((x.partition(":")[2].split() for x in lines if x.startswith(("flags", "Features"))), [])
    return {"sve_bf16" if word == "svebf16" else word for word in words}
