"""Phantoms: what one costs, and what an atlas scores on them.

    python benchmarks/phantom.py                               the table
    python benchmarks/phantom.py --sheet assets/phantoms.png   and a contact sheet, as in the README

The atlas is the training set's mean mask over a threshold.  Its mean Dice on held-out phantoms is what can be
had without looking at the picture: at 0.5, and for the most that such a rule could reach, each bone at the
threshold that is best for it on the held-out set itself, both hands together and right hands alone.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from zoo.core.masks import unpack
from zoo.core.phantom import LABELS, draw

Dice = tuple[float, float]


def milliseconds(size: int, count: int) -> float:
    """Median processor time of one phantom, all of it, on one thread."""
    draw(0, 0, size)
    spent = []
    for i in range(count):
        began = time.process_time()
        draw(0, i, size)
        spent.append(time.process_time() - began)
    return 1e3 * float(np.median(spent))


def planes(seed: int, count: int, step: int, size: int = 256) -> np.ndarray:
    """bool (count / step, K, size, size)."""
    return np.stack([unpack(draw(seed, i, size).bits, LABELS.num_classes) for i in range(0, count, step)])


def atlas_dice(train: int, held_out: int, step: int) -> Dice:
    """(at 0.5, at the best threshold of each bone); step 2 leaves the left hands out."""
    mean = np.zeros((LABELS.num_classes, 256, 256), np.float32)
    for i in range(0, train, step):
        mean += unpack(draw(0, i, 256).bits, LABELS.num_classes)
    mean /= len(range(0, train, step))
    truth = planes(1, held_out, step)

    def score(threshold: float) -> np.ndarray:
        atlas = mean > threshold
        total = truth.sum((2, 3)) + atlas.sum((1, 2))
        return (2 * (truth & atlas).sum((2, 3)) / total).mean(0)

    best = np.max([score(t) for t in np.arange(0.05, 0.9, 0.05)], axis=0)
    return float(score(0.5).mean()), float(best.mean())


def sheet(columns: int, tile: int, seed: int) -> np.ndarray:
    """RGB: radiographs, the same ones with their bones in colour, and more radiographs."""
    colours = np.array(LABELS.colours, dtype=np.float32)
    plain, painted = [], []
    for i in range(2 * columns):
        phantom = draw(seed, i, 2 * tile)
        grey = np.repeat(phantom.image[..., None], 3, axis=2).astype(np.float32)
        mask = unpack(phantom.bits, LABELS.num_classes)
        number = mask.sum(0)[..., None]
        paint = np.tensordot(mask.astype(np.float32), colours, axes=(0, 0)) / np.maximum(number, 1)
        plain.append(grey)
        painted.append(np.where(number > 0, 0.5 * grey + 0.5 * paint, grey))
    rows = (plain[:columns], painted[:columns], plain[columns:])
    large = np.vstack([np.hstack(row) for row in rows])
    return cv2.resize(large, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).round().astype(np.uint8)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description="What phantoms cost, and what an atlas scores on them.")
    parser.add_argument("--count", type=int, default=100, help="phantoms timed (100)")
    parser.add_argument("--train", type=int, default=600, help="phantoms in the atlas (600)")
    parser.add_argument("--held-out", type=int, default=100, help="phantoms that it is tried on (100)")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet to this PNG")
    parser.add_argument("--seed", type=int, default=2, help="of the contact sheet (2)")
    options = parser.parse_args()
    cv2.setNumThreads(1)

    if options.sheet:
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        picture = sheet(columns=5, tile=210, seed=options.seed)
        cv2.imwrite(str(options.sheet), picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    table = Table(title="phantoms")
    table.add_column("")
    table.add_column("", justify="right")
    for size, count in ((256, options.count), (512, options.count), (2048, max(options.count // 10, 3))):
        cost = milliseconds(size, count)
        table.add_row(f"ms of one core a phantom, {size}x{size}, median of {count}", f"{cost:.1f}")
    for step, hands in ((1, "both hands"), (2, "right hands alone")):
        half, best = atlas_dice(options.train, options.held_out, step)
        table.add_row(f"mean Dice of the mean mask over 0.5, {hands}", f"{half:.3f}")
        table.add_row(f"  at each bone's best threshold, {hands}", f"{best:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
