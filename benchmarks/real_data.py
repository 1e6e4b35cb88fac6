"""Five real sets, each trained for a few minutes on two cores, as README's table quotes them.

    python benchmarks/real_data.py ROOT [NAME …]

ROOT holds the folders isbi2012, dsb2018, chest, mandible and camvid.  Prints the validation Dice of the
first and of the best epoch, and the wall time of train.py in all.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
RUNS = {
    "isbi2012": "--arch unet --recipe paper --data folder:{} --opt width=16 --size 180 --epochs 70",
    "dsb2018": "--arch unetpp --ds --data folder:{} --size 128 --epochs 18",
    "chest": "--arch unetpp --ds --data handbone:{} --size 128 --batch 4 --epochs 50 "
    "--augment rotate+scale+shift+grey",
    "mandible": "--arch unetpp --ds --data folder:{} --size 96x192 --epochs 15",
    "camvid": "--arch unetpp --ds --data folder:{} --size 120x160 --batch 4 --epochs 6",
}


def main(root: str, *names: str) -> None:
    """Train each set and print the table."""
    table = Table()
    for column in ("set", "train.py", "first epoch", "best epoch", "pooled IoU there", "seconds"):
        table.add_column(column, overflow="fold")
    for name in names or tuple(RUNS):
        flags = RUNS[name].format(Path(root) / name)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            began = time.perf_counter()
            subprocess.run([sys.executable, str(TRAIN), *flags.split(), "--out", str(out)], check=True)
            seconds = time.perf_counter() - began
            lines = [json.loads(line)["val"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        best = max(lines, key=lambda val: val["dice"])
        figures = (f"{v:.4f}" for v in (lines[0]["dice"], best["dice"], best["pooled_iou"]))
        table.add_row(name, flags, *figures, f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
