"""`python -m zoo folds RUN…`: runs that `train.py --fold I/N` made, as one score with its spread.

Each image validates in one fold, so that the mean Dice over the folds is of all images; the standard
deviation beside it is between folds.  Of each run the best epoch counts, which was chosen on the very images
it is scored on: that flatters all alike.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from zoo.core.config import TrainConfig, flag_name, spelled
from zoo.core.files import read_json, write_csv
from zoo.core.plot import Curves, read_run
from zoo.core.recipes import RESUMABLE
from zoo.errors import InputError

MAY_DIFFER = {"fold", *RESUMABLE} - {"epochs", "patience"}


@dataclass(frozen=True)
class Folds:
    """Runs by their fold.  count: folds that there are to be.  warnings: what is missing of them."""

    runs: dict[int, Curves]
    count: int
    warnings: list[str]

    def rows(self) -> list[tuple[str, list[float]]]:
        """(name, Dice in each fold) of the whole, then of the classes, the lowest mean first."""
        names = list(dict.fromkeys(name for run in self.runs.values() for name in run.classes))
        rows = [(name, [run.classes.get(name, math.nan) for run in self.runs.values()]) for name in names]
        rows.sort(key=lambda row: (math.isnan(spread(row[1])[0]), spread(row[1])[0]))
        return [("all classes", [run.dice[run.best] for run in self.runs.values()]), *rows]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of those that are numbers; nan for none, and for the deviation of one."""
    held = [v for v in values if not math.isnan(v)]
    deviation = statistics.stdev(held) if len(held) > 1 else math.nan
    return (statistics.fmean(held) if held else math.nan), deviation


def gather(folders: Sequence[Path]) -> Folds:
    """The runs in `folders` as folds of one whole.

    Raises InputError where one is no fold, where two are the same fold, or where their settings differ.
    """
    found: dict[int, tuple[Path, TrainConfig, Curves]] = {}
    warnings: list[str] = []
    for folder in folders:
        run = read_run(folder)
        config = TrainConfig.from_dict(cast(dict, read_json(folder / "config.json")))
        if config.fold is None:
            raise InputError(f"{folder}: was not trained with --fold; leave it out")
        if found:
            path, first, _ = next(iter(found.values()))
            compare(folder, config, path, first)
        if config.fold[0] in found:
            other = found[config.fold[0]][0]
            raise InputError(f"{folder}: is fold {config.fold[0]}, as {other} is; give one of them")
        if run.epochs[-1] < run.planned and not config.patience:
            warnings.append(f"{folder}: {run.epochs[-1]} of {run.planned} epochs are finished")
        found[config.fold[0]] = folder, config, run
    count = next(config.fold[1] for _, config, _ in found.values() if config.fold)
    if absent := [f"{i}/{count}" for i in range(count) if i not in found]:
        warnings.append(f"no run of fold {', '.join(absent)}: its images are not in these scores")
    return Folds({i: found[i][2] for i in sorted(found)}, count, warnings)


def compare(folder: Path, config: TrainConfig, path: Path, first: TrainConfig) -> None:
    """Raise InputError unless both are folds of the same settings."""
    assert config.fold is not None
    assert first.fold is not None
    same = replace(config, **{name: getattr(first, name) for name in MAY_DIFFER}).to_dict()
    differs = [name for name, value in first.to_dict().items() if same[name] != value]
    if differs:
        name = differs[0]
        mine, other = spelled(name, getattr(config, name)), spelled(name, getattr(first, name))
        what = f"--{flag_name(name)} was {mine}, that of {path} {other}"
        raise InputError(f"{folder}: {what}; folds of one whole have the same settings")
    if config.fold[1] != first.fold[1]:
        raise InputError(f"{folder}: is one of {config.fold[1]} folds, {path} of {first.fold[1]}")


def table(folds: Folds) -> Table:
    """A line a class, a column a fold, mean and deviation."""
    shown = Table(title=f"Dice of {len(folds.runs)} of {folds.count} folds, each at its best epoch",
                  title_justify="left", box=SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    shown.add_column("class", overflow="fold")
    shown.add_column("mean ± deviation", justify="right")
    for i in folds.runs:
        shown.add_column(f"fold {i}", justify="right")
    for name, values in folds.rows():
        mean, deviation = spread(values)
        shown.add_row(escape(name), f"{_figure(mean)} ± {_figure(deviation)}", *map(_figure, values))
    return shown


def write(path: Path, folds: Folds) -> None:
    """The table as csv.  Raises InputError."""
    header = ["class", "mean", "deviation", *(f"fold {i}" for i in folds.runs)]
    rows = [[name, *spread(values), *values] for name, values in folds.rows()]
    write_csv(path, header, [["" if v != v else v for v in row] for row in rows])


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
