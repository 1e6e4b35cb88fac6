"""torchvision's networks as the reference: their weights in ours, and what their stages put out."""

import torch
import torchvision
from torch import Tensor, nn

from tests.scatter import scattered
from zoo import encoders
from zoo.encoders.encoder import Encoder

NOT_OURS = ("fc.", "classifier.", "features.8.")  # features.8: EfficientNet's 1×1 before the classifier


def twins(name: str, **options: int) -> tuple[nn.Module, Encoder]:
    """torchvision's network and ours in eval mode, with the very same tensors, so that the large ones fit."""
    theirs = scattered(torchvision.models.get_model(name))
    with torch.device("meta"):
        ours = encoders.build(name, **options).eval()
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith(NOT_OURS)}
    ours.load_state_dict(weights, strict=True, assign=True)
    return theirs, ours


def maps_of(theirs: nn.Module, x: Tensor) -> list[Tensor]:
    """What the last stage at each of the strides 2, 4, 8, 16, 32 puts out for `x`."""
    if hasattr(theirs, "trunk_output"):
        parts = [theirs.stem, *theirs.trunk_output]
    else:
        parts = [theirs.features[i] for i in (0, 2, 3, 5, 7)]
    found: list[Tensor] = []
    hooks = [part.register_forward_hook(lambda _, __, y: found.append(y.clone())) for part in parts]
    theirs(x)
    for hook in hooks:
        hook.remove()
    return found


def spread(block: nn.Module, rate: int) -> None:
    """Take the stride from `block` and give its convolutions that look around the dilation `rate`."""
    for conv in block.modules():
        if isinstance(conv, nn.Conv2d):
            conv.stride = (1, 1)
            if conv.kernel_size != (1, 1):
                conv.dilation = (rate, rate)
                conv.padding = (conv.kernel_size[0] // 2 * rate,) * 2


def hold_gates(encoder: nn.Module) -> None:
    """Make every gate of squeeze-and-excitation its bias alone: it no longer sees the image's mean."""
    for key, parameter in encoder.named_parameters():
        if key.endswith("fc2.weight"):
            nn.init.zeros_(parameter)
