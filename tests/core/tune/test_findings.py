"""If these break, luck is sold as skill: a lead is called resolved that is not, or a spread is wrong."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from zoo.core.tune import findings
from zoo.core.tune.findings import T95, Findings, Row, Setting, lead


def setting(number: int, *dice: float, score: float = 0.9, given: bool = False) -> Setting:
    return Setting(number, {"lr": 0.01 * number}, score, dict(enumerate(dice, 1)), given)


def found(*settings: Setting) -> Findings:
    rows = [
        Row(0, "finished", 0.5, 4, {"lr": 0.001}),
        Row(1, "pruned", None, 2, {"lr": 0.5}, "below the median"),
    ]
    return Findings(rows, list(settings), {"lr": 1.0}, "python train.py --lr 0.01")


@pytest.mark.parametrize("df", [1, 2, 3, 10, 30])
def test_students_t_by_integration(df: int) -> None:
    """The density between -t and t, by the midpoint rule on x = tan u, where it is smooth."""
    edge = math.atan(T95[df - 1])
    n = 200_000
    u = (np.arange(n) + 0.5) / n * 2 * edge - edge
    x = np.tan(u)
    c = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    density = c * (1 + x**2 / df) ** (-(df + 1) / 2) * (1 + x**2)
    assert density.sum() * 2 * edge / n == pytest.approx(0.95, abs=1e-4)  # t has three decimals


def test_a_lead_by_hand() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, half of the interval 4.303 · 0.1 / √3."""
    ahead = lead(setting(1, 0.9, 0.8, 0.7), setting(2, 0.8, 0.6, 0.4))
    assert ahead.mean == pytest.approx(0.2)
    assert ahead.half == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert not ahead.resolved
    assert lead(setting(1, 0.9, 0.8, 0.7), setting(2, 0.8, 0.7, 0.59)).resolved


def test_a_lead_that_all_seeds_agree_on_is_found_though_seeds_differ_more() -> None:
    """With a seed the validation images may change: what that does to both is no reason for doubt."""
    best, other = setting(1, 0.9, 0.6, 0.7), setting(2, 0.88, 0.581, 0.679)
    assert best.deviation > 5 * lead(best, other).mean
    assert lead(best, other).resolved


def test_equals_are_not_resolved() -> None:
    same = lead(setting(1, 0.9, 0.8), setting(2, 0.9, 0.8))
    assert (same.mean, same.half, same.resolved) == (0, 0, False)


def test_without_seeds_nothing_is_resolved() -> None:
    one = lead(setting(1, score=0.9), setting(2, score=0.1))
    assert one.mean == pytest.approx(0.8)
    assert math.isnan(one.half)
    assert not one.resolved
    assert "without --seeds its lead is not resolved" in found(setting(1), setting(2)).verdict


def test_only_further_seeds_count() -> None:
    """The score that made it one of the best is lucky by choice."""
    assert setting(1, 0.5, 0.7, score=0.99).mean == pytest.approx(0.6)
    assert setting(1, 0.5, 0.7).deviation == pytest.approx(math.sqrt(0.02))


def test_the_verdict() -> None:
    clear = found(setting(3, 0.9, 0.8, 0.85), setting(0, 0.5, 0.4, 0.45)).verdict
    assert clear.startswith("trial 3 leads trial 0 by 0.4000 ± 0.0000 Dice (95 % interval of 3 seeds; ")
    assert clear.endswith("spread between seeds 0.0500): resolved")
    luck = found(setting(3, 0.9, 0.8, 0.85), setting(0, 0.84, 0.88, 0.8)).verdict
    assert luck.endswith("not resolved: 3 seeds cannot tell them apart")
    assert "not resolved" in found(setting(3, 0.9, 0.8)).verdict
    assert "no trial finished" in found().verdict


def test_the_files(tmp_path: Path) -> None:
    findings.write(tmp_path, found(setting(3, 0.9, 0.8, 0.85), setting(0, 0.5, 0.4, 0.45, given=True)))
    rows = list(csv.reader((tmp_path / "trials.csv").read_text().splitlines()))
    assert rows == [
        ["trial", "state", "dice", "epochs", "lr", "why"],
        ["0", "finished", "0.5", "4", "0.001", ""],
        ["1", "pruned", "", "2", "0.5", "below the median"],
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["trials"], report["pruned"], report["importance"]) == (2, 1, {"lr": 1.0})
    assert report["command"] == "python train.py --lr 0.01"
    first, second = report["settings"]
    assert first["dice_by_seed"] == {"1": 0.9, "2": 0.8, "3": 0.85}
    assert first["deviation"] == pytest.approx(0.05)
    assert "behind" not in first
    assert second["as_given"]
    assert second["behind"]["resolved"]
    findings.write(tmp_path, found(setting(1), setting(2)))
    assert "NaN" not in (tmp_path / "report.json").read_text(), "which is no JSON"


def test_what_is_said(tmp_path: Path) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    findings.say(console, found(setting(3, 0.9, 0.8, 0.85), setting(0, 0.5, 0.4, 0.45, given=True)), tmp_path)
    text = console.export_text()
    for expected in (
        "2 trials, 1 of them pruned", "of 3 further seeds", "0.8500 ± 0.0500", "lr=0.0 (as given)",
        "0.4000 ± 0.0000, resolved", "importance", "100%", "python train.py --lr 0.01", "report.json",
    ):  # fmt: skip
        assert expected in text
    findings.say(console, found(), tmp_path)
    assert "no trial finished" in console.export_text()
