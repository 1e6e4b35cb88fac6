"""Contact sheets: the oddest images, some of each class and of each cluster, and pairs that are the same.

Whatever is drawn of an image is drawn while it is in memory, so that each is decoded once.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from zoo.core.dataset import Sample
from zoo.core.images import resize_image
from zoo.core.masks import Labels, resize_mask
from zoo.core.pictures import FONT, LETTER, TEXT, caption, grid, overlay, to_rgb, write_png

CARD, CROP = 320, 208  # sides of a picture on a sheet, in pixels
MARGIN = 0.25  # shown around a class, as a share of its length
FAINT = 0.35  # how much of a class's colour lies over the image
Words = Sequence[tuple[str, tuple[int, int, int]]]
Draw = Callable[[Sample], np.ndarray]  # a card


@dataclass(frozen=True)
class Sheet:
    """A file, what stands above its cards, and the cards: an image's number, and how to draw it."""

    file: str
    head: Words
    cards: Sequence[tuple[int, Draw]]
    columns: int = 4


def write(out: Path, sheets: Sequence[Sheet], load: Callable[[int], Sample]) -> list[Path]:
    """Write the sheets that have cards, as PNG; their paths.  Raises InputError."""
    wanted = defaultdict[int, list[tuple[int, int]]](list)
    for s, sheet in enumerate(sheets):
        for place, (i, _) in enumerate(sheet.cards):
            wanted[i].append((s, place))
    drawn: dict[tuple[int, int], np.ndarray] = {}
    for i in sorted(wanted):
        sample = load(i)
        for s, place in wanted[i]:
            drawn[s, place] = sheets[s].cards[place][1](sample)
    files = []
    for s, sheet in enumerate(sheets):
        if sheet.cards:
            cards = [drawn[s, place] for place in range(len(sheet.cards))]
            picture = grid(cards, min(sheet.columns, len(cards)))
            files.append(out / sheet.file)
            write_png(files[-1], above(picture, sheet.head))
    return files


def whole(labels: Labels, *lines: str) -> Draw:
    """The image with its mask over it, above its file's name and `lines`."""

    def draw(sample: Sample) -> np.ndarray:
        h, w = sample.mask.shape
        scale = CARD / max(h, w)
        size = max(1, round(h * scale)), max(1, round(w * scale))
        picture = overlay(resize_image(sample.image, size), resize_mask(sample.mask, size), labels, FAINT)
        return card(picture, CARD, (short(sample.name), *lines))

    return draw


def part(labels: Labels, k: int, *lines: str) -> Draw:
    """What lies around class k, and it alone drawn over it, above the file's name and `lines`."""
    one = Labels("binary", (labels.names[k],), (labels.colours[k],))

    def draw(sample: Sample) -> np.ndarray:
        if labels.task == "multilabel":
            plane = (sample.mask >> k & 1).astype(np.uint8)
        else:
            plane = (sample.mask == (1 if labels.task == "binary" else k)).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(plane)
        side = round(max(w, h) * (1 + 2 * MARGIN)) + 8
        top, left = max(0, y + (h - side) // 2), max(0, x + (w - side) // 2)
        box = slice(top, top + side), slice(left, left + side)
        image, plane = sample.image[box], plane[box]
        scale = CROP / max(plane.shape)
        size = max(1, round(plane.shape[0] * scale)), max(1, round(plane.shape[1] * scale))
        picture = overlay(resize_image(image, size), resize_mask(plane, size), one, FAINT)
        return card(picture, CROP, (short(sample.name), *lines))

    return draw


def bare(*lines: str) -> Draw:
    """The image without its mask."""

    def draw(sample: Sample) -> np.ndarray:
        h, w = sample.image.shape[:2]
        scale = CARD / max(h, w)
        size = max(1, round(h * scale)), max(1, round(w * scale))
        return card(to_rgb(resize_image(sample.image, size)), CARD, (short(sample.name), *lines))

    return draw


def card(picture: np.ndarray, side: int, lines: Sequence[str]) -> np.ndarray:
    """`picture` in the middle of a square of that side, above `lines`, each broken where it is too long."""
    h, w = picture.shape[:2]
    square = np.zeros((side, side, 3), np.uint8)
    y, x = (side - h) // 2, (side - w) // 2
    square[y : y + h, x : x + w] = picture
    empty = np.zeros((0, side, 3), np.uint8)
    return np.concatenate([square, above(empty, [(line, TEXT) for line in lines], together=False)])


def above(picture: np.ndarray, words: Words, together: bool = True) -> np.ndarray:
    """`picture` under `words`, in as many lines as they need; each begins one, unless `together`."""
    rows: list[list[tuple[str, tuple[int, int, int]]]] = []
    for text, colour in words:
        fresh = not together or not rows
        for piece in [text] if together else _pieces(text, picture.shape[1] - 8):
            if fresh or _width([*(w for w, _ in rows[-1]), piece]) > picture.shape[1] - 8:
                rows.append([])
            rows[-1].append((piece, colour))
            fresh = False
    for row in reversed(rows):
        line = row if together else [(" ".join(word for word, _ in row), row[0][1])]
        picture = caption(picture, line)
    return picture


def _pieces(text: str, width: int) -> list[str]:
    """The words of `text`, those that are wider than `width` pixels in parts that are not."""
    pieces = []
    for word in text.split():
        while _width([word]) > width:
            fits = next(n for n in range(len(word) - 1, 0, -1) if _width([word[:n]]) <= width or n == 1)
            pieces.append(word[:fits])
            word = word[fits:]
        pieces.append(word)
    return pieces


def _width(words: Sequence[str]) -> int:
    return cv2.getTextSize("  ".join(words), FONT, LETTER, 1)[0][0]


def short(name: str) -> str:
    """The file's name, with the folder above it if that is not one of those that every image has."""
    path = PurePosixPath(name)
    folder = path.parent.name
    return path.name if folder in ("", "images") else f"{folder}/{path.name}"


def legend(labels: Labels) -> Words:
    """Each class in its colour, halfway to white where that is too dark to be read on dark paper."""
    return [(name, light(colour)) for name, colour in zip(labels.names, labels.colours, strict=True)]


def light(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """`colour`, or halfway to white where its luma (BT.601) is below a third."""
    r, g, b = colour
    if 0.299 * r + 0.587 * g + 0.114 * b >= 85:
        return colour
    return (r + 255) // 2, (g + 255) // 2, (b + 255) // 2


def background(labels: Labels, k: int) -> bool:
    """Whether class k is what lies behind the others."""
    return labels.task == "multiclass" and labels.names[k].lower() == "background"


