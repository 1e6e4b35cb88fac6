"""The receptive field of a network, measured: which input rows move which output rows."""

import torch
from torch import nn


def fields(model: nn.Module, height: int, width: int) -> list[tuple[int, int]]:
    """(first, last) input row that reaches each output row.

    Every weight becomes positive and every maximum a mean, so that no path is hidden; `model` is spoilt.
    """
    model = model.double().eval()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            model.set_submodule(path, nn.AvgPool2d(2, ceil_mode=module.ceil_mode))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.1)
    x = torch.ones(1, model.in_channels, height, width, dtype=torch.float64, requires_grad=True)
    column = model(x)[0, 0, :, :].mean(1)
    spans = []
    for value in column:
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        rows = gradient[0].any(0).any(1).nonzero().flatten().tolist()
        spans.append((rows[0], rows[-1]))
    return spans
