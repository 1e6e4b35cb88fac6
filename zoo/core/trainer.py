"""The one training loop, for every architecture.

`Trainer.fit` is the table of contents.  All that must survive a kill is in `Progress`, the weights, the
optimizer and the generators; `save` writes it, `Trainer(..., resume=…)` takes it up at the same batch.
"""

import json
import math
import signal
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from zoo import registry
from zoo.core import checkpoint, losses, pictures
from zoo.core.config import Preprocess, TrainConfig, rate
from zoo.core.dataset import Source, open_run
from zoo.core.device import resolve_amp, resolve_device
from zoo.core.display import Display
from zoo.core.loader import Batch, TrainLoader, TrainSet, statistics, whole_images
from zoo.core.loggers import Loggers
from zoo.core.manifest import Session
from zoo.core.metrics import Scores, count
from zoo.core.network import network, on_meta
from zoo.core.optimizer import make_optimizer, set_rate
from zoo.core.predictor import Predictor
from zoo.core.run import log, open_folder, plain, truncate_logs
from zoo.core.transforms import Augment
from zoo.errors import InputError

SAMPLES = 4  # validation images drawn after each epoch


class Interrupted(Exception):
    """Ctrl-C or a termination signal: the run is saved and can be resumed."""


@dataclass
class Progress:
    """How far a run is.  epoch: finished ones; batch: those of the next epoch already trained on."""

    epoch: int = 0
    batch: int = 0
    step: int = 0  # optimizer steps of the run
    loss: float = 0.0  # sum over the steps of the unfinished epoch
    steps_in_epoch: int = 0
    best: float = -1.0
    best_epoch: int = 0


class Trainer:
    """Trains `config` in the run folder `out`; with `resume`, a checkpoint's content, goes on from there.

    The folder gets config.json, manifest.json, metrics.jsonl (values that repeat exactly), timing.jsonl
    (those that do not), last.pt, best.pt and samples/*.png.  Raises InputError for whatever the user can
    mend.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        display: Display,
        resume: checkpoint.Checkpoint | None = None,
    ):
        self.config, self.out, self.display = config, out, display
        self.logs = Loggers(config, out, display)
        self.device = resolve_device(config.device)
        self.train_source, self.val_source = open_run(config, display.reading)
        for warning in (*self.train_source.warnings, *self.val_source.warnings):
            display.warn(warning)
        self.labels = self.train_source.labels
        # what can be refused is built first, for the network may be a download
        self.criterion = losses.Criterion(config.loss or losses.default_loss(self.labels.task), self.labels)
        self.amp = resolve_amp(config.amp, self.device)
        margin = registry.margin(on_meta(config))
        augment = Augment(config.augment, config.size, margin, tile=margin > 0)
        if resume:  # from the file alone: nothing is downloaded again
            self.model, self.build = checkpoint.model_of(resume), resume.build
            self.normalised_by = "the run"
        else:
            self.model, self.build = network(
                config, self.labels.num_classes, self.train_source.channels, display.note
            )
            self.normalised_by = "weights" if registry.normalisation(self.model) else "data"
        self.aux_weights = cast(tuple[float, ...], self.model.aux_weights)
        self.preprocess = resume.preprocess if resume else self.choose_preprocess(augment.tile)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)
        self.optimizer = make_optimizer(self.model, config)
        self.loader = TrainLoader(
            TrainSet(
                self.train_source, augment, self.preprocess.channels, self.criterion.needs_weight, config.seed
            ),
            config.batch, config.workers, config.seed,
        )
        self.steps_per_epoch = -(-len(self.loader) // config.accumulate)
        self.progress = Progress()
        self.images = 0  # trained on since the last validation
        sources = self.train_source, self.val_source
        self.session = Session(out, config, sources, self.device, display.warn)
        self.interrupted = self.fetching = False
        if resume:
            self.restore(resume)

    # ------------------------------------------------------------------ the run

    def fit(self) -> None:
        """Train to the last epoch, validating and saving after each.  Raises Interrupted, InputError."""
        done = self.progress.step
        open_folder(self.out, self.config)
        self.display.begin(self.config.epochs, self.steps_per_epoch, done)
        try:
            with self.catch_signals(), self.session, self.logs.after(self.progress.epoch):
                if not done:
                    self.save("last.pt")  # a run killed in its first epoch, or that diverges there, can go on
                while self.progress.epoch < self.config.epochs and not self.out_of_patience():
                    began = time.monotonic()
                    loss = self.train_epoch()
                    trained = time.monotonic()
                    scores = self.evaluate()
                    self.finish_epoch(loss, scores, trained - began, time.monotonic() - trained)
        except (Interrupted, RuntimeError) as e:
            if not self.interrupted:
                raise
            if not (isinstance(e, Interrupted) or self.fetching):  # not between steps: no state to save
                raise
            self.save("last.pt")  # the signal may have taken a worker along
            raise Interrupted from e
        finally:
            self.display.end()

    def train_epoch(self) -> float:
        """The rest of the current epoch; returns its mean loss."""
        p, config = self.progress, self.config
        batches = self.loader.epoch(p.epoch, p.batch)
        self.model.train()
        while True:
            began = time.monotonic()
            self.fetching = True
            group = list(islice(batches, config.accumulate))
            self.fetching = False
            if not group:
                break
            loss = self.step(group)
            p.step, p.steps_in_epoch, p.batch = p.step + 1, p.steps_in_epoch + 1, p.batch + len(group)
            p.loss += loss
            images = sum(len(b.names) for b in group)
            self.images += images
            self.session.images += images
            speed = images / (time.monotonic() - began)
            self.display.step(p.epoch + 1, p.step, p.loss / p.steps_in_epoch, self.lr(p.step - 1), speed)
            if self.interrupted:
                raise Interrupted
        return p.loss / p.steps_in_epoch

    # ------------------------------------------------------------------ the training step

    def step(self, group: list[Batch]) -> float:
        """One optimizer step over `accumulate` batches; returns the loss.

        The loss's denominators (pixels, image-class pairs) are summed over the group first, so that the
        step equals that of one large batch.
        """
        inputs = [self.to_device(batch) for batch in group]
        denominators = torch.stack([self.criterion.denominators(target) for _, target in inputs]).sum(0)

        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for x, target in inputs:
            with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                output = self.model(x)
            part = losses.total(self.criterion, output, self.aux_weights, target, denominators)
            self.scaler.scale(part).backward()
            loss += part.detach()
        self.check_finite("loss", loss, group)

        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf)
        if not self.scaler.is_enabled():  # fp16's scaler skips the step and lowers its scale by itself
            self.check_finite("norm of the gradient", norm, group)
        set_rate(self.optimizer, self.lr(self.progress.step))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    # ------------------------------------------------------------------ its parts

    def to_device(self, batch: Batch) -> tuple[Tensor, losses.Target]:
        """The batch on the device: normalised images there, masks still as bits until `make_target`."""
        image = batch.image.to(self.device, non_blocking=True)
        x = self.preprocess.normalise(image).contiguous(memory_format=torch.channels_last)
        weight = None if batch.weight is None else batch.weight.to(self.device, non_blocking=True)
        return x, losses.make_target(batch.mask.to(self.device, non_blocking=True), self.labels, weight)

    def lr(self, step: int) -> float:
        """The learning rate at optimizer step `step` of the run."""
        total = self.config.epochs * self.steps_per_epoch
        warmup = round(self.config.warmup * self.steps_per_epoch)
        return self.config.lr * rate(step, total, warmup, self.config.schedule)

    def check_finite(self, what: str, value: Tensor, group: list[Batch]) -> None:
        """Stop before the optimizer spoils the weights."""
        if not torch.isfinite(value):
            names = ", ".join(name for batch in group for name in batch.names)
            step, epoch, last = self.progress.step, self.progress.epoch, self.out / "last.pt"
            raise InputError(
                f"the {what} is {value.item()} at step {step + 1} (learning rate {self.lr(step):.3g}, images "
                f"{names}). {last} is from before, after epoch {epoch}: look at these images, or start "
                f"anew from it with --weights {last} and a lower --lr or --amp off"
            )

    def evaluate(self) -> Scores:
        """Scores over the validation images, each at its label's own resolution; draws the first few."""
        predictor = Predictor(self.model.eval(), self.labels, self.preprocess, self.device, self.amp)
        scores, drawn = Scores(self.labels), []
        self.fetching = True  # validating changes nothing that is saved
        for i, sample in enumerate(whole_images(self.val_source, self.config.workers)):
            if self.interrupted:
                raise Interrupted
            mask = predictor(sample.image)
            scores.add(sample.name, count(mask, sample.mask, self.labels))
            if i < SAMPLES:
                drawn.append(pictures.panel(sample.image, sample.mask, mask, self.labels, sample.name))
        self.logs.draw(predictor, self.val_source)
        self.fetching = False
        path = self.out / "samples" / f"epoch_{self.progress.epoch + 1:04d}.png"
        pictures.write_png(path, pictures.grid(drawn, columns=1))
        return scores

    def finish_epoch(self, loss: float, scores: Scores, training_s: float, validation_s: float) -> None:
        """Log, then checkpoint: a kill in between repeats the epoch, see `truncate_logs`."""
        p = self.progress
        p.epoch, p.batch, p.loss, p.steps_in_epoch = p.epoch + 1, 0, 0.0, 0
        score = -1.0 if math.isnan(scores.score) else scores.score  # nan: no class is anywhere
        best = score > p.best or p.best_epoch == 0
        if best:
            p.best, p.best_epoch = score, p.epoch
        log(self.out / "metrics.jsonl", {
            "epoch": p.epoch, "step": p.step, "lr": self.lr(p.step - 1), "loss": loss,
            "val": scores.to_dict(),
        })
        log(self.out / "timing.jsonl", {
            "epoch": p.epoch, "training_s": round(training_s, 3), "validation_s": round(validation_s, 3),
            "images_per_s": round(self.images / training_s, 3),
        })
        self.logs.epoch(p.epoch, loss, self.lr(p.step - 1), self.images / training_s, scores)
        self.session.write()
        self.images = 0
        if best:
            self.save("best.pt")
        self.save("last.pt")
        self.display.validation(p.epoch, loss, scores, best)

    def out_of_patience(self) -> bool:
        """No better score for `patience` epochs."""
        p = self.progress
        return self.config.patience > 0 and p.epoch - p.best_epoch >= self.config.patience

    def describe(self, origins: dict[str, str]) -> list[tuple[str, str, str]]:
        """The resolved configuration as (name, value, where it came from), then what the data decided."""
        config = {**self.config.to_dict(), "loss": self.criterion.spec, "task": self.labels.task}
        rows = [(name, plain(value), origins.get(name, "default")) for name, value in config.items()]
        parameters = sum(p.numel() for p in self.model.parameters())
        precision = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.amp]
        return [
            *rows,
            ("classes", f"{self.labels.num_classes}: {', '.join(self.labels.names)}", "data"),
            ("images", f"{len(self.train_source)} to train, {len(self.val_source)} to validate", "data"),
            ("input", self.preprocess.describe(), self.normalised_by),
            ("parameters", f"{parameters:,}", "model"),
            ("runs on", f"{self.device}, {precision}", "machine"),
        ]

    def save(self, name: str) -> None:
        """The whole run as one file in the run folder."""
        state = checkpoint.Checkpoint(
            arch=self.config.arch, build=self.build, labels=self.labels, preprocess=self.preprocess,
            model=self.model.state_dict(), config=self.config.to_dict(),
            training={
                "progress": asdict(self.progress),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "rng": checkpoint.rng_state(),
                "data": fingerprint(self.train_source, self.val_source),
            },
        )
        checkpoint.write(self.out / name, state)

    def restore(self, state: checkpoint.Checkpoint) -> None:
        """Take up the run where `state` was saved."""
        if state.training["data"] != fingerprint(self.train_source, self.val_source):
            raise InputError(
                f"{self.config.data}: not the data this run was started with (other files or classes); "
                f"put them back, or start a new run with --weights {self.out / 'last.pt'}"
            )
        try:
            self.optimizer.load_state_dict(state.training["optimizer"])
        except ValueError as e:
            raise InputError(
                f"{self.out / 'last.pt'}: its optimizer steps other parameters than this version of zoo; "
                f"resume with the version that saved it, or start a new run with --weights "
                f"{self.out / 'last.pt'}"
            ) from e
        self.scaler.load_state_dict(state.training["scaler"])
        self.progress = Progress(**state.training["progress"])
        checkpoint.set_rng_state(state.training["rng"])
        truncate_logs(self.out, self.progress.epoch)

    def choose_preprocess(self, tile: bool) -> Preprocess:
        """The normalisation that belongs to the weights, else the training images' own."""
        channels: int = self.build["in_channels"]
        registry.check_size(self.model, self.config.size)
        mean, std = registry.normalisation(self.model) or statistics(self.train_source, channels)
        return Preprocess(channels, mean, std, self.config.size, tile)

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM: finish the step, save, stop; a second one stops at once."""

        def first(number: int, frame: object) -> None:
            self.interrupted = True
            signal.signal(number, signal.default_int_handler)
            with suppress(OSError, RuntimeError, SystemExit):  # a pipe may have gone with the same Ctrl-C
                self.display.note("stopping and saving after this step; once more stops at once")

        before = {n: signal.signal(n, first) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def fingerprint(*sources: Source) -> int:
    """A number that changes when the names of a source's samples, their order or its classes do."""
    words = [[s.labels.task, *s.labels.names, *(s.name(i) for i in range(len(s)))] for s in sources]
    return zlib.crc32(json.dumps(words).encode())
