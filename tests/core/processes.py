"""Several training processes on this machine, as torchrun starts them, and what each of them saw."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

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
sys.exit(main(sys.argv[1:]))
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(n: int, argv: list[str], seen: Path, code: str = "") -> list[subprocess.Popen]:
    """`n` processes of `python train.py argv`, talking over the loopback; one is a plain run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SEEN": str(seen)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(n)}
    runs = []
    for rank in range(n):
        ours = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if n > 1 else {}
        command = [sys.executable, "-c", WATCHED % code, *argv]
        pipe = subprocess.PIPE
        runs.append(
            subprocess.Popen(
                command, env=environment | ours, stdout=pipe, stderr=pipe, text=True, start_new_session=True
            )
        )
    return runs


def finish(runs: list[subprocess.Popen], seconds: float = 240) -> list[tuple[int, str, str]]:
    """(exit status, standard output, standard error) of each; none outlives the deadline."""
    deadline, ended = time.monotonic() + seconds, []
    try:
        for run in runs:
            out, err = run.communicate(timeout=max(1, deadline - time.monotonic()))
            ended.append((run.returncode, out, err))
    finally:
        for run in runs:
            if run.poll() is None:
                run.send_signal(signal.SIGKILL)
    return ended


def train(n: int, argv: list[str], seen: Path, code: str = "") -> list[tuple[int, str, str]]:
    """Start, wait, and see that all went well."""
    ended = finish(start(n, argv, seen, code))
    assert [status for status, _, _ in ended] == [0] * n, ended
    return ended


def steps(seen: Path, n: int) -> list[list[dict]]:
    """What each process wrote down."""
    paths = [seen.with_name(f"{seen.name}.{rank}") for rank in range(n)]
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
