"""A network as one asks for it at a terminal, and its stages as a table: one network, or two side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import cast

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

import zoo
from zoo import encoders, registry
from zoo.errors import InputError, nearest
from zoo.options import Plain, as_annotated, as_typed, check_options, option
from zoo.profile import Stage, profile
from zoo.stages import Row, stages

SIZES = {"architecture": 512, "encoder": 224}  # that are shown where none is asked for
COUNTED = "MACs: multiply-adds of convolutions, linear layers and attention, for one image in eval mode."
NOT_CALLED = ' "not called": a head of training alone, or weights that the module around them uses by itself.'
SHARED = ("output_stride", "dilate_first", "depth")  # keywords of encoders.build beside a family's own


@dataclass(frozen=True)
class Asked:
    """What to build: a name of zoo.names() or zoo.encoders.names(), and keywords; None: the name's own."""

    name: str
    encoder: str | None = None
    classes: int | None = None
    channels: int | None = None
    options: Mapping[str, Plain] = field(default_factory=dict)

    def typed(self) -> str:
        """As one would type it after `python -m zoo show`."""
        flags = {"--encoder": self.encoder, "--classes": self.classes, "--channels": self.channels}
        said = [f"{flag} {value}" for flag, value in flags.items() if value is not None]
        said += [f"--opt {word}" for word in as_typed(self.options).split()]
        return " ".join([self.name, *said])


@dataclass(frozen=True)
class Shown:
    """A network on the meta device with what `profile` says of it at one input.

    size: (h, w) that was asked for, of the output; input: (C, H, W) that has it, or the next one possible.
    outputs: (C, H, W) of the logits, or of an encoder's maps.
    """

    asked: Asked
    model: nn.Module
    size: tuple[int, int]
    input: tuple[int, int, int]
    outputs: tuple[tuple[int, ...], ...]
    profiled: Mapping[str, Stage]

    @property
    def whole(self) -> Stage:
        """The network's own row."""
        return self.profiled[""]


def asked(text: str, flags: Asked) -> Asked:
    """NAME, or NAME:KEY=VALUE:… with options and encoder=, classes=, channels=; what it lacks is `flags`'."""
    name, *words = text.split(":")
    for word in words:
        if "=" not in word:
            raise InputError(f"{text!r}: write options as NAME:KEY=VALUE, such as unetpp:level=3")
    given = dict(map(option, words))
    own = {word: given.pop(word, getattr(flags, word)) for word in ("encoder", "classes", "channels")}
    return Asked(name, **cast(dict, own), options={**flags.options, **given})


def build(what: Asked) -> nn.Module:
    """The network, with weights drawn from torch's generator.  Raises InputError for whatever is wrong."""
    if what.name in registry.names():
        options: dict = as_annotated(registry.architecture(what.name), what.options)
        return zoo.build(what.name, what.classes, what.channels, what.encoder, **options)
    if what.name not in encoders.names():
        found = nearest(what.name, [*registry.names(), *encoders.names()])
        raise InputError(f"unknown network {what.name!r}; {found}; see python -m zoo, python -m zoo encoders")
    for flag, value, why in (("--encoder", what.encoder, "one itself"), ("--classes", what.classes, "none")):
        if value is not None:
            raise InputError(f"{flag} {value}: {what.name} is an encoder and has {why}; leave {flag} out")
    family = encoders.family(what.name)
    how: dict = as_annotated(family, what.options)
    check_options(f"encoder {what.name}", family, (*SHARED, *family.options), how)
    return encoders.build(what.name, 3 if what.channels is None else what.channels, **how)


def show(what: Asked, size: tuple[int, int] | None = None) -> Shown:
    """Build it on the meta device and profile it.  size: (h, w) of the output, of an encoder's input.

    Raises InputError for what cannot be built, and for a size below the network's smallest.
    """
    kind = "architecture" if what.name in registry.names() else "encoder"
    height, width = size = size or (SIZES[kind],) * 2
    found: list[Tensor | tuple[Tensor, ...]] = []
    try:
        with torch.device("meta"):
            model = build(what).eval()
            hook = model.register_forward_hook(lambda module, inputs, output: found.append(output))
            if kind == "architecture":
                height, width = (side + 2 * registry.margin(model) for side in legal(model, size))
            channels = cast(int, model.in_channels)
            profiled = profile(model, (height, width))
            hook.remove()
    except RuntimeError as e:  # torch's, about a map that has no pixel left or more than memory can count
        raise InputError(f"{what.name} cannot take an input of {height}x{width}: {e}".splitlines()[0]) from e
    (out,) = found
    outputs = tuple(tuple(y.shape[1:]) for y in (out if isinstance(out, tuple) else (out,)))
    return Shown(what, model, size, (channels, height, width), outputs, profiled)


def legal(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """The output of `model` that covers `size`.  Raises InputError if that is below its smallest."""
    least, _ = registry.legal_size(model, 1)
    if min(size) < least:
        registry.check_size(model, min(size))
    return registry.legal_size(model, size)


# ---------------------------------------------------------------- tables


def stage_table(shown: Shown, depth: int | None = None) -> Group:
    """What it is in two lines, and its stage table."""
    rows = stages(shown.model, shown.profiled, depth)
    caption = COUNTED + (NOT_CALLED if any(row.shape is None for row in rows) else "")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=caption)
    for column in ("module", "what", "output", "parameters", "MACs", "%"):
        right = column in ("parameters", "MACs", "%")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "what")
    for row in rows:
        share = f"{100 * row.macs / max(1, shown.whole.macs):.1f}"
        cells = (name(row), row.what, output(row), f"{row.parameters:,}", f"{row.macs:,}", share)
        table.add_row(*cells, style=None if row.shape else "dim", end_section=row is rows[-1])
    whole = f"{shown.whole.parameters:,}", f"{shown.whole.macs:,}", "100.0"
    table.add_row("total", type(shown.model).__name__, shape(shown.outputs[-1]), *whole, style="bold")
    return Group(*(Text(line) for line in head(shown)), table)


def head(shown: Shown) -> list[str]:
    """Who wrote of it, and what goes in and out."""
    arrow = f"{shown.asked.typed()}: {shape(shown.input)} -> {', '.join(map(shape, shown.outputs))}"
    if shown.asked.name not in registry.names():
        return [arrow]
    paper, notes = registry.paper(shown.asked.name), []
    if shown.outputs[0][1:] != shown.size:
        notes.append(f"the next size above {shape(shown.size)} that it can put out")
    if border := registry.margin(shown.model):
        notes.append(f"{border} pixels are lost at each side")
    return [f"{paper.title} ({paper.year}); {paper.note}", "; ".join([arrow, *notes])]


def name(row: Row) -> str:
    """The path of a row's module; what it does beside its parts is said so."""
    return f"{row.path or 'network'}, itself" if row.itself else row.path


def output(row: Row) -> str:
    """C×H×W."""
    return shape(row.shape) if row.shape else "not called"


def shape(sides: Sequence[int]) -> str:
    """C×H×W."""
    return "×".join(map(str, sides))


# ---------------------------------------------------------------- side by side


def side_by_side(one: Shown, other: Shown, depth: int | None = None) -> Group:
    """Both stage tables, modules of the same path beside each other, and below it all that differs."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for shown in (one, other):
        table.add_column(shown.asked.name, no_wrap=True)
        for column in ("output", "parameters", "MACs"):
            table.add_column(column, justify="left" if column == "output" else "right", no_wrap=True)
        if shown is one:
            table.add_column("")
    left, right = (stages(shown.model, shown.profiled, depth) for shown in (one, other))
    pairs = list(aligned(left, right))
    for a, b in pairs:
        mark = ""
        if a and b and name(a) == name(b):
            mark = "=" if cells(a) == cells(b) else "≠"
        style = "yellow" if mark == "≠" else None
        table.add_row(*cells(a), mark, *cells(b), style=style, end_section=(a, b) == pairs[-1])
    table.add_row(*total(one), "", *total(other), style="bold")
    return Group(*(Text(line) for line in (head(one)[-1], head(other)[-1])), table, differences(one, other))


def aligned(left: Sequence[Row], right: Sequence[Row]) -> list[tuple[Row | None, Row | None]]:
    """Rows of the same path face each other; between those stands what one side lacks or calls otherwise."""
    match = SequenceMatcher(None, [name(row) for row in left], [name(row) for row in right], autojunk=False)
    pairs: list[tuple[Row | None, Row | None]] = []
    for _, a, b, c, d in match.get_opcodes():
        pairs += zip_longest(left[a:b], right[c:d])
    return pairs


def cells(row: Row | None) -> tuple[str, str, str, str]:
    """Of one side of a line."""
    if row is None:
        return "", "", "", ""
    return name(row), output(row), f"{row.parameters:,}", f"{row.macs:,}"


def total(shown: Shown) -> tuple[str, str, str, str]:
    """The last line of one side."""
    whole = shown.whole
    return "total", shape(shown.outputs[-1]), f"{whole.parameters:,}", f"{whole.macs:,}"


def differences(one: Shown, other: Shown) -> Table:
    """Each fact that is not the same for both, and the ratio of what they cost."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("what differs", one.asked.name, other.asked.name, ""):
        table.add_column(column, overflow="fold")
    a, b = facts(one), facts(other)
    for word in {**a, **b}:
        if (here := a.get(word, "–")) != (there := b.get(word, "–")):
            table.add_row(word, here, there)
    for word in ("parameters", "macs"):
        here, there = getattr(one.whole, word), getattr(other.whole, word)
        if here != there:
            ratio = f"× {there / here:.3f}" if here else ""
            table.add_row("MACs" if word == "macs" else word, f"{here:,}", f"{there:,}", ratio)
    if not table.rows:
        table.add_row("nothing")
    return table


def facts(shown: Shown) -> dict[str, str]:
    """What is worth comparing of a network, besides its rows."""
    model, what = shown.model, shown.asked
    found = {"class": type(model).__name__, "input": shape(shown.input)}
    found["output"] = ", ".join(map(shape, shown.outputs))
    if what.name in registry.names():
        paper, about = registry.paper(what.name), registry.defaults(what.name)
        found |= {"paper": f"{paper.title} ({paper.year})", "note": paper.note}
        chosen: dict = {**about, **what.options}
        chosen = {word: value for word, value in chosen.items() if word not in registry.OWN_WORDS}
        found |= {f"option {word}": as_typed({word: value}).split("=")[1] for word, value in chosen.items()}
        found["encoder"] = str(what.encoder or about.get("encoder"))
        found["auxiliary logits, weights"] = str(model.aux_weights)
        found["pixels lost a side"] = str(model.margin)
        found["smallest output"] = str(model.min_size)
    else:
        found["strides"] = ", ".join(map(str, cast(Sequence[int], model.strides)))
    return found
