"""A forward pass as infer.py runs it beside the same weights or graph in other libraries.

    python benchmarks/forward.py [NAME …] [--sizes 512 1024] [--pairs 5]

Ours is `zoo.fold`ed and in the memory format that a short measurement finds faster (`zoo.core.choose`), in
float32 and with bf16 autocast.  Theirs is eager float32 in
PyTorch's default memory format, from the libraries that train_step.py names, with the same weights; the
logits are compared first.  One image, no gradients.  Theirs and each way of ours take turns, so that other
work on the machine slows both: "faster" is the median of the ratios.  Memory is the peak of a pass above the
network and its image, each in a process of its own.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import memory
import torch
from rich.console import Console
from rich.table import Table
from timing import in_turn
from torch import nn
from train_step import CLASSES, DEVICE, NETWORKS, logits_of, theirs_and_ours

import zoo
from zoo.core.choose import faster
from zoo.core.device import resolve_amp
from zoo.registry import legal_size, margin

WAYS = ("float32", "bf16")
Job = Callable[[], torch.Tensor]


def job(name: str, who: str, size: int) -> Job:
    """A forward pass of "theirs" or of one of WAYS, which gives the logits (1, K, h, w)."""
    theirs, ours = theirs_and_ours(name)
    torch.manual_seed(1)
    for network in (theirs, ours):
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5  # transformers' for all; the authors' are 1e-6 and 1e-5
    (height, width), border = legal_size(ours, size), 2 * margin(ours)
    x = torch.rand(1, 3, height + border, width + border, device=DEVICE)
    model, context = theirs.eval().to(DEVICE), nullcontext
    if who != "theirs":
        model = zoo.fold(ours).to(DEVICE)
    if who == "bf16":
        context = in_bf16
    del theirs, ours

    def run() -> torch.Tensor:
        with torch.inference_mode(), context():
            y = logits_of(model(x))[0]
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return y

    def use(layout: torch.memory_format) -> Job:
        nonlocal x
        model.to(memory_format=layout)
        x = x.contiguous(memory_format=layout)
        return run

    return run if who == "theirs" else use(torch.channels_last if DEVICE == "cuda" else faster(use)[1])


def in_bf16() -> AbstractContextManager:
    """Autocast."""
    return torch.autocast(DEVICE, torch.bfloat16)


def apart(one: Job, other: Job) -> float:
    """The largest difference of the logits against their range."""
    a, b = (run().float() for run in (one, other))
    return float((a - b).abs().max() / (a.max() - a.min()))


def peak(name: str, who: str, size: int) -> float:
    """MiB of a pass, in a process of its own."""
    options = [name, "--sizes", str(size), "--peak", who]
    return memory.in_child(__file__, *options)


def print_peak(name: str, who: str, size: int) -> None:
    """What `peak` reads."""
    run = job(name, who, size)
    run()  # whatever is loaded on first use
    print(memory.above_rest(run, DEVICE))


def rows(name: str, size: int, pairs: int) -> list[list[str]]:
    """A line of the table for each way."""
    theirs, found = job(name, "theirs", size), []
    mib = peak(name, "theirs", size)
    for way in WAYS:
        ours = job(name, way, size)
        b, a, ratio = in_turn(ours, theirs, pairs)
        cells = [name, str(size), way, f"{apart(theirs, ours):.0e}", f"{a * 1e3:.0f}", f"{b * 1e3:.0f}"]
        del ours
        own = peak(name, way, size)
        found.append([*cells, f"{1 / ratio:.2f}", f"{mib:.0f}", f"{own:.0f}", f"{own / mib:.2f}"])
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NETWORKS), help="default: all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # the child's
    args = parser.parse_args()
    if args.peak:
        print_peak(args.names[0], args.peak, args.sizes[0])
        return
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    native = resolve_amp("auto", torch.device(DEVICE)) is torch.bfloat16
    bf16 = "bf16 native" if native else "no native bf16"
    print(f"torch {torch.__version__}, {where}, {bf16}, {CLASSES} classes, {args.pairs} pairs", flush=True)
    columns = ("", "size", "way", "logits differ", "theirs ms", "ours ms", "faster", "theirs MiB", "ours MiB",
               "of theirs")  # fmt: skip
    table = Table(*columns)
    for size in args.sizes:
        for name in args.names:
            for cells in rows(name, size, args.pairs):
                table.add_row(*cells)
                print(" | ".join(cells), flush=True)
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    main()
