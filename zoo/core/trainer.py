"""The one training loop, for every architecture, on one process or several.

`Trainer.fit` is the table of contents.  All that must survive a kill is in `Progress`, the weights, their
average, the optimizer and the generators; `zoo.core.saving` writes it, `Trainer(..., resume=…)` takes it up
at the same batch.  Of several processes each does the same at the same time with its share of the images;
lines on which they differ or exchange something have `self.ranks` in them.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from zoo import registry
from zoo.core import checkpoint, content, finite, losses, mix, pictures
from zoo.core.cache import Cached, cached
from zoo.core.config import Preprocess, TrainConfig, rate
from zoo.core.dataset import Source, open_run
from zoo.core.device import resolve_amp, resolve_device
from zoo.core.display import Display
from zoo.core.ema import Average
from zoo.core.fit import does_not_fit, too_large
from zoo.core.loader import Batch, TrainLoader, TrainSet, dead_worker, statistics
from zoo.core.loggers import Loggers
from zoo.core.manifest import Session
from zoo.core.metrics import Scores
from zoo.core.network import network, on_meta, ready, training_mode
from zoo.core.optimizer import make_optimizer, set_rate
from zoo.core.predictor import Predictor
from zoo.core.ranks import ALONE, Agreed, Parallel, Ranks, lost, whole
from zoo.core.run import Clock, Lock, log, open_folder, truncate_logs
from zoo.core.saving import restore, save
from zoo.core.stop import Interrupted, Stop
from zoo.core.transforms import Augment
from zoo.core.validation import Found, gathered, score
from zoo.dropout import draw_by_sample
from zoo.errors import InputError
from zoo.layers import Output


@dataclass
class Progress:
    """How far a run is.  epoch: finished ones; batch: those of the next epoch already trained on."""

    epoch: int = 0
    batch: int = 0
    step: int = 0  # optimizer steps of the run, those that were left out too
    loss: float = 0.0  # sum over the steps of the unfinished epoch
    steps_in_epoch: int = 0  # summed in it
    best: float = -1.0
    best_epoch: int = 0
    bad: int = 0  # images of the unfinished epoch that could not be read

    @property
    def mean_loss(self) -> float:
        """Of the unfinished epoch's steps that had something to learn from; 0 if none had."""
        return self.loss / max(self.steps_in_epoch, 1)


class Trainer:
    """Trains `config` in the run folder `out`; with `resume`, a checkpoint's content, goes on from there.

    The folder gets config.json, manifest.json, metrics.jsonl (values that repeat exactly), timing.jsonl
    (those that do not), last.pt, best.pt and samples/*.png, by the first of `ranks` alone.
    sources: training and validation data, where they are open already.
    Raises InputError for whatever the user can mend.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        display: Display,
        resume: checkpoint.Checkpoint | None = None,
        ranks: Ranks = ALONE,
        sources: tuple[Source, Source] | None = None,
    ):
        self.config, self.out, self.display, self.ranks = config, out, display, ranks
        self.mix = mix.Mix(config.mix)
        self.mix.check(config.batch, ranks.size)
        writes = out if ranks.chief else None
        self.logs = Loggers(config, writes, display)
        self.device = resolve_device(config.device, ranks.local)
        turns = ranks.in_turn if config.download else ranks.together
        opened = sources or turns(lambda: open_run(config, display.reading))
        self.contents = ranks.first(
            ranks.together(lambda: [content.describe(s) for s in opened] if ranks.chief else [])
        )
        self.train_source, self.val_source = opened
        for warning in (*self.train_source.warnings, *self.val_source.warnings):
            display.warn(warning)
        self.labels = self.train_source.labels
        # what can be refused is built first, for the network may be a download
        self.criterion = losses.Criterion(config.loss, self.labels)
        self.amp = resolve_amp(config.amp, self.device)
        margin = registry.margin(on_meta(config))
        augment = Augment(config.augment, config.size, margin, tile=margin > 0)
        self.build_model(resume)
        self.preprocess = resume.preprocess if resume else self.choose_preprocess(augment.tile)
        self.average = Average(self.model, config.ema)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)
        self.optimizer = make_optimizer(self.model, config)
        channels, weighted = self.preprocess.channels, self.criterion.needs_weight
        source = self.train_source
        if config.cache:
            source, self.val_source = cached(config, opened, self.contents)
        self.loader = TrainLoader(
            TrainSet(source, augment, channels, weighted, config.seed),
            config.batch, config.workers, config.seed, ranks, bool(self.mix),
        )
        self.steps_per_epoch = -(-len(self.loader) // config.accumulate)
        self.progress, self.clock, self.stop = Progress(), Clock(), Stop(display.note)
        self.session = Session(writes, config, self.contents, self.device, display.warn)
        self.idle = False  # between steps, where stopping loses nothing
        if resume:
            restore(self, resume)

    def build_model(self, resume: checkpoint.Checkpoint | None) -> None:
        """The network on its device, as all processes train it."""
        config = self.config
        if resume:  # from the file alone: nothing is downloaded again
            self.model, self.build = checkpoint.model_of(resume), resume.build
            self.normalised_by = "the run"
        else:
            channels = self.train_source.channels
            turns = self.ranks.in_turn if config.pretrained or config.weights else self.ranks.together
            classes, note = self.labels.num_classes, self.display.note
            self.model, self.build = turns(lambda: network(config, classes, channels, note))
            self.normalised_by = "weights" if registry.normalisation(self.model) else "data"
        self.aux_weights = cast(tuple[float, ...], self.model.aux_weights)
        self.layout = ready(self.model, config, self.device)
        if config.compile:
            self.model.compile()
        self.parallel = Parallel(self.model, self.ranks, self.device, config.shard, config.sync_bn)
        self.model = self.parallel.model

    # ------------------------------------------------------------------ the run

    def fit(self) -> None:
        """Train to the last epoch, validating and saving after each.  Raises Interrupted, InputError."""
        done = self.progress.step
        with ExitStack() as opened, self.stop:
            self.ranks.together(lambda: self.open(opened))
            self.train(done)

    def open(self, opened: ExitStack) -> None:
        """The run folder for us alone, its logs as they were at this point of the run."""
        if self.ranks.chief:
            opened.enter_context(Lock(self.out))
            open_folder(self.out, self.config)
            content.write(self.out, self.contents)
            truncate_logs(self.out, self.progress.epoch)  # not before the lock is ours
        opened.enter_context(self.session)
        opened.enter_context(self.logs.after(self.progress.epoch))

    def train(self, done: int) -> None:
        """What is left after `done` steps."""
        self.display.begin(self.config.epochs, self.steps_per_epoch, done)
        try:
            if not done:
                save(self, "last.pt")  # a run killed or diverging in its first epoch can go on
            while self.progress.epoch < self.config.epochs and not self.out_of_patience():
                loss = self.train_epoch()
                began = time.monotonic()
                scores = self.evaluate()
                self.finish_epoch(loss, scores, time.monotonic() - began)
            if isinstance(self.val_source, Cached):
                self.display.note(f"cache: {self.val_source.cache}")
        except (Interrupted, RuntimeError) as e:
            self.give_up(e)
        finally:
            self.display.end()

    def train_epoch(self) -> float:
        """The rest of the current epoch; returns its mean loss."""
        p, config = self.progress, self.config
        batches = self.loader.epoch(p.epoch, p.batch)
        training_mode(self.model, config)
        began = time.monotonic()
        while group := self.fetch(batches):
            fetched = time.monotonic()
            if self.mix and not p.step:
                self.ranks.alone(lambda: self.draw_mixed(group[0]))
            if (loss := self.step(group)) is not None:
                p.loss, p.steps_in_epoch = p.loss + loss, p.steps_in_epoch + 1
            p.step, p.batch = p.step + 1, p.batch + len(group)
            images = config.batch * len(group)
            images -= max(0, p.batch * config.batch - len(self.train_source))  # the last batch may be smaller
            self.session.images += images
            speed = images / self.clock.tick(began, fetched, time.monotonic(), images)
            began = time.monotonic()
            self.display.step(p.epoch + 1, p.step, p.mean_loss, self.lr(p.step - 1), speed)
            if config.save_every and p.step % config.save_every == 0:
                save(self, "last.pt")
            if self.stop.asked and self.ranks.size == 1:
                raise Interrupted
        return p.mean_loss

    def fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        """Our part of the next step; [] at the end.  All processes stop here when one of them must."""
        problem, group = "", list[Batch]()
        self.idle = True
        try:
            group = list(islice(batches, self.config.accumulate))
        except RuntimeError as e:
            if not (problem := dead_worker(e)):  # a fault of the program
                raise
        self.agree(problem, [wrong for batch in group for wrong in batch.bad])
        self.idle = False
        return group

    # ------------------------------------------------------------------ the training step

    def step(self, group: list[Batch]) -> float | None:
        """One optimizer step over `accumulate` batches; returns the loss.

        The loss's denominators (pixels, image-class pairs) are summed over the group and the processes
        first, so that the step equals that of one large batch.  Where nothing counts, because no image could
        be read or all pixels are to be ignored, there is no step: decay and momentum alone would be one.
        """
        inputs = [self.to_device(batch) for batch in group]
        counts = [bool(batch.names) for batch in group]  # a ghost does not
        shares = [self.criterion.denominators(t) * c for (_, t), c in zip(inputs, counts, strict=True)]
        denominators = self.ranks.sum(torch.stack(shares).sum(0))
        if not denominators.any():
            return None

        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for i, (batch, (x, target)) in enumerate(zip(group, inputs, strict=True), 1):
            if not self.config.compile:  # a compiled network draws from the run's own generator
                draw_by_sample(self.model, batch.seeds, self.device)
            with self.parallel.step(last=i == len(group)):
                with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                    output: Output = self.parallel(x)
                part = losses.total(self.criterion, output, self.aux_weights, target, denominators)
                part = part * counts[i - 1]
                self.scaler.scale(self.parallel.summed(part)).backward()
            loss += part.detach()
        loss = self.ranks.sum(loss)
        self.check_finite("loss", loss, group)

        self.scaler.unscale_(self.optimizer)
        weights = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in weights])  # type: ignore[misc]
        # fp16's scaler skips such a step and lowers its scale by itself, to a point
        if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
            self.check_finite("norm of the gradient", cast(Tensor, whole(norm)), group)
        if self.config.clip:
            nn.utils.clip_grads_with_norm_(weights, self.config.clip, norm)
        set_rate(self.optimizer, self.lr(self.progress.step))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update()
        return loss.item()

    # ------------------------------------------------------------------ its parts

    def to_device(self, batch: Batch) -> tuple[Tensor, losses.Target]:
        """The batch on the device: normalised and mixed there, masks still as bits until `make_target`."""
        tensors = (batch.image, batch.mask, batch.weight)
        image, mask, weight = (t if t is None else t.to(self.device, non_blocking=True) for t in tensors)
        assert image is not None
        assert mask is not None
        x, target = self.mix(self.preprocess.normalise(image), mask, weight, batch, self.labels)
        return x.contiguous(memory_format=self.layout), target

    def lr(self, step: int) -> float:
        """The learning rate at optimizer step `step` of the run."""
        total = self.config.epochs * self.steps_per_epoch
        warmup = round(self.config.warmup * self.steps_per_epoch)
        return self.config.lr * rate(step, total, warmup, self.config.schedule)

    def check_finite(self, what: str, value: Tensor, group: list[Batch]) -> None:
        """Stop before the optimizer spoils the weights."""
        if not torch.isfinite(value):  # in all processes, for it is a sum over them
            raise finite.NotFinite(finite.explain(self, what, value.item(), group))

    def agree(self, problem: str = "", bad: Sequence[str] = ()) -> None:
        """Raise in all processes what one of them has to raise: a problem, or the wish to stop.

        bad: what is wrong with images that are left out, which is a problem from one more than --max-bad on.
        """
        told = self.ranks.gather((problem, self.stop.asked, bad))
        wrong = [what for *_, share in told for what in share]
        problems = [what for what, *_ in told if what]
        problems += wrong[max(0, self.config.max_bad - self.progress.bad) :]
        if any(asked for _, asked, _ in told) and (problems or self.ranks.size > 1):
            self.stop.asked = True  # whose signal may have been the problem
            raise Interrupted
        if problems:
            save(self, "last.pt")  # between two steps, so that none has to be repeated
            raise Agreed(f"{problems[0]}; then go on with --resume {self.out}")
        for what in wrong:
            self.display.warn(f"left out: {what}")
        self.progress.bad += len(wrong)
        self.session.images -= len(wrong)

    @torch.no_grad()
    def evaluate(self) -> Scores:
        """Scores over the validation images, each at its label's own resolution; draws the first few.

        Each process takes every n-th image; all of them know the scores of all.
        """
        problem, found = "", list[Found]()
        self.idle = True  # validating changes nothing that is saved
        try:
            with self.average.swapped(), self.parallel.apart() as model:
                predictor = Predictor(model, self.labels, self.preprocess, self.device, self.amp, ready=True)
                predictor.layout = self.layout
                for one in score(predictor, self.val_source, self.config.workers, self.ranks):
                    if self.stop.asked and self.ranks.size == 1:
                        raise Interrupted
                    found.append(one)
                if self.ranks.chief:
                    self.logs.draw(predictor, self.val_source)
        except InputError as e:
            problem = str(e)
        except RuntimeError as e:
            too_large = "an image does not fit into memory while validating" if does_not_fit(e) else ""
            if not (problem := dead_worker(e) or too_large):
                raise
        self.agree(problem)
        scores, panels = gathered(found, self.labels, self.ranks)
        path = self.out / "samples" / f"epoch_{self.progress.epoch + 1:04d}.png"
        self.ranks.alone(lambda: pictures.write_png(path, pictures.grid(panels, columns=1)))
        self.idle = False
        return scores

    def finish_epoch(self, loss: float, scores: Scores, validation_s: float) -> None:
        """Log, then checkpoint: a kill in between repeats the epoch, see `truncate_logs`."""
        p = self.progress
        p.epoch, p.batch, p.loss, p.steps_in_epoch, p.bad = p.epoch + 1, 0, 0.0, 0, 0
        score = -1.0 if math.isnan(scores.score) else scores.score  # nan: no class is anywhere
        best = score > p.best or p.best_epoch == 0
        if best:
            p.best, p.best_epoch = score, p.epoch
        self.ranks.alone(lambda: self.write_down(loss, scores, validation_s))
        if best:
            save(self, "best.pt")
        save(self, "last.pt")
        self.display.validation(p.epoch, loss, scores, best)
        self.display.waited(self.clock.waiting, self.clock.computing)
        self.clock = Clock()

    def draw_mixed(self, batch: Batch) -> None:
        """samples/mixed.png: whether masks are mixed as their images are."""
        x, target = self.to_device(batch)
        shown = mix.picture(x, target, self.preprocess, self.labels)
        pictures.write_png(self.out / "samples" / "mixed.png", shown)

    def write_down(self, loss: float, scores: Scores, validation_s: float) -> None:
        """The lines and pictures of the epoch that has ended."""
        p, lr = self.progress, self.lr(self.progress.step - 1)
        log(self.out / "metrics.jsonl", {
            "epoch": p.epoch, "step": p.step, "lr": lr, "loss": loss, "val": scores.to_dict(),
        })
        log(self.out / "timing.jsonl", {
            "epoch": p.epoch, **self.clock.to_dict(validation_s), "processes": self.ranks.size,
        })
        self.logs.epoch(p.epoch, loss, lr, self.clock.speed, scores)
        self.session.write()

    def out_of_patience(self) -> bool:
        """No better score for `patience` epochs."""
        p = self.progress
        return self.config.patience > 0 and p.epoch - p.best_epoch >= self.config.patience

    def give_up(self, e: Interrupted | RuntimeError) -> None:
        """Save what can be saved and raise what people can read; a bug keeps its trace."""
        if isinstance(e, RuntimeError) and self.ranks.size > 1 and lost(e):
            where = f"process {self.ranks.rank} of {self.ranks.size} lost the others"
            raise InputError(
                f"{where} at step {self.progress.step + 1} ({str(e).splitlines()[0][:120]}); "
                f"{self.out / 'last.pt'} is whole: go on with --resume {self.out}"
            ) from e
        if isinstance(e, RuntimeError) and does_not_fit(e):
            raise InputError(too_large(self, e)) from e
        if isinstance(e, RuntimeError) and (what := dead_worker(e)):  # said in the middle of a step
            raise InputError(f"{what}; then go on with --resume {self.out}") from e
        if self.stop.asked and (isinstance(e, Interrupted) or self.idle):
            save(self, "last.pt")
            raise Interrupted from e
        raise e

    def choose_preprocess(self, tile: bool) -> Preprocess:
        """The normalisation that belongs to the weights, else the training images' own."""
        channels: int = self.build["in_channels"]
        registry.check_size(self.model, self.config.size)
        mean, std = registry.normalisation(self.model) or statistics(self.train_source, channels)
        return Preprocess(channels, mean, std, self.config.size, tile)
