"""If these break, what a run saves within an epoch is not the run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.core.test_trainer import assert_same_run, config, trainer
from zoo.core import checkpoint

FULL = {"ema": 0.9, "amp": "fp16", "patience": 3, "schedule": "cosine", "warmup": 0.5, "clip": 1.0}


@pytest.mark.parametrize(("killed_at", "resumed_at"), [(5, 4), (4, 4), (7, 6)])
def test_a_run_killed_between_two_saves_goes_on_from_the_first(
    shapes: Path, tmp_path: Path, killed_at: int, resumed_at: int
) -> None:
    """In the middle of epochs of 4 steps, with average, scaler, schedule and patience, and other workers."""
    c = config(shapes, epochs=3, save_every=2, **FULL)
    trainer(c, tmp_path / "unbroken").fit()
    broken = trainer(c, tmp_path / "broken")
    step = broken.step

    def stepping(group: list) -> float:
        if broken.progress.step == killed_at:
            raise ZeroDivisionError("as a kill would")
        return step(group)

    broken.step = stepping  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        broken.fit()
    state = checkpoint.read(tmp_path / "broken" / "last.pt")
    assert state.training["progress"]["step"] == resumed_at
    resumed = trainer(replace(c, workers=2), tmp_path / "broken", resume=state)
    resumed.fit()
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    lines = (tmp_path / "broken/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3], "no line is double"


def test_nothing_of_a_run_depends_on_how_often_it_is_saved(shapes: Path, tmp_path: Path) -> None:
    c = config(shapes, save_every=1)
    trainer(c, tmp_path / "often").fit()
    trainer(replace(c, save_every=0), tmp_path / "seldom").fit()
    assert (tmp_path / "often/metrics.jsonl").read_bytes() == (tmp_path / "seldom/metrics.jsonl").read_bytes()
    one, other = (checkpoint.read(tmp_path / run / "last.pt") for run in ("often", "seldom"))
    assert str(one.model) == str(other.model)
