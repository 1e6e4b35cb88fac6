"""What a few seeds can say of a claim: paired differences, their interval, and a verdict.

The seeds of a pair have the same hands and the same order of them, so what a seed adds to both cancels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

LEVEL = 0.95  # of an interval
AGREED, DISAGREED, UNRESOLVED = "agreed", "did not agree", "not resolved"


@dataclass(frozen=True)
class Interval:
    """Where the mean of paired differences lies with probability LEVEL, over `count` seeds; nan where
    one seed, or none, leaves it open."""

    middle: float
    half: float
    count: int

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return self.middle - self.half, self.middle + self.half


@dataclass(frozen=True)
class Holds:
    """A claim about a difference: it lies between `low` and `high` or, with `beyond`, it does not."""

    low: float = -math.inf
    high: float = math.inf
    beyond: bool = False

    def verdict(self, interval: Interval) -> str:
        """AGREED where the whole interval is as claimed, DISAGREED where none of it is."""
        low, high = interval.ends
        inside = self.low < low and high < self.high
        outside = high < self.low or low > self.high
        agrees, disagrees = (outside, inside) if self.beyond else (inside, outside)
        return AGREED if agrees else DISAGREED if disagrees else UNRESOLVED


def quantile(freedom: int, level: float = LEVEL) -> float:
    """Student's t that a share `level` of draws stays below in size.

    With t = √ν tan θ the density becomes cos^(ν-1) θ, which is summed from 0 to π/2.
    """
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(level, below / below[-1], angle)))


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Interval:
    """The interval of one - other over the seeds that both have."""
    differences = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    count = len(differences)
    if count < 2:
        return Interval(differences[0] if differences else math.nan, math.nan, count)
    half = quantile(count - 1) * stdev(differences) / math.sqrt(count)
    return Interval(mean(differences), half, count)


def steps_to(curve: list[tuple[int, float]], reach: float) -> float | None:
    """The step at which a curve of (step, Dice) first gets to `reach`, on straight lines from (0, 0) through
    its points; None where it never does."""
    before, low = 0, 0.0
    for step, dice in curve:
        if dice >= reach:
            rise = dice - low
            return before + (step - before) * (reach - low) / rise if rise > 0 else float(before)
        before, low = step, dice
    return None
