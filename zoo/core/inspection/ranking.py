"""How unlike the others each image is, and in what.

Each statistic x of an image becomes (x - median) / scale, where the scale is 1.4826 times the median of
|x - median| (the deviation, if x is normal), but at least a FLOOR: what is smaller than that is not odd,
however alike the others are.  A class that a share f of the images has scores sqrt((1-f)/f) where it is there
and -sqrt(f/(1-f)) where it is missing: how many deviations of a yes or no of that share it is away.

An image's score is the mean of its TOP largest magnitudes: a single odd number may be chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.core.inspection.measure import INTENSITIES, SHAPES, Measured
from zoo.core.masks import Labels

TOP = 3
LEAST = 10  # images with a class from which on its shapes are compared
FLOORS = {  # in the units of the statistic
    "brightness": 2.0, "contrast": 2.0, "darkest": 2.0, "brightest": 2.0, "sharpness": 1.0, "colour": 2.0,
    "pixels": 0.1, "proportion": 0.05, "turn": 3.0,
    "area": 0.05, "x": 0.01, "y": 0.01, "elongation": 0.05, "pieces": 1.0, "solidity": 0.03,
    "grey": 3.0, "grey deviation": 2.0,
}  # fmt: skip
NORMAL = 1.4826  # deviations over median absolute deviations of a normal distribution


@dataclass(frozen=True)
class Statistic:
    """One number of every image.  what: in words; z: robust scores, float64 (n,), nan where it has none."""

    what: str
    z: np.ndarray


@dataclass(frozen=True)
class Rank:
    """Of one image.  score: the mean of its TOP largest |z|.  why: those, in words."""

    score: float
    why: str


def robust(x: np.ndarray, floor: float) -> np.ndarray:
    """z scores of float64 (n,) by median and MAD; nan stays nan and counts for nothing."""
    known = x[~np.isnan(x)]
    if not len(known):
        return np.full(x.shape, np.nan)
    middle = np.median(known)
    return (x - middle) / max(NORMAL * float(np.median(np.abs(known - middle))), floor)


def presence(there: np.ndarray) -> np.ndarray:
    """The scores of having a class or not, bool (n,) -> float64 (n,); 0 where all agree."""
    share = there.mean()
    if share in (0, 1):
        return np.zeros(len(there))
    return np.where(there, np.sqrt((1 - share) / share), -np.sqrt(share / (1 - share)))


def statistics(
    images: Sequence[Measured],
    labels: Labels,
    left: np.ndarray,
    turn: np.ndarray,
    places: dict[int, np.ndarray],
) -> list[Statistic]:
    """Everything that is compared.

    left: bool (n,), images that are mirrored before places are compared.  turn: in degrees (n,).
    places: x, y (n, 2) of a class among the others, which show swapped names wherever a hand lies; for
    classes that have none their places in the image are compared.
    """
    sizes = np.array([m.size for m in images], np.float64)
    found = [
        Statistic("pixels", robust(np.log10(sizes.prod(axis=1)), FLOORS["pixels"])),
        Statistic("proportion", robust(np.log10(sizes[:, 1] / sizes[:, 0]), FLOORS["proportion"])),
        Statistic("turn", robust(turn, FLOORS["turn"])),
    ]
    levels = np.array([m.intensities for m in images])
    found += [Statistic(what, robust(levels[:, i], FLOORS[what])) for i, what in enumerate(INTENSITIES)]
    there = np.array([m.areas > 0 for m in images])
    table = np.array([m.shapes for m in images])
    x = SHAPES.index("x")
    table[left, :, x] = 1 - table[left, :, x]
    for k, among in places.items():
        table[:, k, x : x + 2] = np.where(there[:, k, None], among, np.nan)  # SHAPES has y after x
    for k, name in enumerate(labels.names):
        found.append(Statistic(f"{name} there or not", presence(there[:, k])))
        if there[:, k].sum() >= LEAST:
            for i, what in enumerate(SHAPES):
                if what in FLOORS:
                    found.append(Statistic(f"{name} {what}", robust(table[:, k, i], FLOORS[what])))
    return found


def by_statistics(found: Sequence[Statistic]) -> list[Rank]:
    """A Rank for each image, in their order."""
    z = np.nan_to_num(np.array([s.z for s in found]).T)  # (n, statistics)
    ranks = []
    for row in z:
        top = np.argsort(-np.abs(row), kind="stable")[:TOP]
        why = ", ".join(_said(found[i].what, row[i]) for i in top if row[i])
        ranks.append(Rank(float(np.abs(row[top]).mean()), why))
    return ranks


def _said(what: str, z: float) -> str:
    if what.endswith(" there or not"):
        what = what.removesuffix(" there or not") + (" there" if z > 0 else " missing")
        return f"{what} ({abs(z):.1f})"
    return f"{what} {z:+.1f}"


def by_dice(dice: np.ndarray, labels: Labels) -> list[Rank]:
    """Ranks by the Dice of each class, float64 (n, K), nan for an empty pair; the score is 1 - their mean.

    why: the mean, and the three lowest classes.  An image without any pair has nothing wrong and scores 0.
    """
    ranks = []
    for row in dice:
        known = np.flatnonzero(~np.isnan(row))
        if not len(known):
            ranks.append(Rank(0.0, "no class in mask or prediction"))
            continue
        mean = float(row[known].mean())
        lowest = known[np.argsort(row[known], kind="stable")][:TOP]
        of = ", ".join(f"{labels.names[k]} {row[k]:.3f}" for k in lowest)
        ranks.append(Rank(1 - mean, f"Dice {mean:.3f}" + (f": {of}" if labels.num_classes > 1 else "")))
    return ranks


def order(ranks: Sequence[Rank]) -> list[int]:
    """Images by score, the highest first; among equals the first first."""
    return sorted(range(len(ranks)), key=lambda i: -ranks[i].score)
