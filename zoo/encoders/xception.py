"""Modified aligned Xception (Chollet, 2017; Qi et al., 2017; Chen et al., 2018), with timm's keys.

New in Xception: a convolution is split into a depthwise one, which looks around within a channel, and a 1×1
one, which mixes the channels.  DeepLabV3+ makes it deeper and puts a strided separable convolution in place
of each max pooling, so that the stride can be traded for dilation.

Read beside papers/xception.md and Fig. 4 of DeepLabV3+.  N batch, (H, W) the size of the input.
Departs from the paper: it adds a ReLU behind each depthwise BatchNorm; as in the authors' code and weights
only the last module has that, the others have one before each separable convolution instead.  No pooling and
no classifier behind the exit flow.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.encoders.encoder import Encoder, Strides, check_depth
from zoo.layers import SeparableConv, recomputable

# Fig. 4 is xception65; the others are in the authors' code.  entry: (channels, stride) of each module;
# middle: how many follow.  The names count convolutions: two in the stem and three a module.
VARIANTS = {
    "xception41": dict(entry=((128, 2), (256, 2), (728, 2)), middle=8),
    "xception65": dict(entry=((128, 2), (256, 2), (728, 2)), middle=16),
    "xception71": dict(entry=((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), middle=16),
}
EPS = 1e-3  # of every BatchNorm, from the authors' code: the published weights need it


def conv_bn(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution and BatchNorm, padded so that only the stride changes the size."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels, EPS)))


@recomputable
class XceptionModule(nn.Module):
    """Fig. 4: three separable convolutions, of which the third has the stride, and a shortcut around them.

    A ReLU stands before each of them and none behind the sum.  `last`: the module that ends the exit flow has
    no shortcut, and its ReLUs stand behind each BatchNorm.
    shortcut: a 1×1 convolution with BatchNorm instead of the identity.
    whole: False leaves out what lies behind the second convolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, int, int],
        *,
        stride: int,
        dilation: int,
        shortcut: bool,
        last: bool = False,
        whole: bool = True,
    ) -> None:
        super().__init__()
        self.last, self.whole = last, whole
        self.stack = nn.ModuleDict()
        for i, (before, here) in enumerate(zip((in_channels, *channels), channels, strict=False), 1):
            if i < 3 or whole:
                s = stride if i == 3 else 1
                self.stack[f"conv{i}"] = SeparableConv(
                    before, here, stride=s, dilation=dilation, relu=last, eps=EPS
                )
        self.shortcut = conv_bn(in_channels, channels[2], 1, stride) if shortcut and whole else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> what the second convolution puts out (N, channels[1], h, w), and the module's
        output (N, channels[2], h/stride, w/stride).
        """
        inner = self.stack["conv2"](self._relu(self.stack["conv1"](self._relu(x))))
        if not self.whole:
            return inner, inner
        y = self.stack["conv3"](self._relu(inner))
        if not self.last:
            y = y + (x if self.shortcut is None else self.shortcut(x))
        return inner, y

    def _relu(self, x: Tensor) -> Tensor:
        """Never in place: shortcut and decoder take the map as it was."""
        return x if self.last else F.relu(x)


class Xception(Encoder):
    """Fig. 4: entry, middle and exit flow; the finest maps come from within the modules that stride.

    Maps at strides 2, 4, 8, 16: what the second separable convolution puts out, before the ReLU, in the
    module whose third halves the size (at stride 4: DeepLabV3+'s low-level map); at 32 the last module's.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        entry: tuple[tuple[int, int], ...],
        middle: int,
        output_stride: int = 32,
        dilate_first: bool = False,
        depth: int = 5,
    ) -> None:
        super().__init__()
        check_depth(depth, 5)
        strides = Strides(output_stride, dilate_first)
        rows = [((width,) * 3, stride) for width, stride in entry]
        rows += [((728,) * 3, 1)] * middle
        rows += [((728, 1024, 1024), 2), ((1536, 1536, 2048), 1)]

        stem = strides.stage(2)[0]
        self.stem = nn.Sequential(conv_bn(in_channels, 32, 3, stem), conv_bn(32, 64, 3, 1))

        self.blocks = nn.ModuleList()
        self.taps: list[int] = []  # the blocks whose inner map is returned
        channels: list[int] = []
        reached: list[int] = []
        here = 64
        for i, (widths, stride) in enumerate(rows):
            if stride == 2:
                self.taps.append(i)
                channels.append(widths[1])
                reached.append(strides.reached)
            whole = len(channels) < depth or stride == 1
            s, dilation, _ = strides.stage(stride)
            last = i == len(rows) - 1
            # By the stride of the table: a module whose stride became dilation keeps its weights.
            shortcut = not last and (stride == 2 or here != widths[2])
            self.blocks.append(
                XceptionModule(
                    here, widths, stride=s, dilation=dilation, shortcut=shortcut, last=last, whole=whole
                )
            )
            if not whole:
                break
            here = widths[2]
        if len(channels) < depth:
            channels.append(here)
            reached.append(strides.reached)

        self.in_channels, self.channels, self.strides = in_channels, tuple(channels), tuple(reached)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # TensorFlow's truncated normal: cut at twice its deviation
                nn.init.trunc_normal_(module.weight, std=0.09, a=-0.18, b=0.18)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> 128, 256, 728, 1024, 2048 channels at H/2, H/4, H/8, H/16, H/32."""
        for conv in self.stem:
            x = F.relu(conv(x))                                 # (N, 64, H/2, W/2)
        maps = []
        for i, block in enumerate(self.blocks):
            inner, x = block(x)                                 # (N, c, h, w), (N, C, h/stride, w/stride)
            if i in self.taps:
                maps.append(inner)
        return tuple(maps) if len(maps) == len(self.channels) else (*maps, x)
