"""Masks in memory: bits, index masks, polygons, run lengths.  Every operation is exact in every bit.

Legend: K classes, (H, W) the mask's size, (P, 2) points x, y in pixels; whole numbers are pixel centres.

A mask is one array, by the task of its dataset:
    multilabel  (H, W) int32 for up to 31 classes, int64 for up to 63: class k is bit k
    multiclass  (H, W) uint8, the class's position 0..K-1, 255 ignored
    binary      (H, W) uint8, 0 or 1, 255 ignored
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from zoo.errors import InputError

IGNORE = 255
TASKS = ("multilabel", "multiclass", "binary")
_FRACTION = 4  # binary digits behind the point of a polygon's coordinates
_RIM = 16  # pixels drawn beyond the image: OpenCV bends edges at the border of its canvas
_FAR = 1 << 20  # pixels; a point beyond is drawn here, lest fixed-point numbers overflow


@dataclass(frozen=True)
class Labels:
    """What the pixels of a dataset mean: the task and, in order, each class's name and colour.

    binary has one class, the foreground.  index: the value in the file of each class (multiclass), or of
    background and foreground (binary); () for 0, 1, 2, ...  Only files of index masks know these values.
    """

    task: str
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    index: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        """Channels of the logits (binary: 1)."""
        return len(self.names)

    def to_dict(self) -> dict:
        """As lists and plain types, for json and checkpoints."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()} | {
            "colours": [list(c) for c in self.colours]
        }

    @classmethod
    def from_dict(cls, plain: dict) -> "Labels":
        """What `to_dict` gave."""
        colours = tuple((int(r), int(g), int(b)) for r, g, b in plain["colours"])
        return cls(plain["task"], tuple(plain["names"]), colours, tuple(plain.get("index", ())))


# ---------------------------------------------------------------- bits and planes


def bits_dtype(num_classes: int) -> type[np.int32] | type[np.int64]:
    """The narrowest type whose bits hold `num_classes` classes and stay clear of the sign."""
    if num_classes > 63:
        raise InputError(f"{num_classes} classes: a multi-label mask holds at most 63; leave some out")
    return np.int32 if num_classes <= 31 else np.int64


def mask_dtype(labels: Labels) -> np.dtype:
    """Of a mask in memory: int32 or int64 bits for multilabel, else uint8."""
    return np.dtype(bits_dtype(labels.num_classes) if labels.task == "multilabel" else np.uint8)


def pack(planes: np.ndarray) -> np.ndarray:
    """bool (K, H, W) -> bits (H, W)."""
    dtype = np.dtype(bits_dtype(len(planes)))
    octets = np.zeros((dtype.itemsize, *planes.shape[1:]), np.uint8)
    for k, plane in enumerate(planes):
        octets[k // 8] |= plane.astype(bool, copy=False).view(np.uint8) << k % 8
    words = np.ascontiguousarray(np.moveaxis(octets, 0, 2)).view(dtype.newbyteorder("<"))
    return words[..., 0].astype(dtype, copy=False)


def unpack(bits: np.ndarray, num_classes: int) -> np.ndarray:
    """bits (H, W) -> bool (K, H, W)."""
    little = np.ascontiguousarray(bits, bits.dtype.newbyteorder("<")).view(np.uint8)
    octets = np.ascontiguousarray(np.moveaxis(little.reshape(*bits.shape, bits.itemsize), 2, 0))
    planes = np.empty((num_classes, *bits.shape), np.uint8)
    for k in range(num_classes):
        np.bitwise_and(octets[k // 8] >> k % 8, 1, out=planes[k])
    return planes.view(bool)


def unpack_tensor(bits: Tensor, num_classes: int) -> Tensor:
    """bits (N, H, W) -> bool (N, K, H, W) on the same device.

    Class by class, so that there are never K integers a pixel, and byte by byte: on a CPU 4 times as fast
    as shifting whole words, 40 times as fast as shifting them for all classes at once.
    """
    n, h, w = bits.shape
    octets = bits.contiguous().view(torch.uint8).view(n, h, w, bits.element_size())
    octets = octets.permute(3, 0, 1, 2).contiguous()
    planes = torch.empty((n, num_classes, h, w), dtype=torch.uint8, device=bits.device)
    for k in range(num_classes):
        octet = k // 8 if sys.byteorder == "little" else len(octets) - 1 - k // 8
        torch.bitwise_and(octets[octet] >> k % 8, 1, out=planes[:, k])
    return planes.view(torch.bool)


def planes(mask: np.ndarray, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Any mask as (bool (K, H, W), valid bool (H, W)); for pictures and tests, not for hot paths."""
    if labels.task == "multilabel":
        return unpack(mask, labels.num_classes), np.ones(mask.shape, bool)
    first = 1 if labels.task == "binary" else 0
    wanted = np.arange(first, first + labels.num_classes, dtype=np.int64)
    return mask[None] == wanted[:, None, None], mask != IGNORE


def class_plane(mask: np.ndarray, labels: Labels, k: int) -> np.ndarray:
    """Where (bool (H, W)) a mask in memory form has class k."""
    if labels.task == "multilabel":
        plane: np.ndarray = (mask & (1 << k)) != 0
        return plane
    return mask == (1 if labels.task == "binary" else k)


def cropped(mask: np.ndarray, labels: Labels) -> Iterator[tuple[int, np.ndarray, tuple[int, int]]]:
    """For each class of a mask that is there: its number, its plane (uint8 0 or 1, only as large as the
    class), and the (x, y) of that plane's corner."""
    if labels.task == "multilabel":
        rows, columns = np.bitwise_or.reduce(mask, axis=1), np.bitwise_or.reduce(mask, axis=0)
    for k in range(labels.num_classes):
        if labels.task == "multilabel":
            y, x = np.flatnonzero(rows >> k & 1), np.flatnonzero(columns >> k & 1)
        else:
            plane = class_plane(mask, labels, k)
            y, x = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
        if len(y):
            box = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
            part = mask[box] >> k & 1 if labels.task == "multilabel" else plane[box]
            yield k, part.astype(np.uint8), (int(x[0]), int(y[0]))


def split_wide(bits: np.ndarray) -> np.ndarray:
    """int64 (H, W) -> a view of it as int32 (H, W, 2): OpenCV 5.0 turns int64 into int32 without a word."""
    h, w = bits.shape
    return np.ascontiguousarray(bits).view(np.int32).reshape(h, w, 2)


def join_wide(halves: np.ndarray) -> np.ndarray:
    """int32 (H, W, 2) -> int64 (H, W): what `split_wide` took apart."""
    return np.ascontiguousarray(halves).view(np.int64)[..., 0]


def _nearest(length: int, native: int) -> np.ndarray:
    """For each of `length` pixels over `native` ones, the pixel under its centre: floor((j + 1/2) n/l)."""
    return (2 * np.arange(length) + 1) * native // (2 * length)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest, at the pixel under each new centre, where the resized image has its centres too.

    (OpenCV's INTER_NEAREST takes the upper left pixel instead, 3/8 of a pixel off at a quarter of the size.)
    """
    if mask.shape == size:
        return mask
    (h, w), (native_h, native_w) = size, mask.shape
    return mask.take(_nearest(h, native_h), axis=0).take(_nearest(w, native_w), axis=1)


# ---------------------------------------------------------------- polygons


def polygons_to_bits(
    polygons: Iterable[tuple[int, np.ndarray]],
    size: tuple[int, int],
    num_classes: int,
    scale: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """(class, points (P, 2)) -> bits of `size` (h, w), which is `scale` (sx, sy) times the points' own size.

    Exactly `resize_mask` of the mask at the points' own scale, which is `cv2.fillPoly`'s (edges included,
    even-odd, 1/16 pixel), without that mask: each polygon is filled at its own scale in a scratch of its
    bounding box, sampled under the target's pixel centres, and or-ed in; so classes may overlap, and
    polygons of one class join.  29 bones from 2048 to 512 take 1 ms.  Scaling the points and filling at 512
    saves a third of that and widens each bone by the half pixel that fillPoly gives an edge: IoU with the
    resized mask 0.94 in the mean and 0.89 for the Pisiform, where it is 1 here (benchmarks/data_path.py).
    """
    (h, w), (sx, sy) = size, scale
    native_h, native_w = max(1, round(h / sy)), max(1, round(w / sx))
    rows, columns = _nearest(h, native_h), _nearest(w, native_w)
    dtype = bits_dtype(num_classes)
    bits = np.zeros(size, dtype)
    for k, points in polygons:
        points = np.clip(points, -_FAR, _FAR)
        x0, y0 = np.maximum(np.floor(points.min(0)), -_RIM).astype(int)
        x1, y1 = np.minimum(np.ceil(points.max(0)) + 1, (native_w + _RIM, native_h + _RIM)).astype(int)
        top, bottom = np.searchsorted(rows, (y0, y1))
        left, right = np.searchsorted(columns, (x0, x1))
        if top >= bottom or left >= right:
            continue
        scratch = np.zeros((y1 - y0, x1 - x0), np.uint8)
        fixed = np.rint((points - (x0, y0)) * (1 << _FRACTION)).astype(np.int32)
        cv2.fillPoly(scratch, [fixed], 1, shift=_FRACTION)
        inside = scratch.take(rows[top:bottom] - y0, axis=0).take(columns[left:right] - x0, axis=1)
        bits[top:bottom, left:right] |= inside.astype(dtype) << dtype(k)
    return bits


# ---------------------------------------------------------------- run lengths


def rle_encode(plane: np.ndarray, order: str = "C") -> str:
    """bool (H, W) -> "start length start length ...", starts from 1; "" for an empty plane.

    order: "C" goes along rows (the hand-bone competition), "F" down columns (COCO, most of Kaggle).
    """
    flat = np.zeros(plane.size + 2, np.int8)
    flat[1:-1] = plane.ravel(order=_order(order)) != 0
    edges = np.flatnonzero(np.diff(flat)) + 1
    edges[1::2] -= edges[::2]
    return " ".join(map(str, edges.tolist()))


def rle_decode(text: str, size: tuple[int, int], order: str = "C") -> np.ndarray:
    """What `rle_encode` wrote -> bool (H, W); runs must ascend and stay inside."""
    words = text.split()
    if len(words) % 2 or not all(w.isascii() and w.isdigit() and len(w) < 19 for w in words):
        raise InputError(f"run lengths {_short(text)}: want pairs `start length` of whole numbers")
    starts = np.array(words[::2], dtype=np.int64) - 1
    ends = starts + np.array(words[1::2], dtype=np.int64)
    if (starts < 0).any() or (ends <= starts).any() or (starts[1:] < ends[:-1]).any():
        raise InputError(f"run lengths {_short(text)}: want starts from 1, lengths from 1, runs in order")
    pixels = size[0] * size[1]
    if len(ends) and ends[-1] > pixels:
        raise InputError(f"run lengths {_short(text)}: end at {ends[-1]}, the mask has {pixels} pixels")
    steps = np.zeros(pixels + 1, np.int8)
    steps[starts] += 1
    steps[ends] -= 1  # a run may start where another ends: the two steps cancel
    return np.cumsum(steps[:-1], dtype=np.int8).astype(bool).reshape(size, order=_order(order))


def _order(order: str) -> Literal["C", "F"]:
    if order in ("C", "F"):
        return order  # type: ignore[return-value]
    raise InputError(f"run-length order {order!r}: C goes along rows, F down columns")


def _short(text: str, most: int = 40) -> str:
    return repr(text if len(text) <= most else text[:most] + "...")


# ---------------------------------------------------------------- colours


def palette(n: int) -> tuple[tuple[int, int, int], ...]:
    """n distinct RGB colours, far from grey, so that they stand out on a radiograph.

    The farthest-point walk through a 6x6x6 cube, from the greys on, in the "redmean" distance between
    colours; whole numbers only, so the same on every machine, and the first m of n are palette(m).
    """
    steps = np.array((0, 51, 102, 153, 204, 255))
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen: list[tuple[int, int, int]] = []
    distance = np.min([_redmean(cube, np.full(3, grey)) for grey in steps], axis=0)
    for _ in range(n):
        r, g, b = cube[int(distance.argmax())].tolist()
        chosen.append((r, g, b))
        distance = np.minimum(distance, _redmean(cube, np.array((r, g, b))))
    return tuple(chosen)


def _redmean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    mean = (a[..., 0] + b[..., 0]) // 2
    dr, dg, db = np.moveaxis((a - b) ** 2, -1, 0)
    return (512 + mean) * dr + 1024 * dg + (767 - mean) * db
