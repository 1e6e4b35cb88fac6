"""One process's part in a study: task after task, until none is left."""

from __future__ import annotations

import gc
import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo.core import checkpoint, exclude, thresholds
from zoo.core.dataset import Source
from zoo.core.display import Display
from zoo.core.finite import NotFinite
from zoo.core.fit import does_not_fit
from zoo.core.flags import words
from zoo.core.metrics import Scores
from zoo.core.mix import Mix
from zoo.core.plot import read_run
from zoo.core.recipes import resolve
from zoo.core.run import Lock
from zoo.core.trainer import Trainer
from zoo.core.tune import findings, space
from zoo.core.tune.findings import Findings, Row, Setting
from zoo.core.tune.space import Space, Value
from zoo.core.tune.storage import Plan, claimed, database, locked
from zoo.errors import InputError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

ENDED = ("COMPLETE", "PRUNED")
EXCLUDED = "exclude.txt"
FEW = 3
SECONDS = 0.5  # between two looks for a task, while other processes have them all


class Pruned(Exception):
    """The trial is not worth its other epochs."""


@dataclass
class Task:
    """What a process does next: `trial`; where that is None, the settings of trial `number` with `seed`."""

    number: int
    seed: int
    folder: Path
    lock: Lock
    values: dict[str, Value]
    trial: Trial | None = None

    def __str__(self) -> str:
        return f"trial {self.number}" if self.trial else seed_key(self.number, self.seed)


class Watched(Trainer):
    """A trainer that hands itself to `watch` after each epoch, which may end the run by an exception."""

    watch: Callable[[Trainer], None] | None = None

    def finish_epoch(self, loss: float, scores: Scores, validation_s: float) -> None:
        super().finish_epoch(loss, scores, validation_s)
        if self.watch:
            self.watch(self)


class Brief(Display):
    """One line an epoch, and a warning once, however many trials have it."""

    def __init__(self, display: Display, who: str, warned: set[str]):
        super().__init__(display.console)
        self.who, self.warned = who, warned

    def warn(self, text: str) -> None:
        if text not in self.warned:
            super().warn(text)
        self.warned.add(text)

    def validation(self, epoch: int, loss: float, scores: Scores, best: bool) -> None:
        mark = "  (best so far)" if best else ""
        self.note(f"{self.who}  epoch {epoch}/{self.epochs}  loss {loss:.4f}  Dice {scores.score:.4f}{mark}")

    def waited(self, waiting: float, computing: float) -> None:
        pass


class Study:
    """One process's part in the study in `out`.

    flags: those of every trial but for what is `searched`.  sources: the data with the study's own seed.
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        flags: dict,
        searched: Space,
        sources: tuple[Source, Source],
        display: Display,
    ):
        self.out, self.plan, self.flags, self.space, self.display = out, plan, flags, searched, display
        self.base, _ = resolve(flags)
        self.sources, self.labels = sources, sources[0].labels
        self.warned: set[str] = set()
        with locked(out):
            self.storage = database(out, self.base)

    def work(self) -> None:
        """Task after task until none is left; then the report."""
        while task := self.next():
            try:
                self.display.note(f"{task}: {space.said(task.values)}")
                if task.trial:
                    self.search(task, task.trial)
                else:
                    self.repeat(task)
                with locked(self.out):
                    self.tidy()
            finally:
                task.lock.__exit__()
            gc.collect()  # a trainer has cycles; its memory on the GPU is the next one's
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.report()

    def next(self) -> Task | None:
        """A task that nobody works on, once there is one; None when all are done."""
        said = False
        while True:
            with locked(self.out):
                task, others = self.find()
            if task or not others:
                return task
            if not said:
                self.display.note(f"waiting for {' and '.join(others)}, which other processes train")
            said = True
            time.sleep(SECONDS)

    def find(self) -> tuple[Task | None, list[str]]:
        """A task that nobody works on, or None and those that others work on; call it `locked`."""
        self.plan = Plan.read(self.out)
        others: list[str] = []
        for number in [t.number for t in self.trials() if t.state.name == "RUNNING"]:
            if lock := claimed(self.run_folder(number)):
                if self.trials()[number].state.name == "RUNNING":
                    return self.asked(number, lock), []
                lock.__exit__()  # finished between the two looks
            else:
                others.append(f"trial {number}")
        begun = [t for t in self.trials() if t.state.name != "WAITING"]
        if len(begun) < self.plan.trials:
            return self.asked(None, None), []
        if others:
            return None, others
        for t in self.few():
            for seed in self.seeds:
                folder, key = self.seed_folder(t.number, seed), seed_key(t.number, seed)
                if key in self.storage.user_attrs:
                    continue
                if lock := claimed(folder):
                    if key not in self.storage.user_attrs:
                        return Task(t.number, seed, folder, lock, self.values(t)), []
                    lock.__exit__()
                else:
                    others.append(key)
        return None, others

    def asked(self, number: int | None, lock: Lock | None) -> Task:
        """Trial `number`, or a new one, with its settings; what a kill left undrawn of them is drawn now."""
        from optuna.samplers import TPESampler
        from optuna.trial import Trial

        known = self.trials()
        if not known and (start := space.given(self.space, self.base, self.labels)):
            self.storage.enqueue_trial(start, user_attrs={"given": True})
            known = self.trials()
        drawn = np.random.SeedSequence((self.base.seed, len(known) if number is None else number))
        self.storage.sampler = TPESampler(seed=int(drawn.generate_state(1)[0]))
        trial = self.storage.ask() if number is None else Trial(self.storage, known[number]._trial_id)
        values, folder = self.values(trial), self.run_folder(trial.number)
        lock = lock or claimed(folder)
        assert lock is not None  # nobody could know of the trial yet
        return Task(trial.number, self.base.seed, folder, lock, values, trial)

    # ------------------------------------------------------------ a task

    def search(self, task: Task, trial: Trial) -> None:
        """Train a trial, and tell the database how it ended."""
        ended = [t for t in self.trials() if t.state.name in ENDED]
        if twin := next((t for t in ended if self.values(t) == task.values), None):
            told = self.trials()[trial.number].intermediate_values
            for epoch, dice in twin.intermediate_values.items():
                if epoch not in told:
                    trial.report(dice, epoch)
            score = twin.value if twin.state.name == "COMPLETE" else None
            return self.end(trial, score, f"the settings of trial {twin.number}, not trained again")
        try:
            score, why = self.train(task, lambda trainer: self.watch(trainer, trial))
        except Pruned as e:
            score, why = None, str(e)
        self.end(trial, score, why)

    def end(self, trial: Trial, score: float | None, why: str) -> None:
        """Its score, or None for one that was pruned or could not be."""
        from optuna.trial import TrialState

        if why:
            trial.set_user_attr("why", why)
        if score is None:
            self.storage.tell(trial, state=TrialState.PRUNED)
        else:
            self.storage.tell(trial, score)
        ended = "pruned" if score is None else f"best Dice {score:.4f}"
        self.display.note(f"trial {trial.number}: {ended}" + (f": {why}" if why else ""))

    def repeat(self, task: Task) -> None:
        """Train a trial's settings with another seed; one that cannot be trained scores 0."""
        score, why = self.train(task)
        self.storage.set_user_attr(str(task), {"dice": score or 0.0, "why": why})
        self.display.note(f"{task}: best Dice {score or 0.0:.4f}" + (f": {why}" if why else ""))

    def train(self, task: Task, watch: Callable[[Trainer], None] | None = None) -> tuple[float | None, str]:
        """The run's best Dice; None and the reason where its settings cannot be trained.

        watch: called after each epoch.  Raises Interrupted, and InputError for what is no fault of theirs.
        """
        flags = {**space.applied(self.flags, self.space, task.values), "seed": task.seed}
        try:
            config, _ = resolve(flags)
            Mix(config.mix).check(config.batch, 1)
        except InputError as e:
            return None, str(e)
        last = task.folder / "last.pt"
        state = checkpoint.read(last) if last.exists() else None
        sources = self.sources if task.seed == self.base.seed else None
        try:
            display = Brief(self.display, str(task), self.warned)
            trainer = Watched(config, task.folder, display, state, sources=sources)
            trainer.watch = watch
            if watch and trainer.progress.epoch:
                watch(trainer)  # the process before may have been killed before it could
            trainer.fit()
            if config.fit_thresholds:
                thresholds.fit(trainer)
        except InputError as e:
            cause = e.__cause__
            if isinstance(e, NotFinite) or (isinstance(cause, RuntimeError) and does_not_fit(cause)):
                return None, str(e)
            raise InputError(f"{task} ({space.said(task.values)}): {e}") from e
        return trainer.progress.best, ""

    def watch(self, trainer: Trainer, trial: Trial) -> None:
        """Tell the database of the epochs that it does not know; raises Pruned."""
        told, run = self.trials()[trial.number].intermediate_values, read_run(trainer.out)
        for epoch, dice in zip(run.epochs, run.dice, strict=True):
            if epoch <= trainer.progress.epoch and epoch not in told:
                trial.report(-1.0 if math.isnan(dice) else dice, epoch)
        ends = trainer.progress.epoch >= trainer.config.epochs or trainer.out_of_patience()
        if not ends and trial.should_prune():
            at, best = trainer.progress.epoch, trainer.progress.best
            raise Pruned(f"after epoch {at} its best Dice {best:.4f} is below the median of the others")

    def tidy(self) -> None:
        """Take away checkpoints that nobody will go on from; call it `locked`."""
        kept = {t.number for t in self.few()}
        for t in self.trials():
            if t.state.name in ENDED:
                _clear(self.run_folder(t.number), t.number in kept)
            for seed in self.seeds if t.number in kept else ():
                if seed_key(t.number, seed) in self.storage.user_attrs:
                    _clear(self.seed_folder(t.number, seed), True)

    # ------------------------------------------------------------ what is known

    @property
    def seeds(self) -> list[int]:
        """The further ones."""
        return [(self.base.seed + i) % 2**32 for i in range(1, self.plan.seeds + 1)]

    def run_folder(self, number: int) -> Path:
        """Of a trial."""
        return self.out / "trials" / f"{number:04d}"

    def seed_folder(self, number: int, seed: int) -> Path:
        """Of a trial's settings with another seed."""
        return self.out / "seeds" / f"{number:04d}-{seed}"

    def trials(self) -> list[FrozenTrial]:
        """As the database has them now."""
        return self.storage.get_trials(deepcopy=False)

    def values(self, trial: Trial | FrozenTrial) -> dict[str, Value]:
        """Its settings."""
        drawn = {name: dim.suggest(trial, name) for name, dim in self.space.items()}
        return (trial.user_attrs.get("given") and space.given(self.space, self.base, self.labels)) or drawn

    def few(self) -> list[FrozenTrial]:
        """The best few of different settings, the best first, and that with the flags' own."""
        ended = [t for t in self.trials() if t.state.name == "COMPLETE"]
        best: list[FrozenTrial] = []
        for t in sorted(ended, key=lambda t: (-_score(t), t.number)):
            if all(self.values(t) != self.values(other) for other in best):
                best.append(t)
        return [t for i, t in enumerate(best) if i < FEW or t.user_attrs.get("given")]

    # ------------------------------------------------------------ what came of it

    def report(self) -> None:
        """Print what came of the study, and write it into its folder."""
        found = self.findings()
        with locked(self.out):
            if names := self.base.exclude:
                exclude.write(self.out / EXCLUDED, [(name, "not trained on") for name in names])
            findings.write(self.out, found)
        findings.say(self.display.console, found, self.out)

    def findings(self) -> Findings:
        """All of it."""
        states = {"COMPLETE": "finished", "PRUNED": "pruned"}
        rows = [
            Row(t.number, states[t.state.name], t.value if t.state.name == "COMPLETE" else None,
                len(t.intermediate_values), self.values(t), t.user_attrs.get("why", ""))
            for t in self.trials() if t.state.name in ENDED
        ]  # fmt: skip
        scores = self.storage.user_attrs
        settings = [
            Setting(t.number, self.values(t), _score(t),
                    {s: scores[seed_key(t.number, s)]["dice"] for s in self.seeds}, "given" in t.user_attrs)
            for t in self.few()
        ]  # fmt: skip
        settings.sort(key=lambda setting: -setting.mean)
        command = self.command(settings[0]) if settings else ""
        return Findings(rows, settings, self.importance(), command)

    def importance(self) -> dict[str, float]:
        """The share of each setting, the largest first; {} where no two finished trials differ in score."""
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        if len({_score(t) for t in self.trials() if t.state.name == "COMPLETE"}) < 2:
            return {}
        found = get_param_importances(self.storage, evaluator=PedAnovaImportanceEvaluator())
        return {name: float(share) for name, share in found.items() if math.isfinite(share)}

    def command(self, setting: Setting) -> str:
        """What trains with these settings, as one types it."""
        flags = space.applied(self.flags, self.space, setting.values)
        return shlex.join(["python", "train.py", *words(flags, self.out / EXCLUDED)])


def seed_key(number: int, seed: int) -> str:
    """What the database calls the score of a trial's settings with another seed."""
    return f"trial {number}, seed {seed}"


def _clear(folder: Path, keep_best: bool) -> None:
    """Take the checkpoints of a finished run away, what a kill left half-written included."""
    for path in folder.glob("*.pt*"):
        if path.name != "best.pt" or not keep_best:
            path.unlink(missing_ok=True)


def _score(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
