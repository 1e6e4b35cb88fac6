"""If these break, the images that somebody should look at first are not the first."""

import numpy as np
import pytest

from zoo.core.inspection import ranking
from zoo.core.inspection.ranking import Rank, Statistic, by_dice, by_statistics, order, presence, robust
from zoo.core.masks import Labels, palette


def test_robust_scores_by_the_obvious_formula() -> None:
    x = np.array([3.0, 5, 4, np.nan, 100, 6])
    z = robust(x, 0.1)
    known = sorted(v for v in x if not np.isnan(v))
    middle = known[2]
    mad = sorted(abs(v - middle) for v in known)[2]
    for value, score in zip(x, z, strict=True):
        expected = (value - middle) / (1.4826 * mad)
        assert score == pytest.approx(expected, nan_ok=True)


def test_what_is_all_but_equal_is_not_odd() -> None:
    """Among images alike to the last bit a difference below the floor would be infinitely far."""
    assert robust(np.array([1.0, 1, 1, 1.05]), 0.1) == pytest.approx([0, 0, 0, 0.5])
    assert np.isnan(robust(np.full(3, np.nan), 1.0)).all()


def test_a_class_that_is_missing_where_all_have_it() -> None:
    there = np.array([True] * 9 + [False])
    z = presence(there)
    expected = (there - there.mean()) / there.astype(float).std()
    np.testing.assert_allclose(z, expected)
    assert not presence(np.ones(4, bool)).any()
    assert not presence(np.zeros(4, bool)).any()


def test_the_score_is_the_mean_of_the_three_largest_and_says_which() -> None:
    found = [
        Statistic("a", np.array([1.0, -9.0])), Statistic("b", np.array([np.nan, 3.0])),
        Statistic("c", np.array([0.0, 0.5])), Statistic("d there or not", np.array([0.5, -6.0])),
    ]  # fmt: skip
    ranks = by_statistics(found)
    assert ranks[1] == Rank(6.0, "a -9.0, d missing (6.0), b +3.0")
    assert ranks[0] == Rank(0.5, "a +1.0, d there (0.5)")
    assert order(ranks) == [1, 0]
    assert ranking.TOP == 3


def test_by_dice_the_lowest_comes_first_and_names_its_worst_classes() -> None:
    labels = Labels("multilabel", ("r", "s", "t", "u"), palette(4))
    nan = np.nan
    dice = np.array([[1, 1, 0.5, 1], [0.4, nan, nan, 0.2], [nan] * 4, [0.9, 0.1, 0.9, 0.9]])
    ranks = by_dice(dice, labels)
    assert order(ranks) == [1, 3, 0, 2]
    assert ranks[1] == Rank(pytest.approx(0.7), "Dice 0.300: u 0.200, r 0.400")
    assert ranks[3].why == "Dice 0.700: s 0.100, r 0.900, t 0.900"
    assert ranks[2] == Rank(0.0, "no class in mask or prediction")
