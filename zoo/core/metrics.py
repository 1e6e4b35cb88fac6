"""Metrics: three counts an image and class, |P∩T|, |P| and |T| over valid pixels, and every score from them.

A class that is neither in an image's truth nor in its prediction is an empty pair.  Our scores leave empty
pairs out of their means and say how many there were; `competition` alone counts them as 1, by definition.

P predicted, T true pixels; K classes, n images, (H, W) a mask's size.
"""

import math
from collections.abc import Iterable

import cv2
import numpy as np

from zoo.core.masks import IGNORE, Labels
from zoo.errors import InputError

EPSILON = 1e-4  # the competition's
EXACT = 2**24  # pixels a histogram may hold: OpenCV hands its counts out as float32
BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8): the bits of every byte


def count(pred: np.ndarray, truth: np.ndarray, labels: Labels) -> np.ndarray:
    """|P∩T|, |P| and |T| of each class over the valid pixels of one image, int64 (K, 3).

    Masks (H, W) in their memory form; a pixel is valid where the truth is not IGNORE.
    """
    if pred.shape != truth.shape:
        raise InputError(f"a prediction of {pred.shape} pixels cannot be scored by a truth of {truth.shape}")
    if labels.task == "multilabel":
        return np.stack([bit_areas(bits, labels.num_classes) for bits in (pred & truth, pred, truth)], axis=1)
    table = histogram([pred, truth])[:, :IGNORE]  # (predicted value, true value)
    values = [1] if labels.task == "binary" else np.arange(labels.num_classes)
    return np.stack([table.diagonal()[values], table.sum(1)[values], table.sum(0)[values]], axis=1)


def bit_areas(bits: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels that carry each bit, int64 (K,), by a histogram of each byte, split into its bits afterwards.

    No plane a class is made: `count` takes 16 ms for 29 classes at 2048×2048, by planes it took 380.
    """
    little = np.ascontiguousarray(bits, dtype=bits.dtype.newbyteorder("<"))
    channels = little.view(np.uint8).reshape(*bits.shape, bits.itemsize)  # (H, W, bytes)
    used = range(-(-num_classes // 8))
    return np.concatenate([histogram([channels], [c]) @ BITS for c in used])[:num_classes]


def histogram(images: list[np.ndarray], channels: list[int] | None = None) -> np.ndarray:
    """Pixels with each value of the uint8 `channels`, or with each tuple of values, int64 (256, ...)."""
    channels = list(range(len(images))) if channels is None else channels
    sizes, ranges = [256] * len(channels), [0, 256] * len(channels)
    total = np.zeros(sizes, np.int64)
    height, width = images[0].shape[:2]
    step = max(1, EXACT // max(1, width))
    for row in range(0, height, step):
        rows = [np.ascontiguousarray(image[row : row + step]) for image in images]
        total += cv2.calcHist(rows, channels, None, sizes, ranges).reshape(sizes).astype(np.int64)
    return total


class Scores:
    """The counts of every image of a set, and scores from them; each score is one number a class, (K,).

    Means are exact sums rounded once: neither the order of the images nor their spread over ranks shows.
    """

    def __init__(self, labels: Labels):
        self.labels = labels
        self.names: list[str] = []
        self.rows: list[np.ndarray] = []

    def add(self, name: str, counts: np.ndarray) -> None:
        """One image and its `count`."""
        self.names.append(name)
        self.rows.append(counts)

    def merge(self, other: "Scores") -> None:
        """Add the images of `other`, counted elsewhere."""
        assert other.labels == self.labels
        self.names += other.names
        self.rows += other.rows

    @property
    def counts(self) -> np.ndarray:
        """|P∩T|, |P| and |T| of each image and class, int64 (n, K, 3)."""
        return np.array(self.rows, np.int64).reshape(-1, self.labels.num_classes, 3)

    @property
    def score(self) -> float:
        """The mean of `dice` over classes, by which the best epoch is chosen; nan if all pairs are empty."""
        return mean(self.dice())

    def dice(self) -> np.ndarray:
        """2|P∩T| / (|P| + |T|), the mean over images without empty pairs; nan where all are empty."""
        return means(dice(self.counts))

    def iou(self) -> np.ndarray:
        """|P∩T| / |P∪T|, the mean over images without empty pairs; nan where all are empty."""
        return means(iou(self.counts))

    def pooled_dice(self) -> np.ndarray:
        """Dice of all images as if they were one; nan where that is empty."""
        return dice(self.counts.sum(0))

    def pooled_iou(self) -> np.ndarray:
        """IoU of all images as if they were one; nan where that is empty."""
        return iou(self.counts.sum(0))

    def competition(self) -> np.ndarray:
        """(2|P∩T| + ε) / (|P| + |T| + ε), ε = 1e-4, the mean over all images: an empty pair counts as 1."""
        both, p, t = np.moveaxis(self.counts, 2, 0)
        return means((2 * both + EPSILON) / (p + t + EPSILON))

    def empty(self) -> np.ndarray:
        """Images in which the class is neither true nor predicted, int64 (K,)."""
        return (self.counts[..., 1:].sum(-1) == 0).sum(0)

    def to_dict(self) -> dict[str, object]:
        """Every score, the mean over classes and class by class, in plain types; None for nan."""
        by_class = {
            "dice": self.dice(),
            "iou": self.iou(),
            "pooled_dice": self.pooled_dice(),
            "pooled_iou": self.pooled_iou(),
            "competition": self.competition(),
        }
        empty = self.empty().tolist()
        classes = {
            name: {**{score: plain(values[k]) for score, values in by_class.items()}, "empty": empty[k]}
            for k, name in enumerate(self.labels.names)
        }
        overall = {score: plain(mean(values)) for score, values in by_class.items()}
        return {"images": len(self.names), **overall, "empty": sum(empty), "classes": classes}


def dice(counts: np.ndarray) -> np.ndarray:
    """Dice of counts (..., 3); nan for an empty pair."""
    both, p, t = np.moveaxis(counts, -1, 0)
    return divide(2 * both, p + t)


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of counts (..., 3); nan for an empty pair."""
    both, p, t = np.moveaxis(counts, -1, 0)
    return divide(both, p + t - both)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, nan where b is 0."""
    return np.divide(a, b, out=np.full(b.shape, np.nan), where=b > 0)


def mean(values: Iterable[float]) -> float:
    """Of those that are not nan; nan if there are none."""
    kept = [v for v in values if not math.isnan(v)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def means(values: np.ndarray) -> np.ndarray:
    """The `mean` of each column of (n, K)."""
    return np.array([mean(column) for column in values.T.tolist()])


def plain(value: float) -> float | None:
    """A float for JSON, which has no nan."""
    return None if math.isnan(value) else float(value)
