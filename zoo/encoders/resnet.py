"""ResNet (He, Zhang, Ren, Sun, 2015) and ResNeXt (Xie et al., 2016), with torchvision's state-dict keys.

New: a block computes what is to be added to its input, y = F(x) + x, so that a hundred layers can be trained.
ResNeXt splits the 3×3 convolution of a bottleneck into groups.

Read beside papers/resnet.md and Table 1 of the paper.  N batch, (H, W) the size of the input.
Departs from the papers: the stride sits on a bottleneck's 3×3 convolution, not on its first 1×1 ("v1.5", as
in torchvision); strides may be traded for dilation; no pooling and no classifier behind the last stage.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.encoders.encoder import Encoder, Strides, check_depth
from zoo.layers import recomputable

VARIANTS = {  # Table 1 of ResNet; Table 1 of ResNeXt; "s" has PSPNet's stem of three 3×3 convolutions
    "resnet18":         dict(layers=(2, 2, 2, 2),  bottleneck=False),
    "resnet34":         dict(layers=(3, 4, 6, 3),  bottleneck=False),
    "resnet50":         dict(layers=(3, 4, 6, 3)),
    "resnet101":        dict(layers=(3, 4, 23, 3)),
    "resnet152":        dict(layers=(3, 8, 36, 3)),
    "resnet50s":        dict(layers=(3, 4, 6, 3),  deep_stem=True),
    "resnet101s":       dict(layers=(3, 4, 23, 3), deep_stem=True),
    "resnet152s":       dict(layers=(3, 8, 36, 3), deep_stem=True),
    "resnext50_32x4d":  dict(layers=(3, 4, 6, 3),  groups=32, group_width=4),
    "resnext101_32x8d": dict(layers=(3, 4, 23, 3), groups=32, group_width=8),
}  # fmt: skip


def conv3x3(
    in_channels: int, channels: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """3×3, padded so that only the stride changes the size; BatchNorm follows, so there is no bias."""
    return nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, groups, bias=False)


def projection(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """Eq. 2: W_s x where the shortcut changes width or size, else None for the identity of Eq. 1."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


@recomputable
class BasicBlock(nn.Module):
    """Fig. 5 left: y = relu(F(x) + x), F two 3×3 convolutions."""

    def __init__(self, in_channels: int, channels: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, 1, dilations[1])
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h/stride, w/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


@recomputable
class Bottleneck(nn.Module):
    """Fig. 5 right: y = relu(F(x) + x), F of 1×1 down to `middle`, 3×3 in `groups`, 1×1 up to `channels`."""

    def __init__(
        self, in_channels: int, middle: int, channels: int, stride: int, dilation: int, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv3x3(middle, middle, stride, dilation, groups)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h/stride, w/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNet(Encoder):
    """Table 1: stem and four stages; maps at strides 2 (before the max pool), 4, 8, 16, 32."""

    def __init__(
        self,
        in_channels: int = 3,
        *,
        layers: tuple[int, int, int, int],
        bottleneck: bool = True,
        groups: int = 1,
        group_width: int = 64,
        deep_stem: bool = False,
        output_stride: int = 32,
        dilate_first: bool = False,
        depth: int = 5,
    ) -> None:
        super().__init__()
        check_depth(depth, 5)
        strides = Strides(output_stride, dilate_first)
        stem = 128 if deep_stem else 64
        width = 64  # of the 3×3 convolutions of layer1; each later stage doubles it
        expansion = 4 if bottleneck else 1

        if deep_stem:
            self.conv1: nn.Module = nn.Sequential(
                conv3x3(in_channels, 64, 2), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                conv3x3(64, 64), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                conv3x3(64, stem),
            )  # fmt: skip
        else:
            self.conv1 = nn.Conv2d(in_channels, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        reached = [strides.stage(2)[0]]
        pool_stride = strides.stage(2)[0]
        self.maxpool = nn.MaxPool2d(3, pool_stride, 1)

        channels = [stem]
        for i, blocks in enumerate(layers[: depth - 1]):
            stride, first, dilation = strides.stage(2 if i else 1)
            out = width * 2**i * expansion
            stage = nn.Sequential()
            for b in range(blocks):
                here = channels[-1] if b == 0 else out
                s, d = (stride, first) if b == 0 else (1, dilation)
                if bottleneck:
                    middle = group_width * 2**i * groups
                    stage.append(Bottleneck(here, middle, out, s, d, groups))
                else:
                    stage.append(BasicBlock(here, out, s, (d, dilation)))
            self.add_module(f"layer{i + 1}", stage)
            channels.append(out)
            reached.append(strides.reached)

        self.in_channels, self.channels, self.strides = in_channels, tuple(channels), tuple(reached)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> 64 (or 128) channels at H/2, then layer1 .. layer4."""
        x = F.relu(self.bn1(self.conv1(x)))                     # (N, 64, H/2, W/2)
        maps = [x]
        x = self.maxpool(x) if len(self.channels) > 1 else x    # (N, 64, H/4, W/4)
        for i in range(1, len(self.channels)):
            x = self.get_submodule(f"layer{i}")(x)              # (N, channels[i], H/strides[i], W/strides[i])
            maps.append(x)
        return tuple(maps)
