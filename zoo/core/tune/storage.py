"""A study's files: what was asked for, the database, and the locks that tell who does what."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.core.config import TrainConfig, tuples
from zoo.core.files import read_json, write_json
from zoo.core.run import STUDY, Lock, Taken
from zoo.errors import InputError

if TYPE_CHECKING:
    from optuna import Study as Storage

DATABASE, NAME = "study.db", "tune"
STARTUP = 4  # finished trials before any is pruned: a median of fewer is luck
WARM = 1 / 4  # of the epochs, and no fewer than those of the rate's warm-up: nothing is pruned in them
BUSY = 60  # seconds to wait for another process's word to the database


@dataclass(frozen=True)
class Plan:
    """study.json.  trials: in all.  search: as typed.  seeds: further ones.  flags: TrainConfig fields."""

    trials: int
    search: list[str]
    seeds: int
    flags: dict = field(default_factory=dict)

    @classmethod
    def read(cls, out: Path) -> Plan:
        """The plan in the folder of a study.  Raises InputError."""
        path = out / STUDY
        try:
            held: dict = read_json(path)  # type: ignore[assignment]
            flags = {k: tuples(v) for k, v in held["flags"].items()}
            return cls(int(held["trials"]), list(held["search"]), int(held["seeds"]), flags)
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"{path}: no study that train.py wrote ({e}); choose another folder") from e

    def write(self, out: Path) -> None:
        """Whole or not at all.  Raises InputError."""
        write_json(out / STUDY, asdict(self))


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """While it is entered no other process chooses a task of the study in `out`."""
    lock = Lock(out, ".study")
    while True:
        try:
            lock.__enter__()
            break
        except Taken:
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.__exit__()


def database(out: Path, base: TrainConfig) -> Storage:
    """The study in SQLite, made if it is not there; call it `locked`."""
    import optuna

    url = f"sqlite:///{(out / DATABASE).resolve()}"
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY}})
        warm = max(math.ceil(base.warmup), math.ceil(WARM * base.epochs))
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=warm + 1)
        return optuna.create_study(
            storage=storage, study_name=NAME, direction="maximize", load_if_exists=True, pruner=pruner
        )
    except Exception as e:  # of SQLite, SQLAlchemy or Optuna: a damaged file, another version's, a full disk
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise InputError(f"{out / DATABASE}: cannot be opened: {reason}") from e


def claimed(folder: Path) -> Lock | None:
    """The lock of the task whose run is in `folder`, ours now; None where another process has it."""
    lock = Lock(folder, ".task")
    try:
        return lock.__enter__()
    except Taken:
        return None
