"""BatchNorm folded into the convolution before it: the same logits from fewer passes over the maps.

In eval mode BatchNorm is a fixed scale and shift of each channel, and a convolution can do both on the way:

    γ (W∗x + b - μ) / √(σ² + ε) + β  =  W'∗x + b'     W' = s W,  b' = s (b - μ) + β,  s = γ / √(σ² + ε)

Which convolution stands before which BatchNorm is not in the modules' names or order but in what the network
computes.  So one image is run through it and watched: hooks tell whose output each BatchNorm takes, and below
all modules torch's dispatcher tells who else reads a tensor.  (A symbolic trace by torch.fx would tell both,
too, but stops at the loops and shapes in some forward passes here; a list of names would have to be kept up
for every network.)
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.registry import legal_size, margin

SIDE = 64  # pixels of the image that is watched


def fold(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode, its BatchNorms part of the convolutions before them; for inference.

    model: an architecture or encoder of the zoo, or another network with `in_channels` that takes any size.
    The logits are equal to about 1e-6 of their range; `model` stays as it is.  What cannot be folded stays: a
    BatchNorm behind anything but one convolution, a convolution whose output or weight someone else reads,
    and either of them used more than once or without being called.
    """
    folded = copy.deepcopy(model).eval()
    names = {norm: name for name, norm in folded.named_modules()}
    for conv, norm in foldable(folded):
        fold_pair(conv, norm)
        folded.set_submodule(names[norm], nn.Identity())
    return folded


@torch.no_grad()
def fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Make `conv` alone compute what `norm` of `conv` did; in float64, then rounded once."""
    mean, variance = (t.double() for t in (norm.running_mean, norm.running_var) if t is not None)
    weight, shift = norm.weight, norm.bias
    scale = (variance + norm.eps).rsqrt() * (1 if weight is None else weight)
    bias = (0 if conv.bias is None else conv.bias) - mean
    bias = bias * scale + (0 if shift is None else shift)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((conv.weight * scale[:, None, None, None]).to(dtype))
    conv.bias = nn.Parameter(bias.to(dtype))


def foldable(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each BatchNorm of `model`, in eval mode, with the convolution whose output it alone reads."""
    made: dict[int, nn.Conv2d] = {}  # the convolution that each tensor came from
    taken: list[tuple[Tensor, nn.BatchNorm2d]] = []  # what each BatchNorm was given

    def after(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module
            reads.kept.append(output)
        elif isinstance(module, nn.BatchNorm2d):
            taken.append((given[0], module))

    image, reads = example(model), Reads()
    hooks = [module.register_forward_hook(after) for module in model.modules()]
    with torch.no_grad(), reads:
        output = model(image)
    for hook in hooks:
        hook.remove()
    for tensor in tree_leaves(output):
        reads.enter(tensor)  # by whoever gets the logits
    pairs = []
    for given, norm in taken:
        if id(given) in made and norm.running_mean is not None and norm.running_var is not None:
            conv = made[id(given)]
            own = (*conv.parameters(), *norm.parameters(), norm.running_mean, norm.running_var)
            if all(reads.count[id(t)] == 1 for t in (given, *own)):
                pairs.append((conv, norm))
    return pairs


class Reads(TorchDispatchMode):
    """Counts for each tensor the operations that read it."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.kept: list[object] = []  # lest another tensor gets the number of one that is gone

    def __torch_dispatch__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        for leaf in tree_leaves((args, kwargs)):
            self.enter(leaf)
        return function(*args, **kwargs or {})

    def enter(self, leaf: object) -> None:
        """`leaf`, if it is a tensor, was read."""
        if isinstance(leaf, Tensor):
            self.count[id(leaf)] += 1
            self.kept.append(leaf)


def example(model: nn.Module) -> Tensor:
    """One image that `model` takes, on its device, in its dtype."""
    sides, border = (SIDE, SIDE), 0
    if hasattr(model, "min_size"):
        sides, border = legal_size(model, SIDE), 2 * margin(model)
    like = next(model.parameters())
    return like.new_zeros(1, cast(int, model.in_channels), sides[0] + border, sides[1] + border)
