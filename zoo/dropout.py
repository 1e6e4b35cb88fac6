"""Dropout and stochastic depth whose chance belongs to the sample, not to the batch or the process.

By themselves these layers draw from torch's global generator, as torch's own do.  A trainer that calls
`draw_by_sample` before a forward pass hands each sample a seed of its own, and then what is dropped for a
sample depends on that seed and the layer alone: a batch that is split over two processes loses the same
channels as the whole one, and a resumed run the same as the unbroken one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STREAM = 0x9E3779B97F4A7C15  # from one layer's seeds to the next's: odd, so that no two layers share any


class Dropout(nn.Dropout):
    """torch's, of single values."""

    seeds: Sequence[int] | None = None  # one a sample

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) -> the same shape."""
        if self.seeds is None or not self.training or self.p == 0:
            return super().forward(x)
        return x * stays(x.shape[1:], self.p, self.seeds, x) / (1 - self.p)


class Dropout2d(nn.Dropout2d):
    """torch's, of whole channels."""

    seeds: Sequence[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        if self.seeds is None or not self.training or self.p == 0:
            return super().forward(x)
        return x * stays((x.shape[1], 1, 1), self.p, self.seeds, x) / (1 - self.p)


class StochasticDepth(nn.Module):
    """Stochastic depth (Huang et al., 2016), put behind what a block adds to its input: x + drop(F(x)).

    In train mode it zeroes F(x) with probability `p`, for each image by itself, and divides it by 1 - p where
    it stays, so that the mean is the same.  In eval mode it does nothing.
    """

    chances: Tensor | None = None  # one a sample, uniform in 0..1, where they are drawn beforehand

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) -> the same shape."""
        if not self.training or self.p == 0:
            return x
        if self.chances is None:
            stays = x.new_empty(len(x)).bernoulli_(1 - self.p)          # (N,)
        else:
            stays = (self.chances >= self.p).to(x.dtype)
        return x * (stays.view(-1, *[1] * (x.ndim - 1)) / (1 - self.p))

    def extra_repr(self) -> str:
        """What `print` shows in the brackets."""
        return f"p={self.p:.4g}"


def stays(shape: Sequence[int], p: float, seeds: Sequence[int], like: Tensor) -> Tensor:
    """(N, *shape): 0 with probability `p`, else 1, each sample from its seed."""
    mask = torch.empty(len(seeds), *shape, dtype=like.dtype, device=like.device)
    generator = torch.Generator(like.device)
    for row, seed in zip(mask, seeds, strict=True):
        row.bernoulli_(1 - p, generator=generator.manual_seed(seed))
    return mask


def draw_by_sample(model: nn.Module, seeds: Sequence[int] | None, device: torch.device | str = "cpu") -> None:
    """From now on the layers of `model` drop by `seeds`, whole numbers below 2^63, one a sample of the batch.

    None: by torch's global generator again.
    """
    layers = [m for m in model.modules() if isinstance(m, Dropout | Dropout2d)]
    for i, layer in enumerate(layers, 1):
        layer.seeds = None if seeds is None else [(seed + i * STREAM) % 2**63 for seed in seeds]
    depths = [m for m in model.modules() if isinstance(m, StochasticDepth)]
    if not depths:
        return
    if seeds is None:
        table = [None] * len(depths)
    else:  # one draw a sample for all of them, and one transfer: there are a hundred in a large network
        generator = torch.Generator()
        rows = [torch.rand(len(depths), generator=generator.manual_seed(seed)) for seed in seeds]
        table = list(torch.stack(rows, 1).to(device, non_blocking=True))  # (layers, N)
    for depth, chances in zip(depths, table, strict=True):
        depth.chances = chances
