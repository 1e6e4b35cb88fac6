"""RegNetX and RegNetY (Radosavovic, Kosaraju, Girshick, He, Dollár, 2020), with torchvision's keys.

New: not one network is designed but a space of them, narrowed down until its good networks can be told in a
line: four numbers and a group width say every width and depth.

Read beside papers/regnet.md and Sec. 3.3 of the paper.  N batch, (H, W) the size of the input.
Departs from the paper: the last rounding of a width, to a multiple of the group width, is torchvision's, by
which X-400MF, Y-800MF and Y-8GF have a wider stage than the authors'; strides may be traded for dilation; no
pooling and no classifier behind the last stage.
"""

from collections import OrderedDict
from itertools import groupby
from math import log

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.encoders.encoder import Encoder, Strides, check_depth
from zoo.layers import SqueezeExcite, conv_bn, nearest_multiple, recomputable

STEM = 32  # channels of the stem, in all of them

# d blocks of widths w = (w_0, w_a, w_m); a name ends in the multiply-adds at 224×224, as "gigaflops".
VARIANTS = {
    "regnet_x_400mf": dict(d=22, w=(24, 24.48, 2.54),    group_width=16),
    "regnet_x_800mf": dict(d=16, w=(56, 35.73, 2.28),    group_width=16),
    "regnet_x_1_6gf": dict(d=18, w=(80, 34.01, 2.25),    group_width=24),
    "regnet_x_3_2gf": dict(d=25, w=(88, 26.31, 2.25),    group_width=48),
    "regnet_x_8gf":   dict(d=23, w=(80, 49.56, 2.88),    group_width=120),
    "regnet_x_16gf":  dict(d=22, w=(216, 55.59, 2.1),    group_width=128),
    "regnet_x_32gf":  dict(d=23, w=(320, 69.86, 2.0),    group_width=168),
    "regnet_y_400mf": dict(d=16, w=(48, 27.89, 2.09),    group_width=8,   squeeze_excite=True),
    "regnet_y_800mf": dict(d=14, w=(56, 38.84, 2.4),     group_width=16,  squeeze_excite=True),
    "regnet_y_1_6gf": dict(d=27, w=(48, 20.71, 2.65),    group_width=24,  squeeze_excite=True),
    "regnet_y_3_2gf": dict(d=21, w=(80, 42.63, 2.66),    group_width=24,  squeeze_excite=True),
    "regnet_y_8gf":   dict(d=17, w=(192, 76.82, 2.19),   group_width=56,  squeeze_excite=True),
    "regnet_y_16gf":  dict(d=18, w=(200, 106.23, 2.48),  group_width=112, squeeze_excite=True),
    "regnet_y_32gf":  dict(d=20, w=(232, 115.89, 2.53),  group_width=232, squeeze_excite=True),
}  # fmt: skip


def stages(d: int, w: tuple[float, float, float], group_width: int) -> list[tuple[int, int]]:
    """(width, blocks) of each stage, from a line of slope w_a that is rounded to powers of w_m.

    Eq. 2: u_j = w_0 + w_a·j.  Eq. 3: u_j = w_0·w_m^s_j.  Eq. 4: w_j = w_0·w_m^round(s_j), to a multiple of 8.
    Blocks of one width are a stage; its width is then rounded to a multiple of the group width.
    """
    w_0, w_a, w_m = w
    widths = []
    for j in range(d):
        u = w_0 + w_a * j
        s = log(u / w_0) / log(w_m)
        widths.append(round(w_0 * w_m ** round(s) / 8) * 8)
    found = []
    for width, blocks in groupby(widths):
        found.append((nearest_multiple(width, min(group_width, width)), len(list(blocks))))
    return found


@recomputable
class XBlock(nn.Module):
    """Fig. 4: y = relu(x + f(x)), f of 1×1, 3×3 in groups, 1×1, all `channels` wide (bottleneck ratio 1).

    The Y block of Sec. 5 has squeeze-and-excitation behind the 3×3, down to `squeeze` channels.
    first: in a stage; it has the stride, and so a 1×1 convolution on its shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        first: bool,
        stride: int,
        dilation: int,
        groups: int,
        squeeze: int | None,
    ) -> None:
        super().__init__()
        self.proj = conv_bn(in_channels, channels, 1, stride=stride) if first else None
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["a"] = conv_bn(in_channels, channels, 1, act=nn.ReLU)
        parts["b"] = conv_bn(
            channels, channels, 3, stride=stride, dilation=dilation, groups=groups, act=nn.ReLU
        )
        if squeeze is not None:
            parts["se"] = SqueezeExcite(channels, squeeze, nn.ReLU(inplace=True))
        parts["c"] = conv_bn(channels, channels, 1)
        self.f = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h/stride, w/stride)."""
        shortcut = x if self.proj is None else self.proj(x)
        return F.relu(shortcut + self.f(x))


class RegNet(Encoder):
    """Fig. 3: stem and four stages of equal blocks; maps at strides 2 (the stem's), 4, 8, 16, 32.

    d: blocks in all.  w: (w_0, w_a, w_m), see `stages`.  group_width: channels of each group in a 3×3.
    squeeze_excite: RegNetY's gates, squeezed to a quarter of the block's INPUT.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        d: int,
        w: tuple[float, float, float],
        group_width: int,
        squeeze_excite: bool = False,
        output_stride: int = 32,
        dilate_first: bool = False,
        depth: int = 5,
    ) -> None:
        super().__init__()
        rows = stages(d, w, group_width)
        check_depth(depth, 1 + len(rows))
        strides = Strides(output_stride, dilate_first)

        self.stem = conv_bn(in_channels, STEM, 3, stride=strides.stage(2)[0], act=nn.ReLU)
        self.trunk_output = nn.Sequential()
        channels, reached = [STEM], [strides.reached]
        here = STEM
        for i, (width, blocks) in enumerate(rows[: depth - 1], 1):
            first_stride, first_dilation, dilation = strides.stage(2)
            stage = nn.Sequential()
            for b in range(blocks):
                block = XBlock(
                    here,
                    width,
                    first=b == 0,
                    stride=1 if b else first_stride,
                    dilation=dilation if b else first_dilation,
                    groups=width // min(group_width, width),
                    squeeze=round(here / 4) if squeeze_excite else None,
                )
                stage.add_module(f"block{i}-{b}", block)
                here = width
            self.trunk_output.add_module(f"block{i}", stage)
            channels.append(here)
            reached.append(strides.reached)

        self.in_channels, self.channels, self.strides = in_channels, tuple(channels), tuple(reached)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # fan_out counts all channels, whatever the groups
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> 32 channels at H/2, then the stages at H/4, H/8, H/16, H/32."""
        x = self.stem(x)                                        # (N, 32, H/2, W/2)
        maps = [x]
        for stage in self.trunk_output:
            x = stage(x)                                        # (N, channels[i], H/strides[i], W/strides[i])
            maps.append(x)
        return tuple(maps)
