"""Augmentation of one sample, the elastic field and border weights of the U-Net paper, mirrored padding.

H, W: an array's height and width.  h, w: the output's.  m: margin, the pixels that a network with valid
convolutions loses at each side.  Points are (x, y) in pixel centres: the first pixel's centre is (0, 0).

All geometry of a sample is one map from output pixel to source point, applied once to each array: image
bilinear, mask nearest and exact in every bit, weight bilinear, all mirrored beyond the border alike, but
that with "crop" an index mask is IGNORE there.
Grey values change in the image alone.  Every random number comes from the generator that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zoo.core.masks import IGNORE, join_wide, split_wide
from zoo.errors import InputError, nearest

if TYPE_CHECKING:
    from zoo.core.dataset import Sample

DEFAULT = "flip+rotate+scale+shift+grey"
WORDS = {
    "flip": "left to right, in half of the samples; not for classes that are named left and right",
    "turn": "by 0, 90, 180 or 270 degrees, for pictures without an up",
    "rotate": "by up to 15 degrees either way",
    "scale": "by 0.8 to 1.25, both sides alike",
    "shift": "by up to 1/16 of each side",
    "crop": "a window of the output's size out of the image at 0.5 to 2 times its own scale",
    "grey": "gamma and contrast (about the mean) by 0.8 to 1.25, brightness by up to 0.08 of white",
    "colour": "each in half of the samples: brightness by up to 1/8 of white, contrast and saturation by 0.5 "
    "to 1.5, hue by up to 36 degrees (SSD)",
    "blur": "Gaussian, deviation up to 1.5 px, in half of the samples",
    "noise": "Gaussian, deviation 0 to 0.04 of white, each pixel by itself",
    "elastic": "displacements on a 3x3 grid, deviation 10 px (at most side / 20), bicubic (U-Net, Sec. 3.1)",
}
ROTATE = math.radians(15)
CROP = (0.5, 2.0)  # uniform, as in semseg and torchvision's references
FACTOR = math.log(1.25)  # scale, gamma and contrast: uniform in the logarithm, so that 1 is the middle
SHIFT = 1 / 16
BRIGHTNESS = 0.08
PHOTOMETRIC = (32.0, (0.5, 1.5), 18)  # "colour": grey levels, factors, OpenCV's hue (180 are a turn)
BLUR = 1.5
NOISE = 0.04 * 255
ELASTIC = 10.0  # pixels, the paper's
FOLD = 1 / 20  # at most this share of the shorter side: 10 px in a window of 100 could fold the picture

_MIRROR = cv2.BORDER_REFLECT_101


class Augment:
    """Change a sample at random as the words of `spec` say, and cut it to the model's sizes.

    spec: WORDS joined by "+"; "default" stands for DEFAULT; "none" for no change.
    size: (h, w) of the output mask and weight; the output image is (h + 2m, w + 2m), mask in its middle.
    tile: False takes the whole sample, which must come at `size`; True takes a window of `size` at the
        sample's own scale, anywhere inside it, or around it where it is smaller.  "crop" sets it.
    OpenCV warps samples of less than 32767 pixels a side.
    """

    def __init__(self, spec: str, size: tuple[int, int], margin: int = 0, tile: bool = False) -> None:
        self.words = parse(spec)
        self.size = h, w = (size[0], size[1])
        self.margin = margin
        self.whole = (h + 2 * margin, w + 2 * margin)  # the output image, margin and all
        self.tile = tile or "crop" in self.words
        self.beyond = IGNORE if "crop" in self.words else None  # an index mask's value beyond the border

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        geometry = self._geometry((sample.image.shape[0], sample.image.shape[1]), rng)
        image = geometry.take(sample.image, self.whole, 0, cv2.INTER_LINEAR)
        if "blur" in self.words:
            image = _blur(image, rng)
        if "grey" in self.words:
            image = _grey(image, rng)
        if "colour" in self.words:
            image = _colour(image, rng)
        if "noise" in self.words:
            image = _noise(image, rng)
        beyond = self.beyond if sample.mask.dtype == np.uint8 else None  # bits have no value to ignore
        mask = geometry.take_mask(sample.mask, self.size, self.margin, beyond)
        weight = sample.weight
        if weight is not None:
            weight = geometry.take(weight, self.size, self.margin, cv2.INTER_LINEAR)
        return replace(sample, image=image, mask=mask, weight=weight)

    def _geometry(self, source: tuple[int, int], rng: np.random.Generator) -> Geometry:
        """Draw a map for a source (H, W): the window's place, a linear map about its middle, a field."""
        window = np.array(self.size)
        middle = (window[::-1] - 1) / 2  # x, y
        factor = 1.0
        if "crop" in self.words:
            factor = rng.uniform(*CROP)
            free = np.array(source) - window / factor  # how much smaller than the source what it sees is
            corner = np.where(free > 0, rng.uniform(0, np.maximum(free, 0)), free / 2)
            target = corner[::-1] + (middle + 0.5) / factor - 0.5
        elif self.tile:
            free = np.array(source) - window
            corner = np.where(free > 0, rng.integers(0, np.maximum(free, 0) + 1), free // 2)
            target = corner[::-1] + middle
        else:
            assert source == self.size, f"sample of {source} for an output of {self.size}"
            target = middle

        linear = self._linear(rng) / factor
        if "shift" in self.words:
            target = target + rng.uniform(-SHIFT, SHIFT, 2) * window[::-1]
        matrix = np.column_stack([linear, target - linear @ (middle + self.margin)])  # (2, 3)
        if "elastic" not in self.words:
            return Geometry(matrix)
        dy, dx = elastic_field(self.whole, rng, min(ELASTIC, FOLD * min(self.whole)))
        return Geometry(matrix, _displaced(matrix, dy, dx))

    def _linear(self, rng: np.random.Generator) -> np.ndarray:
        """The (2, 2) part: rotation, then scale, then mirror, as seen from output to source."""
        angle = 0.0
        if "rotate" in self.words:
            angle += rng.uniform(-ROTATE, ROTATE)
        cos, sin = math.cos(angle), math.sin(angle)
        linear = np.array([[cos, -sin], [sin, cos]])
        if "turn" in self.words:
            linear = linear @ np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), rng.integers(4))
        if "scale" in self.words:
            linear = linear / math.exp(rng.uniform(-FACTOR, FACTOR))
        if "flip" in self.words and rng.random() < 0.5:
            linear = linear * [-1.0, 1.0]
        return linear


def parse(spec: str) -> frozenset[str]:
    """The words of a spec; `InputError` on one that is not known."""
    if spec == "none":
        return frozenset()
    words: set[str] = set()
    for word in spec.split("+"):
        if word not in WORDS and word != "default":
            known = nearest(word, [*WORDS, "default", "none"])
            raise InputError(
                f"augment {spec!r}: unknown word {word!r}; {known}; join words by '+', 'none' stands alone"
            )
        words.update(DEFAULT.split("+") if word == "default" else [word])
    return frozenset(words)


@dataclass(frozen=True)
class Geometry:
    """The one map of a sample: `matrix` (2, 3) takes a window's (x, y, 1) to the source's (x, y).

    maps: the same with a displacement added, point by point: x and y, float32 (h + 2m, w + 2m) each.
    """

    matrix: np.ndarray
    maps: tuple[np.ndarray, np.ndarray] | None = None

    def take(
        self,
        array: np.ndarray,
        size: tuple[int, int],
        inset: int,
        mode: int,
        beyond: int | None = None,
    ) -> np.ndarray:
        """What the window's part of (h, w), which starts `inset` pixels from its corner, sees in `array`.

        beyond: the value beyond the border; None mirrors.
        """
        h, w = size
        border = _MIRROR if beyond is None else cv2.BORDER_CONSTANT
        if self.maps is not None:
            x, y = (axis[inset : inset + h, inset : inset + w] for axis in self.maps)
            return cv2.remap(array, x, y, mode, borderMode=border, borderValue=beyond or 0)
        matrix = self.matrix.copy()
        matrix[:, 2] += inset * matrix[:, :2].sum(axis=1)
        if array.shape[:2] == size and np.array_equal(matrix, np.eye(2, 3)):
            return array
        flags = mode | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(array, matrix, (w, h), flags=flags, borderMode=border, borderValue=beyond or 0)

    def take_mask(
        self, mask: np.ndarray, size: tuple[int, int], inset: int, beyond: int | None = None
    ) -> np.ndarray:
        """Nearest, exact in every bit; as OpenCV returns int64 as int32, it is given two planes of int32."""
        if mask.dtype == np.int64:
            return join_wide(self.take(split_wide(mask), size, inset, cv2.INTER_NEAREST, beyond))
        return self.take(mask, size, inset, cv2.INTER_NEAREST, beyond)


def _displaced(matrix: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source x and y of each pixel of the window: where the matrix takes it, added to its displacement."""
    h, w = dy.shape
    for axis, (from_x, from_y, offset) in zip((dx, dy), matrix, strict=True):
        axis += (from_x * np.arange(w) + offset).astype(np.float32)  # in place: memory costs more than sums
        axis += (from_y * np.arange(h)).astype(np.float32)[:, None]
    return dx, dy


def elastic_field(
    shape: tuple[int, int], rng: np.random.Generator, sigma: float = 10.0, grid: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Displacements (dy, dx), float32 of that shape: N(0, sigma) at the nodes of a coarse grid, then bicubic.

    U-Net paper, Sec. 3.1.  Which cubic, and where the nodes lie, it leaves open: ours is the one through the
    nodes (Keys, a = -1/2), the outer nodes lie on the outer pixels, and beyond them the outer nodes repeat.
    """
    nodes = rng.normal(0.0, sigma, (2, grid, grid)).astype(np.float32)
    dy, dx = _cubic(shape[0], grid) @ nodes @ _cubic(shape[1], grid).T  # (H, 3) (3, 3) (3, W)
    return dy, dx


@lru_cache(maxsize=16)
def _cubic(length: int, grid: int) -> np.ndarray:
    """What each node counts at each pixel of one axis: float32 (length, grid), rows summing to 1."""
    place = np.linspace(0, grid - 1, length)[:, None]
    nodes = np.arange(-1, grid + 1)
    t = np.abs(place - nodes)
    inner = 1.5 * t**3 - 2.5 * t**2 + 1
    outer = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    kernel = np.where(t < 1, inner, np.where(t < 2, outer, 0.0))  # (length, grid + 2)
    weights = kernel[:, 1:-1]
    weights[:, 0] += kernel[:, 0]
    weights[:, -1] += kernel[:, -1]
    weights = weights.astype(np.float32)
    weights.flags.writeable = False  # shared by all callers
    return weights


# ---- grey values ------------------------------------------------------------------------------------------


def _grey(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gamma, contrast and brightness in one table of 256 values; the mean's place is kept by the contrast."""
    gamma, contrast = np.exp(rng.uniform(-FACTOR, FACTOR, 2))
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    channels = 1 if image.ndim == 2 else image.shape[2]
    mean = sum(cv2.mean(image)[:channels]) / channels
    values = (np.arange(256) / 255) ** gamma
    pivot = (mean / 255) ** gamma
    values = (values - pivot) * contrast + pivot + brightness
    return cv2.LUT(image, np.rint(values.clip(0, 1) * 255).astype(np.uint8))


def _colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Photometric distortion (Liu et al., SSD, 2016): contrast before or behind saturation and hue.

    A grey image has neither of these two.  Values are clipped and rounded after each of the three steps.
    """
    delta, factors, turn = PHOTOMETRIC
    shift, contrast = (
        rng.uniform(*bounds) if rng.random() < 0.5 else nothing
        for bounds, nothing in (((-delta, delta), 0.0), (factors, 1.0))
    )
    saturation = rng.uniform(*factors) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-turn, turn + 1)) if rng.random() < 0.5 else 0
    late = rng.random() < 0.5  # contrast comes last
    image = cv2.LUT(image, _table(1.0 if late else contrast, shift))
    if image.ndim == 3 and (saturation != 1 or hue):
        h, s, v = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        h = ((h.astype(np.int16) + hue) % 180).astype(np.uint8)
        image = cv2.cvtColor(cv2.merge([h, cv2.LUT(s, _table(saturation)), v]), cv2.COLOR_HSV2RGB)
    return cv2.LUT(image, _table(contrast)) if late else image


def _table(factor: float, shift: float = 0.0) -> np.ndarray:
    """(x + shift) · factor for each of the 256 values x, rounded and clipped after either."""
    values = np.rint((np.arange(256) + shift).clip(0, 255))
    return np.rint((values * factor).clip(0, 255)).astype(np.uint8)


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In half of the samples, a Gaussian of random deviation, as wide as OpenCV finds it needs to be."""
    if rng.random() < 0.5:
        return image
    return cv2.GaussianBlur(image, (0, 0), max(1e-3, rng.uniform(0, BLUR)), borderType=_MIRROR)


# 256 equally likely values of a normal distribution: a random byte picks one, 20 times as fast as drawing one
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
_NORMAL /= _NORMAL.std()


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of a random deviation, rounded to whole grey levels and clipped."""
    table = np.rint(_NORMAL * rng.uniform(0, NOISE)).astype(np.int8)
    draws = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.add(image, cv2.LUT(draws, table), dtype=cv2.CV_8U)


# ---- borders ----------------------------------------------------------------------------------------------


def mirror_pad(image: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Mirror about the outer pixels, which are not repeated; back and forth where the image is small."""
    return cv2.copyMakeBorder(image, top, bottom, left, right, _MIRROR)


def balance(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """A weight a class from its number of pixels: inverse frequency, so scaled that pixels average 1.

    All classes present weigh the same in sum; an absent one gets 0.  The paper asks for weights that
    balance the classes and gives no formula: this one is ours.
    """
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    share = counts.sum() / max(present.sum(), 1)
    return np.where(present, share / np.where(present, counts, 1), 0).astype(np.float32)


def border_weight(
    mask: np.ndarray, w0: float = 10.0, sigma: float = 5.0, class_weights: np.ndarray | None = None
) -> np.ndarray:
    """U-Net paper, eq. 2: w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), float32 (H, W).

    mask: uint8 (H, W), class 0 the background, IGNORE weighing 0.  d1, d2: pixels from the centre of a
    background pixel to that of the nearest pixel of the nearest and of the second nearest cell; elsewhere,
    and with fewer than two cells, the second term is 0.
    class_weights: w_c a class, `balance` of the training set's counts; None balances this mask by itself.
    Ours, as a mask does not tell cells apart: a cell is a connected component of one class (4 neighbours).
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[IGNORE] = 0
    table = np.zeros(256, np.float32)
    if class_weights is None:
        table[:] = balance(counts)
    else:
        table[: len(class_weights)] = class_weights
    weight = table[mask]

    d1, d2 = _two_nearest(mask, np.flatnonzero(counts[1:]) + 1, reach=math.ceil(6 * sigma))
    near = (mask == 0) & np.isfinite(d2)
    weight[near] += w0 * np.exp(-((d1[near] + d2[near]) ** 2) / (2 * sigma**2))
    return weight


def _two_nearest(mask: np.ndarray, classes: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the nearest and second nearest component, exact up to `reach`, infinite where none is.

    Each component is measured in its own box, widened by `reach`; beyond 6 sigma the exponential is 1e-8.
    """
    h, w = mask.shape
    d1 = np.full((h, w), np.inf, np.float32)
    d2 = np.full((h, w), np.inf, np.float32)
    for k in classes:
        count, parts, stats, _ = cv2.connectedComponentsWithStats((mask == k).view(np.uint8), connectivity=4)
        for part in range(1, count):
            x, y, width, height = stats[part, :4]
            box = np.s_[max(y - reach, 0) : y + height + reach, max(x - reach, 0) : x + width + reach]
            outside = (parts[box] != part).view(np.uint8)
            d = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            np.minimum(d2[box], np.maximum(d1[box], d), out=d2[box])
            np.minimum(d1[box], d, out=d1[box])
    return d1, d2
