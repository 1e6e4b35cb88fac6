"""What every encoder is: image -> feature pyramid; and how it trades strides for dilation."""

from typing import NamedTuple

from torch import Tensor, nn

from zoo.errors import InputError

OUTPUT_STRIDES = (8, 16, 32)


class Normalisation(NamedTuple):
    """What the weights of a network expect of its input: (values 0..1 - mean) / std, one number a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Encoder(nn.Module):
    """An image (N, in_channels, H, W) becomes a tuple of maps (N, channels[i], H/strides[i], W/strides[i]).

    channels, strides: of the maps that `forward` returns, finest first; sizes round up where they do not
        divide.  Dilation changes strides, never the number of maps.
    name: what `zoo.encoders.build` knows it by; "" for one that was built by its class.
    normalisation: that of the weights it was loaded with; None for random weights.
    output_stride, dilate_first: what it was built with; no shape of its weights shows them.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    name: str = ""
    normalisation: Normalisation | None = None
    output_stride: int = 32
    dilate_first: bool = False
    options: tuple[str, ...] = ()  # keywords of the class, besides the shared ones, that `build` hands on
    dilatable = True  # maps at 2, 4, 8, 16, 32, and `Strides`; HRNet's and MiT's are at 4, 8, 16, 32

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> the maps, finest first."""
        raise NotImplementedError

    def keep(self, *strides: int) -> None:
        """Drop the weights that serve none of the maps at `strides`, and with them the maps that they made.

        Most encoders have none: each map is on the way to the last.
        """


class Strides:
    """Gives each stage its stride until `output_stride` is reached, and from there dilation in its place.

    A 3×3 convolution with dilation 2 sees the points that it would have seen behind the stride that was
    given up, so weights trained at one output stride serve at every other.  Releases differ in the first
    block of such a stage, whose input still has the old spacing: torchvision and TensorFlow's DeepLab keep
    the previous dilation there (dilate_first=False), semseg's and Caffe's PSPNet use the new one (True).
    """

    def __init__(self, output_stride: int, dilate_first: bool) -> None:
        if output_stride not in OUTPUT_STRIDES:
            raise InputError(f"output stride {output_stride} is not possible; choose 8, 16 or 32")
        self.limit, self.dilate_first = output_stride, dilate_first
        self.reached, self.dilation = 1, 1

    def stage(self, stride: int) -> tuple[int, int, int]:
        """(stride, dilation of the first block, dilation of the others) of the next stage."""
        before = self.dilation
        if self.reached * stride > self.limit:
            self.dilation *= stride
            stride = 1
        self.reached *= stride
        return stride, self.dilation if self.dilate_first else before, self.dilation


def check_undilated(output_stride: int, who: str) -> None:
    """Raise InputError unless `output_stride` is 32, the only one of encoders that are not `dilatable`."""
    if output_stride != 32:
        raise InputError(
            f"output stride {output_stride} is not possible with {who}, whose maps stay at strides 4, 8, 16 "
            f"and 32; choose 32"
        )


def check_depth(depth: int, maps: int) -> None:
    """Raise InputError unless the encoder, which has `maps`, has the `depth` maps that are asked for."""
    if not 1 <= depth <= maps:
        raise InputError(f"depth {depth} is not possible; the encoder has {maps} maps")
