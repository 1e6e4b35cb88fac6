"""HRNets to compare: of few blocks where all do not matter, and by formulas that leave nothing out."""

import pytest
import torch
from torch import Tensor, nn

from zoo.encoders import hrnet


def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on an HRNet has every kind of block and connection, but each stage a single one: quickly."""
    monkeypatch.setattr(hrnet, "MODULES", (1, 1, 1))
    monkeypatch.setattr(hrnet, "UNITS", 1)


def bilinear(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """(N, C, h, w) -> (N, C, *size), a pixel at a time, each from four."""

    def source(i: int, large: int, small: int) -> tuple[int, int, float]:
        """The two of `small` pixels between which pixel i of `large` lies, and how far from the first."""
        if align_corners:
            place = i * (small - 1) / (large - 1) if large > 1 else 0.0
        else:
            place = min(max((i + 0.5) * small / large - 0.5, 0.0), small - 1.0)
        before = min(int(place), small - 1)
        return before, min(before + 1, small - 1), place - before

    y = x.new_zeros(*x.shape[:2], *size)
    for a in range(size[0]):
        for b in range(size[1]):
            top, bottom, down = source(a, size[0], x.shape[2])
            left, right, along = source(b, size[1], x.shape[3])
            upper = (1 - along) * x[:, :, top, left] + along * x[:, :, top, right]
            lower = (1 - along) * x[:, :, bottom, left] + along * x[:, :, bottom, right]
            y[:, :, a, b] = (1 - down) * upper + down * lower
    return y


def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm by its formula, from running statistics."""
    mean, var, scale, shift = (
        t.view(-1, 1, 1) for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def pointwise(x: Tensor, kernel: Tensor) -> Tensor:
    """1×1 convolution without bias."""
    return torch.einsum("nchw,oc->nohw", x, kernel[:, :, 0, 0])
