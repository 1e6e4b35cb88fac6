"""What came of a study: its best settings with the spread between seeds, and which settings mattered.

The score that made a trial one of the best few flatters it, for of many the luckiest is chosen.  So what
counts are further seeds alone, the same ones for each setting: its mean Dice over them, their standard
deviation, and how far it is behind the best, as the mean of the differences seed by seed with their 95 %
interval (Student's t).  An interval that holds 0 is "not resolved": so many seeds cannot tell the two apart.
With the seed change the first weights, the order of images, augmentation, and which images validate where no
fold or val/ folder says that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoo.core.files import write_csv, write_json
from zoo.core.images import plural
from zoo.core.tune.space import Value, said

TRIALS, REPORT = "trials.csv", "report.json"
# Student's t, two-sided 95 %, for 1, 2, … degrees of freedom; from 30 on the last is a little too wide
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A trial.  state: finished or pruned.  score: best Dice, None for a pruned one.  why: it was so."""

    number: int
    state: str
    score: float | None
    epochs: int
    values: Mapping[str, Value]
    why: str = ""


@dataclass(frozen=True)
class Setting:
    """One of the best few.  score: in the search.  dice: by further seed.  given: the flags' own settings."""

    number: int
    values: Mapping[str, Value]
    score: float
    dice: Mapping[int, float]
    given: bool = False

    @property
    def mean(self) -> float:
        """Over the further seeds; the search's score where there are none."""
        return statistics.fmean(self.dice.values()) if self.dice else self.score

    @property
    def deviation(self) -> float:
        """Between the further seeds; nan for fewer than two."""
        return statistics.stdev(self.dice.values()) if len(self.dice) > 1 else math.nan


@dataclass(frozen=True)
class Lead:
    """How far the best is ahead of another: the mean difference, and half of its 95 % interval."""

    mean: float
    half: float

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.mean > self.half

    @property
    def word(self) -> str:
        """For people."""
        return "resolved" if self.resolved else "not resolved"


def lead(best: Setting, other: Setting) -> Lead:
    """Over the seeds that both have; an interval of nan for fewer than two."""
    seeds = sorted(set(best.dice) & set(other.dice))
    if len(seeds) < 2:
        return Lead(best.mean - other.mean, math.nan)
    apart = [best.dice[seed] - other.dice[seed] for seed in seeds]
    t = T95[min(len(seeds) - 1, len(T95)) - 1]
    return Lead(statistics.fmean(apart), t * statistics.stdev(apart) / math.sqrt(len(seeds)))


@dataclass(frozen=True)
class Findings:
    """A study's end.  settings: the best first.  importance: shares of 1.  command: that of the best."""

    rows: list[Row]
    settings: list[Setting]
    importance: dict[str, float]
    command: str

    @property
    def verdict(self) -> str:
        """Whether the best is better than luck."""
        if not self.settings:
            return "no trial finished: nothing to recommend"
        best, *others = self.settings
        if not others:
            return f"trial {best.number} has nothing to be compared with: not resolved"
        if not best.dice:
            return f"trial {best.number} is first; without --seeds its lead is not resolved"
        ahead = lead(best, others[0])
        said = f"trial {best.number} leads trial {others[0].number} by {_with(ahead.mean, ahead.half)} Dice"
        seeds = f"95 % interval of {plural(len(best.dice), 'seed')}"
        luck = "" if ahead.resolved else f": {plural(len(best.dice), 'seed')} cannot tell them apart"
        return f"{said} ({seeds}; spread between seeds {best.deviation:.4f}): {ahead.word}{luck}"


def write(out: Path, found: Findings) -> None:
    """trials.csv and report.json in the study's folder.  Raises InputError."""
    names = list(dict.fromkeys(name for row in found.rows for name in row.values))
    header = ["trial", "state", "dice", "epochs", *names, "why"]
    rows = [
        [r.number, r.state, r.score, r.epochs, *(r.values.get(name) for name in names), r.why]
        for r in found.rows
    ]
    write_csv(out / TRIALS, header, rows)
    write_json(out / REPORT, {
        "trials": len(found.rows),
        "pruned": sum(r.state == "pruned" for r in found.rows),
        "settings": [_described(setting, found.settings[0]) for setting in found.settings],
        "importance": found.importance,
        "verdict": found.verdict,
        "command": found.command,
    })  # fmt: skip


def _described(setting: Setting, best: Setting) -> dict[str, object]:
    held: dict[str, object] = {
        "trial": setting.number,
        "as_given": setting.given,
        "settings": dict(setting.values),
        "dice_in_search": setting.score,
        "dice_by_seed": {str(seed): dice for seed, dice in setting.dice.items()},
    }
    if len(setting.dice) > 1:
        held |= {"mean": setting.mean, "deviation": setting.deviation}
    if setting is not best and len(setting.dice) > 1:
        behind = lead(best, setting)
        held["behind"] = {"mean": behind.mean, "half_of_95": behind.half, "resolved": behind.resolved}
    return held


def say(console: Console, found: Findings, out: Path) -> None:
    """All of it, for people."""

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    pruned = sum(r.state == "pruned" for r in found.rows)
    line(f"{plural(len(found.rows), 'trial')}, {pruned} of them pruned")
    if found.settings:
        console.print(table(found.settings))
    if found.settings and found.importance:
        finished = plural(sum(r.score is not None for r in found.rows), "finished trial")
        console.print(importance_table(found))
        line(f"share: how far the values of the best of {finished} differ from those of all (PED-ANOVA)")
    line(found.verdict)
    line(f"all trials: {out / TRIALS}; these tables: {out / REPORT}")
    if found.command:
        line(f"to train with the best settings:\n  {found.command}")


def table(settings: list[Setting]) -> Table:
    """A line a setting that was trained with further seeds, the best first."""
    best, shown = settings[0], _table("the best settings")
    count = len(best.dice)
    for column in ("trial", "settings", "Dice in the search"):
        shown.add_column(column, justify="left" if column == "settings" else "right", overflow="fold")
    if count:
        shown.add_column(f"of {plural(count, 'further seed')}", justify="right")
        shown.add_column("behind the best (95 %)", justify="right")
    for setting in settings:
        name = "\n".join(said({k: v}) for k, v in setting.values.items()) + " (as given)" * setting.given
        cells = [str(setting.number), escape(name), f"{setting.score:.4f}"]
        if count:
            behind = lead(best, setting)
            apart = "" if setting is best else f"{_with(behind.mean, behind.half)}, {behind.word}"
            cells += [_with(setting.mean, setting.deviation), apart]
        shown.add_row(*cells)
    return shown


def importance_table(found: Findings) -> Table:
    """A line a setting that was searched."""
    shown, best = _table("importance"), found.settings[0]
    shown.add_column("setting")
    shown.add_column("share", justify="right")
    shown.add_column(f"in trial {best.number}")
    for name, share in found.importance.items():
        shown.add_row(escape(name), f"{share:.0%}", escape(str(best.values[name])))
    return shown


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _with(mean: float, half: float) -> str:
    return f"{mean:.4f} ± " + ("–" if math.isnan(half) else f"{half:.4f}")
