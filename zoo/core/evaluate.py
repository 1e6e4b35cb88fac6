"""What infer.py does where the truth is at hand: all images scored, classes in a table, the worst to see.

    OUT/scores.csv           a row a class, and the mean over them
    OUT/scores_images.csv    a row an image and class
    OUT/worst/NN_NAME.png    image, truth, prediction and difference, the lowest mean Dice first

Truth is data as train.py takes it, a folder of masks as infer.py writes them, or a csv of run lengths.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path, PurePath

import numpy as np
from rich.markup import escape
from rich.table import Table

from zoo.core import content, metrics, pictures
from zoo.core.config import TrainConfig
from zoo.core.dataset import KINDS, Source, open_scored
from zoo.core.files import write_csv
from zoo.core.folder import BITS, read_bits
from zoo.core.images import SUFFIXES, Progress, plural, read_values
from zoo.core.inference import Item, find_images, names_of
from zoo.core.masks import IGNORE, Labels, bits_dtype
from zoo.core.metrics import Scores
from zoo.core.runs import CsvMasks
from zoo.errors import InputError

WORST = 8  # images drawn
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Compared(Item):
    """An image with its true mask.  digest: what data.json of a run has for the same files."""

    load: Callable[[int], tuple[np.ndarray, np.ndarray]]
    digest: Callable[[], str] = str

    def read(self, channels: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The image and its true mask.  Raises InputError."""
        return self.load(channels)


class Evaluation:
    """The scores of images, one after another, and pictures of the worst of them."""

    def __init__(self, labels: Labels) -> None:
        self.labels, self.scores = labels, Scores(labels)
        self.worst: list[tuple[float, int, str, np.ndarray]] = []  # a heap, the best of them on top

    def add(self, name: str, image: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> None:
        """One image (H, W) or (H, W, 3), its predicted and its true mask (H, W)."""
        counts = metrics.count(mask, truth, self.labels)
        self.scores.add(name, counts)
        dice = metrics.mean(metrics.dice(counts))
        if np.isnan(dice):  # nothing there, and nothing predicted
            return
        entry = -dice, -len(self.scores.names), name
        if len(self.worst) == WORST and entry < self.worst[0][:3]:
            return
        panel = pictures.panel(image, truth, mask, self.labels, f"{name}  Dice {dice:.3f}")
        (heapq.heappush if len(self.worst) < WORST else heapq.heapreplace)(self.worst, (*entry, panel))

    def write(self, out: Path) -> list[Path]:
        """The files; returns where they are.  Raises InputError."""
        scores = self.scores
        columns = {
            "dice": scores.dice(), "iou": scores.iou(), "pooled_dice": scores.pooled_dice(),
            "pooled_iou": scores.pooled_iou(), "competition": scores.competition(),
        }  # fmt: skip
        empty = scores.empty().tolist()
        rows = [
            [name, *(number(values[k]) for values in columns.values()), empty[k]]
            for k, name in enumerate(self.labels.names)
        ]
        rows.append(["(mean)", *(number(metrics.mean(values)) for values in columns.values()), sum(empty)])
        write_csv(out / "scores.csv", ["class", *columns, "empty"], rows)
        images = [
            [name, of_class, number(float(metrics.dice(counts))), *counts.tolist()]
            for name, of_image in zip(scores.names, scores.rows, strict=True)
            for of_class, counts in zip(self.labels.names, of_image, strict=True)
        ]
        header = ["image_name", "class", "dice", "both", "predicted", "true"]
        write_csv(out / "scores_images.csv", header, images)
        for old in (out / "worst").glob("[0-9][0-9]_*.png"):
            old.unlink()
        for i, (_, _, name, panel) in enumerate(sorted(self.worst, key=lambda one: one[:3], reverse=True), 1):
            stem = PurePath(name).with_suffix("").as_posix().replace("/", "_")
            pictures.write_png(out / "worst" / f"{i:02d}_{stem}.png", panel)
        return [out / "scores.csv", out / "scores_images.csv", *([out / "worst"] if self.worst else [])]

    def table(self) -> Table:
        """Classes with their scores, the worst first; those that are nowhere at the end."""
        dice, iou, pooled = self.scores.dice(), self.scores.iou(), self.scores.pooled_dice()
        empty = self.scores.empty()
        table = Table(box=None, pad_edge=False)
        table.add_column("class")
        for column in ("Dice", "IoU", "pooled Dice", "empty pairs"):
            table.add_column(column, justify="right")
        for k in np.argsort(np.where(np.isnan(dice), np.inf, dice), kind="stable"):
            cells = (figure(values[k]) for values in (dice, iou, pooled))
            table.add_row(escape(self.labels.names[k]), *cells, str(empty[k]))
        table.add_section()
        means = (figure(metrics.mean(values)) for values in (dice, iou, pooled))
        table.add_row("mean", *means, str(empty.sum()))
        return table


def figure(value: float) -> str:
    """For people."""
    return "none" if np.isnan(value) else f"{value:.4f}"


def number(value: float) -> str:
    """With all its digits; empty for nan."""
    return "" if np.isnan(value) else repr(float(value))


# ---------------------------------------------------------------- where the truth is


def compared(
    truth: str, source: Path | None, out: Path, labels: Labels, config: dict, progress: Progress | None = None
) -> list[Compared]:
    """The images to score against `--eval truth`, `source` being --input and `config` the checkpoint's.

    Raises InputError where they do not fit the classes of the checkpoint, or one another.
    """
    if source is None:
        opened = open_scored(truth, TrainConfig.from_dict(config), progress)
        same_classes(f"--eval {truth}", labels, opened.labels)
        return of_source(opened)
    if not Path(truth).exists():
        data = truth.partition(":")[0] in KINDS
        why = "has images of its own; leave --input out" if data else "no such file or folder"
        raise InputError(f"--eval {truth}: {why}")
    items = find_images(source, out)
    if Path(truth).is_dir():
        return of_folder(Path(truth), items, labels, tuple(config.get("ignore", ())))
    masks = CsvMasks(Path(truth), labels, {item.label for item in items})
    missing(truth, [item.label for item in items if item.label not in masks.rows], "row")
    return [with_mask(item, partial(masks.mask, item.label)) for item in items]


def of_source(source: Source) -> list[Compared]:
    """The images and masks of data."""

    def load(i: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        def loaded(channels: int) -> tuple[np.ndarray, np.ndarray]:
            sample = source.load(i)
            return sample.image, sample.mask

        return loaded

    paths = [PurePath(source.name(i)) for i in range(len(source))]
    return [
        Compared(
            (source.files(i) or (Path(path),))[0], *names, path.as_posix(), load(i),
            partial(content.digest_of, source, i),
        )
        for i, (path, names) in enumerate(zip(paths, names_of(paths), strict=True))
    ]


def trained_on(items: Sequence[Compared], run: Path) -> int:
    """How many of them the run in that folder was trained on, by its data.json; 0 where it has none."""
    try:
        training = content.read(run)[0].samples
    except InputError:
        return 0
    return sum(item.file in training and item.digest() == training[item.file] for item in items)


def of_folder(folder: Path, items: Sequence[Item], labels: Labels, ignore: Sequence[int]) -> list[Compared]:
    """Images with masks of the same names in `folder`: bits, or the values of the data's own mask files."""
    suffixes = (BITS,) if labels.task == "multilabel" else SUFFIXES
    found: dict[str, Path] = {}
    for item in items:
        paths = (folder / f"{item.name}{suffix}" for suffix in suffixes)
        if path := next((path for path in paths if path.is_file()), None):
            found[item.name] = path
    missing(str(folder), [item.label for item in items if item.name not in found], f"mask ({suffixes[0]})")
    return [with_mask(item, partial(read_mask, found[item.name], labels, ignore)) for item in items]


def with_mask(item: Item, mask: Callable[[tuple[int, int]], np.ndarray]) -> Compared:
    """`item` with what `mask` gives for its size (H, W)."""

    def load(channels: int) -> tuple[np.ndarray, np.ndarray]:
        image, _ = item.read(channels)
        return image, mask((image.shape[0], image.shape[1]))

    return Compared(item.path, item.name, item.label, item.file, load)


def read_mask(path: Path, labels: Labels, ignore: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The mask file of an image of `size`, in its memory form.  Raises InputError for values of no class."""
    if labels.task == "multilabel":
        values, names = read_bits(path)
        if names and names != labels.names:
            raise InputError(f"{path}: {differences(labels.names, names)}")
        strange = np.flatnonzero(values >> labels.num_classes)
        mask = values.astype(bits_dtype(labels.num_classes), copy=False)
    else:
        values = read_values(path)
        index = labels.index or tuple(range(labels.num_classes + (labels.task == "binary")))
        mask = np.full(values.shape, IGNORE, np.uint8)
        for place, value in enumerate(index):
            mask[values == value] = place
        strange = np.setdiff1d(values, [*index, *ignore, IGNORE])
    if strange.size:
        raise InputError(f"{path}: holds values that are none of the checkpoint's classes")
    if mask.shape != size:
        sizes = " but its image ".join("{}x{}".format(*shape) for shape in (mask.shape, size))
        raise InputError(f"{path}: is {sizes}")
    return mask


def missing(where: str, names: Sequence[str], what: str) -> None:
    """Raise InputError if there are any."""
    if names:
        shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
        raise InputError(f"--eval {where}: no {what} for {plural(len(names), 'image')}: {shown}")


def same_classes(what: str, ours: Labels, theirs: Labels) -> None:
    """Raise InputError with the differences unless the truth has the checkpoint's task and classes."""
    if ours.task != theirs.task:
        raise InputError(f"{what}: is {theirs.task}, but the checkpoint {ours.task}")
    if ours.names != theirs.names:
        raise InputError(f"{what}: {differences(ours.names, theirs.names)}")


def differences(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """The first place where the classes of a checkpoint and of a truth differ."""
    k = next(k for k in count() if ours[k : k + 1] != theirs[k : k + 1])
    a, b = (repr(names[k]) if k < len(names) else "none" for names in (ours, theirs))
    count_here = plural(len(theirs), "class")
    return f"has {count_here}, the checkpoint {len(ours)}; number {k} is {b} here, {a} there"
