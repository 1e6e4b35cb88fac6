"""EfficientNet-B0 to B7 (Tan, Le, 2019), with torchvision's state-dict keys.

New: width, depth and input size grow together.  A search found B0; every larger network is B0 with each
width times one coefficient and each number of layers times another.

Read beside papers/efficientnet.md and Table 1 of the paper.  N batch, (H, W) the size of the input.
Departs from the paper: convolutions are padded alike on both sides (TensorFlow's SAME pads a strided
one more at the end), and BatchNorm's eps and momentum are those of torchvision's files; strides may be traded
for dilation; stage 9 but for its pooling, a 1×1 convolution, feeds the classifier alone and is not built.
"""

from collections.abc import Callable
from functools import partial
from math import ceil

from torch import Tensor, nn

from zoo.dropout import StochasticDepth
from zoo.encoders.encoder import Encoder, Strides, check_depth
from zoo.layers import SqueezeExcite, conv_bn, nearest_multiple, recomputable

STEM = 32  # channels of stage 1
STAGES = (  # Table 1, stages 2 to 8: (expansion, kernel, stride, channels, layers)
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
TAPS = (0, 2, 3, 5, 7)  # of `features`, counted from the stem as 0: the last at each stride
DROP = 0.2  # Sec. 5.2: the last block survives with probability 0.8

# The coefficients are in the authors' code; Sec. 3.3 has the rule that they come from.  eps and momentum
# are BatchNorm's: torchvision's B5 to B7 were trained in TensorFlow.
VARIANTS = {
    "efficientnet_b0": dict(width_coefficient=1.0, depth_coefficient=1.0),
    "efficientnet_b1": dict(width_coefficient=1.0, depth_coefficient=1.1),
    "efficientnet_b2": dict(width_coefficient=1.1, depth_coefficient=1.2),
    "efficientnet_b3": dict(width_coefficient=1.2, depth_coefficient=1.4),
    "efficientnet_b4": dict(width_coefficient=1.4, depth_coefficient=1.8),
    "efficientnet_b5": dict(width_coefficient=1.6, depth_coefficient=2.2, eps=1e-3, momentum=0.01),
    "efficientnet_b6": dict(width_coefficient=1.8, depth_coefficient=2.6, eps=1e-3, momentum=0.01),
    "efficientnet_b7": dict(width_coefficient=2.0, depth_coefficient=3.1, eps=1e-3, momentum=0.01),
}

Norm = Callable[[int], nn.BatchNorm2d]


def scaled_width(channels: int, coefficient: float) -> int:
    """`channels` of B0 times the coefficient, as a multiple of 8."""
    return nearest_multiple(channels * coefficient, 8)


def scaled_depth(layers: int, coefficient: float) -> int:
    """`layers` of a stage of B0 times the coefficient, rounded up."""
    return ceil(layers * coefficient)


@recomputable
class MBConv(nn.Module):
    """Table 1's operator, from MobileNetV2: y = x + F(x), where the shape stays, else y = F(x).

    F: 1×1 up to `expansion` times the channels (none for 1), depthwise k×k, squeeze-and-excitation down to a
    quarter of the block's INPUT, 1×1 down, without an activation behind it.
    drop: how likely F(x) is left out in training; None where the shape changes.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        norm: Norm,
        *,
        expansion: int,
        kernel: int,
        stride: int,
        dilation: int,
        drop: float | None,
    ) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.block = nn.Sequential(
            *([conv_bn(in_channels, wide, 1, norm=norm, act=nn.SiLU)] if expansion > 1 else []),
            conv_bn(
                wide, wide, kernel, stride=stride, dilation=dilation, groups=wide, norm=norm, act=nn.SiLU
            ),
            SqueezeExcite(wide, max(1, in_channels // 4), nn.SiLU(inplace=True)),
            conv_bn(wide, channels, 1, norm=norm),
        )
        self.drop = None if drop is None else StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h/stride, w/stride)."""
        y = self.block(x)
        return y if self.drop is None else x + self.drop(y)


class EfficientNet(Encoder):
    """Table 1, scaled.  Maps: the stem's at stride 2, and the last at each of 4, 8, 16, 32.

    width_coefficient, depth_coefficient: what B0's channels and layers are multiplied by.
    eps, momentum: of every BatchNorm.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        width_coefficient: float = 1.0,
        depth_coefficient: float = 1.0,
        eps: float = 1e-5,
        momentum: float = 0.1,
        output_stride: int = 32,
        dilate_first: bool = False,
        depth: int = 5,
    ) -> None:
        super().__init__()
        check_depth(depth, 5)
        strides = Strides(output_stride, dilate_first)
        norm = partial(nn.BatchNorm2d, eps=eps, momentum=momentum)
        counts = [scaled_depth(layers, depth_coefficient) for *_, layers in STAGES]

        here = scaled_width(STEM, width_coefficient)
        self.features = nn.Sequential(
            conv_bn(in_channels, here, 3, stride=strides.stage(2)[0], norm=norm, act=nn.SiLU)
        )
        channels, reached = [here], [strides.reached]
        before = 0  # blocks built so far
        for i, (expansion, kernel, stride, width, _) in enumerate(STAGES[: TAPS[depth - 1]], 1):
            first_stride, first_dilation, dilation = strides.stage(stride)
            out = scaled_width(width, width_coefficient)
            stage = nn.Sequential()
            for b in range(counts[i - 1]):
                # By the stride of the table: where it became dilation the block adds as little as before.
                adds = b > 0 or (stride == 1 and here == out)
                stage.append(
                    MBConv(
                        here,
                        out,
                        norm,
                        expansion=expansion,
                        kernel=kernel,
                        stride=1 if b else first_stride,
                        dilation=dilation if b else first_dilation,
                        drop=DROP * before / sum(counts) if adds else None,
                    )
                )
                here = out
                before += 1
            self.features.append(stage)
            if i in TAPS:
                channels.append(here)
                reached.append(strides.reached)

        self.in_channels, self.channels, self.strides = in_channels, tuple(channels), tuple(reached)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> for B0: 32, 24, 40, 112, 320 channels at H/2, H/4, H/8, H/16, H/32."""
        maps = []
        for i, stage in enumerate(self.features):
            x = stage(x)
            if i in TAPS:
                maps.append(x)
        return tuple(maps)
