"""What a forward pass of each architecture takes in memory and time, for the table of papers/README.md.

    python benchmarks/compare.py [NAME …] [--sizes 512 1024 2048] [--pairs 3]

All options at their defaults, random weights, eval mode, one image, float32, channels last as `infer.py` has
it, on as many threads as torch takes (OMP_NUM_THREADS).  A size is the output's; `unet` puts out the next one
that it can.  Memory is MiB at the peak of one pass above the network and its image, each in a process of its
own.  Time is that of a pass at the first size, in turn with one of `unet`: the median of their ratios, which
a busy machine leaves as it is.  What cannot be run is said below the table, with the reason.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable

import torch
from memory import peak
from timing import in_turn
from torch import Tensor, nn

import zoo
from zoo.registry import legal_size, margin

REFERENCE = "unet"


def network(name: str) -> nn.Module:
    """In eval mode, with random weights."""
    torch.manual_seed(0)
    return zoo.build(name).eval().to(memory_format=torch.channels_last)


def forward(model: nn.Module, size: int) -> Callable[[], Tensor]:
    """One forward pass to an output of that size, ready to be run."""
    height, width = (side + 2 * margin(model) for side in legal_size(model, size))
    image = torch.rand(1, model.in_channels, height, width).contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        with torch.inference_mode():
            return model(image)

    return run


def memory(name: str, size: int) -> str:
    """MiB of one pass; whatever is loaded on first use is loaded by a small one before."""
    model = network(name)
    forward(model, 33)()
    return f"{peak(forward(model, size)):,.0f}"


def time(name: str, size: int, pairs: int) -> str:
    """How many times as long as a pass of the reference."""
    if name == REFERENCE:
        return "1.00"
    one, other = (forward(network(n), size) for n in (name, REFERENCE))
    return f"{in_turn(one, other, pairs)[2]:.2f}"


def alone(*words: str) -> tuple[str, str]:
    """What this script prints with these words in a process of its own, or why it could not: (cell, why)."""
    ran = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if ran.returncode == 0:
        return ran.stdout.strip(), ""
    why = f"killed by signal {-ran.returncode}" if ran.returncode < 0 else ran.stderr.strip().splitlines()[-1]
    return "not measured", why


def main(names: list[str], sizes: list[int], pairs: int) -> None:
    """Print the table as Markdown, a row as soon as it is there."""
    print(f"torch {torch.__version__}, threads: {torch.get_num_threads()}, float32, {pairs} pairs\n")
    columns = ["name", *(f"MiB at {size}" for size in sizes), f"time × `{REFERENCE}`"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    reasons = []
    for name in names:
        jobs = [(name, "--peak", str(size)) for size in sizes]
        jobs.append((name, "--time", str(sizes[0]), "--pairs", str(pairs)))
        cells = [alone(*job) for job in jobs]
        reasons += [f"{' '.join(job)}: {why}" for job, (_, why) in zip(jobs, cells, strict=True) if why]
        print(f"| `{name}` | {' | '.join(cell for cell, _ in cells)} |", flush=True)
    print("\n".join(["", *reasons]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=zoo.names(), help="default: all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048], help="of the output")
    parser.add_argument("--pairs", type=int, default=3, help="timed runs of each")
    parser.add_argument("--peak", type=int, metavar="S", help="print the memory of the one NAME at this size")
    parser.add_argument("--time", type=int, metavar="S", help="print its time at this size")
    args = parser.parse_args()
    if args.peak:
        print(memory(args.names[0], args.peak))
    elif args.time:
        print(time(args.names[0], args.time, args.pairs))
    else:
        main(args.names, args.sizes, args.pairs)
