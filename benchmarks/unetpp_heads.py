"""What each depth of a deeply supervised UNet++ gives: python benchmarks/unetpp_heads.py CHECKPOINT

Rows are the pruned networks L1 to L4, the mean of the heads' logits (what the network returns in eval) and
the mean of their probabilities (the papers' "accurate mode"), on the checkpoint's own validation images.
"""

import sys
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from zoo.core import checkpoint
from zoo.core.config import TrainConfig
from zoo.core.dataset import open_run
from zoo.core.metrics import Scores, count
from zoo.core.predictor import Predictor
from zoo.profile import macs


class MeanOfProbabilities(nn.Module):
    """The papers' accurate mode, as logits again: each level's probabilities, averaged."""

    def __init__(self, levels: list[nn.Module], multiclass: bool) -> None:
        super().__init__()
        self.levels, self.multiclass = nn.ModuleList(levels), multiclass

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([level(x) for level in self.levels])  # (L, N, K, H, W)
        return logits.softmax(2).mean(0).log() if self.multiclass else logits.sigmoid().mean(0).logit(1e-7)


def main(path: str) -> None:
    """Print the table."""
    state = checkpoint.read(path)
    config = TrainConfig.from_dict(state.config)
    model = checkpoint.model_of(state)
    _, val = open_run(config)
    samples = [val.load(i) for i in range(len(val))]

    levels = [model.prune(level) for level in range(1, model.level + 1)]
    rows = {f"L{level.level}": level for level in levels}
    rows["mean of logits"] = model
    rows["mean of probabilities"] = MeanOfProbabilities(levels, val.labels.task == "multiclass")
    masks: dict[str, list] = {}
    size = "×".join(map(str, config.size))
    table = Table(caption=f"{len(samples)} images at {size}, torch {torch.__version__}")
    for column in ("", "parameters", "MACs", "ms an image", "mean Dice", "pixels unlike the mean of logits"):
        table.add_column(column, justify="right")
    for name, network in rows.items():
        predict = Predictor(network, val.labels, state.preprocess)
        predict(samples[0].image)
        began = time.perf_counter()
        masks[name] = [predict(sample.image) for sample in samples]
        rows[name] = (network, (time.perf_counter() - began) / len(samples))
    for name, (network, seconds) in rows.items():
        scores = Scores(val.labels)
        for sample, mask in zip(samples, masks[name], strict=True):
            scores.add(sample.name, count(mask, sample.mask, val.labels))
        unlike = [float((a != b).mean()) for a, b in zip(masks[name], masks["mean of logits"], strict=True)]
        own = not isinstance(network, MeanOfProbabilities)
        table.add_row(
            name,
            f"{sum(p.numel() for p in network.parameters()):,}" if own else "",
            f"{macs(network, config.size) / 1e9:.2f} G" if own else "",
            f"{seconds * 1000:.0f}" if own else "",
            f"{scores.score:.4f}",
            f"{100 * sum(unlike) / len(unlike):.3f} %",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
