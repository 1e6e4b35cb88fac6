"""Curves of several runs in one picture, from what their folders hold: a PNG, or a page of HTML.

Both are drawn by matplotlib; the page has the picture as SVG, and a table of figures below it.
"""

from __future__ import annotations

import html
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.core.files import read_json, write_bytes
from zoo.core.images import plural
from zoo.core.metrics import mean
from zoo.core.pictures import make_folder
from zoo.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".html")
# Okabe and Ito's colours that are dark enough for white paper; then the same, dashed and dotted
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":")
FEW = 30  # epochs up to which each has a dot


@dataclass(frozen=True)
class Curves:
    """What a run's folder tells.  loss, dice, lr, speed (images/s): of each epoch, nan where not known.

    planned: epochs that the run is to have.  best: the position of the best epoch.  classes: their Dice then.
    seconds, images: of the whole run, from its manifest; nan where that is missing.
    """

    name: str
    epochs: list[int]
    loss: list[float]
    dice: list[float]
    lr: list[float]
    speed: list[float]
    planned: int
    best: int
    classes: dict[str, float]
    seconds: float
    images: float

    @property
    def label(self) -> str:
        """Name, score, and how far it is if it is not at its end."""
        score = self.dice[self.best]
        at, done = self.epochs[self.best], self.epochs[-1]
        said = "no score" if math.isnan(score) else f"best Dice {score:.3f} after epoch {at}"
        rest = "" if done >= self.planned else f", {done} of {self.planned} epochs"
        return f"{self.name}: {said}{rest}"


# ---------------------------------------------------------------- reading


def read_run(folder: Path, name: str | None = None) -> Curves:
    """The curves of a run.  Raises InputError for what is no run, has no finished epoch, or is damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a run, such as runs/unetpp-phantom")
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise InputError(f"{folder}: holds no metrics.jsonl; not a run's folder, or no epoch is finished yet")
    lines = _read_lines(path)
    if not lines:
        raise InputError(f"{path}: is empty; no epoch is finished yet")
    timing = folder / "timing.jsonl"
    speeds = {line.get("epoch"): line.get("images_per_s") for line in _read_lines(timing)}
    try:
        dice = [_number(line["val"]["dice"]) for line in lines]
        best = max(range(len(lines)), key=lambda i: (-math.inf if math.isnan(dice[i]) else dice[i], -i))
        held = _read_object(folder / "config.json")
        total = _read_object(folder / "manifest.json").get("total", {})
        return Curves(
            name=name or folder.resolve().name,
            epochs=[int(line["epoch"]) for line in lines],
            loss=[_number(line["loss"]) for line in lines],
            dice=dice,
            lr=[_number(line["lr"]) for line in lines],
            speed=[_number(speeds.get(line["epoch"])) for line in lines],
            planned=int(held.get("epochs", lines[-1]["epoch"])),
            best=best,
            classes={k: _number(v["dice"]) for k, v in lines[best]["val"]["classes"].items()},
            seconds=_number(total.get("seconds")),
            images=_number(total.get("images")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InputError(f"{path}: lacks what train.py writes ({type(e).__name__}: {e}); another's?") from e


def _read_lines(path: Path) -> list[dict]:
    """The lines of a log, without a torn last one; [] for a file that is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read: {e}") from e
    lines = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):  # a run was killed while it wrote, and cuts this off when it is resumed
            break
        try:
            held = json.loads(line)
        except ValueError as e:
            raise InputError(f"{path}, line {number}: damaged ({e}); mend it or leave this run out") from e
        if not isinstance(held, dict):
            raise InputError(f"{path}, line {number}: damaged (no object); mend it or leave this run out")
        lines.append(held)
    return lines


def _read_object(path: Path) -> dict:
    """What a JSON file holds that the picture can do without: {} where it is missing or damaged."""
    try:
        held = read_json(path)
    except InputError:
        return {}
    return held if isinstance(held, dict) else {}


def _number(value: object) -> float:
    """A number of JSON, where None stands for nan."""
    if value is None:
        return math.nan
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)


# ---------------------------------------------------------------- drawing


def plot(folders: Sequence[Path], out: Path) -> list[str]:
    """Draw the runs in `folders` into the file `out`; a line for each that could not be.

    Raises InputError where none can be drawn, and for what keeps the file from being written.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {out}: ends in neither {' nor '.join(SUFFIXES)}; give it one of these")
    names = Counter(folder.resolve().name for folder in folders)
    runs, problems = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder, str(folder) if names[folder.resolve().name] > 1 else None))
        except InputError as e:
            problems.append(str(e))
    if not runs:
        raise InputError("\n".join(problems))
    drawn = figure(runs)
    data = io.BytesIO()
    if out.suffix.lower() == ".png":
        drawn.savefig(data, format="png", dpi=120)
    else:
        data.write(page(runs, drawn).encode())
    make_folder(out.parent)
    write_bytes(out, data.getvalue())
    return problems


def figure(runs: Sequence[Curves]) -> Figure:
    """Loss, score, learning rate and speed by epoch, and the classes' Dice at the best epoch as bars."""
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise InputError("plot: takes a package: pip install matplotlib") from e
    names = list(dict.fromkeys(name for run in runs for name in run.classes))
    width = min(24.0, max(11.0, 2 + 0.11 * len(names) * (len(runs) + 1)))
    legend = 0.24 * len(runs) + 0.2  # inches
    whole = Figure(figsize=(width, 10 + legend), layout="constrained", facecolor="white")
    rows: list = [["loss", "dice"], ["lr", "speed"], ["bars", "bars"]]
    axes = whole.subplot_mosaic(rows, height_ratios=(3, 3, 3.4))
    titles = {
        "loss": ("Training loss", "mean over the epoch's steps"),
        "dice": ("Score on the validation images", "mean Dice of classes"),
        "lr": ("Learning rate at the epoch's end", "rate"),
        "speed": ("Speed of training", "images/s"),
    }
    for key, (title, unit) in titles.items():
        _curves(axes[key], runs, key, title, unit)
    for key in ("loss", "lr", "speed"):
        axes[key].set_ylim(bottom=0)
    axes["dice"].set_ylim(0, 1)
    axes["lr"].yaxis.set_major_formatter("{x:g}")
    _bars(axes["bars"], runs, names)
    lines = axes["loss"].get_lines()
    whole.legend(lines, [run.label for run in runs], loc="outside upper left", frameon=False)
    return whole


def _style(i: int) -> tuple[str, str]:
    """Colour and dashes of run i."""
    return COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]


def _curves(ax: Axes, runs: Sequence[Curves], key: str, title: str, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for i, run in enumerate(runs):
        colour, dashes = _style(i)
        dot = "o" if len(run.epochs) <= FEW else None
        values = getattr(run, key)
        ax.plot(run.epochs, values, dashes, color=colour, marker=dot, markersize=3.5, linewidth=1.6)
        if key == "dice":
            best = run.epochs[run.best], values[run.best]
            ax.plot(*best, color=colour, marker="*", markersize=12, linestyle="none", clip_on=False)
    ax.set_title(title + (" (star: best)" if key == "dice" else ""), loc="left", fontsize=11)
    ax.set_xlabel("epoch")
    ax.set_ylabel(unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _light(ax)


def _bars(ax: Axes, runs: Sequence[Curves], names: Sequence[str]) -> None:
    share = 0.8 / len(runs)
    for i, run in enumerate(runs):
        colour, dashes = _style(i)
        places = [k - 0.4 + share * (i + 0.5) for k in range(len(names))]
        heights = [run.classes.get(name, math.nan) for name in names]
        ax.bar(places, heights, share, color=colour, hatch={"-": None, "--": "//", ":": ".."}[dashes])
    ax.set_title("Dice of each class at the run's best epoch", loc="left", fontsize=11)
    ax.set_ylabel("Dice")
    ax.set_ylim(0, 1)
    ax.set_xlim(-0.6, len(names) - 0.4)
    slanted = len(names) > 8
    ax.set_xticks(
        range(len(names)), names, rotation=50 if slanted else 0, ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
    )  # fmt: skip
    _light(ax)


def _light(ax: Axes) -> None:
    ax.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


# ---------------------------------------------------------------- the page


def page(runs: Sequence[Curves], drawn: Figure) -> str:
    """One file of HTML that needs no other: the picture, and a table of figures."""
    data = io.BytesIO()
    drawn.savefig(data, format="svg", metadata={"Date": None})
    svg = data.getvalue().decode()
    head = ("run", "epochs", "best Dice", "at epoch", "last loss", "images/s", "images trained on", "minutes")
    cells = [
        (
            run.name,
            f"{run.epochs[-1]} of {run.planned}",
            _figure(run.dice[run.best], ".4f"),
            str(run.epochs[run.best]),
            _figure(run.loss[-1], ".4f"),
            _figure(mean(run.speed), ".1f"),
            _figure(run.images, ",.0f"),
            _figure(run.seconds / 60, ".1f"),
        )
        for run in runs
    ]
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in cells]
    columns = "".join(f"<th>{cell}</th>" for cell in head)
    title = html.escape(f"{plural(len(runs), 'run')}: {', '.join(run.name for run in runs)}")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n{svg[svg.index('<svg') :]}\n<table>\n<tr>{columns}</tr>\n"
        + "".join(f"<tr>{row}</tr>\n" for row in rows)
        + "</table>\n</html>\n"
    )


STYLE = (
    "body{font:15px sans-serif;color:#222;background:#fff;margin:2em auto;max-width:1200px}"
    "svg{width:100%;height:auto}table{border-collapse:collapse;margin:1em 0}"
    "th,td{padding:.3em .9em;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}"
)


def _figure(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)
