"""Every architecture at its quickest: one name a class, as the sizes of a paper differ in numbers alone."""

import functools

import zoo
from zoo.registry import architecture

ENCODERS = ("resnet18", "hrnet_w18", "mit_b0")  # the first of these that an architecture takes

NAMES = list({architecture(name): name for name in reversed(zoo.names())}.values())[::-1]


@functools.cache
def encoders(name: str) -> tuple[str, ...]:
    """Those that `name` takes; a description counts multiply-adds, which takes a second."""
    return zoo.describe(name).encoders


def options(name: str, width: int = 2) -> dict[str, object]:
    """Keywords of `zoo.build` that make `name` small: its encoder, or its width where it needs none."""
    known = encoders(name)
    return {"encoder": next(e for e in ENCODERS if e in known)} if known else {"width": width}
