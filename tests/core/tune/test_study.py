"""If these break, a study loses what was trained, trains it twice, or calls the wrong settings the best."""

import csv
import json
import shlex
import signal
import sqlite3
from pathlib import Path

import pytest

import train
from tests.core.processes import finish, start
from zoo.core import checkpoint
from zoo.core.trainer import Trainer
from zoo.core.tune import storage, study
from zoo.errors import InputError

SEARCH = "--search lr=0.01..0.1 loss=ce,ce+dice"


def flags(shapes: Path, out: Path, epochs: int = 1) -> list[str]:
    words = f"--opt width=2 --size 32 --epochs {epochs} --warmup 0 --lr 0.05 --batch 4 --workers 0 --amp off"
    return [*words.split(), "--device", "cpu", "--data", f"folder:{shapes}", "--out", str(out)]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open() as f:
        return list(csv.DictReader(f))


def runs(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob("*/*/metrics.jsonl"))


def sessions(run: Path) -> list[dict]:
    return json.loads((run / "manifest.json").read_text())["sessions"]


def query(out: Path, words: str) -> list[tuple]:
    db = sqlite3.connect(out / "study.db")
    found = db.execute(words).fetchall()
    db.close()
    return found


def test_a_whole_study(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four trials, two further seeds of the best three, the report, the command; then one trial more."""
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "study"
    assert train.main([*flags(shapes, out), "--tune", "4", "--seeds", "2", *SEARCH.split()]) == 0
    said = capsys.readouterr().out
    found, report = rows(out), json.loads((out / "report.json").read_text())
    assert [row["state"] for row in found] == ["finished"] * 4
    assert (float(found[0]["lr"]), found[0]["loss"]) == (0.05, "ce+dice"), "the run without a search"
    for row in found:
        metrics = json.loads((out / "trials" / f"{int(row['trial']):04d}" / "metrics.jsonl").read_text())
        assert metrics["val"]["dice"] == pytest.approx(float(row["dice"]))

    ranked = sorted(found, key=lambda row: -float(row["dice"]))
    few = {int(row["trial"]) for row in ranked[:3]} | {0}
    assert {s["trial"] for s in report["settings"]} == few
    assert [s["as_given"] for s in report["settings"] if s["trial"] == 0] == [True]
    for setting in report["settings"]:
        assert list(setting["dice_by_seed"]) == ["1", "2"]
        for seed, dice in setting["dice_by_seed"].items():
            run = out / "seeds" / f"{setting['trial']:04d}-{seed}"
            config = json.loads((run / "config.json").read_text())
            assert config["seed"] == int(seed)
            assert config["lr"] == setting["settings"]["lr"]
            assert json.loads((run / "metrics.jsonl").read_text())["val"]["dice"] == pytest.approx(dice)
    means = [setting["mean"] for setting in report["settings"]]
    assert means == sorted(means, reverse=True)
    assert sum(report["importance"].values()) == pytest.approx(1)
    assert set(report["importance"]) == {"lr", "loss"}
    assert {path.parent.name for path in out.glob("trials/*/*.pt")} == {f"{n:04d}" for n in few}
    assert not list(out.glob("*/*/last.pt"))

    for expected in ("4 trials", "importance", "of 2 further seeds", report["verdict"], report["command"]):
        assert expected in said
    best = report["settings"][0]["trial"]
    words = shlex.split(report["command"])[2:]
    assert train.main([*words, "--out", str(tmp_path / "again")]) == 0
    held = [p / "metrics.jsonl" for p in (tmp_path / "again", out / "trials" / f"{best:04d}")]
    assert held[0].read_bytes() == held[1].read_bytes(), "the command gives the trial's very numbers"

    before = {run: (run / "manifest.json").read_bytes() for run in runs(out)}
    assert train.main(["--resume", str(out), "--tune", "5"]) == 0
    assert [row["trial"] for row in rows(out)] == list("01234")
    assert all((run / "manifest.json").read_bytes() == held for run, held in before.items()), "trained again"


DIE = """
import os, signal
from zoo.core.tune import study
from zoo.core.trainer import Trainer
def at(cls, name, number, after=False):
    inner = getattr(cls, name)
    count = [0]
    def dying(*args, **kwargs):
        count[0] += 1
        if count[0] == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        inner(*args, **kwargs)
        if count[0] == number and after:
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(cls, name, dying)
"""
HALF_DRAWN = """
from zoo.core.tune.space import Choice
suggest = Choice.suggest
def dying(self, trial, name):
    if trial.number == 1 and name not in trial.params:
        os.kill(os.getpid(), signal.SIGKILL)
    return suggest(self, trial, name)
Choice.suggest = dying
"""


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_as_one_that_is_not(shapes: Path, tmp_path: Path) -> None:
    """An epoch saved, but not told; told, but not tidied up; in a further seed."""
    words = ["--tune", "3", "--seeds", "2", *SEARCH.split()]
    out, whole = tmp_path / "study", tmp_path / "whole"
    assert train.main([*flags(shapes, whole, 2), *words]) == 0
    kills = (
        "at(Trainer, 'finish_epoch', 1, after=True)",
        "at(study.Study, 'tidy', 1)",
        "at(Trainer, 'finish_epoch', 4)",
    )
    for i, kill in enumerate(kills):
        (ended,) = finish(start(1, [*flags(shapes, out, 2), *words], tmp_path / f"seen{i}", DIE + kill))
        assert ended[0] == -signal.SIGKILL, ended
    assert train.main(["--resume", str(out)]) == 0
    assert [run.relative_to(out) for run in runs(out)] == [run.relative_to(whole) for run in runs(whole)]
    for run in runs(whole):
        assert (out / run.relative_to(whole) / "metrics.jsonl").read_bytes() == (
            run / "metrics.jsonl"
        ).read_bytes()
    words = "select trial_id, step, intermediate_value from trial_intermediate_values order by trial_id, step"
    assert query(out, words) == query(whole, words)
    assert (out / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()
    ours, theirs = (json.loads((p / "report.json").read_text()) for p in (out, whole))
    assert {**ours, "command": ""} == {**theirs, "command": ""}
    assert sum(len(sessions(run)) for run in runs(out)) > len(runs(out)), "a run was gone on with"


@pytest.mark.slow
def test_a_trial_whose_settings_were_half_drawn_gets_the_others(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    words = [*flags(shapes, out), "--tune", "2", "--seeds", "0", *SEARCH.split()]
    (ended,) = finish(start(1, words, tmp_path / "seen", DIE + HALF_DRAWN))
    assert ended[0] == -signal.SIGKILL, ended
    lr = "select p.param_value from trial_params p join trials t using (trial_id) where t.number = 1"
    ((drawn,),) = query(out, lr)
    assert train.main(["--resume", str(out)]) == 0
    assert [row["state"] for row in rows(out)] == ["finished", "finished"]
    assert float(rows(out)[1]["lr"]) == pytest.approx(drawn, rel=0.005)
    assert rows(out)[1]["loss"] in ("ce", "ce+dice")


# Neither trains its first trial before both have one: else one could do all before the other is up.
TOGETHER = """
import time
from zoo.core.tune.study import Study
search = Study.search
def waiting(self, task, trial):
    while len(self.trials()) < 2:
        time.sleep(0.05)
    return search(self, task, trial)
Study.search = waiting
"""


@pytest.mark.slow
def test_two_processes_do_one_study_and_no_run_twice(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    words = [*flags(shapes, out), "--tune", "4", "--seeds", "2", *SEARCH.split()]
    both = [start(1, words, tmp_path / f"seen{i}", TOGETHER)[0] for i in range(2)]
    ended = finish(both)
    assert [status for status, *_ in ended] == [0, 0], ended
    assert [row["state"] for row in rows(out)] == ["finished"] * 4
    assert len(runs(out)) == 4 + 2 * len(json.loads((out / "report.json").read_text())["settings"])
    assert [len(sessions(run)) for run in runs(out)] == [1] * len(runs(out))
    steps = [len((tmp_path / f"seen{i}.0").read_text().splitlines()) for i in range(2)]
    assert min(steps) >= 2, "each of them trained"
    assert sum(steps) == 2 * len(runs(out))
    for _, said, _ in ended:
        assert "to train with the best settings" in said


def test_ctrl_c_stops_behind_a_step_and_the_trial_goes_on(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    step, count = Trainer.step, [0]

    def interrupted(self: Trainer, group: list) -> float:
        count[0] += 1
        if count[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, group)

    monkeypatch.setattr(Trainer, "step", interrupted)
    words = [*flags(shapes, out), "--tune", "2", "--seeds", "0", *SEARCH.split()]
    assert train.main(words) == 130
    assert f"stopped and saved; go on with: python train.py --resume {out}" in " ".join(
        capsys.readouterr().out.split()
    )
    assert checkpoint.read(out / "trials" / "0001" / "last.pt").training["progress"]["step"] == 3 - 2
    assert train.main(["--resume", str(out)]) == 0
    assert [s["outcome"] for s in sessions(out / "trials" / "0001")] == ["interrupted", "finished"]
    assert len(rows(out)) == 2
    assert "without --seeds its lead is not resolved" in " ".join(capsys.readouterr().out.split())


def test_what_does_not_learn_is_pruned_and_what_was_trained_not_trained_again(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trial 0 has the flags' own rate; a rate of 1e-9 leaves the network as it was drawn."""
    monkeypatch.setattr(storage, "STARTUP", 1)
    out = tmp_path / "study"
    words = ["--tune", "6", "--seeds", "0", "--lr", "0.005", "--search", "lr=0.005,1e-9"]
    assert train.main([*flags(shapes, out, 4), *words]) == 0
    found = rows(out)
    assert (found[0]["state"], found[0]["lr"], found[0]["epochs"]) == ("finished", "0.005", "4")
    bad = [row for row in found if row["lr"] == "1e-9"]
    assert bad, "none was drawn"
    assert {row["state"] for row in bad} == {"pruned"}
    assert {row["epochs"] for row in bad} == {"2"}, "a quarter of the epochs is one"
    assert "below the median" in bad[0]["why"]
    assert len(runs(out)) == 2
    assert all("not trained again" in row["why"] for row in found if row not in (found[0], bad[0]))
    assert [path.parent.name for path in out.glob("trials/*/*.pt")] == ["0000"]
    assert sessions(out / "trials" / f"{int(bad[0]['trial']):04d}")[0]["outcome"].startswith("stopped: after")


def test_a_rate_that_diverges_is_a_bad_trial_and_no_end(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    words = ["--tune", "5", "--seeds", "0", "--clip", "0", "--optimizer", "sgd", "--search", "lr=0.05,1e30"]
    assert train.main([*flags(shapes, out, 2), *words]) == 0
    bad = next(row for row in rows(out) if row["lr"] == "1e30")
    assert bad["state"] == "pruned"
    assert "at step" in bad["why"]
    assert not list((out / "trials" / f"{int(bad['trial']):04d}").glob("*.pt"))


def test_settings_that_cannot_be_together_are_a_bad_trial(shapes: Path, tmp_path: Path) -> None:
    """Each of them goes with the flags, but there are no pairs to mix in a batch of one."""
    out = tmp_path / "study"
    words = ["--tune", "8", "--seeds", "0", "--search", "batch=1,5", "mix=none,mixup:0.4"]
    assert train.main([*flags(shapes, out), "--limit-train", "5", *words]) == 0
    states = {(row["batch"], row["mix"], row["state"]) for row in rows(out)}
    assert {state for batch, mix, state in states if (batch, mix) != ("1", "mixup:0.4")} == {"finished"}
    assert ("1", "mixup:0.4", "pruned") in states
    assert "has no pairs in --batch 1" in next(row["why"] for row in rows(out) if row["state"] == "pruned")


def test_a_full_disk_ends_no_trial_but_the_process(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one fault after another would use the trials up."""
    out = tmp_path / "study"

    def full(self: Trainer) -> None:
        raise InputError("no space left")

    with monkeypatch.context() as m:
        m.setattr(Trainer, "fit", full)
        assert train.main([*flags(shapes, out), "--tune", "2", "--seeds", "0", *SEARCH.split()]) == 2
    assert "trial 0 (lr=0.05 loss=ce+dice): no space left" in capsys.readouterr().err
    assert train.main(["--resume", str(out)]) == 0
    assert [row["state"] for row in rows(out)] == ["finished", "finished"]


def test_a_seed_that_cannot_be_trained_scores_nothing(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that some seeds do not survive are not better than their other seeds."""
    train_one = study.Study.train

    def failing(self: study.Study, task: study.Task, *words: object) -> tuple[float | None, str]:
        return (None, "the loss is nan") if task.seed == 2 else train_one(self, task, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(study.Study, "train", failing)
    out = tmp_path / "study"
    assert train.main([*flags(shapes, out), "--tune", "1", "--seeds", "2", *SEARCH.split()]) == 0
    (setting,) = json.loads((out / "report.json").read_text())["settings"]
    assert setting["dice_by_seed"]["2"] == 0
    assert setting["mean"] == pytest.approx(setting["dice_by_seed"]["1"] / 2)


def test_a_database_that_fails_is_said(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.exceptions import StorageInternalError

    def broken(self: study.Study) -> None:
        raise StorageInternalError("An exception") from OSError("database or disk is full")

    monkeypatch.setattr(study.Study, "tidy", broken)
    out = tmp_path / "study"
    assert train.main([*flags(shapes, out), "--tune", "1", "--seeds", "0", *SEARCH.split()]) == 2
    said = f"study.db: database or disk is full; then go on with --resume {out}"
    assert said in capsys.readouterr().err


def test_the_command_names_a_file_of_excluded_images(shapes: Path, tmp_path: Path) -> None:
    """The run keeps names, not the file's path: the study writes them down."""
    (tmp_path / "listed.txt").write_text("03.png  # dark\n")
    out = tmp_path / "study"
    words = ["--tune", "1", "--seeds", "0", "--exclude", str(tmp_path / "listed.txt"), *SEARCH.split()]
    assert train.main([*flags(shapes, out), *words]) == 0
    (tmp_path / "listed.txt").unlink()
    again = shlex.split(json.loads((out / "report.json").read_text())["command"])[2:]
    assert train.main([*again, "--out", str(tmp_path / "again")]) == 0
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["exclude"] == ["03.png"]
