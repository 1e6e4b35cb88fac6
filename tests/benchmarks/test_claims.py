"""If these break, the study's table compares what is not comparable."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest

from tests.core.processes import ROOT


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module as the script imports it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("claims")
    for name in ("claims", "verdicts", "study"):
        sys.modules.pop(name, None)


def row(variant: str, seed: int, *dice: float, **more: object) -> dict:
    """A row whose Dice was taken at steps 100, 200, …"""
    curve = [(100 * (i + 1), d) for i, d in enumerate(dice)]
    return {
        "variant": variant, "seed": seed, "dice": dice[-1], "curve": curve, "steps": 300, "images": 1200,
        "cpu_s": 30.0, "clock_s": 60.0, "device": "cpu", "parameters": 5, "cpu_all_s": 60.0,
        "revision": "abcdef012", "torch": "2", **more,
    }  # fmt: skip


def test_a_run_that_never_got_there_counts_as_its_whole_budget_and_is_marked(claims: ModuleType) -> None:
    """plain is at 0.4 after 150 and 200 steps; bce after 250, and in seed 1 never: 750 steps at least."""
    rows = [row("plain", 0, 0.2, 0.6, 0.7), row("plain", 1, 0.0, 0.4, 0.45)]
    rows += [row("bce", 0, 0.0, 0.2, 0.6), row("bce", 1, 0.0, 0.1, 0.2)]
    found = claims.Found(rows, replace(claims.SMALL, hands=120, batch=4, epochs=25))
    assert found.reach == pytest.approx(0.4)
    one, other, interval = found.compare(next(c for c in claims.CLAIMS if c.measure == "steps"))
    assert one.startswith("≥ 500 ±")
    assert other.startswith("175 ±")
    assert interval.middle == pytest.approx(((250 - 150) + (750 - 200)) / 2)


def test_time_is_a_ratio_a_step_by_the_clock_where_there_is_a_gpu(claims: ModuleType) -> None:
    time = next(c for c in claims.CLAIMS if c.measure == "time")
    rows = [row("plain", s, 0.5, cpu_s=3.0) for s in (0, 1)]
    rows += [row("twice the size", s, 0.5, cpu_s=9.0 + s) for s in (0, 1)]
    *_, interval = claims.Found(rows, claims.SMALL).compare(time)
    assert interval.middle == pytest.approx(3.1667, abs=1e-3)
    on_gpu = [{**r, "device": "cuda"} for r in rows]
    *_, interval = claims.Found(on_gpu, claims.SMALL).compare(time)
    assert interval.middle == pytest.approx(1)


def test_the_tables_say_which_seeds_there_are(claims: ModuleType) -> None:
    """Four of a claim's numbers by hand: +0.1 and +0.3 are 0.2 ± 12.706 · 0.1; a third seed of one side
    alone is in neither mean."""
    rows = [row("plain", 0, 0.5), row("plain", 1, 0.5), row("plain", 2, 0.9)]
    rows += [row("flip", 0, 0.6), row("flip", 1, 0.8)]
    text = claims.report(rows, claims.SMALL)
    line = next(x for x in text.splitlines() if x.startswith("| flip | plain |"))
    assert "| 0.7000 ± 0.1414 | 0.5000 ± 0.0000 | +0.2000 (-1.0706 to +1.4706) | 2 |" in line
    assert line.endswith("| not resolved |")
    assert "| flip | 0, 1 | 300 | 1,200 | 5 | 0.7000 ± 0.1414 |" in text
    assert "| rotate |" not in text
    assert "Not yet: bce against plain, rotate against plain, " in text
    assert "5 rows, 5 minutes" in text


def test_the_best_member_is_chosen_seed_by_seed(claims: ModuleType) -> None:
    rows = [row("plain", 0, 0.5), row("flip", 0, 0.7), row("rotate", 0, 0.6), row("plain", 1, 0.9)]
    assert claims.Found(rows, claims.SMALL).dice("best of three") == {0: 0.7}


def test_each_run_of_a_budget_has_as_many_steps(claims: ModuleType) -> None:
    """Fewer hands without those with metal, so more epochs: the comparison is of hands, not of steps."""
    for b in (claims.SMALL, claims.FULL):
        fewer = round((1 - claims.METAL) * b.hands)
        epochs = claims.variants(b)["metal excluded"]["epochs"]
        assert fewer % b.batch == 0 == b.hands % b.batch
        assert fewer // b.batch * epochs == b.steps
