"""The network of a run: built for the data, and started from the weights that the configuration names."""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo import registry, weights
from zoo.core.checkpoint import seed_everything
from zoo.core.config import TrainConfig
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


def ready(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """What is not trained frozen, on `device` in the memory format of training, blocks to be recomputed.

    Raises InputError as `freeze`.
    """
    freeze(model, config)
    model.to(device).to(memory_format=torch.channels_last)
    if config.grad_checkpoint:
        recompute(model)


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
