"""`python -m zoo` prints every architecture; `python -m zoo VERB …` neither trains nor infers.

A verb is a row of VERBS: a line of help, the function that adds its arguments, the thin one that runs it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import zoo
from zoo import encoders
from zoo.encoders import pretrained
from zoo.errors import InputError
from zoo.profile import macs


class Verb(NamedTuple):
    """One command: a line of help, a function that adds its arguments to a parser, and one that runs it."""

    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Console], None]


NUMBERS = ("parameters", "MACs", "classes", "MiB")  # columns that stand to the right


def headed(columns: Sequence[str], caption: str, free: Sequence[str] = ()) -> Table:
    """An empty table.  free: columns that may break into lines, the others stay whole."""
    rows = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=caption)
    for column in columns:
        whole = column not in free
        rows.add_column(
            column, justify="right" if column in NUMBERS else "left", no_wrap=whole, overflow="fold"
        )
    return rows


def table() -> Table:
    """Every architecture that `zoo.build` knows, all options at their defaults."""
    rows = headed(
        ("name", "paper", "year", "encoders", "parameters", "MACs", "note"),
        "all options at their defaults; MACs for an output of 512×512; the encoders: python -m zoo encoders; "
        "weights of whole networks: python -m zoo weights",
        free=("paper", "encoders"),
    )
    for name in zoo.names():
        about = zoo.describe(name)
        rows.add_row(
            name,
            about.title,
            str(about.year),
            _choice(about.encoders),
            f"{about.parameters:,}",
            f"{about.macs / 1e9:.1f} G",
            about.note,
        )
    return rows


def _choice(offered: Sequence[str]) -> str:
    """Which encoders an architecture takes, in a few words."""
    known = encoders.names()
    if not offered:
        return "–"
    return f"any of {len(known)}" if set(offered) == set(known) else f"{len(offered)} of {len(known)}"


def _origin(name: str) -> str:
    """Whose ImageNet weights an encoder can start from, and their licence."""
    if name not in pretrained.NAMES:
        return "–"
    origin = pretrained.source(name)
    return f"{origin.whose}, {origin.licence}"


def _encoders_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", metavar="NAME", help="only those that this architecture takes")


def _encoders(arguments: argparse.Namespace, console: Console) -> None:
    offered = zoo.describe(arguments.arch).encoders if arguments.arch else encoders.names()
    if not offered:
        raise InputError(f"{arguments.arch} has no choice of encoder; python -m zoo says which have")
    rows = headed(
        ("encoder", "channels", "parameters", "MACs", "weights"),
        "channels at the last of strides 2, 4, 8, 16, 32; MACs at 224×224; ImageNet weights, licence",
        free=("weights",),
    )
    for name in offered:
        with torch.device("meta"):
            encoder = encoders.build(name)
        rows.add_row(
            name,
            ", ".join(map(str, encoder.channels)),
            f"{sum(p.numel() for p in encoder.parameters()):,}",
            f"{macs(encoder, 224) / 1e9:.2f} G",
            _origin(name),
        )
    console.print(rows)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _weights(arguments: argparse.Namespace, console: Console) -> None:
    rows = headed(
        ("name", "builds", "classes", "MiB", "licence"),
        "zoo.build(…, pretrained=NAME) or train.py --weights NAME; addresses, hashes and the classes' names: "
        "zoo.weights.known()",
        free=("licence",),
    )
    for name, row in zoo.weights.known().items():
        options = " ".join(f"{word}={value}" for word, value in row.build.items() if word != "num_classes")
        rows.add_row(
            name,
            f"{row.architecture} {options}",
            str(len(row.classes)),
            f"{row.mebibytes:.0f}" if row.mebibytes else "–",
            row.licence,
        )
    console.print(rows)


def _phantom_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="new or empty folder to write")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="number of hands, two a person")
    parser.add_argument("--size", type=int, default=512, metavar="S", help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="the same seed gives the same hands")


def _phantom(arguments: argparse.Namespace, console: Console) -> None:
    from zoo.core import phantom

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("drawing hands", total=arguments.count)
        phantom.write(
            arguments.out,
            arguments.count,
            arguments.size,
            arguments.seed,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    done = f"{arguments.count} hands in {arguments.out}; to train on them: --data handbone:{arguments.out}"
    console.print(done, markup=False, highlight=False, soft_wrap=True)


VERBS = {
    "encoders": Verb("list the encoders with channels, size and weights", _encoders_arguments, _encoders),
    "weights": Verb("list the published weights of whole networks", _no_arguments, _weights),
    "phantom": Verb("write drawn hand radiographs in the hand-bone layout", _phantom_arguments, _phantom),
}


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after one line on what is wrong with the user's words or files."""
    parser = argparse.ArgumentParser(prog="python -m zoo", description="Without a verb: every architecture.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, verb in VERBS.items():
        verb.arguments(
            verbs.add_parser(
                name,
                help=verb.summary,
                description=verb.summary[0].upper() + verb.summary[1:] + ".",
                formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            )
        )
    arguments = parser.parse_args(words)
    try:
        console = Console() if sys.stdout.isatty() else Console(width=200)  # whole lines for files and pipes
        if arguments.verb is None:
            console.print(table())
        else:
            VERBS[arguments.verb].run(arguments, console)
    except (InputError, OSError) as problem:
        sys.stderr.write(f"zoo: {problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
