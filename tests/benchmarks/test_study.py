"""If these break, the study trains again what it has, or loses what it had."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.processes import ROOT

TINY = (
    "hands=24 validating=4 pool=200 label=64 size=33 epochs=5 every=10"
).split()


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """The row that a kill tore off is made again, the same to the last digit, and no other."""
    command = [sys.executable, "benchmarks/study.py", "--out", str(tmp_path), "--seeds", "0"]
    command += ["--only", "plain", "metal excluded", "--budget", *TINY]

    def study() -> tuple[list[dict], str]:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()], ran.stdout

    first, said = study()
    assert [(r["variant"], r["steps"], r["images"]) for r in first] == [
        ("plain", 30, 120), ("metal excluded", 30, 120),
    ]  # fmt: skip
    assert "| plain | 0 | 30 | 120 |" in said
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text()[:-20])
    again, said = study()
    assert "plain, seed 0: Dice" not in said
    assert "metal excluded, seed 0: Dice" in said
    assert [(r["variant"], r["curve"]) for r in again] == [(r["variant"], r["curve"]) for r in first]
