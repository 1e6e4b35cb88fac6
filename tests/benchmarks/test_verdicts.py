"""If these break, the study's table says of a claim what its numbers do not."""

import math

import pytest

from benchmarks.verdicts import AGREED, DISAGREED, UNRESOLVED, Holds, Interval, paired, quantile, steps_to


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (29, 2.045), (1000, 1.962)]
)
def test_students_t_is_that_of_the_printed_tables(freedom: int, t: float) -> None:
    assert quantile(freedom) == pytest.approx(t, abs=6e-4)
    assert quantile(2, 0.9) == pytest.approx(2.920, abs=6e-4)


def test_the_interval_of_three_pairs_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, deviation 1, so 2 ± 4.303 / √3."""
    interval = paired({0: 11.0, 1: 22.0, 2: 33.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (interval.middle, interval.count) == (2.0, 3)
    assert interval.half == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    assert interval.ends == pytest.approx((-0.4842, 4.4842), abs=1e-3)


def test_what_a_seed_adds_to_both_does_not_widen_the_interval() -> None:
    interval = paired({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.25, 1: 0.45, 2: 0.65})
    assert interval.middle == pytest.approx(0.25)
    assert interval.half == pytest.approx(0, abs=1e-12)


def test_seeds_that_one_side_lacks_are_left_out() -> None:
    interval = paired({0: 1.0, 1: 2.0, 5: 9.0}, {0: 0.0, 1: 1.5, 7: 9.0})
    assert (interval.middle, interval.count) == (0.75, 2)


@pytest.mark.parametrize(("one", "middle"), [({0: 2.0}, 1.0), ({}, math.nan)])
def test_one_pair_or_none_resolves_nothing(one: dict[int, float], middle: float) -> None:
    interval = paired(one, {0: 1.0})
    assert interval.middle == pytest.approx(middle, nan_ok=True)
    assert math.isnan(interval.half)
    for holds in (Holds(low=0), Holds(-9, 9), Holds(-9, 9, beyond=True)):
        assert holds.verdict(interval) == UNRESOLVED


@pytest.mark.parametrize(
    ("holds", "ends", "verdict"),
    [
        (Holds(low=0), (0.1, 0.3), AGREED),
        (Holds(low=0), (-0.1, 0.3), UNRESOLVED),
        (Holds(low=0), (-0.3, -0.1), DISAGREED),
        (Holds(high=0), (-0.3, -0.1), AGREED),
        (Holds(-1, 1), (-0.5, 0.5), AGREED),
        (Holds(-1, 1), (0.5, 1.5), UNRESOLVED),
        (Holds(-1, 1), (-3.0, 3.0), UNRESOLVED),
        (Holds(-1, 1), (1.5, 2.5), DISAGREED),
        (Holds(-1, 1, beyond=True), (1.5, 2.5), AGREED),
        (Holds(-1, 1, beyond=True), (0.5, 1.5), UNRESOLVED),
        (Holds(-1, 1, beyond=True), (-0.5, 0.5), DISAGREED),
    ],
)
def test_a_verdict_wants_the_whole_interval(holds: Holds, ends: tuple[float, float], verdict: str) -> None:
    low, high = ends
    assert holds.verdict(Interval((low + high) / 2, (high - low) / 2, 3)) == verdict


def test_steps_to_a_dice_are_read_off_straight_lines() -> None:
    curve = [(100, 0.2), (200, 0.6), (300, 0.5)]
    assert steps_to(curve, 0.1) == pytest.approx(50)
    assert steps_to(curve, 0.4) == pytest.approx(150)
    assert steps_to(curve, 0.6) == pytest.approx(200)
    assert steps_to(curve, 0.61) is None
    assert steps_to([(100, 0.0)], 0.0) == 0
