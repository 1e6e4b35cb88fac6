"""The run folder: where it is, what is appended to it, and what of a configuration can be read in it."""

import json
import os
from itertools import chain, count
from pathlib import Path

from zoo.core.checkpoint import write_bytes
from zoo.core.config import TrainConfig
from zoo.errors import InputError
from zoo.options import as_typed


def choose_folder(out: Path | None, config: TrainConfig) -> Path:
    """`out` if it holds no run yet, else the first free of runs/ARCH-DATA, runs/ARCH-DATA-2, …"""
    if out is not None:
        if (out / "last.pt").exists() or (out / "metrics.jsonl").exists():
            raise InputError(f"--out {out}: holds a run; go on with --resume {out}, or choose another folder")
        return out
    kind, _, path = config.data.partition(":")
    json_file = path.partition("+")[0] if kind == "coco-polygons" else ""
    data = Path(json_file).stem if json_file else Path(path).resolve().name if path else kind
    first = Path("runs") / f"{config.arch}-{data}"
    numbered = (first.with_name(f"{first.name}-{n}") for n in count(2))
    return next(f for f in chain([first], numbered) if not f.exists())


def open_folder(out: Path, config: TrainConfig) -> None:
    """Make the run folder and write config.json.  Raises InputError where that cannot be."""
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out {out}: cannot make it ({e.strerror}); choose another") from e
    text = json.dumps(config.to_dict(), indent=1) + "\n"
    write_bytes(out / "config.json", text.encode())


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
