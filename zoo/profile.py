"""What each module of a network puts out and costs, by hooks on the meta device: no tensor is computed.

MACs are the multiply-adds of convolutions, transposed convolutions and linear layers.  Biases, normalisation,
activations and resizing are not counted, as is usual in the papers' tables.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Stage:
    """One module in a forward pass over one image; parameters and macs count all that is inside it."""

    shape: tuple[int, ...]  # (C, H, W) of what it returned last
    parameters: int
    macs: int


def profile(model: nn.Module, size: int | tuple[int, int]) -> dict[str, Stage]:
    """Module path -> Stage for one INPUT of `size`, in the order in which modules finish; "" is the model.

    Needs `model.in_channels`, which every architecture has; runs in eval mode and puts the mode back.
    """
    spent: dict[nn.Module, int] = {}
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        last = output if isinstance(output, Tensor) else output[-1]
        spent[module] = spent.get(module, 0) + _macs(module, inputs[0], last)
        shapes.pop(module, None)  # a module that runs again moves to its last place
        shapes[module] = tuple(last.shape[1:])

    training = model.training
    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        _run_on_meta(model.eval(), (size, size) if isinstance(size, int) else size)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()

    path = {module: name for name, module in model.named_modules()}
    return {
        path[module]: Stage(
            shape,
            parameters=sum(p.numel() for p in module.parameters()),
            macs=sum(spent.get(part, 0) for part in module.modules()),
        )
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


def _macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Multiply-adds of one leaf that turned x into y, both with a batch of one."""
    if isinstance(module, nn.ConvTranspose2d):  # each input value meets a whole kernel
        return x.numel() * module.out_channels // module.groups * prod(module.kernel_size)
    if isinstance(module, nn.Conv2d):
        return y.numel() * module.in_channels // module.groups * prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    return 0
