"""The network of a run: built for the data, and started from the weights that the configuration names."""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo import registry, weights
from zoo.core.checkpoint import seed_everything
from zoo.core.config import TrainConfig
from zoo.core.device import resolve_amp
from zoo.core.memory import recompute
from zoo.errors import InputError


def network(
    config: TrainConfig, num_classes: int, channels: int, say: Callable[[str], None]
) -> tuple[nn.Module, dict]:
    """The model, its random weights drawn from the run's seed, and the keywords that build it again.

    channels: those of the images; encoders start from weights for three, so behind one grey is repeated.
    say: gets a line on what was loaded.  Raises InputError.
    """
    build: dict = {
        "num_classes": num_classes,
        "in_channels": 3 if config.encoder else channels,
        "encoder": config.encoder,
        **config.options,
    }
    seed_everything(config.seed)
    model = registry.build(config.arch, **build, pretrained=config.pretrained is True)
    start = starting_weights(config)
    if start is not None:
        path = weights.fetch(start) if start in weights.known() else start
        loaded = weights.load(model, path, reset_head=config.reset_head, say=say)
        build |= loaded.options  # such as align_corners: without them the same weights are another network
    return model, build


def freeze(model: nn.Module, config: TrainConfig) -> None:
    """Take what is not to be trained from the optimizer's reach.  Raises InputError without an encoder."""
    if config.freeze_encoder:
        encoder = getattr(model, "encoder", None)
        if encoder is None:
            raise InputError(f"--freeze-encoder: {config.arch} has no encoder here; leave it out")
        encoder.requires_grad_(False)


def memory_format(model: nn.Module, device: torch.device, amp: torch.dtype | None) -> torch.memory_format:
    """In which weights and images of `model` lie in training.

    Channels-last, but on a CPU in float32 for dilated convolutions over all channels, whose gradients then
    take more time and memory (benchmarks/LOG.md).
    """
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    slow = device.type == "cpu" and amp is None and any(max(m.dilation) > 1 for m in convs)
    return torch.contiguous_format if slow else torch.channels_last


def ready(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.memory_format:
    """What is not trained frozen, on `device`, blocks to be recomputed; returns the memory format of it all.

    Raises InputError as `freeze`.
    """
    freeze(model, config)
    layout = memory_format(model, device, resolve_amp(config.amp, device))
    model.to(device).to(memory_format=layout)
    if config.grad_checkpoint:
        recompute(model)
    return layout


def training_mode(model: nn.Module, config: TrainConfig) -> None:
    """Train mode, but for BatchNorms whose statistics are to stay as they are."""
    model.train()
    parts = [model] if config.freeze_bn else [cast(nn.Module, model.encoder)] if config.freeze_encoder else []
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, _BatchNorm):
            module.eval()


def on_meta(config: TrainConfig) -> nn.Module:
    """The network of `config` without values, for its limits.  Raises InputError for a wrong option."""
    options: dict = config.options
    with torch.device("meta"):
        return registry.build(config.arch, encoder=config.encoder, **options)


def starting_weights(config: TrainConfig) -> str | None:
    """The file or the published name whose weights, head and all, the run starts from."""
    return config.pretrained if isinstance(config.pretrained, str) else config.weights
