"""Does a run that is killed at random instants end as if it had never been?

    python benchmarks/kills.py [--seeds 20] [--kills 4] [train.py's flags …]

A small run is trained once without a fault.  For each seed it is trained again in a folder of its own: its
process gets SIGKILL at random instants, also while it writes a checkpoint, which it does behind every step,
and is resumed with another number of workers, until it has been killed so often or is done.  Then every
tensor and number in last.pt and best.pt and every byte of metrics.jsonl must be the first run's.  Exits with
1 if one is not.

Ends of a kill: "between" the writing of files; "writing", which leaves a part of a file beside it; "nothing",
which is before the first checkpoint, so that the run begins again.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing import get_context, set_start_method
from pathlib import Path

import numpy as np
import torch
from train_step import write_images

RUN = (
    "--arch segformer_b0 --opt width=16 --size 32 --batch 4 --epochs 3 --save-every 1 --ema 0.9 "
    "--augment default --optimizer adamw --device cpu --amp off"
).split()
OTHER = {"workers"}  # settings that differ between the two runs


def run(argv: list[str], said: str, after: float | None) -> None:
    """The child: train.py with `argv`, killed so many seconds after it begins to open its data."""
    with open(said, "a") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    import train
    from zoo.core.trainer import Trainer

    set_start_method("fork", force=True)  # for its workers, which then see that it is gone
    torch.set_num_threads(1)
    make, began = Trainer.__init__, time.monotonic()

    def armed(self: Trainer, *args: object, **kwargs: object) -> None:
        nonlocal began
        began = time.monotonic()
        if after is not None:
            timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        make(self, *args, **kwargs)  # type: ignore[arg-type]

    Trainer.__init__ = armed  # type: ignore[method-assign]
    status = train.main(argv)
    Path(said).with_suffix(".seconds").write_text(str(time.monotonic() - began))
    sys.exit(status)


def train_once(argv: list[str], said: Path, after: float | None) -> int:
    """Its exit status, negative if it was killed."""
    process = CONTEXT.Process(target=run, args=(argv, str(said), after))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def same(a: object, b: object) -> bool:
    """Equal in type, keys and every number; tensors and arrays bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        alike = isinstance(b, dict) and a.keys() == b.keys()
        return alike and all(same(a[key], b[key]) for key in a.keys() - OTHER)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(np.all(a == b))


def differing(a: Path, b: Path) -> list[str]:
    """Files of two finished runs that are not the same."""
    wrong = []
    for name in ("last.pt", "best.pt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (a, b))
        if not same(one, other):
            wrong.append(name)
    if (a / "metrics.jsonl").read_bytes() != (b / "metrics.jsonl").read_bytes():
        wrong.append("metrics.jsonl")
    return wrong


def broken_run(flags: list[str], folder: Path, seed: int, kills: int, seconds: float) -> Counter[str]:
    """Train, kill, resume, until done in `folder`/run.  Returns how the kills found it."""
    draw, out, said, found = random.Random(seed), folder / "run", folder / "said.txt", Counter[str]()
    folder.mkdir()
    while True:
        argv = ["--resume", str(out)] if (out / "last.pt").exists() else [*flags, "--out", str(out)]
        argv += ["--workers", str(draw.randrange(3))]
        after = draw.uniform(0, seconds / 2) if found.total() < kills else None
        status = train_once(argv, said, after)
        if status == 0:
            return found
        if status != -signal.SIGKILL:
            sys.exit(f"seed {seed}: train.py {' '.join(argv)} ended with {status}:\n{said.read_text()}")
        parts = [path.name for path in out.glob("*") if path.suffix not in (".pt", ".jsonl", ".json", "")]
        known = (out / "last.pt").exists()
        found["writing" if known and parts else "between" if known else "nothing"] += 1


def main() -> int:
    """Parse, kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=4, help="of one run, at most")
    args, more = parser.parse_known_args()
    wrong, total = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "data", 40, 30)
        flags = ["--data", f"folder:{root / 'data'}", *RUN, *more]
        whole = root / "whole"
        status = train_once([*flags, "--out", str(whole)], root / "said.txt", None)
        if status:
            sys.exit((root / "said.txt").read_text())
        seconds = float((root / "said.seconds").read_text())
        print(f"the run takes {seconds:.1f} s", flush=True)
        for seed in range(args.seeds):
            found = broken_run(flags, root / str(seed), seed, args.kills, seconds)
            total += found
            bad = differing(whole, root / str(seed) / "run")
            wrong += bool(bad)
            ends = ", ".join(f"{count} {what}" for what, count in sorted(found.items())) or "none"
            print(f"seed {seed}: kills: {ends}; differing: {', '.join(bad) or 'nothing'}", flush=True)
    ends = ", ".join(f"{count} {what}" for what, count in sorted(total.items()))
    print(f"{args.seeds - wrong} of {args.seeds} runs are the same after {total.total()} kills ({ends})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    CONTEXT = get_context("forkserver")  # so that torch is imported once
    CONTEXT.set_forkserver_preload(["train"])
    sys.exit(main())
