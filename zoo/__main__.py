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
from zoo import encoders, show
from zoo.encoders import pretrained
from zoo.errors import InputError
from zoo.options import fold, option, size
from zoo.profile import macs
from zoo.show import Asked


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


def _network_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=size, metavar="S|HxW", help="of the output; of an encoder's input")
    parser.add_argument("--encoder", metavar="NAME", help="where the architecture takes one")
    parser.add_argument("--classes", type=int, metavar="K", help="maps that it puts out")
    parser.add_argument("--channels", type=int, metavar="C", help="of the image")
    parser.add_argument("--opt", type=option, action="append", metavar="KEY=VALUE", default=[],
                        help="the network's own option, several values joined by commas; may be repeated")
    parser.add_argument("--depth", type=depth, metavar="N",
                        help="1: parts of the network, 2: parts of these, …; default: what fills a table")


def depth(text: str) -> int:
    """A whole number from 1 on."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return number


def _flags(arguments: argparse.Namespace) -> Asked:
    """What the flags of `_network_arguments` say of any name."""
    return Asked("", arguments.encoder, arguments.classes, arguments.channels, dict(arguments.opt))


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="an architecture or an encoder; NAME:KEY=VALUE:… too")
    _network_arguments(parser)


def _show(arguments: argparse.Namespace, console: Console) -> None:
    shown = show.show(show.asked(arguments.name, _flags(arguments)), arguments.size)
    console.print(show.stage_table(shown, arguments.depth))


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    what = "with options of its own as NAME:KEY=VALUE:…; the flags go for both"
    parser.add_argument("one", metavar="NAME", help=f"an architecture or an encoder, {what}")
    parser.add_argument("other", metavar="NAME", help="what to compare it with")
    _network_arguments(parser)


def _diff(arguments: argparse.Namespace, console: Console) -> None:
    both = [show.asked(text, _flags(arguments)) for text in (arguments.one, arguments.other)]
    one, other = (show.show(what, arguments.size) for what in both)
    console.print(show.side_by_side(one, other, arguments.depth))


def _trace_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", default="",
                        help="an architecture or an encoder; a checkpoint of train.py says it itself")
    parser.add_argument("--image", required=True, metavar="FILE", help="what it looks at")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new or empty folder to write")
    parser.add_argument("--weights", metavar="PATH|NAME",
                        help="a checkpoint of train.py, another file of weights, or published ones")
    parser.add_argument("--pretrained", action="store_true", help="ImageNet weights in the encoder")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="what random weights are drawn from")
    parser.add_argument("--maps", type=depth, default=32, metavar="N", help="of each stage, at most")
    _network_arguments(parser)


def _trace(arguments: argparse.Namespace, console: Console) -> None:
    from zoo import trace

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    what = show.asked(arguments.name, _flags(arguments))
    found = trace.opened(what, arguments.weights, arguments.pretrained, arguments.seed, say)
    size, depth, maps = arguments.size, arguments.depth, arguments.maps
    *files, index = trace.trace(found, arguments.image, arguments.out, size, depth, maps)
    at_random = not (arguments.weights or arguments.pretrained)
    drawn = ", random weights (see --weights, --pretrained)" if at_random else ""
    say(f"{found.name}{drawn}: {len(files)} stages, a picture each; all of them at a glance: {index}")


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


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    from zoo.core.dataset import KINDS, typed

    *some, last = map(typed, KINDS)
    parser.add_argument("data", metavar="DATA", help=f"as train.py --data: {', '.join(some)} or {last}")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new or empty folder to write")
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="images on the sheet and the list")
    parser.add_argument("--checkpoint", metavar="FILE",
                        help="of train.py: rank by the Dice of its predictions, lowest first")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--clusters", type=depth, metavar="K", help="of poses; default: as many as show")
    parser.add_argument("--task", metavar="TASK", help="multilabel, multiclass or binary; read from the data")
    parser.add_argument("--ignore", type=int, action="append", metavar="VALUE", default=[],
                        help="mask value to leave out; may be repeated")
    parser.add_argument("--val-fraction", type=float, default=0.2, metavar="SHARE", help="as train.py's")
    parser.add_argument("--fold", type=fold, metavar="I/N", help="as train.py's")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="train.py's, which draws the split")
    parser.add_argument("--limit-train", type=int, metavar="N", help="look at this many that train, at most")
    parser.add_argument("--limit-val", type=int, metavar="N", help="look at this many that validate, at most")


def _inspect(arguments: argparse.Namespace, console: Console) -> None:
    from zoo.core.dataset import open_data
    from zoo.core.inspection import report, summary
    from zoo.core.predictor import Predictor

    words, out, worst = arguments, arguments.out, arguments.worst
    if worst < 0:
        raise InputError(f"--worst {worst}: want 0 or more images")
    given = words.checkpoint
    predictor = Predictor.from_checkpoint(given, words.device) if given else None
    report.begin(out)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("checking files")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        train, val = report.opened(out, lambda: open_data(
            words.data, task=words.task, ignore=words.ignore, val_fraction=words.val_fraction,
            fold=words.fold, seed=words.seed, limit_train=words.limit_train, limit_val=words.limit_val,
            progress=progress,
        ))  # fmt: skip
        bar.update(task, description="measuring")
        found = report.find(train, val, predictor, words.clusters, progress)
        bar.update(task, description="drawing", total=None)
        files = report.write(out, found, report.loader(train, val)[0], worst)
    summary.say(console, found, out, files, worst)


def _plot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), metavar="FILE", help=".png or .html")


def _plot(arguments: argparse.Namespace, console: Console) -> None:
    from zoo.core.plot import plot

    problems = plot(arguments.runs, arguments.out)
    count = f"{len(arguments.runs) - len(problems)} of {len(arguments.runs)}"
    console.print(f"{arguments.out}: {count} runs", markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise InputError("\n".join(problems))


def _folds_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run with --fold")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="the table for other programs")


def _folds(arguments: argparse.Namespace, console: Console) -> None:
    from zoo.core import folds

    found = folds.gather(arguments.runs)
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(folds.table(found))
    if arguments.csv:
        folds.write(arguments.csv, found)


VERBS = {
    "encoders": Verb("list the encoders with channels, size and weights", _encoders_arguments, _encoders),
    "weights": Verb("list the published weights of whole networks", _no_arguments, _weights),
    "show": Verb("print a network's stages with shapes and costs", _show_arguments, _show),
    "diff": Verb("print two networks side by side, and what differs", _diff_arguments, _diff),
    "trace": Verb("write what each stage makes of an image, as pictures", _trace_arguments, _trace),
    "inspect": Verb("look at data: classes, overlaps, odd images, duplicates", _inspect_arguments, _inspect),
    "plot": Verb("draw the curves of runs beside each other", _plot_arguments, _plot),
    "folds": Verb("put runs of --fold 0/N to N-1/N together: mean Dice and spread", _folds_arguments, _folds),
    "phantom": Verb("write drawn hand radiographs in the hand-bone layout", _phantom_arguments, _phantom),
}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says what a flag is where it is not given, if that is anything."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def parser() -> argparse.ArgumentParser:
    """The command line: a verb, and what it takes."""
    parser = argparse.ArgumentParser(prog="python -m zoo", description="Without a verb: every architecture.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, verb in VERBS.items():
        verb.arguments(
            verbs.add_parser(
                name,
                help=verb.summary,
                description=verb.summary[0].upper() + verb.summary[1:] + ".",
                formatter_class=Help,
            )
        )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after one line on what is wrong with the user's words or files."""
    arguments = parser().parse_args(words)
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
