"""Is a head's quicker order of computing quicker, and equal?

    python benchmarks/literal.py [NAME] [--encoder ENCODER] [--size 512] [--pairs 7] [--no-train]

NAME is an architecture with the option `literal`.  Both forms hold the same weights.  They run in turns, so
that other work on the machine slows both: read the ratio, which is the median over pairs of runs.  A training
step is forward and backward for one image.
"""

import argparse
import sys
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from timing import in_turn
from torch import Tensor, nn

import zoo
from zoo.profile import macs
from zoo.registry import default_encoder

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def forms(name: str, encoder: str, x: Tensor) -> list[nn.Module]:
    """The quicker form and the literal one, with the same weights and the statistics of `x`."""
    torch.manual_seed(0)
    quick, literal = (zoo.build(name, encoder=encoder, literal=literal) for literal in (False, True))
    norms = [module for module in quick.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # fresh statistics let values grow from layer to layer
        norm.momentum = 1.0
    with torch.no_grad():
        quick.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    literal.load_state_dict(quick.state_dict())
    return [quick, literal]


def run(model: nn.Module, x: Tensor) -> None:
    """One forward pass; in train mode a backward pass, too."""
    if model.training:
        output = model(x)
        sum(t.square().mean() for t in (output.logits, *output.aux)).backward()
    else:
        with torch.inference_mode():
            model(x)


def main(name: str, encoder: str, size: int, pairs: int, train: bool) -> None:
    """Print the table."""
    x = torch.randn(1, 3, size, size)
    both = forms(name, encoder, x)
    with torch.inference_mode():
        logits = [model.eval()(x) for model in both]
    apart = ((logits[0] - logits[1]).abs().max() / (logits[1].max() - logits[1].min())).item()
    counts = [macs(model, size) / 1e9 for model in both]
    said = f"{name} over {encoder}, 1×3×{size}×{size}, "
    said += f"threads: {torch.get_num_threads()}, torch {torch.__version__}"
    said += f"; multiply-adds {counts[0]:.3f} and {counts[1]:.3f} billion; apart by {apart:.1e} of the range"
    table = Table(caption=said)
    for column in ("", "memory", "ours, ms", "literal, ms", "ours / literal"):
        table.add_column(column, justify="right")
    for training in (False, True) if train else (False,):
        for memory, form in FORMATS.items():
            models = [model.train(training).to(memory_format=form) for model in both]
            image = x.contiguous(memory_format=form)
            here, there, ratio = in_turn(*(partial(run, model, image) for model in models), pairs)
            what = "training step" if training else "forward"
            table.add_row(what, memory, f"{1000 * here:.0f}", f"{1000 * there:.0f}", f"{ratio:.2f}")
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", default="hrnet_ocr", help="architecture with the option `literal`")
    parser.add_argument("--encoder", help="its default where none is given")
    parser.add_argument("--size", type=int, default=512, help="side of the square image, pixels")
    parser.add_argument("--pairs", type=int, default=7, help="timed runs of each form")
    parser.add_argument("--no-train", action="store_true", help="forward passes only")
    args = parser.parse_args()
    if "literal" not in zoo.describe(args.name).options:
        parser.error(f"{args.name} has one form only")
    main(args.name, args.encoder or default_encoder(args.name), args.size, args.pairs, not args.no_train)
