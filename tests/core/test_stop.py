"""If these break, Ctrl-C loses a step's work, or cannot stop what hangs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.processes import ROOT, finish, start
from zoo.core import checkpoint
from zoo.core.stop import Stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops_at_once(number: int) -> None:
    before, said = signal.getsignal(number), list[str]()
    stop = Stop(said.append)
    with stop:
        os.kill(os.getpid(), number)
        assert stop.asked
        assert said == ["stopping and saving after this step; once more stops at once"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_a_voice_that_is_gone_does_not_keep_it_from_stopping() -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    stop = Stop(gone)
    with stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked


def test_ctrl_c_twice_ends_a_step_that_hangs(shapes: Path, tmp_path: Path) -> None:
    """Exit status 130, one line instead of a trace, and what was saved before is whole."""
    code = """
import os, signal, sys, time
from zoo.core.trainer import Trainer
def hanging(self, group):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
Trainer.step = hanging
from train import main
sys.exit(main(sys.argv[1:]))
"""
    flags = f"--arch unetpp --opt width=2 --size 32 --amp off --workers 0 --data folder:{shapes}"
    command = [sys.executable, "-c", code, *flags.split(), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    assert ran.returncode == 130
    assert ran.stderr == "train.py: stopped at once; --resume goes on with what a run had saved\n"
    assert (tmp_path / "run" / "last.pt").exists()


@pytest.mark.slow
def test_sigterm_to_the_whole_group_saves_and_takes_no_worker_along(shapes: Path, tmp_path: Path) -> None:
    """As torchrun and schedulers send it: the run ends behind the step that it was in, and can go on."""
    code = """
import os, signal
inner = Trainer.step
def stepping(self, group):
    if self.progress.step == 2:
        os.killpg(os.getpgid(0), signal.SIGTERM)
    return inner(self, group)
Trainer.step = stepping
"""
    out = tmp_path / "run"
    flags = f"--arch unetpp --opt width=2 --size 32 --amp off --batch 2 --workers 2 --data folder:{shapes}"
    (ended,) = finish(start(1, [*flags.split(), "--out", str(out)], tmp_path / "seen", code))
    assert ended[0] == 130, ended
    assert "Traceback" not in ended[2]
    assert checkpoint.read(out / "last.pt").training["progress"]["step"] == 3
