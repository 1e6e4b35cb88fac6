"""`train.py --tune`, `--search` and `--seeds`: a study is begun, joined or gone on with."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from zoo.core import recipes, thresholds
from zoo.core.config import flag_name
from zoo.core.dataset import Source, open_run
from zoo.core.display import Display
from zoo.core.ranks import Agreed, Ranks
from zoo.core.recipes import RESUMABLE, resolve
from zoo.core.run import STUDY, choose_folder
from zoo.core.stop import Interrupted
from zoo.core.tune import space
from zoo.core.tune.storage import DATABASE, Plan, locked
from zoo.core.tune.study import Study
from zoo.errors import InputError

SEEDS = 3  # further ones, for each of the best few
STUDY_FLAGS = ("tune", "search", "seeds")
FIXED = ("epochs", "patience")  # a run may be resumed with others; trials could not be compared


class Asked(NamedTuple):
    """The flags of a study; None where not given."""

    trials: int | None
    search: list[str] | None
    seeds: int | None


def is_study(args: argparse.Namespace) -> bool:
    """Whether the command line is about a study: one of its flags, or the folder of one to go on with."""
    resumed = getattr(args, "resume", None)
    return any(hasattr(args, word) for word in STUDY_FLAGS) or (
        resumed is not None and (resumed / STUDY).exists()
    )


def tune(args: argparse.Namespace, flags: dict, display: Display, ranks: Ranks) -> None:
    """Do the study to its end.  flags: TrainConfig fields that were given.

    Raises InputError, and Interrupted with everything saved.
    """
    if ranks.size > 1:
        raise Agreed(
            "--tune under torchrun: one process trains a trial; start train.py without torchrun, as often as "
            "there are GPUs: the processes share the trials"
        )
    optuna = package()
    asked = Asked(*(getattr(args, word, None) for word in STUDY_FLAGS))
    check_words(flags, asked)
    out, resumed = getattr(args, "out", None), getattr(args, "resume", None)
    folder, sources = resumed or out, None
    if folder is None or not (folder / STUDY).exists():
        if resumed:
            raise InputError(f"--resume {resumed}: holds no study; begin one with --out")
        folder, sources = begin(flags, display, out, asked)
    study = join(folder, flags, display, asked, sources)
    display.note(
        f"study {folder}: {study.plan.trials} trials of {' '.join(study.plan.search)}; to join it with "
        f"another process: python train.py --resume {folder}"
    )
    try:
        study.work()
    except Interrupted:
        display.note(f"stopped and saved; go on with: python train.py --resume {folder}")
        raise
    except optuna.exceptions.StorageInternalError as e:
        reason = str(e.__cause__ or e).splitlines()[0]
        raise InputError(f"{folder / DATABASE}: {reason}; then go on with --resume {folder}") from e


def package() -> ModuleType:
    """Optuna, which then speaks of what is wrong alone.  Raises InputError where it is missing."""
    try:
        import optuna
    except ImportError as e:
        raise InputError("--tune: takes a package: pip install optuna") from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def check_words(flags: dict, asked: Asked) -> None:
    """Raise InputError for what no study can have."""
    trials, seeds = asked.trials, asked.seeds
    if trials is not None and trials < 1:
        raise InputError(f"--tune {trials}: must be at least 1 trial")
    if seeds is not None and (seeds < 0 or seeds == 1):
        raise InputError(f"--seeds {seeds}: must be 0 (off), or 2 or more: one has no spread")
    if flags.get("batch") == "auto":
        raise InputError("--batch auto: what fits may differ between trials and processes; give a number")


def begin(
    flags: dict, display: Display, out: Path | None, asked: Asked
) -> tuple[Path, tuple[Source, Source]]:
    """The folder and the data of a new study, or of one that another process began in it meanwhile."""
    if asked.trials is None:
        raise InputError("--search and --seeds: are for a study; say how many trials with --tune N")
    base, _ = resolve(flags)
    out = choose_folder(out, base, "-tune")
    sources = open_run(base, display.reading)
    labels = sources[0].labels
    found = space.parse(asked.search or [], base, labels)
    space.check(found, flags, labels)
    if base.fit_thresholds:
        thresholds.check(labels)
    plan = Plan(asked.trials, space.typed(found), SEEDS if asked.seeds is None else asked.seeds, flags)
    with locked(out):
        if not (out / STUDY).exists():
            plan.write(out)
    return out, sources


def join(
    out: Path, flags: dict, display: Display, asked: Asked, sources: tuple[Source, Source] | None
) -> Study:
    """The study in `out`, with what may differ between its processes.  Raises InputError for what may not."""
    plan = Plan.read(out)
    base, _ = resolve(plan.flags)
    for name in FIXED:
        if name in flags and flags[name] != getattr(base, name):
            then = getattr(base, name)
            raise InputError(f"--{flag_name(name)} {flags[name]}: the study in {out} was begun with {then}")
    recipes.resume(base, flags, str(out))
    own = {k: v for k, v in flags.items() if k in RESUMABLE}
    if asked.seeds not in (None, plan.seeds):
        raise InputError(f"--seeds {asked.seeds}: the study in {out} was begun with {plan.seeds}")
    sources = sources or open_run(base, display.reading)
    labels = sources[0].labels
    found = space.parse(plan.search, base, labels)
    if asked.search is not None and space.parse(asked.search, base, labels) != found:
        words = " ".join(plan.search)
        raise InputError(f"--search {' '.join(asked.search)}: the study in {out} was begun with {words}")
    if asked.trials is not None:
        plan = replace(plan, trials=asked.trials)
        with locked(out):
            plan.write(out)
    return Study(out, plan, {**plan.flags, **own}, found, sources, display)
