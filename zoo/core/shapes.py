"""The shapes of the COCO format: polygons and run lengths, kept flat in memory and painted into masks.

A pixel belongs to a polygon if its centre lies inside, (0, 0) being the outer corner of the first pixel, as
in pycocotools, which moves points to fifths of a pixel before.  `masks.polygons_to_bits` has another rule,
that of people who click on pixels: corners lie at pixel centres and edges belong to the polygon; by it a
square of 10 x 10 becomes one of 11 x 11 (random polygons 20 pixels wide, mean IoU with pycocotools: 0.83 by
that rule, 0.98 by this one).
"""

from collections.abc import Iterator, Sequence

import numpy as np

Shape = tuple[int, np.ndarray]  # class, and points (P, 2) float32 or runs (R,) int32


class Shapes:
    """The shapes of all images in a few flat arrays, which worker processes share and never copy."""

    def __init__(self, images: Sequence[Sequence[Shape]], dtype: type):
        shapes = [shape for of_image in images for shape in of_image]
        self.classes = np.array([k for k, _ in shapes], np.int64)
        flat = [np.zeros(0, dtype), *(values.ravel() for _, values in shapes)]
        self.values: np.ndarray = np.concatenate(flat, dtype=dtype, casting="same_kind")
        self.bounds = np.cumsum([0, *(values.size for _, values in shapes)])
        self.first = np.cumsum([0, *map(len, images)])

    def of(self, i: int) -> Iterator[Shape]:
        """(class, values in a row) of each shape of image i."""
        for shape in range(self.first[i], self.first[i + 1]):
            yield int(self.classes[shape]), self.values[self.bounds[shape] : self.bounds[shape + 1]]


def paint_polygon(bits: np.ndarray, k: int, points: np.ndarray) -> None:
    """Set bit k of the pixels of `bits` (H, W) whose centres lie in the polygon, points (P, 2), even-odd."""
    height, width = bits.shape
    (left, top), (right, bottom) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
    top, bottom, left, right = max(0, top), min(height, bottom), max(0, left), min(width, right)
    if top >= bottom or left >= right:
        return
    a, b = points.astype(float), np.roll(points, -1, axis=0).astype(float)
    y = np.arange(top, bottom) + 0.5
    edge, row = np.nonzero((a[:, 1, None] <= y) != (b[:, 1, None] <= y))  # the edges that each row crosses
    a, b = a[edge], b[edge]
    x = a[:, 0] + (y[row] - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    column = np.clip(np.ceil(x - 0.5), left, right).astype(int) - left  # of the first centre not before x
    shape = (bottom - top, right - left + 1)
    crossed = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    inside = np.cumsum(crossed, axis=1)[:, :-1] & 1
    bits[top:bottom, left:right] |= inside.astype(bits.dtype) << bits.dtype.type(k)


def runs_to_plane(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Lengths of runs without and with the class in turn, down the columns -> bool (H, W) of `size`."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size, order="F")


def plane_to_runs(plane: np.ndarray) -> list[int]:
    """The inverse, (H, W) -> lengths; the first is that of a run without the class, which may be 0."""
    flat = plane.ravel(order="F").astype(bool)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts: list[int] = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return [0, *counts] if flat[:1].any() else counts


def write_counts(counts: Sequence[int]) -> str:
    """The string that `read_counts` reads, the same as pycocotools writes."""
    text = ""
    for i, count in enumerate(counts):
        number = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)  # all that is left repeats the sign
            text += chr(ord("0") + bits + 32 * more)
    return text


def read_counts(text: str) -> list[int]:
    """The lengths in a string of run lengths, as pycocotools packs them.

    A character counts from "0" on and holds six bits: five of a number, the lowest first, and whether it
    goes on; the fifth of the last five is the sign.  From the fourth number on, the last but one is added.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"run lengths hold the character {character!r}")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << shift - 4
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("run lengths end inside a number")
    return counts
