"""Every architecture on CamVid with the same time to train: what a CPU budget buys.

    python benchmarks/camvid.py ROOT [NAME …] [--seconds 150]

ROOT holds train/, val/ and classes.txt (11 classes and void, which is ignored).  Prints one table.

Each architecture trains for --seconds of wall time, validation apart: the speed of its first steps decides
how many images it sees, in epochs of equal length, and the schedule ends with the last of them.  Size, batch,
rate, schedule, augmentation, loss and seed are the same for all, and so is the encoder where one can be
chosen; its weights are random.  Each image is seen whole at 120x160, but by a network with a margin (`unet`)
in windows at its own scale.  Options are those of each architecture's `default` recipe.
"""

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.core.config import TrainConfig, as_typed
from zoo.core.device import resolve_amp
from zoo.core.display import Display
from zoo.core.loader import whole_images
from zoo.core.metrics import Scores, mean
from zoo.core.predictor import Predictor
from zoo.core.recipes import resolve
from zoo.core.trainer import Trainer
from zoo.errors import InputError
from zoo.profile import macs

ENCODER = "resnet18"
SAME = {
    "size": (120, 160), "batch": 4, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4,
    "schedule": "poly", "clip": 1.0, "augment": "flip", "loss": "ce+dice", "workers": 1,
}  # fmt: skip
WARMUP = 0.1  # of all steps
PROBED = 0.05  # of the budget, spent on measuring the speed
TIMED = 20  # images that inference is timed on
Result = TypeVar("Result")


class Silent(Trainer):
    """Validates after the last epoch alone; says nothing."""

    def __init__(self, config: TrainConfig, out: Path):
        super().__init__(config, out, Display(Console(quiet=True)))
        self.began = time.monotonic()

    def evaluate(self) -> Scores:
        """The scores of the end; none before it, for no epoch is to be chosen."""
        if self.progress.epoch + 1 < self.config.epochs:
            return Scores(self.labels)
        self.seconds = time.monotonic() - self.began
        self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.scores = super().evaluate()
        return self.scores


def configuration(name: str, root: str) -> TrainConfig:
    """What is the same for all, and the options that the architecture's own recipe sets."""
    encoder = {"encoder": ENCODER} if ENCODER in zoo.describe(name).encoders else {}
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
            began = began or time.monotonic()
            if seen and time.monotonic() - began > PROBED * seconds:
                break
        return seen / (time.monotonic() - began), len(trainer.train_source)


def train(config: TrainConfig) -> dict[str, float]:
    """Train to the last epoch, and what came of it."""
    with tempfile.TemporaryDirectory() as out:
        trainer = Silent(config, Path(out))
        trainer.fit()
        images = config.epochs * len(trainer.train_source)
        predictor = Predictor(trainer.model, trainer.labels, trainer.preprocess, trainer.device, trainer.amp)
        seen = [sample.image for sample in islice(whole_images(trainer.val_source, 0), TIMED)]
        predictor(seen[0])
        began = time.monotonic()
        for image in seen:
            predictor(image)
        predicting = time.monotonic() - began
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
    """`work(*arguments)` in a process of its own, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
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
    p.add_argument("names", metavar="NAME", nargs="*", help="architectures (default: all)")
    p.add_argument("--seconds", type=float, default=150, help="of training, each (default: 150)")
    args = p.parse_args()
    precision = str(resolve_amp("auto", torch.device("cpu")) or "float32").removeprefix("torch.")
    table = Table(
        title=f"CamVid, {args.seconds:g} s of training each on {torch.get_num_threads()} threads, "
        f"{precision}, encoders from random weights, output 120x160 or the next size that is possible"
    )
    for column in (
        "name", "encoder", "options", "size", "images seen", "epochs", "seconds", "mIoU", "Dice",
        "images/s training", "images/s inference", "parameters", "GMac", "peak MB",
    ):  # fmt: skip
        table.add_column(column, overflow="fold")
    console = Console(width=max(170, Console().width))
    for name in args.names or zoo.names():
        try:
            config, r = measure(name, args.root, args.seconds)
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
