"""Checkpoints of train.py: what their weights need of a network though no shape of them shows it."""

from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from zoo.weights.layouts import dilates_first, encoder_of


def unseen(model: nn.Module) -> dict[str, Any]:
    """Options that change what the weights compute but no shape of those they share, as {keyword: value}.

    Rates count in pixels of the input, for those of another output stride see the same places.
    """
    found: dict[str, Any] = {}
    if getattr(model, "encoder", None) is not None:
        found["dilate_first"] = dilates_first(model)
    if hasattr(model, "ppm"):
        found["bins"] = cast(nn.Module, model.ppm).bins
    if hasattr(model, "rates"):
        found["rates"] = tuple(r * encoder_of(model).output_stride for r in cast(Iterable[int], model.rates))
    for word in ("ocr", "padded"):
        if hasattr(model, word):
            found[word] = getattr(model, word)
    return found


def own_needs(model: nn.Module, theirs: nn.Module) -> str:
    """What `model` must be built with for the graph of `theirs`, the network that the weights are of."""
    here, there = unseen(model), unseen(theirs)
    words = [word for word in there if here.get(word) != there[word]]
    if not words:
        return ""
    if "dilate_first" not in there:  # no encoder: nothing hangs on its stride
        return f"build it with {', '.join(f'{word}={there[word]}' for word in words)}, for the same graph"
    stride, rates = encoder_of(model).output_stride, there.get("rates", ())
    undilated = stride == 32 and there["dilate_first"]
    if undilated or any(rate % stride for rate in rates):  # only their own output stride will do
        stride = encoder_of(theirs).output_stride
        words.append("output_stride")
    values = {**there, "rates": tuple(rate // stride for rate in rates), "output_stride": stride}
    needed = [f"{word}={values[word]}" for word in words]
    return f"build it with {', '.join(needed)}, for the same graph"


def own_remark(model: nn.Module, theirs: nn.Module) -> str:
    """The output stride, where it is another: the weights serve at every one (see `Strides`)."""
    if getattr(model, "encoder", None) is None:
        return ""
    there, here = encoder_of(theirs).output_stride, encoder_of(model).output_stride
    return "" if there == here else f"output stride {there} there, {here} here"
