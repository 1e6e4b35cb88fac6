"""Image files as arrays: read whole or not at all, resized in one way, checked in bulk before training."""

import os
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import cv2
import numpy as np

from zoo.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DARK = 31  # a brightest value below this says: 12 bits or fewer in a 16-bit file

Progress = Callable[[int, int], None]  # (files checked, files in all)
T = TypeVar("T")
R = TypeVar("R")


def read_image(path: str | Path, channels: int | None = None) -> np.ndarray:
    """uint8, grey (H, W) or RGB (H, W, 3): `channels` 1 or 3, None for what the file holds.

    16-bit values keep their upper byte, alpha is dropped, the EXIF orientation is applied.
    Raises InputError for a file that is missing, empty, truncated, damaged or no image.
    """
    flags = {None: cv2.IMREAD_ANYCOLOR, 1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}
    image = _decode(path, _bytes(path), flags[channels])
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_values(path: str | Path) -> np.ndarray:
    """The values of an index mask as they stand in the file, (H, W) uint8 or uint16.

    Three equal channels are one; of a PNG with a palette of colours, as PASCAL VOC's, the places in the
    palette; a mask that codes classes as colours is refused.
    """
    data = _bytes(path)
    depth, bare = _without_palette(data)
    values = _decode(path, bare, cv2.IMREAD_UNCHANGED)
    if depth < 8:  # which decoding spread over 0..255
        values = values // np.uint8(255 // (2**depth - 1))
    if values.ndim == 3:
        if not is_grey(values[..., :3]):
            raise InputError(
                f"{path}: a colour picture, but a mask holds one class number a pixel; write it as an 8-bit "
                "grey PNG of class numbers"
            )
        values = np.ascontiguousarray(values[..., 0])
    if values.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: a mask of {values.dtype}; write an 8-bit grey PNG of class numbers")
    return values


def _bytes(path: str | Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from e
    if not data:
        raise InputError(f"{path}: is empty (0 bytes)")
    return data


def _without_palette(data: bytes) -> tuple[int, bytes]:
    """(bits a pixel, a grey PNG of the places in the palette) of a PNG with a palette of colours.

    Other files, and palettes of greys alone, which some programs make of a grey picture: (8, `data`).
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[25:26] != b"\x03":  # the header's colour type
        return 8, data
    header = data[12:25] + b"\x00" + data[26:29]
    chunks = [data[:12], header, zlib.crc32(header).to_bytes(4, "big")]
    coloured, at = False, 33
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind == b"PLTE":
            colours = data[at + 8 : end - 4]
            coloured = not colours[::3] == colours[1::3] == colours[2::3]
        elif kind != b"tRNS":  # the palette's transparency
            chunks.append(data[at:end])
        at = end
    return (data[24], b"".join(chunks)) if coloured else (8, data)


def _decode(path: str | Path, data: bytes, flag: int) -> np.ndarray:
    """Decode from memory: there OpenCV refuses a truncated JPEG, which `imread` fills up with grey."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as e:
        raise InputError(f"{path}: cannot be decoded: {e.err or e}") from e
    if image is None:
        _refuse(path)
    return image


def _refuse(path: str | Path) -> NoReturn:
    if cv2.haveImageReader(os.fspath(path)):
        raise InputError(f"{path}: is truncated or damaged; copy or write the file again")
    raise InputError(f"{path}: is not an image that can be read (PNG, JPEG, TIFF, BMP)")


def is_grey(image: np.ndarray) -> bool:
    """True for (H, W), and for (H, W, 3) whose channels are equal everywhere."""
    if image.ndim == 2:
        return True
    sparse = image[::16, ::16]
    if (sparse[..., :2] != sparse[..., 1:]).any():  # most colour images show here, at 1/256 of the cost
        return False
    a, b, c = cv2.split(image)
    return np.array_equal(a, b) and np.array_equal(b, c)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To (h, w): the mean over the area along an axis that shrinks, linear along one that grows."""
    if image.shape[:2] == size:
        return image
    h, w = min(size[0], image.shape[0]), min(size[1], image.shape[1])
    if image.shape[:2] != (h, w):
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    if (h, w) != size:
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return image


# ---------------------------------------------------------------- checking before training


@dataclass(frozen=True)
class Facts:
    """What checking an image file told: its size (h, w), whether it is grey, whether it is nearly black."""

    size: tuple[int, int]
    grey: bool
    dark: bool


def examine(path: str | Path) -> Facts:
    """Decode the whole image, which alone shows that it is whole.  Raises InputError."""
    image = read_image(path)
    return Facts(image.shape[:2], is_grey(image), int(image.max()) <= DARK)


def dark_warning(names: list[str]) -> list[str]:
    """One warning if images are nearly black, else none."""
    if not names:
        return []
    return [
        f"{plural(len(names), 'image')} nearly black (brightest value {DARK} of 255 or less), "
        f"first {names[0]}: 12-bit data in 16-bit files? scale them to the full range"
    ]


def on_all_cores(work: Callable[[T], R], items: Iterable[T], progress: Progress | None = None) -> list[R]:
    """`work` of each item, in order, by threads: decoding runs outside Python's lock.  Ctrl-C stops it."""
    items = list(items)
    results: list[R] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for result in pool.map(work, items):
            results.append(result)
            if progress:
                progress(len(results), len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return results


class BadFiles(InputError):
    """What is wrong with the files of a data set: says the first `most` of its `problems`."""

    def __init__(self, where: str | Path, problems: list[str], most: int):
        self.problems = problems
        lines = [f"{where}: {plural(len(problems), 'problem')} in the data:", *problems[:most]]
        if len(problems) > most:
            lines.append(f"and {len(problems) - most} more; all of them: python -m zoo inspect")
        super().__init__("\n  ".join(lines))


def refuse_all(where: str | Path, problems: list[str], most: int = 10) -> None:
    """Raise one InputError that lists the first `most` problems, unless there are none."""
    if problems:
        raise BadFiles(where, problems, most)


def plural(count: int, noun: str) -> str:
    """1 image, 2 images, 2 classes."""
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")
