"""Memory against time: blocks that are computed twice, and the largest batch that fits.

A block is a part of a network that its class has marked as `zoo.layers.recomputable`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The outermost blocks of `model`, in order."""
    if getattr(model, "recomputable", False):
        return [model]
    return [block for child in model.children() for block in blocks_of(child)]


def recompute(model: nn.Module) -> None:
    """From now on a training step keeps what goes into each block of `model`, and computes the rest again.

    Loss, gradients and running statistics are the same; it costs a second forward pass.
    """
    for block in blocks_of(model):
        block.forward = Recomputed(block)


class Recomputed:
    """The forward pass of `block`, which in training is run once more on the way back."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.plain = block, block.forward

    def __call__(self, *inputs: object) -> object:
        if not (self.block.training and torch.is_grad_enabled()):
            return self.plain(*inputs)
        return checkpoint(self.plain, *inputs, use_reentrant=False, context_fn=self.contexts)

    def contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Around the first pass and the second."""
        return nullcontext(), self.seen_already()

    @contextmanager
    def seen_already(self) -> Iterator[None]:
        """The batch must not move a BatchNorm's running statistics twice."""
        kept = [(norm, dict(norm._buffers)) for norm in self.block.modules() if isinstance(norm, _BatchNorm)]
        for norm, buffers in kept:
            norm._buffers.update({key: b if b is None else b.clone() for key, b in buffers.items()})
        try:
            yield
        finally:
            for norm, buffers in kept:
                norm._buffers.update(buffers)
