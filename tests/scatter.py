"""Random weights on which two networks can be compared: fresh ones leave each BatchNorm without effect."""

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def scattered(model: Model) -> Model:
    """`model` with random scales, shifts and statistics in each BatchNorm, in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def settled(model: Model, x: Tensor) -> Model:
    """`model` scattered, but with the statistics of the batch `x`, so that deep sums keep their size."""
    norms = [module for module in scattered(model).modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become the batch's
    with torch.no_grad():
        model.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def assert_starts_as_torchs(conv: nn.Conv2d) -> None:
    """The weights are uniform within the root of 1 / fan-in."""
    bound = conv.weight[0].numel() ** -0.5
    assert 0.99 * bound < conv.weight.abs().max() <= bound * 1.0001
    assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
