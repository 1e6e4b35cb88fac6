"""The network of a run: built for the data, and started from the weights that the configuration names."""

from collections.abc import Callable

import torch
from torch import nn

from zoo import registry, weights
from zoo.core.checkpoint import seed_everything
from zoo.core.config import TrainConfig


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


def on_meta(config: TrainConfig) -> nn.Module:
    """The network of `config` without values, for its limits.  Raises InputError for a wrong option."""
    options: dict = config.options
    with torch.device("meta"):
        return registry.build(config.arch, encoder=config.encoder, **options)


def starting_weights(config: TrainConfig) -> str | None:
    """The file or the published name whose weights, head and all, the run starts from."""
    return config.pretrained if isinstance(config.pretrained, str) else config.weights
