"""The stages of a network: the modules that one should look at, each with what it puts out and costs.

A module is a part of the one above it.  Depth 1 takes the parts of the network, depth 2 the parts of these,
and so on; containers that only hold others (a ModuleList) are looked through.  Rows always add up to the
network: what a module computes by itself, beside its parts, is a row of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from zoo.dropout import Dropout, Dropout2d, StochasticDepth
from zoo.profile import Stage

SILENT = (
    nn.ReLU, nn.SiLU, nn.GELU, nn.Sigmoid, Dropout, Dropout2d, nn.Identity, StochasticDepth,
)  # fmt: skip
NORMS = (nn.BatchNorm2d, nn.LayerNorm)
KINDS: dict[type, str] = {nn.Conv2d: "conv", nn.ConvTranspose2d: "up-conv", nn.MaxPool2d: "max"}
FEW, DEEPEST = 7, 3  # rows that make a table, and how deep one looks for them


@dataclass(frozen=True)
class Row:
    """One line of a stage table.

    path: of the module, as `get_submodule` takes it; "" is the network.
    what: the module in a few words.
    shape: (C, H, W) of what it put out last; None if it was not called as a module: a head that runs in
        training alone, or weights that the module above uses by itself.
    itself: the parameters and multiply-adds are only what is in no other row.
    """

    path: str
    what: str
    shape: tuple[int, ...] | None
    parameters: int
    macs: int
    itself: bool = False


def stages(model: nn.Module, profiled: Mapping[str, Stage], depth: int | None = None) -> list[Row]:
    """The rows of `model`, in the order in which they finish; of each module what was not called last.

    profiled: what `zoo.profile.profile` says of it.  depth: None for the first at which there are FEW rows.
    """
    if depth is not None:
        return list(_inside("", model, profiled, depth))
    found = [list(_inside("", model, profiled, d)) for d in range(1, DEEPEST + 1)]
    return next((rows for rows in found if len(rows) >= FEW), found[-1])


def _inside(path: str, module: nn.Module, profiled: Mapping[str, Stage], depth: int) -> Iterator[Row]:
    """The rows of what is in `module`, and the one of what it does by itself."""
    parts = list(_parts(path, module, profiled))
    if depth == 0 or not parts or path not in profiled:
        yield _row(path, module, profiled)
        return
    whole, rest = _row(path, module, profiled), [0, 0]
    order = {name: place for place, name in enumerate(profiled)}
    for name, part in sorted(parts, key=lambda pair: order.get(pair[0], len(order))):
        row = _row(name, part, profiled)
        rest[0] += row.parameters
        rest[1] += row.macs
        if row.parameters or row.macs or not isinstance(part, SILENT):
            yield from _inside(name, part, profiled, depth - 1)
    parameters, macs = whole.parameters - rest[0], whole.macs - rest[1]
    if parameters or macs:
        yield Row(path, whole.what, whole.shape, parameters, macs, itself=True)


def _parts(path: str, module: nn.Module, profiled: Mapping[str, Stage]) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of each part of `module` that was called or holds parameters."""
    for name, child in module.named_children():
        name = f"{path}.{name}" if path else name
        inner = any(key.startswith(f"{name}.") for key in profiled)
        if name in profiled or (not inner and next(child.parameters(), None) is not None):
            yield name, child
        elif inner:
            yield from _parts(name, child, profiled)


def _row(path: str, module: nn.Module, profiled: Mapping[str, Stage]) -> Row:
    stage = profiled.get(path)
    parameters = sum(p.numel() for p in module.parameters())
    return Row(path, words(module), stage.shape if stage else None, parameters, stage.macs if stage else 0)


def words(module: nn.Module) -> str:
    """What a module is: a convolution or pooling by its numbers, a sequence by its parts, else its class."""
    if isinstance(module, nn.Sequential):
        parts = [words(part) for part in module if not isinstance(part, (*SILENT, *NORMS))]
        counts = [(text, len(list(run))) for text, run in groupby(parts)]
        return " + ".join(f"{text} ({count})" if count > 1 else text for text, count in counts)
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.MaxPool2d):
        return type(module).__name__
    said = [f"{_sides(module.kernel_size)} {KINDS[type(module)]}"]
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        said.append("depthwise" if module.groups == module.in_channels else f"{module.groups} groups")
    for word, usual in (("stride", 1), ("dilation", 1)):
        value = _sides(getattr(module, word))
        if value != _sides(usual):
            said.append(f"{word} {value.split('×')[0]}")
    return ", ".join(said)


def _sides(value: int | tuple[int, ...]) -> str:
    return f"{value}×{value}" if isinstance(value, int) else "×".join(map(str, value))
