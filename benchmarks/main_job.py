"""The first command of the README, timed: `python train.py --arch unetpp --ds` with no other flag.

Prints the mean Dice over the 29 bones on held-out phantoms beside what the mean mask of other hands scores
on hands, and the wall time.  Run it on a machine with nothing else to do: `python benchmarks/main_job.py`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from phantom import atlas_dice
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]


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
    at_half, at_best = atlas_dice(train=500, held_out=64, step=1)
    table.add_row("the mean mask of 500 others", f"{at_half:.4f}")
    table.add_row("  cut at each bone's best threshold", f"{at_best:.4f}")
    table.add_row(f"UNet++ after epoch {best['epoch']} of {len(lines)}", f"{best['val']['dice']:.4f}")
    console = Console()
    console.print(table)
    where = f"{os.cpu_count()} cores, torch {torch.__version__}"
    console.print(f"{seconds:.0f} s in all, validation and start included; {where}")


if __name__ == "__main__":
    main()
