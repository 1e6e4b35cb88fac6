"""State dicts from elsewhere: read from a file that may be anything, then loaded whole or not at all."""

import pickle
import warnings
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor, nn

from zoo.errors import InputError

COUNT = "num_batches_tracked"  # BatchNorm's, which files older than torch 0.4.1 lack


def read(path: str | Path) -> dict:
    """What `torch.save` or safetensors wrote to `path`, on the CPU.  Neither way of reading can run code.

    Raises InputError for a file that is missing, truncated, damaged, no dict, or that holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, not a file of weights' if path.is_dir() else 'no such file'}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():  # torch's about a stranger's pickle; it is refused below
            warnings.simplefilter("ignore")
            payload = torch.load(path, map_location="cpu", weights_only=True)
        broken = None
        if is_zipfile(path):
            with ZipFile(path) as file:
                broken = file.testzip()  # torch does not look at the checksums
    except pickle.UnpicklingError as e:
        lines = [line for line in str(e).splitlines() if "GLOBAL" in line] or str(e).splitlines() or [""]
        raise InputError(f"{path}: refused, for it holds more than tensors: {lines[0].strip()[:200]}") from e
    except Exception as e:  # whatever torch and zip make of bytes that are none of theirs
        first = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
        raise InputError(f"{path}: cannot be read as weights ({first}); is it whole?") from e
    if broken is not None:
        raise InputError(f"{path}: damaged: the checksum of {broken} is wrong; copy the file again")
    if not isinstance(payload, dict):
        raise InputError(f"{path}: holds a {type(payload).__name__}, not a state dict")
    return payload


def _read_safetensors(path: Path) -> dict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as e:
        raise InputError(f"{path}: reading it takes a package: pip install safetensors") from e
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise InputError(f"{path}: cannot be read as weights ({str(e)[:200]}); is it whole?") from e


def tensors(payload: dict, path: str | Path) -> dict[str, Tensor]:
    """`payload`, if it is a state dict: names and tensors, at least one."""
    if not payload:
        raise InputError(f"{path}: not a state dict: it is empty")
    for key, value in payload.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            what = "is no tensor" if isinstance(key, str) else "has a name that is no word"
            raise InputError(f"{path}: not a state dict: its entry {key!r} {what}")
        if value.layout is not torch.strided or value.is_complex():
            kind = "complex" if value.is_complex() else "sparse"
            raise InputError(f"{path}: its entry {key!r} is a {kind} tensor; a network has dense real ones")
    return dict(payload)


def check(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Raise InputError with the first differences unless all keys and shapes of `state` are the module's.

    Only a BatchNorm's `num_batches_tracked` may be missing.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(COUNT)]
    extra = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(state[key].shape)} there, {tuple(own[key].shape)} here"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if missing or extra or shapes:
        raise InputError(
            f"{source} does not fit the model: {len(missing)} keys missing {missing[:3]}, "
            f"{len(extra)} too many {extra[:3]}, {len(shapes)} of another shape {shapes[:3]}"
        )


def load_strict(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state` into `module` if `check` finds nothing; a count that is missing becomes 0."""
    check(module, state, source)
    counts = {key: torch.zeros_like(t) for key, t in module.state_dict().items() if key.endswith(COUNT)}
    module.load_state_dict({**counts, **state})
