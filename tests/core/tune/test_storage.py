"""If these break, two processes do the same work, or a study's files are taken for what they are not."""

import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.core.processes import ROOT
from zoo.core.config import TrainConfig
from zoo.core.tune.storage import DATABASE, Plan, claimed, database, locked
from zoo.errors import InputError

PLAN = Plan(5, ["lr=0.1..1"], 3, {"size": (64, 96), "options": {"bins": (1, 2)}, "exclude": ("a", "b")})


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    PLAN.write(tmp_path)
    assert Plan.read(tmp_path) == PLAN


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"trials": "x", "search": [], "seeds": 3, "flags": {}}'])
def test_another_file_of_that_name_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(InputError, match=r"study\.json"):
        Plan.read(tmp_path)


def test_a_task_is_one_process_s_until_it_is_given_back_or_dies(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from zoo.core.tune.storage import claimed
lock = claimed(Path(sys.argv[1]))
print("claimed", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "0000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout
        assert other.stdout.readline() == b"claimed\n"
        assert claimed(tmp_path / "0000") is None
        other.kill()
    lock = claimed(tmp_path / "0000")
    assert lock
    assert claimed(tmp_path / "0000") is None
    lock.__exit__()
    again = claimed(tmp_path / "0000")
    assert again
    again.__exit__()


def test_who_chooses_waits_for_who_chooses(tmp_path: Path) -> None:
    seen = []

    def other() -> None:
        with locked(tmp_path):
            seen.append("other")

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.2)
        seen.append("first")
    thread.join(10)
    assert seen == ["first", "other"]


def test_a_folder_that_cannot_be_written_to_is_said_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"), locked(tmp_path / "file"):
        pass


def test_a_damaged_database_is_said(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database, whatever it is called" * 100)
    with pytest.raises(InputError, match=r"study\.db: cannot be opened: .*not a database"):
        database(tmp_path, TrainConfig())


def test_it_is_sqlite(tmp_path: Path) -> None:
    database(tmp_path, TrainConfig()).ask()
    db = sqlite3.connect(tmp_path / DATABASE)
    assert db.execute("select count(*) from trials").fetchone() == (1,)
    db.close()


@pytest.mark.parametrize(("epochs", "warmup", "first"), [(50, 1.0, 14), (4, 0.0, 2), (8, 3.5, 5), (1, 0, 2)])
def test_nothing_is_pruned_before_the_warm_up_is_over(
    epochs: int, warmup: float, first: int, tmp_path: Path
) -> None:
    study = database(tmp_path, TrainConfig(epochs=epochs, warmup=warmup))
    for _ in range(4):
        trial = study.ask()
        for epoch in range(1, 21):
            trial.report(0.8, epoch)
        study.tell(trial, 0.8)
    bad, pruned = study.ask(), []
    for epoch in range(1, 21):
        bad.report(0.1, epoch)
        pruned.append(bad.should_prune())
    assert pruned.index(True) + 1 == first
    assert all(pruned[first - 1 :])
