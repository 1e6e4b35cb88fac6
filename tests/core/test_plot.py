"""If these break, runs are compared by curves that are not theirs, or a broken folder hides the others."""

import json
import math
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from zoo.__main__ import main
from zoo.core.plot import COLOURS, figure, page, plot, read_run
from zoo.errors import InputError

NAN = math.nan


def write(
    folder: Path, dice: list[float | None], classes: tuple[str, ...] = ("a", "b"), epochs: int | None = None
) -> Path:
    """A run of as many epochs as there are scores; class k has 0.1 k less than the mean."""
    folder.mkdir(parents=True)
    for name, rows in (
        ("metrics.jsonl", [
            {"epoch": i, "step": 4 * i, "lr": 0.1 / i, "loss": 1 / i, "val": {
                "images": 2, "dice": value,
                "classes": {c: {"dice": value and value - 0.1 * k, "iou": 0} for k, c in enumerate(classes)},
            }} for i, value in enumerate(dice, 1)
        ]),
        ("timing.jsonl", [{"epoch": i, "images_per_s": 10.0 * i} for i in range(1, len(dice) + 1)]),
    ):  # fmt: skip
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.json").write_text(json.dumps({"epochs": epochs or len(dice)}))
    (folder / "manifest.json").write_text(json.dumps({"total": {"seconds": 90.0, "images": 1234}}))
    return folder


# ---------------------------------------------------------------- reading


def test_what_a_folder_tells(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", [0.2, 0.6, 0.5], epochs=9))
    assert (run.name, run.epochs, run.planned, run.best) == ("run", [1, 2, 3], 9, 1)
    assert run.loss == [1, 1 / 2, 1 / 3]
    assert run.lr == [0.1, 0.05, 0.1 / 3]
    assert run.speed == [10, 20, 30]
    assert run.classes == {"a": 0.6, "b": 0.5}
    assert (run.seconds, run.images) == (90, 1234)
    assert run.label == "run: best Dice 0.600 after epoch 2, 3 of 9 epochs"
    assert read_run(write(tmp_path / "whole", [0.5])).label == "whole: best Dice 0.500 after epoch 1"


def test_the_first_of_equal_scores_is_the_best_and_none_is_no_score(tmp_path: Path) -> None:
    assert read_run(write(tmp_path / "a", [None, 0.4, 0.4])).best == 1
    run = read_run(write(tmp_path / "b", [None, None]))
    assert run.best == 0
    assert run.label == "b: no score"
    assert math.isnan(run.dice[0])


def test_a_run_that_is_still_running_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [0.2, 0.6])
    with open(folder / "metrics.jsonl", "a") as f:
        f.write('{"epoch": 3, "st')
    for name in ("timing.jsonl", "config.json", "manifest.json"):
        (folder / name).unlink()
    run = read_run(folder)
    assert run.epochs == [1, 2]
    assert run.planned == 2
    assert all(map(math.isnan, [*run.speed, run.seconds, run.images]))
    (folder / "config.json").write_text("{")
    (folder / "manifest.json").write_text("[]")
    assert read_run(folder).epochs == [1, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no metrics.jsonl; not a run's folder, or no epoch is finished yet"),
        ("", "metrics.jsonl: is empty; no epoch is finished yet"),
        ('{"epoch": 1', "is empty; no epoch"),
        ("\nx\n", "metrics.jsonl, line 1: damaged"),
        ("3\n", "metrics.jsonl, line 1: damaged (no object)"),
        ('{"epoch": 1}\n', "lacks what train.py writes (KeyError: 'val')"),
        ('{"epoch": 1, "val": 3}\n', "lacks what train.py writes (TypeError"),
        ('{"epoch": 1, "loss": 1, "lr": "x", "val": {"dice": 1, "classes": {}}}\n', "'x' is no number"),
        ('{"epoch": 1, "loss": 1, "lr": 1, "val": {"dice": 1, "classes": []}}\n', "lacks what train.py"),
    ],
)
def test_a_folder_that_cannot_be_drawn_says_why(text: str | None, words: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    if text is not None:
        (tmp_path / "run" / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=re.escape(words)) as e:
        read_run(tmp_path / "run")
    assert str(tmp_path / "run") in str(e.value)


def test_what_is_no_text_or_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder; give the folder of a run"):
        read_run(tmp_path / "absent")
    (write(tmp_path / "run", [0.5]) / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be read"):
        read_run(tmp_path / "run")


# ---------------------------------------------------------------- drawing


def test_the_curves_are_those_of_the_runs(tmp_path: Path) -> None:
    a = read_run(write(tmp_path / "a", [0.2, 0.6, 0.5]))
    b = read_run(write(tmp_path / "b", [0.3, None], ("b", "c")))
    drawn = figure([a, b])
    loss, dice, lr, speed, bars = drawn.axes
    for ax, key in ((loss, "loss"), (lr, "lr"), (speed, "speed")):
        for line, run, colour in zip(ax.get_lines(), (a, b), COLOURS, strict=False):
            assert line.get_xdata().tolist() == run.epochs
            assert line.get_ydata().tolist() == getattr(run, key)
            assert line.get_color() == colour
        assert len(ax.get_lines()) == 2
        assert ax.get_xlabel() == "epoch"
        assert ax.get_ylim()[0] == 0
    lines = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in dice.get_lines()]
    assert lines[:2] == [([1, 2, 3], [0.2, 0.6, 0.5]), ([2], [0.6])], "a curve and a star at its best"
    assert lines[3] == ([1], [0.3])
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [a.label, b.label]
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["a", "b", "c"]
    heights = [[patch.get_height() for patch in group] for group in bars.containers]
    np.testing.assert_allclose(heights, [[0.6, 0.5, NAN], [NAN, 0.3, 0.2]])
    assert speed.get_ylabel() == "images/s"


def test_a_png_is_light_and_has_every_runs_colour(tmp_path: Path) -> None:
    runs = [write(tmp_path / f"run{i}", [0.1, 0.5 + i / 100]) for i in range(9)]
    out = tmp_path / "new" / "curves.png"
    assert plot(runs, out) == []
    picture = cv2.imread(str(out))[..., ::-1]
    assert (picture == 255).all(axis=2).mean() > 0.5
    for colour in COLOURS:
        assert (picture == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).sum() > 100, colour
    assert sorted(path.name for path in out.parent.iterdir()) == ["curves.png"]


def test_many_classes_still_fit(tmp_path: Path) -> None:
    names = tuple(f"a bone of a long name {k}" for k in range(63))
    small, large = (write(tmp_path / n, [0.9], classes) for n, classes in (("s", ("a",)), ("l", names)))
    plot([small], tmp_path / "s.png")
    plot([large, small], tmp_path / "l.PNG")
    widths = [cv2.imread(str(tmp_path / name)).shape[1] for name in ("s.png", "l.PNG")]
    assert widths[0] == 11 * 120 < widths[1] <= 24 * 120


def test_a_page_stands_alone_and_has_the_figures(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a <b>", [0.25, 0.75], epochs=4))
    text = page([run], figure([run]))
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") == 1
    assert not re.search(r"<script|<link|src=|href=\"http", text), "nothing is fetched"
    cells = re.findall(r"<td>(.*?)</td>", text)
    assert cells == ["a &lt;b&gt;", "2 of 4", "0.7500", "2", "0.5000", "15.0", "1,234", "1.5"]
    (tmp_path / "a <b>" / "manifest.json").unlink()
    run = read_run(tmp_path / "a <b>")
    assert re.findall(r"<td>(.*?)</td>", page([run], figure([run])))[-2:] == ["–", "–"]


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [write(tmp_path / place / "run", [0.5]) for place in ("here", "there")]
    plot(runs, tmp_path / "x.html")
    cells = re.findall(r"<tr><td>(.*?)</td>", (tmp_path / "x.html").read_text())
    assert cells == list(map(str, runs))


# ---------------------------------------------------------------- the verb


def test_the_verb_draws_what_it_can_and_names_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good", [0.5, 0.6])
    (tmp_path / "empty").mkdir()
    assert main(["plot", "good"]) == 0
    assert capsys.readouterr().out == "curves.png: 1 of 1 runs\n"
    assert main(["plot", "good", "empty", "absent", "--out", "both.html"]) == 2
    said = capsys.readouterr()
    assert said.out == "both.html: 1 of 3 runs\n"
    assert said.err.startswith("zoo: empty: holds no metrics.jsonl")
    assert "absent: no such folder" in said.err
    assert "good: best" not in said.err
    assert (tmp_path / "both.html").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["absent", "missing"], "absent: no such folder"),
        (["good", "--out", "curves.jpeg"], "--out curves.jpeg: ends in neither .png nor .html"),
        (["good", "--out", "good/metrics.jsonl/x.png"], "cannot make this folder"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    words: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good", [0.5])
    assert main(["plot", *words]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="plot: takes a package: pip install matplotlib"):
        plot([write(tmp_path / "run", [0.5])], tmp_path / "x.png")


def test_a_real_run_is_drawn(shapes: Path, tmp_path: Path) -> None:
    from tests.core.test_trainer import config, trainer

    trainer(config(shapes), tmp_path / "run").fit()
    run = read_run(tmp_path / "run")
    assert run.epochs == [1, 2]
    assert list(run.classes) == ["background", "disc", "square"]
    assert not any(map(math.isnan, [*run.loss, *run.dice, *run.speed, run.seconds]))
    assert run.images == 16
    assert plot([tmp_path / "run"], tmp_path / "x.png") == []
