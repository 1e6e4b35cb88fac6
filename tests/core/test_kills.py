"""If this breaks, a machine that goes away takes more of a run along than the steps since its last save."""

import re
import subprocess
import sys

import pytest

from tests.core.processes import ROOT


@pytest.mark.slow
def test_runs_killed_at_random_end_as_if_they_had_not_been() -> None:
    """SIGKILL at random instants of three runs, also while they save: the same tensors, numbers and log."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--seeds", "3", "--kills", "3"]
    ran = subprocess.run([*command, "--epochs", "2"], capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("3 of 3 runs are the same after ")
    assert re.search(r"[1-9]\d* (between|writing)", last), "none came after a save"
