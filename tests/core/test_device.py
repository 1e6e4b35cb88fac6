"""If this breaks, a run lands on the wrong device or quietly computes in a precision the processor lacks."""

from pathlib import Path

import pytest
import torch

from zoo.core import config, device
from zoo.errors import InputError

CPU = torch.device("cpu")


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.resolve_device("auto") == torch.device("cuda")
    assert device.resolve_device("cpu") == CPU


def test_cuda_without_a_cuda_device_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for word in ("cuda", "cuda:1"):
        with pytest.raises(InputError, match=rf"--device {word}: .*no CUDA device.*--device cpu"):
            device.resolve_device(word)


def test_cuda_number_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="cuda:0 to cuda:1"):
        device.resolve_device("cuda:2")


@pytest.mark.parametrize("word", ["gpu", "cudo", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "", "mps"])
def test_unknown_device_names_the_known(word: str) -> None:
    with pytest.raises(InputError, match=r"(nearest|known): .*c(pu|uda)"):
        device.resolve_device(word)


def test_amp_words() -> None:
    assert ("auto", *device.AMP) == config.AMP_WORDS
    assert device.resolve_amp("bf16", CPU) is torch.bfloat16
    assert device.resolve_amp("fp16", CPU) is torch.float16
    assert device.resolve_amp("off", CPU) is None
    with pytest.raises(InputError, match=r"--amp bf61: .*nearest: bf16"):
        device.resolve_amp("bf61", CPU)


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        ({"avx2", "avx512_f"}, None),  # bf16 only by emulation
        ({"avx2", "avx512_bf16"}, torch.bfloat16),
        ({"amx_tile", "amx_bf16"}, torch.bfloat16),
        ({"neon", "bf16"}, torch.bfloat16),
        (set(), None),
    ],
)
def test_auto_amp_on_a_cpu_follows_its_instruction_sets(
    monkeypatch: pytest.MonkeyPatch, features: set[str], dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(device, "cpu_features", lambda: features)
    assert device.resolve_amp("auto", CPU) is dtype


def test_cpuinfo_lines(tmp_path: Path) -> None:
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16 amx_bf16\nbugs : bf16\n")
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd svebf16\n")
    assert device._cpuinfo(x86) == {"fpu", "avx2", "avx512_bf16", "amx_bf16"}
    assert "sve_bf16" in device._cpuinfo(arm)
    assert device._cpuinfo(tmp_path / "none") == set()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo to compare with")
def test_torch_and_linux_agree_on_this_machine() -> None:
    ours = device.resolve_amp("auto", CPU) is torch.bfloat16
    assert ours == any(name in device._cpuinfo(Path("/proc/cpuinfo")) for name in device.CPU_BF16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_amp_on_cuda() -> None:
    native = torch.cuda.get_device_capability()[0] >= 8  # Ampere and later
    assert device.resolve_amp("auto", torch.device("cuda")) is (torch.bfloat16 if native else None)
