"""The run folder: where it is, what is appended to it, and what of a configuration can be read in it."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import ClassVar, TextIO, cast

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from zoo.core import manifest
from zoo.core.config import TrainConfig
from zoo.core.files import read_json, write_bytes, write_json
from zoo.errors import InputError

STUDY = "study.json"  # in a folder of many runs, see zoo.core.tune


def choose_folder(out: Path | None, config: TrainConfig, end: str = "") -> Path:
    """`out` if it holds no run or study yet, else the first free of runs/ARCH-DATA, runs/ARCH-DATA-2, …

    end: what follows ARCH-DATA.
    """
    if out is not None:
        held = {"last.pt": "run", "metrics.jsonl": "run", STUDY: "study"}
        for what in (what for name, what in held.items() if (out / name).exists()):
            other = f"go on with --resume {out}, or choose another folder"
            raise InputError(f"--out {out}: holds a {what}; {other}")
        return out
    first = default_folder(config)
    first = first.with_name(first.name + end)
    numbered = (first.with_name(f"{first.name}-{n}") for n in count(2))
    return next(f for f in chain([first], numbered) if not f.exists())


def default_folder(config: TrainConfig) -> Path:
    """runs/ARCH-DATA."""
    kind, _, path = config.data.partition(":")
    json_file = path.partition("+")[0] if kind == "coco-polygons" else ""
    data = Path(json_file).stem if json_file else Path(path).resolve().name if path else kind
    return Path("runs") / f"{config.arch}-{data}"


def started_folder(out: Path | None, config: TrainConfig, launch: str | None) -> Path | None:
    """Where `launch` began and saved a run of `config`: `out`, or one of the folders of its name."""
    first = default_folder(config)
    numbered = [first, *first.parent.glob(f"{first.name}-[0-9]*")]
    for folder in [out] if out else numbered:
        with suppress(InputError, LookupError, TypeError, ValueError):  # no run, or a damaged one
            begun = TrainConfig.from_dict(cast(dict, read_json(folder / "config.json")))
            if replace(begun, batch=config.batch) != config:  # which --batch auto may have chosen
                continue
            last = cast(dict, read_json(folder / manifest.FILE))["sessions"][-1]
            if launch and last["launch"] == launch and (folder / "last.pt").exists():
                return folder
    return None


class Taken(InputError):
    """Another process holds the lock."""


class Lock:
    """While it is entered no other process can train in the folder `out`; None locks nothing.

    The lock is the process's, not its children's, and goes with it however it ends: workers that load data
    outlive a killed one by seconds.  name: the file's; locks of different names do not know each other.
    Raises Taken where somebody has it, InputError where the folder cannot be written to.
    """

    # what this process holds, and its words: such a lock does not keep itself out, and goes when the process
    # closes the file, were it only to read it
    held: ClassVar[dict[Path, str]] = {}

    def __init__(self, out: Path | None, name: str = ".lock") -> None:
        self.out, self.name = out, name
        self.file: TextIO | None = None

    def __enter__(self) -> "Lock":
        if self.out is None or fcntl is None:
            return self
        path = self.out.resolve() / self.name
        if path in self.held:
            raise self.taken(self.held[path])
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")
        except OSError as e:
            raise InputError(f"--out {self.out}: cannot write in it ({e.strerror}); choose another") from e
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            file.seek(0)
            who = file.read()
            file.close()
            raise self.taken(who) from e
        if not _is_at(file, path):  # its holder took the file away after we opened it: this lock keeps nobody
            file.close()
            return self.__enter__()
        file.truncate(0)
        self.held[path] = f"process {os.getpid()} on {socket.gethostname()}"
        file.write(self.held[path])
        file.flush()
        self.file = file
        return self

    def taken(self, who: str) -> Taken:
        """What to say where `who` has it."""
        who = who.strip() or "another process"
        return Taken(f"{self.out}: {who} trains in it; wait for it, or choose another --out")

    def __exit__(self, *_: object) -> None:
        if self.file is not None and self.out is not None:
            path = self.out.resolve() / self.name
            self.held.pop(path, None)
            path.unlink(missing_ok=True)
            self.file.close()


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether `path` still names the open `file`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def open_folder(out: Path, config: TrainConfig) -> None:
    """Make the run folder and write config.json.  Raises InputError where that cannot be."""
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out {out}: cannot make it ({e.strerror}); choose another") from e
    write_json(out / "config.json", config.to_dict())


@dataclass
class Clock:
    """Seconds since the last validation: waiting for data, computing; images trained on, by all processes."""

    waiting: float = 0.0
    computing: float = 0.0
    images: int = 0

    def tick(self, began: float, fetched: float, done: float, images: int) -> float:
        """Enter a step by its three moments; returns its seconds."""
        self.waiting, self.computing = self.waiting + fetched - began, self.computing + done - fetched
        self.images += images
        return done - began

    @property
    def seconds(self) -> float:
        """Of training."""
        return max(self.waiting + self.computing, 1e-6)

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    def to_dict(self, validation_s: float) -> dict[str, float]:
        """For timing.jsonl."""
        figures = {
            "training_s": self.seconds, "waiting_s": self.waiting, "computing_s": self.computing,
            "validation_s": validation_s, "images_per_s": self.speed,
        }
        return {key: round(value, 3) for key, value in figures.items()}


def log(path: Path, line: dict) -> None:
    """Append one JSON line; a torn one is cut off when the run is resumed.  Raises InputError."""
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        what = f"{path}: cannot write ({e.strerror})"
        raise InputError(f"{what}; free space, then go on with --resume {path.parent}") from e


def truncate_logs(out: Path, epoch: int) -> None:
    """Drop log lines of epochs after `epoch`: they will be written again.  A torn last line goes too."""
    for path in (out / "metrics.jsonl", out / "timing.jsonl"):
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            try:
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] <= epoch]
            except (ValueError, LookupError, TypeError) as e:
                raise InputError(f"{path}: a damaged line ({e}); mend or move the file, then resume") from e
            if kept != lines:
                write_bytes(path, "".join(kept).encode())

