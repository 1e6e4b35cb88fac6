"""Checkpoints: one file that holds a run whole, written so that no kill or full disk costs the last one.

A file is a dict of tensors and plain types alone, read with `weights_only=True`: it cannot run code.
"""

import io
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from zoo import registry, state
from zoo.core.config import Preprocess
from zoo.core.decide import Decision
from zoo.core.files import write_bytes
from zoo.core.masks import Labels
from zoo.errors import InputError

FORMAT = "zoo checkpoint 1"


@dataclass
class Checkpoint:
    """A model with all that using it needs; `training` holds what resuming needs besides.

    build: keywords of `zoo.build` that make the model again.  model: its state dict.  config: the run's.
    thresholds: probabilities, one a class, as fitted; [] for 0.5, as in files from before there were any.
    """

    arch: str
    build: dict
    labels: Labels
    preprocess: Preprocess
    model: dict[str, Tensor]
    config: dict
    training: dict = field(default_factory=dict)
    thresholds: list[float] = field(default_factory=list)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary file beside `path`, then rename: `path` is the old file or the new, never half.

    Raises InputError when the disk refuses; the file that was there stays as it was.
    """
    payload = {
        "format": FORMAT,
        **vars(checkpoint),
        "labels": checkpoint.labels.to_dict(),
        "preprocess": checkpoint.preprocess.to_dict(),
    }
    buffer = io.BytesIO()  # torch's own file writer turns a full disk into an abort; Python's raises OSError
    torch.save(payload, buffer)
    write_bytes(path, buffer.getbuffer())


def read(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`, tensors on the CPU.

    Raises InputError for a file that is missing, truncated, not ours, or that holds pickled objects.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; give a checkpoint in it, such as {path / 'best.pt'}")
    payload = state.read(path)
    if payload.pop("format", None) != FORMAT:
        raise InputError(f"{path}: not a checkpoint that train.py wrote (no entry format={FORMAT!r})")
    try:
        payload["labels"] = Labels.from_dict(payload["labels"])
        payload["preprocess"] = Preprocess.from_dict(payload["preprocess"])
        found = Checkpoint(**payload)
        Decision.of(found.labels, found.thresholds)
        return found
    except Exception as e:
        raise InputError(f"{path}: entries of a checkpoint are missing or damaged ({e})") from e


def model_of(checkpoint: Checkpoint) -> nn.Module:
    """The model in eval mode with the checkpoint's weights, loaded strictly, and their normalisation."""
    model = registry.build(checkpoint.arch, **checkpoint.build)
    state.load_strict(model, checkpoint.model, f"the {checkpoint.arch} checkpoint")
    model.normalisation = cast(nn.Module, checkpoint.preprocess.normalisation)  # which it is not: typing
    return model.eval()


def check_labels(labels: Labels, path: Path, other: Labels, other_path: Path) -> None:
    """Raises InputError with the first difference, unless both checkpoints speak of the same classes."""
    a, b = labels, other
    differs = ""
    if a.task != b.task:
        differs = f"its task is {b.task}, that of {path} {a.task}"
    elif len(a.names) != len(b.names):
        differs = f"it has {len(b.names)} classes, {path} {len(a.names)}"
    else:
        for k, name in enumerate(a.names):
            if name != b.names[k]:
                differs = f"its class {k} is {b.names[k]!r}, that of {path} {name!r}"
            elif a.colours[k] != b.colours[k]:
                differs = f"its colour of {name!r} is {b.colours[k]}, that of {path} {a.colours[k]}"
            if differs:
                break
    if not differs and a.index != b.index:
        differs = f"its classes are {list(b.index)} in mask files, those of {path} {list(a.index)}"
    if differs:
        raise InputError(f"{other_path}: cannot join {path}: {differs}; an ensemble needs the same classes")


def load(path: str | Path) -> nn.Module:
    """`zoo.load`: the model of the checkpoint at `path`, in eval mode, on the CPU.  Raises InputError."""
    return model_of(read(path))


def seed_everything(seed: int) -> None:
    """Every generator that a run may draw from, from one number."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global one is what a library may use
    torch.manual_seed(seed)


def rng_state() -> dict:
    """The state of every generator that a run may draw from, as tensors and plain types."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {k: np.asarray(v).tolist() for k, v in numpy["state"].items()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(saved: dict) -> None:
    """Put back what `rng_state` took."""
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(saved["numpy"])  # noqa: NPY002
    torch.set_rng_state(saved["torch"])
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i, there in enumerate(saved["cuda"][:count]):  # may be fewer than where it was saved
        torch.cuda.set_rng_state(there, i)
