"""Counts networks for the notes: on the meta device, each once a session."""

import functools

import torch
from torch import nn

import zoo
from zoo import encoders
from zoo.profile import Stage, profile

Size = int | tuple[int, int]
MILLION, BILLION = 1e6, 1e9


@functools.cache
def network(
    name: str,
    classes: int | None = None,
    channels: int | None = None,
    encoder: str | None = None,
    **options: object,
) -> nn.Module:
    """An architecture, or an encoder with its options; None: the name's own."""
    with torch.device("meta"):
        if name in encoders.names():
            return encoders.build(name, **options)
        return zoo.build(name, classes, channels, encoder, **options)


@functools.cache
def stages(name: str, size: Size, **options: object) -> dict[str, Stage]:
    """Module path -> Stage, for an input of that size."""
    return profile(network(name, **options), size)


def count(name: str, *given: object, part: str = "", **options: object) -> int:
    """Parameters of the network, or of one module in it."""
    return sum(p.numel() for p in network(name, *given, **options).get_submodule(part).parameters())


def cost(size: Size, name: str, part: str = "", **options: object) -> int:
    """Multiply-adds of the network, or of one module in it, for an input of that size."""
    return stages(name, size, **options)[part].macs


def channels(name: str) -> tuple[int, ...]:
    """Of an encoder's maps."""
    return network(name).channels


def whole(name: str, hidden: int = 0) -> int:
    """An encoder's parameters with a classifier of 1000 classes, behind a 1×1 to `hidden` channels if any."""
    last = channels(name)[-1]
    return count(name) + (last * hidden + 2 * hidden if hidden else 0) + 1000 * (hidden or last) + 1000


@functools.cache
def written(expression: str, size: int) -> dict[str, Stage]:
    """Module path -> Stage of the network that a note builds so; `written.__wrapped__` looks anew."""
    with torch.device("meta"):
        return profile(eval(expression, {"zoo": zoo}), size)
