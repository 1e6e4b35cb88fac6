"""If these break, the job that `zoo` is for, drawn files to scored csv, does not go through from end to end.

Scaled down; benchmarks/whole_job.py is the same at 60 images of 2048 pixels.  What it reads the csv, the
polygons and the scores with is slow, plain, and nothing of zoo's.
"""

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import whole_job
from zoo.core import checkpoint
from zoo.core.phantom import NAMES

SMALL = "--count 12 --side 192 --size 64 --epochs 1".split()
TRAIN = "--batch 4 --workers 0 --limit-train 8 --limit-val 2 --device cpu"


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as f:
        return list(csv.DictReader(f))


@pytest.mark.slow
def test_from_drawn_hands_to_a_csv_whose_score_is_the_one_that_infer_says(tmp_path: Path) -> None:
    args = whole_job.parser().parse_args([*SMALL, "--train", TRAIN])
    whole_job.job(tmp_path, args, Console(quiet=True))

    listed = (tmp_path / "look" / "exclude.txt").read_text().splitlines()
    worst = [line.split()[0] for line in listed if not line.startswith("#")]
    assert worst == [row["name"] for row in rows(tmp_path / "look" / "images.csv")][:1]
    thresholds = set()
    for name in whole_job.NETWORKS:
        for fold in whole_job.FOLDS:
            state = checkpoint.read(tmp_path / f"{name}-{fold[0]}" / "best.pt")
            assert state.config["arch"] == name
            assert list(state.config["exclude"]) == worst  # which the run remembers without the file
            assert state.thresholds
            thresholds.update(state.thresholds)
    assert len(thresholds) > 1

    for rule in ("mean", "vote"):
        out = tmp_path / rule
        of_image: dict[str, list[str]] = {}
        for row in rows(out / "masks.csv"):
            of_image.setdefault(row["image_name"], []).append(row["class"])
        assert len(of_image) == 2
        assert all(tuple(classes) == NAMES for classes in of_image.values())
        score, differ, pixels = whole_job.checked(tmp_path / "new", out)
        assert differ == 0
        assert pixels == 2 * 29 * 192 * 192
        assert 0 < score < 1
        assert whole_job.said(out)["competition"] == pytest.approx(score, rel=1e-12)
    assert (tmp_path / "mean" / "masks.csv").read_text() != (tmp_path / "vote" / "masks.csv").read_text()

    before = (tmp_path / "finished.json").read_text()
    assert whole_job.job(tmp_path, args, Console(quiet=True)) == json.loads(before)  # nothing is done twice

    masks = tmp_path / "mean" / "masks.csv"
    text = masks.read_text().splitlines(keepends=True)
    full = next(i for i, line in enumerate(text) if line.rstrip().rpartition(",")[2] and i)
    image, name, _ = text[full].split(",")
    text[full] = f"{image},{name},1 1\n"
    masks.write_text("".join(text))
    assert whole_job.checked(tmp_path / "new", tmp_path / "mean")[1] > 0  # the check can fail
