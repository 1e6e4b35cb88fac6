"""TrainConfig: one run, frozen and flat.  Preprocess: how an image becomes the model's input."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from zoo.core.device import AMP
from zoo.encoders import Normalisation
from zoo.errors import InputError, nearest
from zoo.options import Plain, as_typed

OPTIMIZERS = ("adamw", "sgd")
DECAYED = ("weights", "dense", "not_norm", "all")  # see zoo.core.optimizer
SCHEDULES = ("constant", "cosine", "poly", "linear", "step")
AMP_WORDS = ("auto", *AMP)
CHOICES = {"optimizer": OPTIMIZERS, "decay_on": DECAYED, "schedule": SCHEDULES, "amp": AMP_WORDS}


@dataclass(frozen=True)
class Preprocess:
    """How a uint8 image becomes the model's input; travels with the checkpoint.

    channels: 1 (grey) or 3 (RGB).  mean, std: of values 0..1, one a channel.
    size: (h, w) of the model's output.  tile: windows of that size at the image's own scale (with the
    model's margin around them) instead of the whole image resized to it.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    tile: bool = False

    @property
    def normalisation(self) -> Normalisation:
        """What the weights were trained to expect of their input."""
        return Normalisation(self.mean, self.std)

    def describe(self) -> str:
        """For people."""
        way = "tiles at the image's own scale" if self.tile else "resized"
        mean, deviation = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"channels {self.channels}, mean {mean}, deviation {deviation}; {way}"

    def to_tensor(self, image: np.ndarray) -> Tensor:
        """uint8 (H, W) or (H, W, 3) -> normalised float32 (channels, H, W)."""
        return self.normalise(channels_first(image, self.channels))

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 (..., C, H, W) on any device -> float32 (x/255 - mean) / std."""
        mean = torch.tensor(self.mean, dtype=torch.float32, device=x.device)[:, None, None]
        std = torch.tensor(self.std, dtype=torch.float32, device=x.device)[:, None, None]
        return x.float().div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, object]:
        """Plain types, as a checkpoint keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict) -> "Preprocess":
        """The inverse of `to_dict` (lists become tuples again)."""
        return cls(d["channels"], tuple(d["mean"]), tuple(d["std"]), tuple(d["size"]), d["tile"])


def channels_first(image: np.ndarray, channels: int) -> Tensor:
    """uint8 (H, W) or (H, W, 3) -> uint8 Tensor (channels, H, W): grey repeated, or RGB as luma (BT.601)."""
    if image.ndim == 2:
        planes = np.broadcast_to(image, (channels, *image.shape))
    elif channels == 1:
        planes = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[None]
    else:
        planes = np.moveaxis(image, 2, 0)
    return torch.from_numpy(np.array(planes, order="C"))


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's numbers.  train.py's flags have the same names.

    Raises InputError where a value cannot be, naming the flag.
    """

    # model
    arch: str = "unetpp"
    encoder: str | None = None
    pretrained: bool | str = False  # True: the encoder's; a name: a published network's, with its options
    weights: str | None = None  # a file or a published name to start from
    reset_head: bool = False  # keep a fresh classifier where the weights are of other classes
    options: dict[str, Plain] = field(default_factory=dict)  # the architecture's own keywords
    # data
    data: str = "phantom"
    download: bool = False  # fetch a public set that is not there
    task: str | None = None
    ignore: tuple[int, ...] = ()
    val_fraction: float = 0.2
    fold: tuple[int, int] | None = None  # (i, n), counted from 0
    limit_train: int | None = None
    limit_val: int | None = None
    exclude: tuple[str, ...] = ()  # images that do not train, by name: the list itself, not the file's path
    size: tuple[int, int] = (256, 256)  # (h, w) of the model's output
    augment: str = "default"
    mix: str = "none"  # samples of a batch with each other, see zoo.core.mix
    # optimisation
    recipe: str = "default"
    epochs: int = 50
    batch: int = 8
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    head_lr: float = 1.0  # factor on the rate of all that is not the encoder
    momentum: float = 0.9  # SGD's; AdamW keeps its betas (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_on: str = "weights"
    schedule: str = "cosine"
    warmup: float = 1.0  # epochs
    clip: float = 1.0  # largest gradient norm; 0: off
    ema: float = 0.0  # decay of a moving average of the weights, which is validated and kept; 0: off
    freeze_encoder: bool = False  # its weights and its BatchNorms stay as they are
    freeze_bn: bool = False  # no BatchNorm sees the batch; their scales and shifts go on learning
    patience: int = 0  # epochs without a better score before stopping; 0: off
    loss: str | None = None  # None: the task's default
    # machine
    amp: str = "auto"
    compile: bool = False
    grad_checkpoint: bool = False  # compute blocks twice to keep less of them
    sync_bn: bool = True  # over several GPUs
    shard: bool = False  # weights, gradients and moments in parts over the processes
    fit_thresholds: bool = False  # on validation, when training ends
    save_every: int = 0  # steps; 0: after each epoch alone
    max_bad: int = 0  # training images that may turn out unreadable in an epoch
    cache: str | None = None  # a folder for decoded samples
    cache_gb: float = 0.0  # its largest size; 0: no limit
    workers: int = 1
    device: str = "auto"
    log: str = "none"  # besides metrics.jsonl; see zoo.core.loggers
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"--{flag_name(name)} {value}: not known; {nearest(value, known)}")
        for name, (holds, what) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise InputError(f"--{flag_name(name)} {spelled(name, value)}: must be {what}")

    def to_dict(self) -> dict[str, object]:
        """Plain types, as config.json and checkpoints keep them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict) -> "TrainConfig":
        """The inverse of `to_dict`; unknown keys (a newer zoo's) raise InputError."""
        unknown = set(d) - {f.name for f in fields(cls)}
        if unknown:
            raise InputError(f"config key {sorted(unknown)[0]!r} is not known to this version of zoo")
        settings: dict = {k: tuples(v) for k, v in d.items()}
        return replace(cls(), **settings)


def tuples(value: object) -> object:
    """`value` with a tuple in place of each list, which is what JSON makes of one."""
    if isinstance(value, dict):
        return {k: tuples(v) for k, v in value.items()}
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value


def flag_name(field: str) -> str:
    """`weight-decay` for `weight_decay`."""
    return field.replace("_", "-")


def spelled(field: str, value: object) -> str:
    """A setting as one would type it; of an exclusion list, the first name and how many more there are."""
    if isinstance(value, dict):
        return as_typed(value) or "none"
    if isinstance(value, tuple):
        if field == "exclude" and len(value) > 1:
            return f"{value[0]} and {len(value) - 1} more"
        return {"size": "x", "fold": "/"}.get(field, " ").join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _finite(value: float) -> bool:
    return math.isfinite(value)


RANGES: dict[str, tuple[Callable[..., bool], str]] = {
    "val_fraction": (lambda v: 0 < v < 1, "between 0 and 1, both excluded"),
    "fold": (lambda v: 0 <= v[0] < v[1] and v[1] >= 2, "I/N with N at least 2 and I from 0 to N-1"),
    "limit_train": (lambda v: v >= 1, "at least 1"),
    "limit_val": (lambda v: v >= 1, "at least 1"),
    "size": (lambda v: min(v) >= 1, "at least 1 pixel"),
    "epochs": (lambda v: v >= 1, "at least 1"),
    "batch": (lambda v: v >= 1, "at least 1"),
    "accumulate": (lambda v: v >= 1, "at least 1"),
    "lr": (lambda v: _finite(v) and v > 0, "above 0"),
    "head_lr": (lambda v: _finite(v) and v > 0, "above 0"),
    "momentum": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "weight_decay": (lambda v: _finite(v) and v >= 0, "0 or more"),
    "warmup": (lambda v: _finite(v) and v >= 0, "0 or more epochs"),
    "clip": (lambda v: _finite(v) and v >= 0, "0 (off) or more"),
    "ema": (lambda v: 0 <= v < 1, "from 0 (off) to below 1"),
    "save_every": (lambda v: v >= 0, "0 (after each epoch alone) or more steps"),
    "max_bad": (lambda v: v >= 0, "0 or more images"),
    "cache_gb": (lambda v: _finite(v) and v >= 0, "0 (no limit) or more"),
    "patience": (lambda v: v >= 0, "0 (off) or more epochs"),
    "workers": (lambda v: v >= 0, "0 (load in the training process) or more"),
    "seed": (lambda v: 0 <= v < 2**32, "from 0 to 2**32 - 1"),
}


def rate(step: int, total: int, warmup: int, schedule: str) -> float:
    """The factor on `lr` at optimizer step `step` of `total`, counted from 0; `warmup` in steps.

    Warm-up is linear from 1/warmup to 1.  After it, with t from 0 to 1 over the rest:
    constant 1; cosine (1 + cos πt)/2; poly (1 - t)^0.9; linear (poly of power 1) 1 - t;
    step: a tenth at t = 2/3 and again at 8/9.
    """
    if step < warmup:
        return (step + 1) / warmup
    t = (step - warmup) / max(1, total - warmup)
    match schedule:
        case "cosine":
            return (1 + math.cos(math.pi * t)) / 2
        case "poly":
            return (1 - t) ** 0.9
        case "linear":
            return 1 - t
        case "step":
            return 0.1 ** ((t >= 2 / 3) + (t >= 8 / 9))
    return 1.0
