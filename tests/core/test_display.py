"""If these break, one cannot see what a run is doing, or which class is the worst."""

import io
from pathlib import Path

import numpy as np
from rich.console import Console

from zoo.core.display import Display, class_table
from zoo.core.masks import Labels, palette
from zoo.core.metrics import Scores


def scores(names: tuple[str, ...], overlap: list[int]) -> Scores:
    """One image of which class k has `overlap[k]` of 10 pixels found; -1: in neither mask."""
    s = Scores(Labels("multilabel", names, palette(len(names))))
    s.add("a.png", np.array([[k, 10, 10] if k >= 0 else [0, 0, 0] for k in overlap]))
    return s


def display(width: int = 200, terminal: bool = False) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    return Display(Console(file=out, width=width, force_terminal=terminal)), out


def test_plain_lines_where_output_is_no_terminal() -> None:
    d, out = display()
    d.begin(epochs=2, steps=5, done=0)
    for step in range(1, 4):
        d.step(1, step, 0.5, 1e-3, 12.0)
    d.end()
    lines = out.getvalue().splitlines()
    assert len(lines) == 1, "one line, then none for a while"
    for part in ("epoch 1/2", "step 1/10", "loss 0.5000", "lr 1.00e-03", "12.0 images/s", "min left"):
        assert part in lines[0]


def test_a_live_line_on_a_terminal() -> None:
    d, out = display(terminal=True)
    d.begin(epochs=1, steps=4, done=0)
    d.step(1, 3, 0.25, 1e-3, 12.0)
    d.progress.refresh()
    d.end()
    assert "step 3/4" in out.getvalue()
    assert "loss 0.2500" in out.getvalue()


def test_the_worst_classes_are_marked_and_absent_ones_have_no_figure() -> None:
    names = ("radius", "ulna", "lunate", "hamate", "pisiform")
    s = scores(names, [10, 1, 5, -1, 3])
    console = Console(file=(out := io.StringIO()), width=80)
    console.print(class_table(s, s.dice(), s.iou(), 80))
    lines = {line.split()[0]: line for line in out.getvalue().splitlines()[1:]}
    assert {name for name in names if "◂" in lines[name]} == {"ulna", "pisiform"}
    assert "none" in lines["hamate"]
    assert "1.000" in lines["radius"]


def test_no_name_is_cut_in_a_narrow_window() -> None:
    names = tuple(f"a class of a long name {k:02d}" for k in range(20))
    s = scores(names, [5] * 20)
    for width in (60, 100, 160):
        console = Console(file=(out := io.StringIO()), width=width)
        console.print(class_table(s, s.dice(), s.iou(), width))
        assert all(name in out.getvalue() for name in names)


def test_the_epoch_line_has_every_score_and_the_number_of_empty_pairs() -> None:
    d, out = display()
    d.begin(3, 1, 0)
    d.validation(2, 0.7, scores(("a", "b"), [5, -1]), best=True)
    text = out.getvalue()
    for part in ("epoch 2/3", "loss 0.7000", "Dice 0.5000", "IoU 0.3333", "competition 0.75", "pairs 1"):
        assert part in text


def test_the_end_says_what_to_type_next(tmp_path: Path) -> None:
    d, out = display()
    d.done(Path("runs/x"), "phantom", 0.8, 3)
    assert "python -m zoo phantom hands" in out.getvalue()
    assert "python infer.py runs/x/best.pt --input hands --out predictions" in out.getvalue()
    (tmp_path / "images").mkdir()
    d.done(Path("runs/x"), f"folder:{tmp_path}", 0.8, 3)
    assert f"--input {tmp_path / 'images'}" in out.getvalue().replace("\n", "")
    d.done(Path("runs/x"), f"coco-polygons:a.json+b,c.json+{tmp_path}/images", 0.8, 3)
    assert out.getvalue().count(f"--input {tmp_path}/images ") == 2
