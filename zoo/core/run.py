"""The run folder: where it is, what is appended to it, and what of a configuration can be read in it."""

import json
import os
import socket
from itertools import chain, count
from pathlib import Path
from typing import ClassVar, TextIO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from zoo.core.config import TrainConfig
from zoo.core.files import write_bytes, write_json
from zoo.errors import InputError
from zoo.options import as_typed


def choose_folder(out: Path | None, config: TrainConfig) -> Path:
    """`out` if it holds no run yet, else the first free of runs/ARCH-DATA, runs/ARCH-DATA-2, …"""
    if out is not None:
        if (out / "last.pt").exists() or (out / "metrics.jsonl").exists():
            raise InputError(f"--out {out}: holds a run; go on with --resume {out}, or choose another folder")
        return out
    first = default_folder(config)
    numbered = (first.with_name(f"{first.name}-{n}") for n in count(2))
    return next(f for f in chain([first], numbered) if not f.exists())


def default_folder(config: TrainConfig) -> Path:
    """runs/ARCH-DATA."""
    kind, _, path = config.data.partition(":")
    json_file = path.partition("+")[0] if kind == "coco-polygons" else ""
    data = Path(json_file).stem if json_file else Path(path).resolve().name if path else kind
    return Path("runs") / f"{config.arch}-{data}"


def started_folder(out: Path | None, config: TrainConfig) -> Path | None:
    """Where a run of exactly `config` was begun and saved: `out`, or the newest folder of its name."""
    first = default_folder(config)
    newest = sorted(first.parent.glob(f"{first.name}*"), key=lambda f: f.stat().st_mtime, reverse=True)
    for folder in [out] if out else newest:
        try:
            begun = TrainConfig.from_dict(json.loads((folder / "config.json").read_text()))
        except (OSError, ValueError):
            continue
        if begun == config and (folder / "last.pt").exists():
            return folder
    return None


class Lock:
    """While it is entered no other process can train in the folder `out`; None locks nothing.

    The lock is the process's, not its children's, and goes with it however it ends: workers that load data
    outlive a killed one by seconds.  Raises InputError where somebody has it.
    """

    # what this process holds, and its words: such a lock does not keep itself out, and goes when the process
    # closes the file, were it only to read it
    held: ClassVar[dict[Path, str]] = {}

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self.file: TextIO | None = None

    def __enter__(self) -> "Lock":
        if self.out is None or fcntl is None:
            return self
        path = self.out.resolve() / ".lock"
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
        file.truncate(0)
        self.held[path] = f"process {os.getpid()} on {socket.gethostname()}"
        file.write(self.held[path])
        file.flush()
        self.file = file
        return self

    def taken(self, who: str) -> InputError:
        """What to say where `who` has it."""
        who = who.strip() or "another process"
        return InputError(f"{self.out}: {who} trains in it; wait for it, or choose another --out")

    def __exit__(self, *_: object) -> None:
        if self.file is not None and self.out is not None:
            path = self.out.resolve() / ".lock"
            self.held.pop(path, None)
            path.unlink(missing_ok=True)
            self.file.close()


def open_folder(out: Path, config: TrainConfig) -> None:
    """Make the run folder and write config.json.  Raises InputError where that cannot be."""
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out {out}: cannot make it ({e.strerror}); choose another") from e
    write_json(out / "config.json", config.to_dict())


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
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] <= epoch]
            if kept != lines:
                write_bytes(path, "".join(kept).encode())


def plain(value: object) -> str:
    """A setting as one would type it."""
    if isinstance(value, dict):
        return as_typed(value) or "none"
    if isinstance(value, tuple):
        return " ".join(str(v) for v in value) or "none"
    return "none" if value is None else str(value)
