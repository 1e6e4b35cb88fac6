"""What a second process brings here, and what 8 and 64 GPUs would by reckoning.

    python benchmarks/scaling.py [--arch unet_halved --encoder resnet34 --size 256 --batch 4 --epochs 3]

Measured: `train.py` on one process with one thread, and under torchrun on two with one thread each, the same
batch, that is half of it each, and twice the batch.  Images a second are those of the best epoch but the
first.  "efficiency" is the speed of two divided by twice that of one.  Besides, two processes sum a tensor
of the gradients' size over the loopback, which gives the link's speed and with it a reckoned efficiency
beside the measured one.

Reckoned: a step of N processes takes compute + what of the all-reduce does not hide behind the backward pass.
A ring moves 2 (N-1)/N of the gradients' bytes through the slowest link; it hides behind two thirds of the
compute but for the last bucket, 1 MiB at first and 25 MiB later, in DistributedDataParallel.  The GPU's
compute is `--gpu-ms` where you have measured it (benchmarks/train_step.py), else three times the forward
pass's multiply-adds × 2 at a third of the peak of the GPU's bf16.  The links are their makers' figures,
reached to 80 %.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from train_step import CLASSES, write_images

import zoo
from zoo.profile import macs

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = 2 / 3  # the backward pass's part of a step
BUCKET = 25 * 2**20  # bytes that are exchanged at a time
REACHED = 0.8  # of a link's speed
PEAK, BUSY = 989e12, 1 / 3  # operations a second of an H100 in bf16, and how much of it such networks reach
LINKS = {  # bytes a second and direction for one GPU
    "one machine, NVLink 4": (8, 450e9),
    "one machine, PCIe 4.0 × 16": (8, 32e9),
    "8 machines, 400 Gbit/s InfiniBand a GPU": (64, 50e9),
    "8 machines, 100 Gbit/s Ethernet a machine": (64, 12.5e9 / 8),
}


def reckon(compute: float, size: float, link: float, n: int) -> float:
    """Seconds of a step of `n` processes that compute for so long and exchange `size` bytes."""
    exchange = 2 * (n - 1) / n * size / link
    last = min(size, BUCKET) / size * exchange  # is only ready when the backward pass is over
    return compute + last + max(0.0, exchange - last - HIDDEN * compute)


def launched(n: int, *words: str) -> str:
    """What a script of Python prints in `n` processes of one thread each."""
    command = [sys.executable]
    if n > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(n), "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", "127.0.0.1:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([*command, *words], env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    return ran.stdout


def images_per_s(n: int, flags: list[str], out: Path) -> float:
    """Of a run of train.py on `n` processes."""
    launched(n, str(ROOT / "train.py"), *flags, "--out", str(out))
    lines = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    return max(line["images_per_s"] for line in lines[1:])


def link_speed(size: int) -> float:
    """Bytes a second that go through each direction of the loopback when two processes sum `size` bytes."""
    return size / float(launched(2, __file__, "--sum", str(size)).split()[0])


def sum_bytes(size: int) -> None:
    """The two processes' part of `link_speed`: prints the median seconds of a sum."""
    dist.init_process_group("gloo")
    buckets = torch.ones(size // 4).split(BUCKET // 4)
    seconds = []
    for _ in range(7):
        dist.barrier()
        began = time.perf_counter()
        for bucket in buckets:
            dist.all_reduce(bucket)
        seconds.append(time.perf_counter() - began)
    if dist.get_rank() == 0:
        print(sorted(seconds)[len(seconds) // 2], flush=True)
    dist.destroy_process_group()


def here(flags: list[str], batch: int, size: int, root: Path) -> Table:
    """One and two processes on this machine."""
    link = link_speed(size)
    alone = images_per_s(1, [*flags, "--batch", str(batch)], root / "one")
    title = f"gradients {size / 1e6:.0f} MB, summed by two processes at {link / 1e6:.0f} MB/s"
    table = Table("", "batch", "images/s", "efficiency", "reckoned", title=title)
    table.add_row("1 process", str(batch), f"{alone:.2f}", "1", "1")
    for total in (batch, 2 * batch):
        two = images_per_s(2, [*flags, "--batch", str(total)], root / f"two{total}")
        compute = total / 2 / alone
        table.add_row(
            "2 processes", str(total), f"{two:.2f}", f"{two / alone / 2:.2f}",
            f"{compute / reckon(compute, size, link, 2):.2f}",
        )  # fmt: skip
    return table


def elsewhere(compute: float, size: int, batch: int) -> Table:
    """The estimate."""
    title = f"{batch} images a GPU take {compute * 1e3:.1f} ms alone; gradients {size / 1e6:.0f} MB"
    table = Table("", "GPUs", "ms a step", "images/s", "efficiency", title=title)
    for name, (n, link) in LINKS.items():
        step = reckon(compute, size, REACHED * link, n)
        table.add_row(name, str(n), f"{step * 1e3:.1f}", f"{n * batch / step:,.0f}", f"{compute / step:.2f}")
    return table


def main() -> None:
    """Parse, measure, reckon, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="unet_halved")
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--size", type=int, default=256, help="here")
    parser.add_argument("--batch", type=int, default=4, help="here, of one process")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--gpu-size", type=int, default=512)
    parser.add_argument("--gpu-batch", type=int, default=16, help="of each GPU")
    parser.add_argument("--gpu-ms", type=float, help="measured milliseconds of a step; default: by reckoning")
    parser.add_argument("--sum", type=int, help=argparse.SUPPRESS)  # the processes' own
    args = parser.parse_args()
    if args.sum:
        sum_bytes(args.sum)
        return
    model = zoo.build(args.arch, CLASSES, encoder=args.encoder)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    console = Console(width=max(110, Console().width))
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name) / "data", args.size, 6 * args.batch)
        flags = ["--data", f"folder:{Path(name) / 'data'}", "--arch", args.arch, "--encoder", args.encoder]
        flags += ["--size", str(args.size), "--epochs", str(args.epochs), "--loss", "ce", "--augment", "none"]
        flags += ["--amp", "off", "--device", "cpu", "--workers", "0", "--limit-val", "2"]
        console.print(here(flags, args.batch, size, Path(name)))
    operations = 3 * 2 * macs(model, args.gpu_size) * args.gpu_batch
    compute = args.gpu_ms / 1e3 if args.gpu_ms else operations / (PEAK * BUSY)
    console.print(elsewhere(compute, size, args.gpu_batch))


if __name__ == "__main__":
    main()
