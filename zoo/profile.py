"""What each module of a network puts out and costs, on the meta device: no tensor is computed.

MACs are the multiply-adds of convolutions, transposed convolutions, linear layers and attention's two matrix
products, whether a module or a function computes them.  Biases, normalisation, activations, resizing and
plain matrix products (of weights with one another, means as matrices) are not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Stage:
    """One module in a forward pass over one image; parameters and macs count all that is inside it."""

    shape: tuple[int, ...]  # (C, H, W) of what it returned last
    parameters: int
    macs: int


class Counter(TorchFunctionMode):
    """Adds up the multiply-adds of every call while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        """Call `func`, and count it if it is one of COSTS."""
        if func in KEEPS:
            return args[0]
        out = func(*args, **(kwargs or {}))
        if func in COSTS:
            self.macs += COSTS[func](out, *args[:3])
        return out


# Function -> multiply-adds from (output, its first arguments).
COSTS: dict[Callable, Callable[..., int]] = {
    F.conv2d: lambda y, x, w, *_: y.numel() * prod(w.shape[1:]),
    F.conv_transpose2d: lambda y, x, w, *_: x.numel() * prod(w.shape[1:]),  # each input meets a whole kernel
    F.linear: lambda y, x, w, *_: y.numel() * w.shape[1],
    F.scaled_dot_product_attention: lambda y, q, k, v: q.shape[-2] * (k.numel() + v.numel()),
}
# Functions whose output has the shape of their first argument, at no cost; slow on the meta device.
KEEPS: set[Callable] = {F.batch_norm, F.layer_norm, F.relu, F.gelu}


def profile(model: nn.Module, size: int | tuple[int, int]) -> dict[str, Stage]:
    """Module path -> Stage for one INPUT of `size`, in the order in which modules finish; "" is the model.

    Needs `model.in_channels`, which every architecture has; runs in eval mode and puts the mode back.
    """
    counter = Counter()
    began: list[int] = []
    spent: dict[nn.Module, int] = {}
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def before(module: nn.Module, inputs: object) -> None:
        began.append(counter.macs)

    def after(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        last = output if isinstance(output, Tensor) else output[-1]
        spent[module] = spent.get(module, 0) + counter.macs - began.pop()
        shapes.pop(module, None)  # a module that runs again moves to its last place
        shapes[module] = tuple(last.shape[1:])

    training = model.training
    hooks = [module.register_forward_pre_hook(before) for module in model.modules()]
    hooks += [module.register_forward_hook(after) for module in model.modules()]
    try:
        with counter:
            _run_on_meta(model.eval(), (size, size) if isinstance(size, int) else size)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()

    path = {module: name for name, module in model.named_modules()}
    return {
        path[module]: Stage(shape, sum(p.numel() for p in module.parameters()), spent[module])
        for module, shape in shapes.items()
    }


def macs(model: nn.Module, size: int | tuple[int, int]) -> int:
    """Multiply-adds of one forward pass over one image whose INPUT has `size`."""
    return profile(model, size)[""].macs


def _run_on_meta(model: nn.Module, size: tuple[int, int]) -> None:
    """One forward pass in which every weight is a shape without values."""
    state = [*model.named_parameters(), *model.named_buffers()]
    dtype = state[0][1].dtype
    image = torch.empty(1, int(getattr(model, "in_channels")), *size, dtype=dtype, device="meta")  # noqa: B009
    functional_call(model, {key: torch.empty_like(t, device="meta") for key, t in state}, (image,))
