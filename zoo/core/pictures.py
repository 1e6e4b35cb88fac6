"""What masks look like: overlays, differences, panels and contact sheets, all RGB uint8.

Nothing here is a number to rely on: pictures are for eyes, and masks keep their values in files of their own.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from zoo.core.files import write_bytes
from zoo.core.masks import IGNORE, Labels, cropped, resize_mask
from zoo.errors import InputError

# Okabe and Ito's colours, which people with any colour vision tell apart
RIGHT = (0, 158, 115)    # bluish green
MISSING = (86, 180, 233)  # sky blue
EXTRA = (213, 94, 0)     # vermilion
OTHER = (240, 228, 66)   # yellow
IGNORED = (70, 70, 70)

PAPER = 20  # grey level behind captions and between pictures
SMALLEST, LARGEST = 256, 512  # sides of a picture in a panel, in pixels
TEXT = (230, 230, 230)
STRIP, LETTER = 24, 0.55  # height of a caption in pixels, and its font scale
FONT = cv2.FONT_HERSHEY_SIMPLEX
MOST = math.log(20)  # the loss of a true class that got a probability of 5 %: the end of the colours
INK, EMPTY, BAR = (40, 40, 40), (235, 235, 235), 300  # bars: text, track, and its length in pixels


def overlay(image: np.ndarray, mask: np.ndarray, labels: Labels, alpha: float = 0.5) -> np.ndarray:
    """`image` (H, W) or (H, W, 3) with the classes of `mask` over it in their colours.

    alpha: how much of the class's colour a pixel gets.  Where classes overlap it is the mean of theirs, and
    each class has an outline of its own.  Ignored pixels, and of a multiclass mask whatever is called
    background or has the colour black, stay as they are.
    """
    picture = to_rgb(image)
    if labels.task == "multilabel":
        tint, painted = _mean_colours(mask, labels)
    else:
        table, shown = _index_colours(labels)
        tint, painted = table[mask], shown[mask]
    blend = cv2.addWeighted(picture, 1 - alpha, tint, alpha, 0)
    cv2.copyTo(blend, painted.view(np.uint8), picture)
    if labels.task != "multiclass":  # whose colours meet without a gap or an overlap
        thickness = max(1, round(min(mask.shape) / 512))
        for k, plane, corner in cropped(mask, labels):
            outlines, _ = cv2.findContours(plane, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=corner)
            cv2.drawContours(picture, outlines, -1, labels.colours[k], thickness)
    return picture


def _mean_colours(bits: np.ndarray, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """The mean colour (H, W, 3) of the classes at each pixel, and where (H, W) there is one at all."""
    total, count = np.zeros((*bits.shape, 3), np.uint16), np.zeros(bits.shape, np.uint16)
    for k, plane, (x, y) in cropped(bits, labels):
        box = slice(y, y + plane.shape[0]), slice(x, x + plane.shape[1])
        total[box] += plane[..., None] * np.array(labels.colours[k], np.uint16)
        count[box] += plane
    return (total // np.maximum(count, 1)[..., None]).astype(np.uint8), count > 0


def _index_colours(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """For each value of a multiclass or binary mask its colour (256, 3), and whether it is painted (256,)."""
    table, shown = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    first = 1 if labels.task == "binary" else 0
    table[first : first + len(labels.colours)] = labels.colours
    shown[first : first + len(labels.colours)] = True
    if labels.task == "multiclass":
        for k, name in enumerate(labels.names):
            shown[k] = name.lower() != "background" and table[k].any()
    return table, shown


def difference(pred: np.ndarray, truth: np.ndarray, labels: Labels) -> np.ndarray:
    """Where `pred` is RIGHT, where it has a class too many (EXTRA), one too few (MISSING), or both (OTHER).

    A pixel is RIGHT if all its classes are, and there is one; black if rightly empty.  In a multiclass
    mask the background (see `overlay`) counts as empty: a wrong class is EXTRA on it and OTHER elsewhere.
    """
    if labels.task == "multilabel":
        extra, missing, some = (pred & ~truth) != 0, (truth & ~pred) != 0, truth != 0
        valid = np.ones(truth.shape, bool)
    else:
        _, shown = _index_colours(labels)
        wrong, valid, some = pred != truth, truth != IGNORE, shown[truth]
        extra, missing = wrong & shown[pred], wrong & some
    picture = np.zeros((*truth.shape, 3), np.uint8)
    picture[some & ~missing & ~extra] = RIGHT
    picture[extra & ~missing] = EXTRA
    picture[missing & ~extra] = MISSING
    picture[extra & missing] = OTHER
    picture[~valid] = IGNORED
    return picture


def panel(
    image: np.ndarray,
    truth: np.ndarray,
    pred: np.ndarray,
    labels: Labels,
    title: str = "",
    loss: np.ndarray | None = None,
) -> np.ndarray:
    """Image, truth, prediction and their difference side by side, with captions, at a size to be read.

    loss: of each pixel (h, w), of any size, nan where ignored; shown as `heat` at the end.
    """
    image, truth, pred = readable(image, truth, pred)
    size = image.shape[0], image.shape[1]
    cells = [
        caption(to_rgb(image), [("image", TEXT)]),
        caption(overlay(image, truth, labels), [("truth", TEXT)]),
        caption(overlay(image, pred, labels), [("prediction", TEXT)]),
        caption(_difference_over(image, difference(pred, truth, labels)), _legend(labels)),
    ]
    if loss is not None:
        cells.append(caption(heat(resize_mask(loss, size)), _heat_legend()))
    row = grid(cells, columns=len(cells))
    return caption(row, [(title, TEXT)]) if title else row


def _difference_over(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """`colours` over the image in dim grey, which shows through where all is RIGHT: errors are seen first."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    picture = to_rgb(grey // 2)
    right = np.asarray((colours == RIGHT).all(axis=2))
    some = np.asarray(colours.any(axis=2))
    blend = cv2.addWeighted(picture, 0.5, colours, 0.5, 0)
    cv2.copyTo(colours, some.view(np.uint8), picture)
    cv2.copyTo(blend, right.view(np.uint8), picture)
    return picture


def _legend(labels: Labels) -> list[tuple[str, tuple[int, int, int]]]:
    """The colours of `difference` that can occur."""
    one = [("right", RIGHT), ("missing", MISSING), ("extra", EXTRA)]
    if labels.task == "binary":
        return one
    if labels.task == "multilabel":
        return [*one, ("both", OTHER)]
    background = not _index_colours(labels)[1][: labels.num_classes].all()
    return [*(one if background else one[:1]), ("wrong class", OTHER)]


def heat(loss: np.ndarray, most: float = MOST) -> np.ndarray:
    """`loss` (H, W) from 0 to `most` and beyond in black, red, yellow, white; IGNORED where it is nan.

    With t = loss / most cut to 0..1: red grows over its first third, green over the second, blue over the
    last, so that brightness grows all the way.
    """
    t = np.clip(loss / most, 0, 1)
    colours = np.clip(3 * t[..., None] - np.arange(3), 0, 1)  # (H, W, 3)
    picture = np.rint(np.nan_to_num(colours) * 255).astype(np.uint8)
    picture[np.isnan(loss)] = IGNORED
    return picture


def _heat_legend() -> list[tuple[str, tuple[int, int, int]]]:
    """A few losses, each in its colour."""
    losses = (0.5, 1.0, 2.0, 3.0)
    colours = [(r, g, b) for r, g, b in heat(np.array([losses]))[0].tolist()]
    return [("loss", TEXT), *((f"{loss:g}", colour) for loss, colour in zip(losses, colours, strict=True))]


def bars(title: str, names: Sequence[str], values: Sequence[float]) -> np.ndarray:
    """A bar from 0 to 1 for each name and value, (H, W, 3), dark on white; nan has none and says so."""
    size = [cv2.getTextSize(_ascii(name), FONT, LETTER, 1)[0][0] for name in (*names, title)]
    left = max(size) + 12
    picture = np.full((STRIP * (len(names) + 1) + 4, left + BAR + 64, 3), 255, np.uint8)
    for row, (name, value) in enumerate(zip((title, *names), (math.nan, *values), strict=True)):
        y = STRIP * row
        cv2.putText(picture, _ascii(name), (6, y + STRIP - 7), FONT, LETTER, INK, 1, cv2.LINE_AA)
        if row == 0:
            continue
        said = "none" if math.isnan(value) else f"{value:.3f}"
        cv2.rectangle(picture, (left, y + 5), (left + BAR - 1, y + STRIP - 4), EMPTY, -1)
        if value > 0:
            end = left + max(1, round(value * BAR)) - 1
            cv2.rectangle(picture, (left, y + 5), (end, y + STRIP - 4), RIGHT, -1)
        cv2.putText(picture, said, (left + BAR + 6, y + STRIP - 7), FONT, LETTER, INK, 1, cv2.LINE_AA)
    return picture


def readable(image: np.ndarray, *masks: np.ndarray) -> list[np.ndarray]:
    """`image` (H, W) or (H, W, 3) and its masks, enlarged or reduced to a size to be read."""
    size = _shown_size(image.shape[0], image.shape[1])
    smaller = size[0] < image.shape[0]
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return [image, *(resize_mask(mask, size) for mask in masks)]


def _shown_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) scaled so that the short side is at least SMALLEST; the long one at most LARGEST."""
    scale = max(1.0, SMALLEST / min(height, width))
    scale = min(scale, LARGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def caption(picture: np.ndarray, words: Sequence[tuple[str, tuple[int, int, int]]]) -> np.ndarray:
    """`picture` under a strip with `words`, each (text, colour), as large as the width allows."""
    text = _ascii("  ".join(word for word, _ in words))
    width = cv2.getTextSize(text, FONT, 1.0, 1)[0][0]
    scale = min(LETTER, (picture.shape[1] - 8) / max(1, width))
    strip = np.full((STRIP, picture.shape[1], 3), PAPER, np.uint8)
    x, y = 4.0, STRIP - 7
    for word, colour in words:
        word = _ascii(word)
        cv2.putText(strip, word, (round(x), y), FONT, scale, colour, 1, cv2.LINE_AA)
        x += cv2.getTextSize(word + "  ", FONT, 1.0, 1)[0][0] * scale
    return np.concatenate([strip, picture])


def _ascii(text: str) -> str:
    """`text` in the letters that OpenCV can draw."""
    return text.encode("ascii", "replace").decode()


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """A contact sheet: `images` row by row, each in the upper left of a cell as large as the largest."""
    gap, columns = 4, min(columns, len(images))
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), PAPER, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = to_rgb(image)
    return sheet


def to_rgb(image: np.ndarray) -> np.ndarray:
    """A copy (H, W, 3) of a grey (H, W) or RGB picture."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write RGB (H, W, 3) or grey (H, W), whole or not at all; makes folders.  Raises InputError."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    _, data = cv2.imencode(".png", bgr)
    make_folder(path.parent)
    write_bytes(path, data.tobytes())


def make_folder(path: Path) -> None:
    """The folder `path`, with those above it.  Raises InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{path}: cannot make this folder ({e.strerror}); choose another --out") from e
