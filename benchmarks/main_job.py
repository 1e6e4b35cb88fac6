"""The first command of the README, timed: `python train.py --arch unetpp --ds` with no other flag.

Prints the mean Dice over the 29 bones on held-out phantoms beside what the training set's mean mask scores
there, and the wall time.  Run it on a machine with nothing else to do: `python benchmarks/main_job.py`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from zoo.core.dataset import open_data
from zoo.core.metrics import Scores, count

ROOT = Path(__file__).resolve().parents[1]


def mean_mask_dice() -> float:
    """Dice of the one mask that most training masks agree on, for each held-out phantom."""
    train, val = open_data("phantom")
    planes = np.zeros((train.labels.num_classes, *train.load(0).mask.shape), np.int32)
    for i in range(len(train)):
        mask = train.load(i).mask
        for k in range(len(planes)):
            planes[k] += (mask >> k) & 1
    atlas = np.zeros(planes.shape[1:], np.int32)
    for k, votes in enumerate(planes):
        atlas |= (2 * votes > len(train)).astype(np.int32) << k
    scores = Scores(val.labels)
    for i in range(len(val)):
        sample = val.load(i)
        scores.add(sample.name, count(atlas, sample.mask, val.labels))
    return scores.score


def main() -> None:
    """Train, then print the table."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), "--arch", "unetpp", "--ds"]
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True)
        seconds = time.perf_counter() - began
        lines = (Path(folder) / "runs" / "unetpp-phantom" / "metrics.jsonl").read_text().splitlines()
    best = max((json.loads(line) for line in lines), key=lambda line: line["val"]["dice"])
    table = Table(title="python train.py --arch unetpp --ds")
    for column in ("", "mean Dice, 29 bones, held-out phantoms"):
        table.add_column(column)
    table.add_row("the training set's mean mask", f"{mean_mask_dice():.4f}")
    table.add_row(f"UNet++ after epoch {best['epoch']} of {len(lines)}", f"{best['val']['score']:.4f}")
    console = Console()
    console.print(table)
    where = f"{os.cpu_count()} cores, torch {torch.__version__}"
    console.print(f"{seconds:.0f} s in all, validation and start included; {where}")


if __name__ == "__main__":
    main()
