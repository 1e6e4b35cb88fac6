"""zoo: segmentation networks written from their papers, and one core that trains them all."""

from pathlib import Path

from torch import nn

from zoo import archs as archs
from zoo import weights as weights
from zoo.fold import fold
from zoo.registry import build, describe, names

__all__ = ["build", "describe", "fold", "load", "names", "weights"]


def load(path: str | Path) -> nn.Module:
    """The trained network in a checkpoint of `train.py`, in eval mode."""
    from zoo.core.checkpoint import load as from_checkpoint  # a network alone needs none of the core

    return from_checkpoint(path)
