"""Every architecture on CamVid with the same CPU time to train: what a budget buys.

    python benchmarks/camvid.py ROOT [NAME …] [--seconds 240] [--jobs 2]

ROOT holds train/, val/ and classes.txt (11 classes and void, which is ignored).  Prints one table.

Each architecture trains for --seconds of one core's time, loading included and validation apart: the speed
of its first steps decides how many images it sees, in epochs of equal length, and the schedule ends with the
last of them.  CPU time is counted, not the clock's, so that --jobs may train side by side, a core each.
Size, batch, rate, schedule, augmentation, loss and seed are the same for all, and so is the encoder where
it can be: ResNet-18, else the smallest HRNet or Mix Transformer.  Its weights are random.  Each image is
seen whole at 120x160, but by a network with a margin (`unet`) in windows at its own scale.  Options are those
of each architecture's `default` recipe.
"""

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.core.config import TrainConfig
from zoo.core.device import resolve_amp
from zoo.core.display import Display
from zoo.core.loader import whole_images
from zoo.core.metrics import Scores, mean
from zoo.core.predictor import Predictor
from zoo.core.recipes import resolve
from zoo.core.trainer import Trainer
from zoo.errors import InputError
from zoo.options import as_typed
from zoo.profile import macs

ENCODERS = ("resnet18", "hrnet_w18", "mit_b0")  # the first of these that an architecture takes
SAME = {
    "size": (120, 160), "batch": 4, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4,
    "schedule": "poly", "clip": 1.0, "augment": "flip", "loss": "ce+dice", "workers": 0,
}  # fmt: skip
WARMUP = 0.1  # of all steps
PROBED = 0.05  # of the budget, spent on measuring the speed
TIMED = 20  # images that inference is timed on
Result = TypeVar("Result")


class Silent(Trainer):
    """Validates after the last epoch alone; says nothing."""

    def __init__(self, config: TrainConfig, out: Path):
        super().__init__(config, out, Display(Console(quiet=True)))
        self.began = time.process_time()

    def evaluate(self) -> Scores:
        """The scores of the end; none before it, for no epoch is to be chosen."""
        if self.progress.epoch + 1 < self.config.epochs:
            return Scores(self.labels)
        self.seconds = time.process_time() - self.began
        self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.scores = super().evaluate()
        return self.scores


def configuration(name: str, root: str) -> TrainConfig:
    """What is the same for all, and the options that the architecture's own recipe sets."""
    known = zoo.describe(name).encoders
    encoder = {"encoder": next(e for e in ENCODERS if e in known)} if known else {}
    return resolve({"arch": name, "data": f"folder:{root}", **SAME, **encoder})[0]


def speed(config: TrainConfig, seconds: float) -> tuple[float, int]:
    """Images a second over the first steps but the very first, and the images there are."""
    with tempfile.TemporaryDirectory() as out:
        trainer = Silent(config, Path(out))
        trainer.model.train()
        seen, began = 0, 0.0
        for batch in trainer.loader.epoch(0):
            trainer.step([batch])
            if began:
                seen += len(batch.names)
            began = began or time.process_time()
            if seen and time.process_time() - began > PROBED * seconds:
                break
        return seen / (time.process_time() - began), len(trainer.train_source)


def train(config: TrainConfig) -> dict[str, float]:
    """Train to the last epoch, and what came of it."""
    with tempfile.TemporaryDirectory() as out:
        trainer = Silent(config, Path(out))
        trainer.fit()
        images = config.epochs * len(trainer.train_source)
        predictor = Predictor(trainer.model, trainer.labels, trainer.preprocess, trainer.device, trainer.amp)
        seen = [sample.image for sample in islice(whole_images(trainer.val_source, 0), TIMED)]
        predictor(seen[0])
        began = time.process_time()
        for image in seen:
            predictor(image)
        predicting = time.process_time() - began
        with torch.device("meta"):
            model = zoo.build(config.arch, **trainer.build)
        h, w = (side + 2 * predictor.margin for side in config.size)
        return {
            "images": images,
            "epochs": config.epochs,
            "seconds": trainer.seconds,
            "mIoU": mean(trainer.scores.pooled_iou()),
            "Dice": trainer.scores.score,
            "training": images / trainer.seconds,
            "inference": len(seen) / predicting,
            "parameters": sum(p.numel() for p in model.parameters()),
            "macs": macs(model, (h, w)),
            "peak": trainer.peak_mb,
        }


def alone(work: Callable[..., Result], *arguments: object) -> Result:
    """`work(*arguments)` on one thread of a process of its own, whose memory and CPU time are its alone."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as executor:
        return executor.submit(work, *arguments).result()


def measure(name: str, root: str, seconds: float) -> tuple[TrainConfig, dict[str, float]]:
    """Train on as many images as fit into the time, in the fewest epochs of equal length."""
    config = configuration(name, root)
    rate, images = alone(speed, config, seconds)
    epochs = math.ceil(rate * seconds / images)
    limit = max(1, int(rate * seconds / epochs))
    config = replace(config, epochs=epochs, warmup=WARMUP * epochs, limit_train=limit)
    return config, alone(train, config)


def main() -> None:
    """Train each architecture and print the table."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("root", metavar="ROOT", help="the CamVid folder")
    p.add_argument("names", metavar="NAME", nargs="*", help="architectures (default: all; one SegFormer)")
    p.add_argument("--seconds", type=float, default=240, help="of CPU time to train, each (default: 240)")
    p.add_argument("--jobs", type=int, default=1, help="architectures trained side by side (default: 1)")
    args = p.parse_args()
    precision = str(resolve_amp("auto", torch.device("cpu")) or "float32").removeprefix("torch.")
    table = Table(
        title=f"CamVid, {args.seconds:g} s of one core's time to train each, "
        f"{precision}, encoders from random weights, output 120x160 or the next size that is possible"
    )
    for column in (
        "name", "encoder", "options", "size", "images seen", "epochs", "seconds", "mIoU", "Dice",
        "images/s of a core, training", "inference", "parameters", "GMac", "peak MB",
    ):  # fmt: skip
        table.add_column(column, overflow="fold")
    console = Console(width=max(170, Console().width))
    names = args.names or [n for n in zoo.names() if not n.startswith("segformer") or n == "segformer_b0"]
    with ThreadPoolExecutor(args.jobs) as threads:
        rows = [(name, threads.submit(measure, name, args.root, args.seconds)) for name in names]
        for name, row in rows:
            try:
                config, r = row.result()
            except InputError as e:
                console.print(f"{name}: {e}", markup=False)
                continue
            console.print(f"{name}: mIoU {r['mIoU']:.3f} after {r['seconds']:.0f} s", highlight=False)
            table.add_row(
                name, config.encoder or "none", as_typed(config.options) or "none",
                "x".join(map(str, config.size)), f"{r['images']:.0f}", f"{r['epochs']:.0f}",
                f"{r['seconds']:.0f}", f"{r['mIoU']:.3f}", f"{r['Dice']:.3f}", f"{r['training']:.1f}",
                f"{r['inference']:.1f}", f"{r['parameters']:,.0f}",
                f"{r['macs'] / 1e9:.2f}", f"{r['peak']:.0f}",
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
