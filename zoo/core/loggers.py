"""Logs besides metrics.jsonl, for who watches runs elsewhere: TensorBoard, Weights & Biases.

    --log tensorboard      RUN/tensorboard: look at it with `tensorboard --logdir RUN`
    --log wandb            the project is named as the folder that RUN lies in (or $WANDB_PROJECT), the run as
                           RUN; with WANDB_MODE=offline under RUN/wandb, for `wandb sync` to send later

After each epoch both get, at the epoch's number: loss, lr, dice (the score), pooled_iou, images_per_s,
dice/CLASS, a picture of bars of these, and of the first validation images the panel of zoo.core.pictures
with the loss of each pixel at its end (zoo.core.heat).

What fails here never stops a run: it is said once, and metrics.jsonl has every number.  A resumed run goes on
in the same log.  Keys and tokens are the packages' own affair: nothing here reads or writes them.
"""

import importlib.util
import json
import math
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from zoo.core import pictures
from zoo.core.config import TrainConfig
from zoo.core.dataset import Source
from zoo.core.display import Display
from zoo.core.files import read_json, write_bytes
from zoo.core.heat import loss_map
from zoo.core.metrics import Scores, mean
from zoo.core.predictor import Predictor
from zoo.core.validation import SAMPLES
from zoo.errors import InputError, nearest


@dataclass
class Point:
    """What is told of an epoch: numbers, none of them nan, and pictures, RGB uint8 (H, W, 3)."""

    epoch: int
    numbers: dict[str, float]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


class Logger(Protocol):
    """Where points go."""

    def add(self, point: Point) -> None:
        """Take a point; what a run that was killed has logged of that epoch is overwritten or stays alone."""

    def close(self) -> None:
        """Write what is not yet written."""


class TensorBoard:
    """Event files under OUT/tensorboard; points after `epoch`, of a run killed before it saved, are void."""

    def __init__(self, out: Path, config: TrainConfig, epoch: int, say: Callable[[str], None]):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=epoch + 1)

    def add(self, point: Point) -> None:
        for name, value in point.numbers.items():
            self.writer.add_scalar(name, value, point.epoch)
        for name, picture in point.pictures.items():
            self.writer.add_image(name, picture, point.epoch, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases.  OUT/wandb.json keeps its id, and the last epoch that it was told of."""

    def __init__(self, out: Path, config: TrainConfig, epoch: int, say: Callable[[str], None]):
        import wandb

        self.state = out / "wandb.json"
        self.id, self.told = self._resumed(epoch) or (secrets.token_hex(4), 0)
        folder = out.resolve()
        self.image = wandb.Image
        self.run = wandb.init(
            id=self.id,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT") or re.sub(r"[/\\#?%:]", "_", folder.parent.name) or "zoo",
            name=folder.name,
            dir=str(out),
            config=config.to_dict(),
            # what is printed is ours; a repository's address, and the changes in it, may hold secrets
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        self._keep()
        if not self.run.offline and self.run.url:
            say(f"Weights & Biases: {self.run.url}")

    def add(self, point: Point) -> None:
        if point.epoch <= self.told:  # before a kill, with the same numbers
            return
        shown = {name: self.image(picture) for name, picture in point.pictures.items()}
        self.run.log({**point.numbers, **shown}, step=point.epoch, commit=True)
        self.told = point.epoch
        self._keep()

    def close(self) -> None:
        self.run.finish()

    def _resumed(self, epoch: int) -> tuple[str, int] | None:
        """The log of this run so far; None where it had none, or what lies there is another's."""
        with suppress(InputError):
            match read_json(self.state):
                case {"id": str(name), "epoch": int(told)} if told <= epoch + 1:
                    return name, told
        return None

    def _keep(self) -> None:
        write_bytes(self.state, json.dumps({"id": self.id, "epoch": self.told}).encode())


LOGGERS: dict[str, Callable[[Path, TrainConfig, int, Callable[[str], None]], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}


class Loggers:
    """The logs that `config.log` names; a context manager around the training.

    out: the run folder; None for a process that draws with the others, and leaves the writing to the first.
    Raises InputError for a word that is none, and for a package that is not there.
    """

    def __init__(self, config: TrainConfig, out: Path | None, display: Display):
        self.config, self.out, self.display = config, out, display
        self.words = parse(config.log)
        self.running: dict[str, Logger] = {}
        self.drawn: list[np.ndarray] = []
        self.drawing = bool(self.words)
        self.epochs = 0

    def after(self, epoch: int) -> "Loggers":
        """Itself, to be entered for a run of which `epoch` epochs are finished."""
        self.epochs = epoch
        return self

    def __enter__(self) -> "Loggers":
        for word in self.words if self.out else ():
            self._guarded(word, partial(self._start, word))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for word, logger in list(self.running.items()):
            self._guarded(word, logger.close)
        self.running = {}

    def draw(self, predictor: Predictor, source: Source) -> None:
        """Keep pictures of the first images of `source` for the next `epoch`."""
        self.drawn = []
        if not self.drawing:
            return
        try:
            for i in range(min(SAMPLES, len(source))):
                sample = source.load(i)
                mask, loss = predictor(sample.image), loss_map(predictor, sample)
                truth, labels = sample.mask, predictor.labels
                self.drawn.append(pictures.panel(sample.image, truth, mask, labels, sample.name, loss))
        except Exception as e:  # as in `_guarded`
            self.drawn, self.drawing = [], False
            self.display.warn(f"--log {self.config.log}: no pictures of samples: {_reason(e)}")

    def epoch(self, epoch: int, loss: float, lr: float, images_per_s: float, scores: Scores) -> None:
        """After epoch `epoch`, counted from 1: tell every log that still runs."""
        if not self.running:
            return
        dice, names = scores.dice().tolist(), scores.labels.names
        numbers = {
            "loss": loss,
            "lr": lr,
            "dice": scores.score,
            "pooled_iou": mean(scores.pooled_iou()),
            "images_per_s": images_per_s,
            **{f"dice/{name}": value for name, value in zip(names, dice, strict=True)},
        }
        shown = {"classes": pictures.bars(f"Dice after epoch {epoch}", names, dice)}
        if self.drawn:
            shown["samples"] = pictures.grid(self.drawn, columns=1)
        point = Point(epoch, {k: v for k, v in numbers.items() if not math.isnan(v)}, shown)
        for word, logger in list(self.running.items()):
            self._guarded(word, partial(logger.add, point))

    def _start(self, word: str) -> None:
        assert self.out is not None
        self.running[word] = LOGGERS[word](self.out, self.config, self.epochs, self.display.note)

    def _guarded(self, word: str, work: Callable[[], None]) -> None:
        """Do `work`; where it fails, say so and go on without this log."""
        try:
            work()
        except Exception as e:  # whatever a package, a network or a disk makes of it
            what = "that log ends here, the run goes on, metrics.jsonl has its numbers"
            self.display.warn(f"--log {word}: {_reason(e)}; {what}")
            self.running.pop(word, None)


def _reason(e: Exception) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0]


def parse(spec: str) -> list[str]:
    """`tensorboard+wandb` as its words; `none` as none.  Raises InputError."""
    words = [] if spec == "none" else list(dict.fromkeys(spec.split("+")))
    for word in words:
        if word not in LOGGERS:
            raise InputError(f"--log {spec}: unknown {word!r}; {nearest(word, (*LOGGERS, 'none'))}")
        if importlib.util.find_spec(word) is None:
            raise InputError(f"--log {word}: takes a package: pip install {word}")
    return words
