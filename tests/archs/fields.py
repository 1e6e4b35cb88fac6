"""The receptive field of a network, measured: which input rows move which output rows."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def positive(model: nn.Module) -> nn.Module:
    """`model` in eval mode with every weight positive and every maximum a mean, so that no path is hidden.

    A kernel's weights add up to one, so that values neither grow nor vanish, however deep it is.
    """
    model = model.double().eval()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            mean = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            model.set_submodule(path, mean)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1 / p[0].numel() if p.ndim > 1 else 0.5)
    return model


def gradient(model: nn.Module, x: Tensor, rows: Iterable[int]) -> list[Tensor]:
    """How much each row of `x` (1, C, H, W) moves each of these output rows: (H,), the largest of a row."""
    x = x.requires_grad_()
    column = model(x)[0, 0].mean(1)
    found = []
    for row in rows:
        (g,) = torch.autograd.grad(column[row], x, retain_graph=True)
        found.append(g[0].abs().amax((0, 2)))
    return found


def fields(
    model: nn.Module, height: int, width: int, rows: Iterable[int] | None = None
) -> list[tuple[int, int]]:
    """(first, last) input row that reaches each of these output rows, by default each; `model` is spoilt."""
    model = positive(model)
    x = torch.ones(1, model.in_channels, height, width, dtype=torch.float64)
    if rows is None:
        with torch.no_grad():
            rows = range(model(x).shape[2])
    reached = [g.nonzero().flatten().tolist() for g in gradient(model, x, rows)]
    return [(r[0], r[-1]) for r in reached]
