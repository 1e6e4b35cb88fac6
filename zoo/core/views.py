"""The ways in which an image is shown to a network: mirrored, turned, rescaled, cut into overlapping tiles.

Legend: (H, W) an image; (h, w) a network's output; K classes.  A canvas is what one view of the image covers,
in the image's own orientation but at the view's scale; boxes lie on it, each with the weight of its rows and
columns.  Where boxes overlap the weights of an axis add up to 1, so that blending is a plain sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from zoo.core.predictor import Sizes, tiling
from zoo.errors import InputError, nearest

WORDS = ("flip", "rot90", "scale")
SMALLEST, LARGEST = 0.25, 4.0  # of a scale
BLENDS = ("gaussian", "flat")
MOST_OVERLAP = 0.9  # each pixel is then computed a hundred times
WIDTH = 1 / 8  # a Gaussian's deviation, in tiles: at the border it has fallen to exp(-8)


@dataclass(frozen=True)
class View:
    """The image rescaled (by `resize_image`), then mirrored left to right, then turned by quarters,
    anticlockwise."""

    flip: bool = False
    turns: int = 0
    scale: float = 1.0

    def show(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W) or (H, W, 3), rescaled already, mirrored and turned."""
        image = image[:, ::-1] if self.flip else image
        return np.ascontiguousarray(np.rot90(image, self.turns))

    def restore(self, logits: Tensor) -> Tensor:
        """Logits (K, h, w) of what was seen, in the image's orientation; classes stay what they are."""
        logits = torch.rot90(logits, -self.turns, (1, 2))
        return logits.flip(2) if self.flip else logits

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) at this scale, at least a pixel."""
        return max(1, round(self.scale * size[0])), max(1, round(self.scale * size[1]))


def parse_views(spec: str) -> tuple[View, ...]:
    """`flip,scale:0.75+1.25,rot90`: every combination, the plain view first.  Raises InputError.

    flip: mirrored as well.  rot90: turned by one, two and three quarters as well.  scale: at these as well.
    """
    flips, turns, scales = [False], [0], [1.0]
    seen = set[str]()
    for word in spec.split(",") if spec else []:
        name, colon, values = word.strip().partition(":")
        if name not in WORDS:
            raise InputError(f"--tta {word!r}: not known; {nearest(name, WORDS)}; try flip,scale:0.75")
        if name in seen:
            raise InputError(f"--tta {spec}: {name} is there twice")
        if bool(colon) != (name == "scale"):
            want = "scale wants sizes, scale:0.75+1.25" if name == "scale" else f"{name} takes no value"
            raise InputError(f"--tta {word}: {want}")
        seen.add(name)
        match name:
            case "flip":
                flips.append(True)
            case "rot90":
                turns += [1, 2, 3]
            case _:
                scales += [_scale(value) for value in values.split("+")]
    return tuple(View(f, t, s) for s, f, t in product(dict.fromkeys(scales), flips, turns))


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not SMALLEST <= value <= LARGEST:
        raise InputError(
            f"--tta scale:{text}: want numbers from {SMALLEST:g} to {LARGEST:g}, joined by +: 0.75+1.25"
        )
    return value


# ---------------------------------------------------------------- boxes on a canvas


@dataclass(frozen=True)
class Box:
    """A network's output on the canvas: its upper left corner, and the weights of its rows and columns."""

    y: int
    x: int
    rows: Tensor  # (h,)
    columns: Tensor  # (w,)

    @property
    def area(self) -> int:
        """Pixels of the canvas."""
        return len(self.rows) * len(self.columns)

    def restored(self, view: View, size: tuple[int, int]) -> "Box":
        """Where a box lies, of what `view` shows in `size`, when that is back in the image's orientation."""
        box, (height, width) = self, size
        for _ in range(view.turns):  # a clockwise turn: (y, x) goes to (x, height - 1 - y)
            h = len(box.rows)
            box = Box(box.x, height - box.y - h, box.columns, box.rows.flip(0))
            height, width = width, height
        if view.flip:
            w = len(box.columns)
            box = Box(box.y, width - box.x - w, box.rows, box.columns.flip(0))
        return box


@dataclass(frozen=True)
class Window:
    """A tile as the network answers it, (y, x) may be negative, and the box that its inner part fills."""

    y: int
    x: int
    inside: tuple[slice, slice]
    box: Box


@dataclass(frozen=True)
class Tiles:
    """How tiles cover an image: the outputs' size, by which share of it they overlap, and how they blend.

    overlap: of networks without a margin; those with one have their exact tiling.
    Raises InputError for an overlap that cannot be.
    """

    size: tuple[int, int]
    overlap: float = 0.0
    blend: str = "gaussian"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise InputError(f"--overlap {self.overlap:g}: must be from 0 to {MOST_OVERLAP:g}, such as 0.25")

    def lay(self, size: tuple[int, int], sizes: Sizes, margin: int) -> tuple[tuple[int, int], list[Window]]:
        """The tiles (h, w) that cover `size`, in rows from above."""
        (h, rows), (w, columns) = (
            self._axis(length, tile, sizes, margin) for length, tile in zip(size, self.size, strict=True)
        )
        windows = []
        for (y, vertical), (x, horizontal) in product(rows, columns):
            inside = _inside(y, h, size[0]), _inside(x, w, size[1])
            box = Box(max(0, y), max(0, x), vertical[inside[0]], horizontal[inside[1]])
            windows.append(Window(y, x, inside, box))
        return (h, w), windows

    def _axis(
        self, length: int, tile: int, sizes: Sizes, margin: int
    ) -> tuple[int, list[tuple[int, Tensor]]]:
        """The tile's length, and offsets with weights: those within the image add up to 1 at each pixel.

        An image larger than a tile is mirrored by half the overlap at each end, so that its borders too
        are seen with something around them.
        """
        if margin or not self.overlap or length <= tile:
            tile, offsets = tiling(length, tile, sizes, margin)
        else:
            tile = sizes.least(tile)
            stride = max(sizes.step, int(tile * (1 - self.overlap)) // sizes.step * sizes.step)
            border = (tile - stride) // 2
            last = length + border - tile
            offsets = [*range(-border, last, stride), last]
        weight = torch.ones(tile, dtype=torch.float64)
        if self.blend == "gaussian" and not margin:
            at = (torch.arange(tile, dtype=torch.float64) + 0.5) / tile - 0.5
            weight = torch.exp(-0.5 * (at / WIDTH) ** 2)
        total = torch.zeros(length, dtype=torch.float64)
        spans = [(o, _inside(o, tile, length)) for o in offsets]
        for offset, part in spans:
            total[offset + part.start : offset + part.stop] += weight[part]
        weights = []
        for offset, part in spans:
            own = torch.zeros(tile)
            own[part] = (weight[part] / total[offset + part.start : offset + part.stop]).float()
            weights.append((offset, own))
        return tile, weights


def _inside(offset: int, tile: int, length: int) -> slice:
    """The part of a tile that lies within [0, length)."""
    return slice(max(0, -offset), min(tile, length - offset))


def touching(boxes: Sequence[Box], top: int, bottom: int) -> list[int]:
    """Which boxes have rows in [top, bottom)."""
    return [i for i, box in enumerate(boxes) if box.y < bottom and box.y + len(box.rows) > top]
