"""Several training processes on this machine, as torchrun starts them, and what each of them saw."""

import json
import os
import signal
import socket
import sys
import time
from multiprocessing import get_context, set_start_method
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

# train.py's main, with every step's loss and images written down, and whatever else a test wants to happen.
WATCHED = """
import json, os, signal, sys
from zoo.core.trainer import Trainer
step, rank = Trainer.step, os.environ.get("RANK", "0")
def watched(self, group):
    loss = step(self, group)
    with open(os.environ["SEEN"] + "." + rank, "a") as f:
        names = [name for batch in group for name in batch.names]
        f.write(json.dumps({"step": self.progress.step + 1, "loss": loss, "names": names}) + "\\n")
    return loss
Trainer.step = watched
%s
from train import main
from zoo.core.ranks import leave
leave(main(sys.argv[1:]))
"""
CONTEXT = get_context("forkserver")  # so that torch is imported once
CONTEXT.set_forkserver_preload(["train"])


class Run(NamedTuple):
    """A process, and the files that hold what it says."""

    process: ForkServerProcess
    out: Path
    err: Path


def child(code: str, argv: list[str], environment: dict[str, str], out: str, err: str) -> None:
    """Run `code` as a script with `argv`, in a session of its own."""
    os.setsid()
    for path, number in ((out, 1), (err, 2)):
        with open(path, "w") as f:
            os.dup2(f.fileno(), number)
    os.environ.update(environment)
    set_start_method("fork", force=True)  # for workers, as in a process that was not forked itself
    import torch

    torch.set_num_threads(1)
    sys.argv = ["train.py", *argv]
    exec(code, {"__name__": "__main__"})


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(n: int, argv: list[str], seen: Path, code: str = "") -> list[Run]:
    """`n` processes of `python train.py argv`, talking over the loopback; one is a plain run."""
    environment = {"SEEN": str(seen), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    runs = []
    for rank in range(n):
        ours = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)} if n > 1 else {}
        out, err = (seen.with_name(f"{seen.name}.{rank}.{what}") for what in ("out", "err"))
        words = (WATCHED % code, argv, environment | ours, str(out), str(err))
        process = CONTEXT.Process(target=child, args=words)
        process.start()
        runs.append(Run(process, out, err))
    return runs


def finish(runs: list[Run], seconds: float = 400) -> list[tuple[int | None, str, str]]:
    """(exit status, standard output, standard error) of each; none outlives the deadline."""
    deadline = time.monotonic() + seconds
    for run in runs:
        run.process.join(max(1, deadline - time.monotonic()))
    for run in runs:
        if run.process.is_alive():
            os.killpg(run.process.pid or 0, signal.SIGKILL)
    return [(run.process.exitcode, run.out.read_text(), run.err.read_text()) for run in runs]


def train(n: int, argv: list[str], seen: Path, code: str = "") -> list[tuple[int, str, str]]:
    """Start, wait, and see that all went well."""
    ended = finish(start(n, argv, seen, code))
    assert [status for status, _, _ in ended] == [0] * n, ended
    return ended


def steps(seen: Path, n: int) -> list[list[dict]]:
    """What each process wrote down."""
    paths = [seen.with_name(f"{seen.name}.{rank}") for rank in range(n)]
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
