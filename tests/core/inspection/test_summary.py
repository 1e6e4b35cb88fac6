"""If these break, the terminal tells another story than the files that inspect writes."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from tests.conftest import write_shapes
from zoo.core.dataset import open_data
from zoo.core.inspection import report, summary
from zoo.core.inspection.report import Findings


@pytest.fixture
def found(tmp_path: Path) -> Findings:
    """A folder with a split: eight images and two of them again, one with another mask."""
    for side in ("train", "val"):
        write_shapes(tmp_path / side, 8 if side == "train" else 2)
    other = (tmp_path / "train" / "masks" / "02.png").read_bytes()
    (tmp_path / "val" / "masks" / "01.png").write_bytes(other)
    return report.find(*open_data(f"folder:{tmp_path}"))


def test_it_says_what_was_found(found: Findings, tmp_path: Path) -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    summary.say(console, found, tmp_path, [tmp_path / "a" / "b.png", tmp_path / "c.csv"], 2)
    said = console.export_text()
    for words in (
        "10 images (8 training, 2 validation)", "multiclass, 3 classes", "sizes: 48x40 (10)",
        "duplicates: 2 with the same pixels, 0 nearly so (at most 26 of 256 bits", "2 across training",
        "first 2 by statistics", "2 files in", ": a, c.csv",
    ):  # fmt: skip
        assert words in said
    lines = [line.split() for line in said.splitlines() if "same pixels" in line and "images/" in line]
    assert [(line[0], line[1], line[-2], line[-1]) for line in lines] == [
        ("train/images/00.png", "val/images/00.png", "yes", "equal"),
        ("train/images/01.png", "val/images/01.png", "yes", "differ"),
    ]


def test_many_sizes_are_a_range(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", 8)
    for i in range(6):
        for folder in ("images", "masks"):
            path = root / folder / f"{i:02d}.png"
            cv2.imwrite(str(path), cv2.imread(str(path), 0)[: 30 + i, : 39 - i])
    found = report.find(*open_data(f"folder:{root}"))
    assert summary.sizes(found) == "7 different, from 30x34 to 48x40, most often 48x40 (2)"


def test_numbers_are_written_as_one_reads_them() -> None:
    cell = summary.cell
    assert [cell("share", 0.1234), cell("pixels", 1234567), cell("score", 0.5), cell("median", 1234.5)] == [
        "12.3%", "1,234,567", "0.500", "1,234.5"
    ]  # fmt: skip
    assert cell("largest", "") == ""
    assert cell("share of the smaller", float(np.float64(1))) == "100.0%"
