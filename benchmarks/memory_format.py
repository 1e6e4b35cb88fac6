"""Images and weights in channels-last memory, as the trainer has them, against contiguous.

    python benchmarks/memory_format.py [NAME …] [--size 256] [--pairs 5]

NAME is an architecture; by default all, each on its smallest encoder, of SegFormer B0.  Wall-clock medians
in milliseconds of float32, batch 2, 21 classes, on as many threads as torch takes (OMP_NUM_THREADS).  A
training step is forward, cross-entropy and backward.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from timing import in_turn
from torch import Tensor, nn

import zoo
from zoo.registry import legal_size, margin

ENCODERS = ("resnet18", "hrnet_w18", "mit_b0")  # the first of these that an architecture takes
CLASSES = 21


def small(name: str) -> nn.Module:
    """The network on its smallest encoder, or at a quarter of its width."""
    known = zoo.describe(name).encoders
    if known:
        return zoo.build(name, CLASSES, encoder=next(e for e in ENCODERS if e in known))
    return zoo.build(name, CLASSES, 3, width=16)


def job(model: nn.Module, image: Tensor, train: bool) -> None:
    """One forward pass, or one training step."""
    model.train(train)
    with torch.set_grad_enabled(train):
        output = model(image)
        if train:
            n, _, height, width = output.logits.shape
            target = torch.zeros(n, height, width, dtype=torch.long)
            sum(F.cross_entropy(logits, target) for logits in (output.logits, *output.aux)).backward()
            model.zero_grad(set_to_none=True)


def main(names: list[str], size: int, pairs: int) -> None:
    """Print the table."""
    table = Table(title=f"torch {torch.__version__}, {torch.get_num_threads()} threads, {pairs} pairs")
    for column in ("", "input", "contiguous ms", "channels-last ms", "channels-last is faster"):
        table.add_column(column, justify="right")
    for name in names:
        contiguous = small(name)
        last = small(name).to(memory_format=torch.channels_last)
        height, width = legal_size(contiguous, size)
        border = 2 * margin(contiguous)
        x = torch.randn(2, 3, height + border, width + border)
        y = x.contiguous(memory_format=torch.channels_last)
        for train in (False, True):
            a, b, ratio = in_turn(partial(job, contiguous, x, train), partial(job, last, y, train), pairs)
            what = f"{name} {'training step' if train else 'forward'}"
            table.add_row(
                what, f"2×{x.shape[2]}×{x.shape[3]}", f"{a * 1e3:.0f}", f"{b * 1e3:.0f}", f"{ratio:.2f}"
            )
    Console(width=max(110, Console().width)).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [n for n in zoo.names() if not n.startswith("segformer") or n == "segformer_b0"]
    parser.add_argument("names", nargs="*", metavar="NAME", default=every, help="architectures")
    parser.add_argument("--size", type=int, default=256, help="side of the output, or the next legal one")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    main(args.names, args.size, args.pairs)
