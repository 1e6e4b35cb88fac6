"""SegFormer beside transformers' with the same weights: python benchmarks/segformer.py [b0 b1 … b5]

Wall-clock medians in milliseconds of float32, batch 1, 150 classes, on as many threads as torch takes
(OMP_NUM_THREADS).  Pairs are timed in turn, so that a busy machine slows both, and "faster" is the median of
their ratios.  Memory is the peak above the network itself, each in a process of its own; by Linux's word.

transformers' network ends at a quarter of the input's height and width, ours at all of it.  Both ends are
compared: "H/4" is our encoder and head, "full" is theirs with torch's enlarging behind it.  A training step
is forward, cross-entropy and backward; the optimizer's part is the same for both.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import memory
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from timing import in_turn
from torch import Tensor, nn

import zoo
from zoo.archs.segformer import VARIANTS as HEADS
from zoo.encoders.mit import VARIANTS as ENCODERS

CLASSES = 150
Network = Callable[[Tensor], Tensor]


class Theirs(nn.Module):
    """transformers' SegFormer of one size, by its configuration alone."""

    def __init__(self, size: str) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation, logging

        logging.disable_progress_bar()
        row = ENCODERS[f"mit_{size}"]
        config = SegformerConfig(
            hidden_sizes=row["widths"],
            depths=row["depths"],
            decoder_hidden_size=HEADS[f"segformer_{size}"]["width"],
            num_labels=CLASSES,
        )
        self.network = SegformerForSemanticSegmentation(config)

    def quarter(self, x: Tensor) -> Tensor:
        """(N, K, H/4, W/4)."""
        return self.network(x).logits

    def full(self, x: Tensor) -> Tensor:
        """(N, K, H, W)."""
        return F.interpolate(self.quarter(x), size=x.shape[-2:], mode="bilinear")


class Ours(nn.Module):
    """The same of this zoo."""

    def __init__(self, size: str) -> None:
        super().__init__()
        self.network = zoo.build(f"segformer_{size}", CLASSES)

    def quarter(self, x: Tensor) -> Tensor:
        """(N, K, H/4, W/4)."""
        return self.network.head(self.network.encoder(x))

    def full(self, x: Tensor) -> Tensor:
        """(N, K, H, W)."""
        output = self.network(x)
        return output if isinstance(output, Tensor) else output.logits


SIDES: dict[str, Callable[[str], nn.Module]] = {"theirs": Theirs, "ours": Ours}


def job(model: nn.Module, network: Network, image: Tensor, train: bool) -> Callable[[], None]:
    """One forward pass, or one training step, ready to be timed."""
    size = image.shape[-1] // (1 if network.__name__ == "full" else 4)
    target = torch.zeros(len(image), size, size, dtype=torch.long)

    def run() -> None:
        model.train(train)
        with torch.set_grad_enabled(train):
            logits = network(image)
            if train:
                F.cross_entropy(logits, target).backward()
                model.zero_grad(set_to_none=True)

    return run


def peak(side: str, size: str, end: str, pixels: int, train: bool) -> float:
    """MiB above the network, of three runs in a process of their own."""
    options = ["--side", side, "--end", end, "--pixels", str(pixels), *(["--train"] if train else [])]
    return memory.in_child(__file__, size, *options)


def print_peak(side: str, size: str, end: str, pixels: int, train: bool) -> None:
    """What `peak` reads."""
    model = SIDES[side](size)
    run = job(model, getattr(model, end), torch.randn(1, 3, pixels, pixels), train)
    job(model, getattr(model, end), torch.randn(1, 3, 64, 64), train)()  # whatever is loaded on first use
    print(memory.peak(run, times=3))


def twins(size: str) -> tuple[Theirs, Ours]:
    """Both networks with transformers' random weights; prints how far their logits are apart."""
    theirs, ours = Theirs(size).eval(), Ours(size).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.network.save_pretrained(folder)
        zoo.weights.load(ours.network, Path(folder) / "model.safetensors", say=lambda line: None)
    eps = [(m, m.eps) for m in ours.modules() if isinstance(m, nn.LayerNorm)]
    for module, _ in eps:
        module.eps = 1e-5  # transformers'; the authors' are 1e-6 and 1e-5
    with torch.no_grad():
        x = torch.randn(1, 3, 129, 160)
        a, b = theirs.quarter(x), ours.quarter(x)
    for module, own in eps:
        module.eps = own
    print(f"{size}: logits differ by {float((a - b).abs().max() / (a.max() - a.min())):.1e} of their range")
    return theirs, ours


def beside_transformers(sizes: list[str], pixels: int, train_pixels: int, pairs: int) -> Table:
    """The table."""
    table = Table(title=f"torch {torch.__version__}, {torch.get_num_threads()} threads, {pairs} pairs")
    columns = ("", "logits", "input", "transformers ms", "ours ms", "faster", "transformers MiB", "ours MiB")
    for column in columns:
        table.add_column(column, justify="right")
    for size in sizes:
        theirs, ours = twins(size)
        for train, side in ((False, pixels), (True, train_pixels)):
            x = torch.randn(1, 3, side, side)
            for end in ("quarter", "full"):
                jobs = [job(model, getattr(model, end), x, train) for model in (theirs, ours)]
                a, b, ratio = in_turn(*jobs, pairs)
                memory = [f"{peak(who, size, end, side, train):.0f}" for who in SIDES]
                what = f"{size} {'training step' if train else 'forward'}"
                words = (what, "H/4" if end == "quarter" else "full", f"{side}×{side}")
                table.add_row(*words, f"{a * 1e3:.0f}", f"{b * 1e3:.0f}", f"{ratio:.2f}", *memory)
    return table


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["b0", "b1", "b2", "b3", "b4", "b5"], help="default: all")
    parser.add_argument("--pixels", type=int, default=512, help="side of the image of a forward pass")
    parser.add_argument("--train-pixels", type=int, default=256, help="side of the image of a training step")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # these three are the child's
    parser.add_argument("--end", choices=("quarter", "full"), help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.side:
        print_peak(args.side, args.sizes[0], args.end, args.pixels, args.train)
        return
    table = beside_transformers(args.sizes, args.pixels, args.train_pixels, args.pairs)
    Console(width=max(130, Console().width)).print(table)


if __name__ == "__main__":
    main()
