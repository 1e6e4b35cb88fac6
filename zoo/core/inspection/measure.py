"""What is kept of each image: a few hundred numbers, so that the images themselves are seen one at a time.

K classes; (H, W) an image's size; S the number of SHAPES.  Places are shares of the image's width or height.
"""

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

from zoo.core.dataset import Sample
from zoo.core.inspection import duplicates
from zoo.core.masks import IGNORE, Labels, cropped
from zoo.core.metrics import count, histogram

# of an image's grey levels 0..255: mean, deviation, the levels that 1 % and 99 % stay below, deviation of the
# Laplacian (how sharp, or noisy), and how far colours are from grey
INTENSITIES = ("brightness", "contrast", "darkest", "brightest", "sharpness", "colour")
# of each class in an image: log10 of its share of the image; its centroid; log10 of its length over its width
# by second moments; twice the angle of its long axis as cosine and sine, each less the rounder it is; its
# pieces; its share of its convex hull; mean and deviation of the grey levels under it
SHAPES = ("area", "x", "y", "elongation", "cos", "sin", "pieces", "solidity", "grey", "grey deviation")


@dataclass(frozen=True)
class Measured:
    """Of one image.

    size: (H, W).  valid: pixels that are not ignored.  intensities: float64 by INTENSITIES.
    areas: pixels of each class, int64 (K,).  shapes: float64 (K, S) by SHAPES; nan where a class is absent.
    shared: (a, b) with a < b -> pixels that carry both classes; those that share none are left out.
    pixels, mask: SHA-256 of the decoded image and mask.  hash, mirrored: see duplicates.perceptual, of the
    image and of its mirror image.
    """

    name: str
    size: tuple[int, int]
    valid: int
    intensities: np.ndarray
    areas: np.ndarray
    shapes: np.ndarray
    shared: dict[tuple[int, int], int]
    pixels: bytes
    mask: bytes
    hash: np.ndarray
    mirrored: np.ndarray


def measure(sample: Sample, labels: Labels) -> Measured:
    """One image and its mask, at their own size."""
    image, mask = sample.image, sample.mask
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return Measured(
        name=sample.name,
        size=grey.shape,
        valid=mask.size if labels.task == "multilabel" else int(np.count_nonzero(mask != IGNORE)),
        intensities=intensities(image, grey),
        areas=count(mask, mask, labels)[:, 2],
        shapes=shapes(grey, mask, labels),
        shared=shared(mask, labels),
        pixels=_digest(image),
        mask=_digest(mask),
        hash=duplicates.perceptual(grey),
        mirrored=duplicates.perceptual(np.ascontiguousarray(grey[:, ::-1])),
    )


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest()


def intensities(image: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """INTENSITIES of `image` (H, W) or (H, W, 3), whose grey levels are `grey`; float64."""
    counts = histogram([grey])
    levels, total = np.arange(256), counts.sum()
    brightness = (counts @ levels) / total
    contrast = np.sqrt(counts @ (levels - brightness) ** 2 / total)
    below = np.cumsum(counts)
    darkest, brightest = (int(np.searchsorted(below, share * total)) for share in (0.01, 0.99))
    sharpness = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0]
    colour = 0.0 if image.ndim == 2 else float(np.mean(image.max(axis=2) - image.min(axis=2)))
    return np.array([brightness, contrast, darkest, brightest, sharpness, colour])


def shared(mask: np.ndarray, labels: Labels) -> dict[tuple[int, int], int]:
    """Pixels that carry both classes of each pair (a, b), a < b, that share any.

    By the sets of classes that occur, of which there are few, rather than by planes: what overlaps is some
    percent of a mask, and no plane a class is made.
    """
    if labels.task != "multilabel":
        return {}
    sets, times = np.unique(mask[(mask & (mask - 1)) != 0], return_counts=True)
    members = (sets[:, None] >> np.arange(labels.num_classes, dtype=sets.dtype) & 1).astype(np.int64)
    table = np.triu(members.T @ (members * times[:, None]), 1)
    return {(int(a), int(b)): int(table[a, b]) for a, b in zip(*np.nonzero(table), strict=True)}


def shapes(grey: np.ndarray, mask: np.ndarray, labels: Labels) -> np.ndarray:
    """SHAPES of each class, float64 (K, S), nan where it is absent; `grey` are the levels under the mask."""
    found = np.full((labels.num_classes, len(SHAPES)), np.nan)
    H, W = mask.shape
    for k, plane, (left, top) in cropped(mask, labels):
        moments = cv2.moments(plane, binaryImage=True)
        area = moments["m00"]
        # a pixel is a square: its own second moment keeps lines from being infinitely long
        xx, yy, xy = moments["mu20"] / area + 1 / 12, moments["mu02"] / area + 1 / 12, moments["mu11"] / area
        spread = np.hypot(xx - yy, 2 * xy)
        wide, thin = float(xx + yy + spread) / 2, float(xx + yy - spread) / 2
        straight = (1 - np.sqrt(thin / wide)) / max(spread, 1e-12)
        pieces = cv2.connectedComponents(plane, connectivity=8)[0] - 1
        outlines, _ = cv2.findContours(plane, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        hull = np.zeros_like(plane)
        cv2.fillConvexPoly(hull, cv2.convexHull(np.concatenate(outlines)), 1)
        under = grey[top : top + plane.shape[0], left : left + plane.shape[1]]
        level, deviation = cv2.meanStdDev(under, mask=plane)
        found[k] = (
            np.log10(area / mask.size),
            (left + moments["m10"] / area + 0.5) / W,
            (top + moments["m01"] / area + 0.5) / H,
            np.log10(wide / thin) / 2,
            (xx - yy) * straight,
            2 * xy * straight,
            pieces,
            area / max(1, int(np.count_nonzero(hull))),
            level[0, 0],
            deviation[0, 0],
        )
    return found
