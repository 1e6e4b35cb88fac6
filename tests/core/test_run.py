"""If these break, a run is overwritten, or its logs say an epoch twice."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from tests.core.test_trainer import config, trainer
from zoo.core import checkpoint
from zoo.core.config import TrainConfig
from zoo.core.files import write_json
from zoo.core.run import Lock, Taken, choose_folder, log, open_folder, started_folder, truncate_logs
from zoo.errors import InputError


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    c = TrainConfig()
    assert choose_folder(None, c) == Path("runs/unetpp-phantom")
    (tmp_path / "runs" / "unetpp-phantom").mkdir(parents=True)
    assert choose_folder(None, c) == Path("runs/unetpp-phantom-2")
    listed = TrainConfig(data="coco-polygons:a/train.json+a/images,a/val.json+a/images")
    assert choose_folder(None, listed) == Path("runs/unetpp-train")
    (tmp_path / "mine").mkdir()
    assert choose_folder(Path("mine"), c) == Path("mine")
    (tmp_path / "mine" / "last.pt").touch()
    with pytest.raises(InputError, match="holds a run"):
        choose_folder(Path("mine"), c)


def test_logs_are_cut_at_the_resumed_epoch_and_a_torn_line_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    truncate_logs(tmp_path, 2)
    assert path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_a_log_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot write .*--resume"):
        log(tmp_path / "metrics.jsonl", {"epoch": 1})


def test_a_run_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out .*cannot make it"):
        open_folder(tmp_path / "file" / "run", TrainConfig())


# ---------------------------------------------------------------- one process a folder


def test_a_folder_in_use_is_refused_until_it_is_free(tmp_path: Path) -> None:
    with Lock(tmp_path):
        says = rf"^{tmp_path}: process {os.getpid()} on \S+ trains in it; wait for it, or choose another --"
        with pytest.raises(InputError, match=says):
            Lock(tmp_path).__enter__()
        with Lock(tmp_path / "other"), Lock(None):
            pass
    with Lock(tmp_path):
        pass


def test_a_file_that_its_holder_took_away_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before another's lock ended and locked after: a third process would make and lock a new file."""
    real, taken = fcntl.lockf, []

    def late(file: TextIO, how: int) -> None:
        if not taken:
            taken.append(file)
            (tmp_path / ".lock").unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "lockf", late)
    with Lock(tmp_path) as lock:
        assert lock.file
        assert taken[0].closed
        assert os.path.samestat(os.fstat(lock.file.fileno()), os.stat(tmp_path / ".lock"))


def test_locks_of_other_names_do_not_know_each_other(tmp_path: Path) -> None:
    """A study holds a trial's folder while the trial's trainer locks it for itself."""
    with Lock(tmp_path, ".task"), Lock(tmp_path):
        with pytest.raises(Taken):
            Lock(tmp_path, ".task").__enter__()
        assert {path.name for path in tmp_path.iterdir()} == {".lock", ".task"}


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from typing import TextIO
from zoo.core.run import Lock
with Lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}) as other:
        assert other.stdout
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match=f"process {other.pid} on "):
            Lock(tmp_path).__enter__()
        other.kill()
    with Lock(tmp_path):
        pass


def test_children_do_not_hold_a_folder_for_a_killed_process(tmp_path: Path) -> None:
    """Workers that load data look for their parent every few seconds alone."""
    code = """
import os, sys, time
from pathlib import Path
from typing import TextIO
from zoo.core.run import Lock
with Lock(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}) as other:
        assert other.stdout
        child = int(other.stdout.readline())
        other.kill()
        other.wait()
        try:
            with Lock(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_trainer_holds_its_folder(shapes: Path, tmp_path: Path) -> None:
    t = trainer(config(shapes), tmp_path / "run")
    step = t.step

    def second(group: list) -> float:
        other = trainer(config(shapes), tmp_path / "run")
        with pytest.raises(InputError, match="trains in it"):
            other.fit()
        return step(group)

    t.step = second  # type: ignore[method-assign]
    t.fit()


def test_who_is_refused_a_folder_leaves_its_logs_alone(shapes: Path, tmp_path: Path) -> None:
    """Resuming cuts the logs at the saved epoch: of a run that has gone on since, that would be a loss."""
    t = trainer(config(shapes, epochs=3), tmp_path / "run")
    finish, logs = t.finish_epoch, [tmp_path / "run" / name for name in ("metrics.jsonl", "timing.jsonl")]

    def second(*words: object) -> None:
        state = checkpoint.read(tmp_path / "run" / "last.pt") if t.progress.epoch else None
        finish(*words)  # type: ignore[arg-type]
        if state:
            before = [path.read_bytes() for path in logs]
            other = trainer(config(shapes, epochs=3), tmp_path / "run", resume=state)
            with pytest.raises(InputError, match="trains in it"):
                other.fit()
            assert [path.read_bytes() for path in logs] == before

    t.finish_epoch = second  # type: ignore[method-assign]
    t.fit()
    assert len(logs[0].read_text().splitlines()) == 3


def test_a_run_that_torchrun_starts_again_finds_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that this torchrun began, were another run of the same settings newer; once it has saved."""
    monkeypatch.chdir(tmp_path)
    c = TrainConfig()
    assert started_folder(None, c, "a") is None
    for name, launch in (("unetpp-phantom", "a"), ("unetpp-phantom-2", "b"), ("unetpp-phantom-3", None)):
        open_folder(Path("runs") / name, c)
        write_json(Path("runs") / name / "manifest.json", {"sessions": [{"launch": "a"}, {"launch": launch}]})
    assert started_folder(None, c, "a") is None, "nothing saved yet"
    for folder in Path("runs").iterdir():
        (folder / "last.pt").touch()
    assert started_folder(None, c, "a") == Path("runs/unetpp-phantom")
    assert started_folder(None, c, "b") == Path("runs/unetpp-phantom-2")
    assert started_folder(None, c, "c") is started_folder(None, c, None) is None
    assert started_folder(Path("runs/unetpp-phantom-2"), c, "a") is None
    for damaged in ("{", "[]", '{"sessions": []}', '{"sessions": [3]}'):
        Path("runs/unetpp-phantom/manifest.json").write_text(damaged)
        assert started_folder(None, c, "a") is None


@pytest.mark.parametrize("line", ["\0\0\0\n", "{}\n", "[]\n", '{"epoch": "x"}\n'])
def test_a_damaged_log_is_named(line: str, tmp_path: Path) -> None:
    """A power cut, or an editor: nothing of it is thrown away."""
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' + line)
    with pytest.raises(InputError, match=r"metrics\.jsonl: a damaged line .*then resume$"):
        truncate_logs(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_text().endswith(line)
