"""What one sees of a run: a live line and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from zoo.core.config import spelled
from zoo.core.metrics import Scores, mean

if TYPE_CHECKING:
    from zoo.core.trainer import Trainer

PLAIN_SECONDS = 15.0  # between two lines where output is not a terminal
WORST = 3  # classes marked in the table
PLACES = {  # where a source has images to predict, below its path
    "folder": ("images", "val/images"),
    "handbone": ("train/DCM",),
    "voc": ("VOCdevkit/VOC2012/JPEGImages",),
    "pets": ("oxford-iiit-pet/images",),
    "cityscapes": ("leftImg8bit/val",),
}


class Display:
    """Everything the trainer says.  `console` is where to; by default standard output."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed}/{task.total}  {task.fields[said]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.said = 0.0

    def note(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        """One line that should not be overlooked."""
        self.console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True, markup=False)

    def settings(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """The resolved configuration: (name, value, where it came from)."""
        table = Table(title="configuration", title_justify="left", box=None, pad_edge=False)
        for column in ("setting", "value", "from"):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.console.print(table)

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """A run of `epochs` × `steps` optimizer steps, of which `done` lie behind."""
        self.epochs = epochs
        self.task = self.progress.add_task("", total=epochs * steps, completed=done, epoch="", said="")
        self.began, self.first = time.monotonic(), done
        if self.live:
            self.progress.start()

    def end(self) -> None:
        """Take the live line away."""
        if self.live:
            self.progress.stop()

    def step(self, epoch: int, step: int, loss: float, lr: float, images_per_s: float) -> None:
        """After optimizer step `step` of the run, in `epoch` (both counted from 1)."""
        said = f"loss {loss:.4f}  lr {lr:.2e}  {images_per_s:.1f} images/s"
        self.progress.update(self.task, completed=step, epoch=f"{epoch}/{self.epochs}", said=said)
        now = time.monotonic()
        if not self.live and now - self.said > PLAIN_SECONDS:
            total = int(self.progress.tasks[0].total or step)
            left = (now - self.began) / max(1, step - self.first) * (total - step)
            self.note(f"epoch {epoch}/{self.epochs}  step {step}/{total}  {said}  {left / 60:.1f} min left")
            self.said = now

    def reading(self, done: int, total: int) -> None:
        """While files are checked before the start: a line now and then."""
        if time.monotonic() - self.said > PLAIN_SECONDS / 3:
            self.note(f"checking files: {done} of {total}")
            self.said = time.monotonic()

    def done(self, out: Path, data: str, best: float, epoch: int) -> None:
        """Where things are, and what to type next."""
        kind, _, path = data.partition(":")
        score = f"best Dice {best:.4f} after epoch {epoch}" if best >= 0 else "no class was there to score"
        self.note(f"{score}: {out / 'best.pt'}")
        self.note(f"every epoch: {out / 'metrics.jsonl'}; pictures: {out / 'samples'}")
        root = Path(path.rpartition("+")[2] if kind == "coco-polygons" else path)
        images = next((p for p in (root / place for place in PLACES.get(kind, ())) if p.is_dir()), root)
        if kind == "phantom":
            self.note("next, with eight new hands to look at:")
            self.note("  python -m zoo phantom hands --count 8 --seed 7")
            images = Path("hands")
        else:
            self.note("next:")
        best_pt, given = shlex.quote(str(out / "best.pt")), shlex.quote(str(images))
        self.note(f"  python infer.py {best_pt} --input {given} --out predictions")

    def waited(self, waiting: float, computing: float) -> None:
        """How an epoch's training time was spent."""
        share = waiting / max(waiting + computing, 1e-9)
        hint = "; --cache or more --workers would help" if share > 0.2 else ""
        self.note(f"waited {waiting:.1f} s for data, computed {computing:.1f} s ({share:.0%} waiting{hint})")

    def validation(self, epoch: int, loss: float, scores: Scores, best: bool) -> None:
        """One line for the epoch, and the classes with their scores, the worst marked."""
        dice, iou = scores.dice(), scores.iou()
        mark = "  (best so far)" if best else ""
        empty = int(scores.empty().sum())
        self.note(
            f"epoch {epoch}/{self.epochs}  loss {loss:.4f}  Dice {scores.score:.4f}  "
            f"IoU {mean(iou):.4f}  pooled Dice {mean(scores.pooled_dice()):.4f}  "
            f"pooled IoU {mean(scores.pooled_iou()):.4f}  "
            f"competition {mean(scores.competition()):.4f}  empty pairs {empty}{mark}"
        )
        self.console.print(class_table(scores, dice, iou, self.console.width))


def class_table(scores: Scores, dice: np.ndarray, iou: np.ndarray, width: int) -> Table:
    """Classes in order, in up to three columns side by side where `width` characters hold them."""
    names = scores.labels.names
    worst = set(np.argsort(np.where(np.isnan(dice), np.inf, dice))[: min(WORST, len(names) // 2)])
    block = max(len(name) for name in names) + len(" ◂  0.000  0.000  ")
    blocks = 1 if len(names) <= 12 else min(3, max(1, width // block))
    rows = -(-len(names) // blocks)
    table = Table(box=None, pad_edge=False)
    for _ in range(blocks):
        table.add_column("class")
        table.add_column("Dice", justify="right")
        table.add_column("IoU", justify="right")
    for r in range(rows):
        cells: list[str] = []
        for k in range(r, len(names), rows):
            style = ("[red]", " ◂[/red]") if k in worst else ("", "")
            cells += [f"{style[0]}{escape(names[k])}{style[1]}", _figure(dice[k]), _figure(iou[k])]
        table.add_row(*cells)
    return table


def _figure(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3f}"


def settings_of(trainer: Trainer, origins: dict[str, str]) -> list[tuple[str, str, str]]:
    """The resolved configuration as (name, value, where it came from), then what the data decided."""
    config = {**trainer.config.to_dict(), "loss": trainer.criterion.spec, "task": trainer.labels.task}
    rows = [(name, spelled(name, value), origins.get(name, "default")) for name, value in config.items()]
    parameters = sum(p.numel() for p in trainer.model.parameters())
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    precision = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}[trainer.amp]
    labels, ranks = trainer.labels, trainer.ranks
    few = "" if trained == parameters else f", {trained:,} trained"
    share = f"; {ranks.size} processes, {trainer.config.batch / ranks.size:g} images each" * (ranks.size > 1)
    return [
        *rows,
        ("classes", f"{labels.num_classes}: {', '.join(labels.names)}", "data"),
        ("images", f"{len(trainer.train_source)} to train, {len(trainer.val_source)} to validate", "data"),
        ("input", trainer.preprocess.describe(), trainer.normalised_by),
        ("parameters", f"{parameters:,}{few}", "model"),
        ("runs on", f"{trainer.device}, {precision}{share}", "machine"),
    ]
