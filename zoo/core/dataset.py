"""Data as the trainer sees it: a Source gives Samples; `open_data` turns `--data` into two of them.

The kinds of source live in folder.py, handbone.py, public.py, coco.py and phantom.py, which import this
module; `open_data` imports them when they are asked for.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zoo.core import exclude
from zoo.core.classes import check_task
from zoo.core.config import TrainConfig
from zoo.core.images import Progress, plural, read_image, resize_image
from zoo.core.masks import Labels
from zoo.errors import InputError, nearest

__all__ = ["Sample", "Source", "Subset", "open_data", "read_image", "resize_image", "split"]

KINDS = {  # what `--data` takes: the word before the colon, and what stands behind it
    "phantom": "",
    "folder": "PATH",
    "handbone": "PATH",
    "voc": "PATH",
    "pets": "PATH",
    "cityscapes": "PATH",
    "coco-polygons": "JSON+IMAGES",
}
FETCHED = ("voc", "pets")  # what --download can fetch
PHANTOMS = (1000, 64)  # drawn for training and for validation
_VAL_SEED = 1_000_000  # added to the seed of validation phantoms: other people than those of training


@dataclass
class Sample:
    """An image and its mask.

    image: uint8 (H, W) grey or (H, W, 3) RGB.  mask: (H, W) in the form that zoo.core.masks describes.
    name: the path inside the data set, unique there.  weight: float32 (H, W), where a loss asks for one.
    """

    image: np.ndarray
    mask: np.ndarray
    name: str
    weight: np.ndarray | None = None


class Source(ABC):
    """Images with masks, by number.

    labels: what the pixels mean.  channels: 1 if every image is grey, else 3.
    warnings: what is odd about the data but does not keep it from being used.
    """

    labels: Labels
    channels: int
    warnings: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str:
        """The path of image i inside the data set."""

    @abstractmethod
    def group(self, i: int) -> str:
        """Images of one group (a person) never stand on both sides of a split."""

    def files(self, i: int) -> tuple[Path, ...]:
        """The files that sample i is read from: image and mask; () where it is made."""
        return ()

    @abstractmethod
    def load(self, i: int, size: tuple[int, int] | None = None) -> Sample:
        """Sample i at its own size, or resized to (h, w): the image by `resize_image`, the mask nearest."""


class Subset(Source):
    """Some samples of a source, in the order of `indices`."""

    def __init__(self, source: Source, indices: Sequence[int], warnings: Sequence[str] = ()):
        self.source, self.indices = source, [int(i) for i in indices]
        self.labels, self.channels, self.warnings = source.labels, source.channels, list(warnings)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, i: int) -> str:
        return self.source.name(self.indices[i])

    def group(self, i: int) -> str:
        return self.source.group(self.indices[i])

    def files(self, i: int) -> tuple[Path, ...]:
        return self.source.files(self.indices[i])

    def load(self, i: int, size: tuple[int, int] | None = None) -> Sample:
        return self.source.load(self.indices[i], size)


# ---------------------------------------------------------------- opening


def open_data(
    spec: str,
    *,
    task: str | None = None,
    ignore: Sequence[int] = (),
    val_fraction: float = 0.2,
    fold: tuple[int, int] | None = None,
    seed: int = 0,
    limit_train: int | None = None,
    limit_val: int | None = None,
    excluded: Sequence[str] = (),
    download: bool = False,
    progress: Progress | None = None,
) -> tuple[Source, Source]:
    """(training, validation) of a source of KINDS, such as "phantom" or "folder:PATH".

    Every file is decoded once, on all cores, so that what is wrong with any of them is said now and all at
    once, in one InputError, and not hours into training.  On two cores that takes 0.6 s for CamVid's 468
    images and masks, 12 s for 800 grey PNGs of 2048x2048 and 28 s where they are stored as RGB.
    `progress(done, total)` is called on the way.
    task: overrides what the data says, where possible.  ignore: values in masks that do not count.
    fold: (i, n) validates on part i of n, counted from 0; the parts are the same for every seed.
    val_fraction: the share of images that validate, where neither `fold` nor a val/ folder tells.
    limit_train, limit_val: keep the first so many of an order drawn from `seed`.
    excluded: names of images that do not train (zoo.core.exclude): they leave the training images that the
    split and `limit_train` chose, so that the others are those that would have been there without it.
    download: fetch the set, where it is not there and its kind is one of FETCHED.
    """
    check_task(task)
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction {val_fraction}: want a share between 0 and 1, say 0.2")
    for key, limit in (("limit_train", limit_train), ("limit_val", limit_val)):
        if limit is not None and limit < 1:
            raise InputError(f"{key} {limit}: want at least 1")
    kind, _, path = spec.partition(":")
    if kind not in KINDS:
        own = "handbone" if (Path(spec) / "train" / "DCM").is_dir() else "folder"
        hint = f"; a folder is opened by {own}:{spec}" if Path(spec).exists() else ""
        raise InputError(f"unknown data {spec!r}; {nearest(kind, [typed(k) for k in KINDS])}{hint}")
    if download and kind not in FETCHED:
        raise InputError(f"--download: fetches {' and '.join(FETCHED)}, not {kind}; leave it out")
    if kind == "phantom":
        train, val = _open_phantom(spec, task, ignore, fold, seed)
    else:
        if not path:
            raise InputError(f"data {spec!r}: names nothing to open; write {typed(kind)}")
        train, opened = _open_files(kind, path, task, ignore, download, progress)
        if opened is None:
            train, val = _divide(train, val_fraction, fold, seed)
        elif fold is None:
            val = opened
        else:
            raise InputError(f"fold {fold[0]}/{fold[1]}: {path} has a split of its own; drop one of the two")
    limited = _limit(train, limit_train, seed)
    return _without(excluded, limited, train, val), _limit(val, limit_val, seed)


def open_run(config: TrainConfig, progress: Progress | None = None) -> tuple[Source, Source]:
    """`open_data` with a run's own settings."""
    return open_data(
        config.data,
        task=config.task,
        ignore=config.ignore,
        val_fraction=config.val_fraction,
        fold=config.fold,
        seed=config.seed,
        limit_train=config.limit_train,
        limit_val=config.limit_val,
        excluded=config.exclude,
        download=config.download,
        progress=progress,
    )


def open_scored(spec: str, config: TrainConfig, progress: Progress | None = None) -> Source:
    """What to score a run's network on: where `spec` is the run's own data, what it validated on; of other
    data the validation part, or all of it where it has no split of its own."""
    if _place(spec) == _place(config.data):
        return open_run(replace(config, data=spec), progress)[1]
    kind, _, path = spec.partition(":")
    if kind not in KINDS or kind == "phantom" or not path:
        return open_data(spec)[1]  # a phantom, or the reason why it cannot be opened
    train, opened = _open_files(kind, path, None, (), False, progress)
    return opened or train


def _place(spec: str) -> tuple[str, str]:
    """Equal for two ways of writing the same data."""
    kind, _, path = spec.partition(":")
    return kind, "+".join(str(Path(part).expanduser().resolve()) for part in path.split("+"))


def typed(kind: str) -> str:
    """How a kind of source is written: `folder:PATH`."""
    return f"{kind}:{KINDS[kind]}".rstrip(":")


def _open_files(
    kind: str, path: str, task: str | None, ignore: Sequence[int], download: bool, progress: Progress | None
) -> tuple[Source, Source | None]:
    from zoo.core import coco, folder, handbone, public

    if kind == "coco-polygons":
        return coco.open_coco(path, task, ignore, progress)
    root = Path(path).expanduser()
    if not root.is_dir() and not download:
        hint = "; --download makes it and fetches the set" if kind in FETCHED else ""
        raise InputError(f"data {kind}:{root}: no such folder{hint}")
    if kind in public.SETS:
        return public.open_public(kind, root, task, ignore, download, progress)
    if kind == "folder":
        return folder.open_folder(root, task, ignore, progress)
    return handbone.open_handbone(root, task, ignore, progress), None


def _open_phantom(
    spec: str, task: str | None, ignore: Sequence[int], fold: tuple[int, int] | None, seed: int
) -> tuple[Source, Source]:
    from zoo.core.phantom import Phantoms

    if spec != "phantom":
        raise InputError(f"data {spec!r}: phantoms are drawn, not read; write phantom")
    if task not in (None, "multilabel"):
        raise InputError(f"task {task}: phantoms are multilabel")
    if ignore:
        raise InputError(f"ignore {', '.join(map(str, ignore))}: phantoms have no value to ignore")
    if fold is not None:
        raise InputError(f"fold {fold[0]}/{fold[1]}: phantoms are drawn anew for validation; drop it")
    return Phantoms(PHANTOMS[0], seed), Phantoms(PHANTOMS[1], seed + _VAL_SEED)


def _limit(source: Source, most: int | None, seed: int) -> Source:
    if most is None or most >= len(source):
        return source
    order = np.random.default_rng((seed, 1)).permutation(len(source))
    return Subset(source, np.sort(order[:most]).tolist(), source.warnings)


def _without(entries: Sequence[str], limited: Source, train: Source, val: Source) -> Source:
    """`limited`, some of `train`, less the images of `entries`, which may name any of `train` and `val`."""
    if not entries:
        return limited
    names = [source.name(i) for source in (train, val) for i in range(len(source))]
    places = exclude.matched(entries, names)
    gone = {names[i] for i in places if i < len(train)}
    kept = [i for i in range(len(limited)) if limited.name(i) not in gone]
    if not kept:
        raise InputError(f"--exclude: all {plural(len(limited), 'image')} to train on are listed; leave some")
    validating = len(places) - len(gone)
    noted = f"{plural(validating, 'excluded image')} in validation, which stays as it is"
    return Subset(limited, kept, [*limited.warnings, *([noted] if validating else [])])


# ---------------------------------------------------------------- splitting


def _divide(
    source: Source, val_fraction: float, fold: tuple[int, int] | None, seed: int
) -> tuple[Source, Source]:
    groups = [source.group(i) for i in range(len(source))]
    train, val = split(groups, val_fraction, fold, seed)
    return Subset(source, train, source.warnings), Subset(source, val)


def split(
    groups: Sequence[str], val_fraction: float, fold: tuple[int, int] | None = None, seed: int = 0
) -> tuple[list[int], list[int]]:
    """(training, validation) positions; all members of a group fall on one side, each side gets one."""
    sizes = dict(sorted(Counter(groups).items()))
    if len(sizes) < 2:
        only = next(iter(sizes), "nobody")
        raise InputError(f"cannot split {len(groups)} images: all belong to {only}; add data of others")
    chosen = _share(sizes, val_fraction, seed) if fold is None else _fold(sizes, *fold)
    train = [i for i, g in enumerate(groups) if g not in chosen]
    return train, [i for i, g in enumerate(groups) if g in chosen]


def _shuffled(sizes: dict[str, int], seed: int) -> list[str]:
    names = list(sizes)
    return [names[i] for i in np.random.default_rng((seed, 0)).permutation(len(names))]


def _share(sizes: dict[str, int], fraction: float, seed: int) -> set[str]:
    """Groups drawn until they hold the share of images, to the nearest group."""
    target, count = fraction * sum(sizes.values()), 0
    chosen: set[str] = set()
    for g in _shuffled(sizes, seed)[:-1]:
        if not chosen or count + sizes[g] / 2 <= target:
            chosen.add(g)
            count += sizes[g]
    return chosen


def _fold(sizes: dict[str, int], i: int, n: int) -> set[str]:
    """Part i of n, the largest groups dealt first and each to the part that holds least."""
    if not 2 <= n <= len(sizes) or not 0 <= i < n:
        raise InputError(
            f"fold {i}/{n}: want I/N, counted from 0, with I < N and N from 2 to {len(sizes)}, as many as "
            "there are persons (or images, where nobody has two)"
        )
    parts: list[set[str]] = [set() for _ in range(n)]
    held = [0] * n
    for g in sorted(_shuffled(sizes, 0), key=lambda g: -sizes[g]):
        least = min(range(n), key=lambda k: (held[k], len(parts[k])))
        parts[least].add(g)
        held[least] += sizes[g]
    return parts[i]
