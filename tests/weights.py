"""Random weights on which two networks can be compared: fresh ones leave each BatchNorm without effect."""

from typing import TypeVar

from torch import nn

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
