"""Is a network as near to one observer as two observers are to each other?

    python benchmarks/observers.py runs/NAME/best.pt folder:MANDIBLE

On the run's own validation images, drawn by a second observer in `masks_observer2/` beside `masks/`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from zoo.core import checkpoint
from zoo.core.config import TrainConfig
from zoo.core.dataset import open_run
from zoo.core.images import read_values
from zoo.core.metrics import Scores, count
from zoo.core.predictor import Predictor


def main(path: str, data: str) -> None:
    """Print mean, deviation and minimum of Dice for the three pairs."""
    config = TrainConfig.from_dict(checkpoint.read(path).config)
    _, val = open_run(replace(config, data=data))
    predictor = Predictor.from_checkpoint(path)
    pairs = ("network, observer 1", "network, observer 2", "observer 1, observer 2")
    scores = {pair: Scores(val.labels) for pair in pairs}
    for i in range(len(val)):
        sample = val.load(i)
        second = Path(data.partition(":")[2]) / "masks_observer2" / f"{Path(sample.name).stem}.png"
        other = (read_values(second) == val.labels.index[1]).astype(sample.mask.dtype)
        mask = predictor(sample.image)
        both = ((mask, sample.mask), (mask, other), (sample.mask, other))
        for pair, (a, b) in zip(pairs, both, strict=True):
            scores[pair].add(sample.name, count(a, b, val.labels))
    table = Table(title=f"Dice on {len(val)} validation images")
    for column in ("", "mean", "deviation", "minimum"):
        table.add_column(column)
    for pair, s in scores.items():
        overlap, a, b = s.counts[:, 0].T
        dice = 2 * overlap / (a + b)
        table.add_row(pair, f"{dice.mean():.4f}", f"{dice.std():.4f}", f"{dice.min():.4f}")
    Console().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
