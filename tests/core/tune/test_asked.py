"""If these break, a study is begun by mistake, joined with other settings, or a mistake is a stack trace."""

import argparse
import json
import sys
from pathlib import Path

import pytest

import train
from tests.core.tune.test_study import flags
from zoo.core.display import Display
from zoo.core.ranks import Agreed, Ranks
from zoo.core.tune import asked
from zoo.core.tune.storage import Plan


@pytest.fixture
def study(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that is begun, but in which nothing was trained."""
    monkeypatch.setattr("zoo.core.tune.study.Study.work", lambda self: None)
    words = "--tune 4 --search lr=0.01..0.1 loss=ce,ce+dice --exclude"
    (tmp_path / "listed.txt").write_text("03.png  # dark\n")
    out = tmp_path / "study"
    assert train.main([*flags(shapes, out), *words.split(), str(tmp_path / "listed.txt")]) == 0
    return out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--tune 0", "--tune 0: must be at least 1 trial"),
        ("--tune 2 --seeds 1", "--seeds 1: must be 0 (off), or 2 or more"),
        ("--tune 2 --seeds -1", "--seeds -1"),
        ("--search lr", "say how many trials with --tune N"),
        ("--tune 2 --search lrr=1..2", "--search lrr=1..2: no setting of that name; nearest: lr"),
        ("--tune 2 --search data=a,b", "must be the same for all trials"),
        ("--tune 2 --search loss=ce,bce", "bce does not fit multiclass"),
        ("--tune 2 --search lr=1..0", "starts at 1 and ends at 0"),
        ("--tune 2 --batch auto", "--batch auto: what fits may differ"),
        ("--tune 2 --lr -1", "--lr -1.0: must be above 0"),
        ("--tune 2 --fit-thresholds", "--fit-thresholds: these classes exclude one another"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(
    words: str, expected: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([*flags(shapes, tmp_path / "study"), *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("train.py: ")
    assert expected in said
    assert not (tmp_path / "study").exists()


def test_an_absent_package_is_said(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert train.main([*flags(shapes, tmp_path / "study"), "--tune", "2"]) == 2
    assert capsys.readouterr().err == "train.py: --tune: takes a package: pip install optuna\n"


def test_torchrun_is_refused() -> None:
    """Its processes would train one trial together, and all of them choose one."""
    args = argparse.Namespace(tune=4)
    with pytest.raises(Agreed, match="one process trains a trial"):
        asked.tune(args, {}, Display(), Ranks(0, 2))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--lr 0.5", "--lr 0.5: not what the run in"),
        ("--epochs 9", "--epochs 9: the study in"),
        ("--patience 3", "--patience 3: the study in"),
        ("--seeds 7", "--seeds 7: the study in"),
        ("--search lr=0.01..0.2 loss=ce,ce+dice", "was begun with lr=0.01..0.1 loss=ce,ce+dice"),
        ("--out x", "--out and --resume"),
    ],
)
def test_other_settings_do_not_join(
    words: str, expected: str, study: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main(["--resume", str(study), *words.split()]) == 2
    assert expected in capsys.readouterr().err


def test_the_same_command_joins_and_a_machine_s_own_flags_may_differ(
    study: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = []
    monkeypatch.setattr("zoo.core.tune.study.Study.work", lambda self: joined.append(self))
    words = ["--tune", "4", "--search", "lr=0.01..0.1", "loss=ce,ce+dice", "--workers", "1"]
    assert train.main([*flags(shapes, study), *words]) == 0
    assert train.main(["--resume", str(study), "--tune", "6"]) == 0
    assert [s.plan.trials for s in joined] == [4, 6]
    assert [s.base.workers for s in joined] == [1, 0]
    assert joined[0].base.exclude == ("03.png",)
    assert Plan.read(study).trials == 6
    assert "workers" in Plan.read(study).flags


def test_a_run_is_not_a_study_and_a_study_not_a_run(
    study: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main(flags(shapes, study)) == 2
    assert f"holds a study; go on with --resume {study}" in capsys.readouterr().err
    assert train.main(flags(shapes, tmp_path / "run")) == 0
    for words in (["--resume", str(tmp_path / "run"), "--tune", "3"], ["--resume", "nowhere", "--tune", "3"]):
        assert train.main(words) == 2
        assert "holds no study; begin one with --out" in capsys.readouterr().err
    assert train.main([*flags(shapes, tmp_path / "run"), "--tune", "3"]) == 2
    assert "holds a run" in capsys.readouterr().err


def test_a_study_has_a_folder_of_its_own_name(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoo.core.tune.study.Study.work", lambda self: None)
    for name in ("unetpp-shapes-tune", "unetpp-shapes-tune-2"):
        assert train.main([*flags(shapes, tmp_path)[:-2], "--tune", "3"]) == 0
        assert json.loads((tmp_path / "runs" / name / "study.json").read_text())["trials"] == 3
