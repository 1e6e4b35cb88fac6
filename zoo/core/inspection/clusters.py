"""Which images are mirrored, and which show one pose: by where their classes lie and how these point.

n images, F classes that at least half of them have.  A descriptor is (F, 4): x and y of each class's centroid
from the middle of them all, in units of their distance from it, and cosine and sine of twice its angle, less
the rounder it is.  Mirroring an image changes the signs of x and sine and nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np

from zoo.core.inspection.measure import SHAPES, Measured

_SIDE = re.compile(r"[_\-. ]([LR])$")
MIRROR = np.array([-1.0, 1.0, 1.0, -1.0])
TWO_SIDED = 2.5  # mean over deviation of |projection|, which is 1.3 where a normal distribution has one hump
FEWEST = 8  # images that can be clustered
MOST = 5  # clusters that are tried
DIRECTIONS = 2  # in which descriptors vary most, and by which poses are told apart
# silhouettes: the least of a split that is made, and of one that is clear; normally distributed points in a
# plane, which are one heap, cut into three have 0.35
GOOD, CLEAR = 0.3, 0.45
SAMPLED = 1000  # images that the silhouette looks at


@dataclass(frozen=True)
class Sides:
    """left: bool (n,), the mirrored ones.  by: "file names", "shapes", or "" where there are no two sides."""

    left: np.ndarray
    by: str
    names: tuple[str, str] = ("R", "L")

    def name(self, i: int) -> str:
        """The side of image i, "" where there are none."""
        return self.names[int(self.left[i])] if self.by else ""


def common(images: Sequence[Measured]) -> np.ndarray:
    """The classes that at least half of the images have, int (F,)."""
    return np.flatnonzero(np.array([m.areas > 0 for m in images]).mean(axis=0) >= 0.5)


def descriptors(images: Sequence[Measured]) -> np.ndarray:
    """float64 (n, F, 4); an absent class is where it is in the median image.  F may be 0."""
    table = np.array([m.shapes for m in images])
    sizes = np.array([m.size for m in images], np.float64)
    table = table[:, common(images)]
    found = np.stack([table[..., SHAPES.index(what)] for what in ("x", "y", "cos", "sin")], axis=2)
    if found.shape[1] == 0:
        return found
    found[..., 0] *= sizes[:, 1:]
    found[..., 1] *= sizes[:, :1]
    middle, scale = sizes[:, None, ::-1] / 2, sizes.max(axis=1)[:, None, None]
    if found.shape[1] >= 3:
        known = ~np.isnan(found[:, :, :1])
        count = np.maximum(known.sum(axis=1, keepdims=True), 1)
        middle = np.nansum(found[..., :2], axis=1, keepdims=True) / count
        apart = np.nansum((found[..., :2] - middle) ** 2, axis=(1, 2))[:, None, None]
        scale = np.where(apart > 0, np.sqrt(apart / count), scale)
    found[..., :2] = (found[..., :2] - middle) / scale
    return np.where(np.isnan(found), np.nanmedian(found, axis=0), found)


def kmeans(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(cluster of each point (n,), centres (k, d)) of float64 (n, d); the same at every call."""
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-6)
    start = np.zeros((len(points), 1), np.int32)
    _, found, centres = cv2.kmeans(points.astype(np.float32), k, start, criteria, 10, cv2.KMEANS_PP_CENTERS)
    return found.ravel(), centres


def sides(names: Sequence[str], described: np.ndarray) -> Sides:
    """By _L or _R at the end of every file name; else by shapes, where images are clearly of two kinds of
    which one is the mirror image of the other.

    All images and their mirror images make two clusters, whose centres mirror each other; an image belongs
    to the nearer.  Names that some of the files have say which is left, else the two are A and B.
    """
    told = [_SIDE.search(PurePosixPath(name).stem) for name in names]
    letters = np.array([match[1] if match else "" for match in told])
    if (letters != "").all():
        return Sides(letters == "L", "file names")
    odd = described[:, :, [0, 3]].reshape(len(described), -1)
    if len(odd) < FEWEST or not odd.size or not odd.any():
        return Sides(np.zeros(len(odd), bool), "")
    _, centres = kmeans(np.concatenate([odd, -odd]), 2)
    along = odd @ (centres[0] - centres[1])
    clear = np.abs(along).mean() > TWO_SIDED * np.abs(along).std()
    left = along < 0
    if not clear or left.all() or not left.any():
        return Sides(np.zeros(len(odd), bool), "")
    if (letters != "").any():
        swap = ((letters == "L") & ~left).sum() + ((letters == "R") & left).sum() > (letters != "").sum() / 2
        return Sides(left != swap, "shapes")
    return Sides(left if not left[0] else ~left, "shapes", ("A", "B"))


@dataclass(frozen=True)
class Poses:
    """of: the cluster of each image (n,), the largest is 0.  apart: its distance from that centre (n,).

    silhouette: how clearly they are apart, from 0 to 1; nan for a single one.
    turn: degrees (n,) by which each image is turned against the mean, clockwise; 0 with less than 3 classes.
    """

    of: np.ndarray
    apart: np.ndarray
    silhouette: float
    turn: np.ndarray


def aligned(described: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors turned so that their places fit the mean's best (Procrustes), and by how many degrees each
    was turned clockwise before; fewer than 3 classes have no turn."""
    n, f, _ = described.shape
    if f < 3:
        return described, np.zeros(n)
    places = described[..., 0] + 1j * described[..., 1]
    mean = places.mean(axis=0)
    for _ in range(3):
        turns = np.exp(1j * np.angle((places.conj() * mean).sum(axis=1)))[:, None]
        mean = (places * turns).mean(axis=0)
    mean *= np.exp(-1j * np.angle(turns.mean()))  # the mean image itself is not turned
    turns = np.exp(1j * np.angle((places.conj() * mean).sum(axis=1)))[:, None]
    places, axes = places * turns, (described[..., 2] + 1j * described[..., 3]) * turns**2
    turned = np.stack([places.real, places.imag, axes.real, axes.imag], axis=2)
    return turned, -np.degrees(np.angle(turns[:, 0]))


def poses(described: np.ndarray, left: np.ndarray, wanted: int | None = None) -> Poses:
    """`wanted` clusters, or as many up to MOST as are most clearly apart, or one where none is.

    Images of `left` are mirrored first, lest sides be taken for poses, and all are `aligned`: how a hand is
    bent is a pose, how the plate lay under it is not.  k-means sees their DIRECTIONS largest principal
    components alone, lest each finger's own spread drown what they have in common: of 120 phantoms it makes
    three clusters that tell 87 % of the wrists as bent or straight (70 % are straight).
    """
    points, turn = aligned(np.where(left[:, None, None], described * MIRROR, described))
    n = len(points)
    points = points.reshape(n, -1)
    best = Poses(np.zeros(n, int), np.zeros(n), np.nan, turn)
    if not points.size:
        return best
    centre = points.mean(axis=0)
    best = Poses(best.of, np.linalg.norm(points - centre, axis=1), np.nan, turn)
    points = principal(points)
    few = n < FEWEST or not np.ptp(points, axis=0).any()
    tried = range(0) if few and not wanted else range(2, MOST + 1) if wanted is None else (wanted,)
    for k in tried:
        if k < 2 or k > n:
            continue
        of, centres = kmeans(points, k)
        clear = silhouette(points, of)
        if wanted or clear > max(GOOD, np.nan_to_num(best.silhouette)):
            rank = np.argsort(np.argsort(-np.bincount(of, minlength=k), kind="stable"))
            best = Poses(rank[of], np.linalg.norm(points - centres[of], axis=1), clear, turn)
    return best


def principal(points: np.ndarray) -> np.ndarray:
    """float64 (n, d) -> (n, DIRECTIONS or fewer): their places along the axes of largest variance."""
    apart, size, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    return (apart * size)[:, :DIRECTIONS]


def silhouette(points: np.ndarray, of: np.ndarray) -> float:
    """The mean of (b - a) / max(a, b), a the mean distance to the others of the own cluster, b the least mean
    distance to another's; over at most SAMPLED points, evenly taken.  A point alone counts 0."""
    step = -(-len(points) // SAMPLED)
    points, of = points[::step], of[::step]
    square = (points**2).sum(axis=1)
    apart = np.sqrt(np.maximum(square[:, None] + square - 2 * points @ points.T, 0))
    np.fill_diagonal(apart, 0)
    kinds = np.unique(of)
    if len(kinds) < 2:
        return 0.0
    sums = np.stack([apart[:, of == kind].sum(axis=1) for kind in kinds], axis=1)
    counts = np.array([(of == kind).sum() for kind in kinds])
    own = of[:, None] == kinds
    a = sums[own] / np.maximum(counts[np.searchsorted(kinds, of)] - 1, 1)
    b = np.where(own, np.inf, sums / counts).min(axis=1)
    alone = counts[np.searchsorted(kinds, of)] == 1
    return float(np.where(alone, 0, (b - a) / np.maximum(np.maximum(a, b), 1e-12)).mean())
