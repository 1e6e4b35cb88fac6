"""The few blocks that more than one paper uses.  Legend: N batch, K classes, (H, W) the input's size."""

from math import prod, sqrt
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Output(NamedTuple):
    """What every architecture returns in train mode; in eval mode it returns one tensor of logits.

    logits: (N, K, H, W), before sigmoid or softmax.
    aux: auxiliary logits of the same shape, weighted in the loss by the model's `aux_weights`; () if none.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()


def resize(x: Tensor, like: Tensor, mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    """`x` (N, C, h, w) at the height and width of `like` (N, C', H, W).

    No short cut where the sizes agree: a trace would freeze the branch that its example took.
    """
    corners = align_corners if mode in ("bilinear", "bicubic") else None  # the others refuse the word
    return F.interpolate(x, size=like.shape[-2:], mode=mode, align_corners=corners)


def he_normal_(module: nn.Module) -> None:
    """He et al. (2015): weights ~ N(0, 2/n), biases 0, for every convolution within `module`.

    n counts the incoming nodes of one output neuron: C·k² for a k×k convolution over C channels, and C·k²/s²
    for a transposed one, of which each output pixel sees that share.  (torch's `kaiming_normal_` takes
    C_out·k² for the latter, twice as many in a 2×2 up-convolution that halves the channels.)
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            n = conv.in_channels // conv.groups * prod(conv.kernel_size)
            if isinstance(conv, nn.ConvTranspose2d):
                n //= prod(conv.stride)
            nn.init.normal_(conv.weight, std=sqrt(2 / n))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
