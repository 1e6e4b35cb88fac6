"""If these break, k folds give a score that is not theirs, or runs that do not belong together make one."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

import train
from tests.core.test_plot import write as write_run
from zoo.__main__ import main
from zoo.core.config import TrainConfig
from zoo.core.folds import gather, spread
from zoo.errors import InputError


def run(folder: Path, fold: tuple[int, int] | None, *dice: float | None, **settings: object) -> Path:
    write_run(folder, list(dice))
    config = TrainConfig(fold=fold, epochs=len(dice), **settings)  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def test_mean_and_deviation_of_best_epochs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """In any order of folders; class b has 0.1 less than class a."""
    folders = [run(tmp_path / "x", (1, 3), 0.5, 0.8), run(tmp_path / "y", (0, 3), 0.7, 0.6),
               run(tmp_path / "z", (2, 3), 0.1, 0.6, workers=4, device="cpu")]  # fmt: skip
    found = gather(folders)
    assert found.warnings == []
    assert dict(found.rows()) == {
        "all classes": [0.7, 0.8, 0.6], "b": pytest.approx([0.6, 0.7, 0.5]), "a": [0.7, 0.8, 0.6],
    }  # fmt: skip
    assert [name for name, _ in found.rows()] == ["all classes", "b", "a"]
    assert main(["folds", *map(str, folders), "--csv", str(tmp_path / "folds.csv")]) == 0
    assert "0.700 ± 0.100" in capsys.readouterr().out
    first, *rows = list(csv.reader((tmp_path / "folds.csv").read_text().splitlines()))
    assert first == ["class", "mean", "deviation", "fold 0", "fold 1", "fold 2"]
    deviation = np.std([0.7, 0.8, 0.6], ddof=1)
    assert [float(v) for v in rows[0][1:]] == pytest.approx([0.7, deviation, 0.7, 0.8, 0.6])


def test_a_class_that_a_fold_does_not_have_counts_where_it_is(tmp_path: Path) -> None:
    assert spread([0.5, math.nan, 0.7]) == (pytest.approx(0.6), pytest.approx(math.sqrt(0.02)))
    assert all(map(math.isnan, spread([math.nan])))
    mean, deviation = spread([0.5])
    assert mean == 0.5
    assert math.isnan(deviation)


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    half = run(tmp_path / "half", (1, 3), 0.5)
    (half / "config.json").write_text(json.dumps(TrainConfig(fold=(1, 3), epochs=4).to_dict()))
    assert main(["folds", str(half)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "half: 1 of 4 epochs are finished" in said
    assert "no run of fold 0/3, 2/3" in said


@pytest.mark.parametrize(
    ("fold", "settings", "expected"),
    [
        (None, {}, "was not trained with --fold"),
        ((0, 3), {}, "is fold 0, as .*first is"),
        ((1, 4), {}, "is one of 4 folds, .*first of 3"),
        ((1, 3), {"lr": 0.5}, "--lr was 0.5, that of .*first 0.001"),
        ((1, 3), {"patience": 2}, "--patience was 2"),
    ],
)
def test_runs_that_are_no_folds_of_one_whole_are_refused(
    fold: tuple[int, int] | None, settings: dict, expected: str, tmp_path: Path
) -> None:
    first = run(tmp_path / "first", (0, 3), 0.5)
    other = run(tmp_path / "other", fold, 0.5, **settings)
    with pytest.raises(InputError, match=rf"other: {expected}"):
        gather([first, other])


def test_two_folds_through_the_doors(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Every image validates once, and the score is the mean of the two that were printed."""
    scores, images = [], 0
    words = f"--data folder:{shapes} --opt width=2 --size 32 --epochs 1 --workers 0 --amp off --device cpu"
    for i in range(2):
        assert train.main([*words.split(), "--fold", f"{i}/2", "--out", str(tmp_path / f"{i}")]) == 0
        line = json.loads((tmp_path / f"{i}" / "metrics.jsonl").read_text())
        scores.append(line["val"]["dice"])
        images += line["val"]["images"]
    assert images == 10
    capsys.readouterr()
    assert main(["folds", str(tmp_path / "0"), str(tmp_path / "1")]) == 0
    assert f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}" in capsys.readouterr().out
