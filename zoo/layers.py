"""The few blocks that more than one paper uses.  Legend: N batch, K classes, (H, W) the input's size."""

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Output(NamedTuple):
    """What every architecture returns in train mode; in eval mode it returns one tensor of logits.

    logits: (N, K, H, W), before sigmoid or softmax.
    aux: auxiliary logits of the same shape, weighted in the loss by the model's `aux_weights`; () if none.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()


Class = TypeVar("Class", bound=type[nn.Module])


def recomputable(cls: Class) -> Class:
    """Class decorator: a part of a network that a trainer may compute twice, or keep in parts, by itself.

    Its output depends on its inputs and weights alone, and it leaves its inputs as they are.
    """
    cls.recomputable = True  # type: ignore[attr-defined]
    return cls


@recomputable
class Chain(nn.Sequential):
    """Layers one behind the other that make one block."""


def resize(x: Tensor, like: Tensor, mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    """`x` (N, C, h, w) at the height and width of `like` (N, C', H, W).

    No short cut where the sizes agree: a trace would freeze the branch that its example took.
    """
    corners = align_corners if mode in ("bilinear", "bicubic") else None  # the others refuse the word
    return F.interpolate(x, size=like.shape[-2:], mode=mode, align_corners=corners)


def crop(up: Tensor, like: Tensor) -> Tensor:
    """`up` without its last row or column where `like` is odd and has one less.

    Nothing is shifted or stretched.  A negative padding, not a slice or a branch: only so can an exporter
    for every size know that the result has the size of `like`.
    """
    return F.pad(up, (0, like.shape[-1] - up.shape[-1], 0, like.shape[-2] - up.shape[-2]))


def conv_bn(
    in_channels: int,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    act: Callable[..., nn.Module] | None = None,
) -> Chain:
    """Convolution, `norm` of its channels and, if given, an activation; only the stride changes the size.

    No bias, for BatchNorm would cancel it.
    """
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, groups, bias=False)
    return Chain(conv, norm(channels), *([act(inplace=True)] if act else []))


def conv_bn_relu(in_channels: int, channels: int, kernel: int = 3, dilation: int = 1) -> Chain:
    """Convolution that keeps the size, BatchNorm, ReLU."""
    return conv_bn(in_channels, channels, kernel, dilation=dilation, act=nn.ReLU)


@recomputable
class UpBlock(nn.Module):
    """A U-Net's step up, as segmentation_models_pytorch has it: nearest up-sampling, concatenation, two 3×3.

    No up-convolution: the map keeps its channels until the first convolution.  The convolutions start from
    He's uniform distribution by fan-in.
    """

    def __init__(self, in_channels: int, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(in_channels + skip_channels, channels)
        self.conv2 = conv_bn_relu(channels, channels)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor, skips: Sequence[Tensor], like: Tensor | None = None) -> Tensor:
        """(N, in_channels, h, w) and skips (N, …, H, W) -> (N, channels, H, W).

        Without a skip, `like` has that height and width.
        """
        up = resize(x, skips[0] if like is None else like, "nearest")       # (N, in_channels, H, W)
        return self.conv2(self.conv1(torch.cat([up, *skips], 1)))           # (N, channels, H, W)


def head3x3(in_channels: int, num_classes: int) -> nn.Conv2d:
    """segmentation_models_pytorch's classifier of each pixel: Xavier-uniform weights, biases 0."""
    head = nn.Conv2d(in_channels, num_classes, 3, padding=1)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.get_parameter("bias"))
    return head


class PooledBatchNorm(nn.BatchNorm2d):
    """BatchNorm behind a global pooling, where a batch of one image is one value a channel.

    That value is its own mean and has no variance: torch refuses it.  It is normalised by the running
    statistics instead, which it leaves as they are.  With two images or more this is BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return fixed_norm(self, x)
        return super().forward(x)


def fixed_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """`norm` of `x` (N, C, h, w) by its running statistics, in whatever mode; it leaves them as they are."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


@recomputable
class SeparableConv(nn.Module):
    """3×3 depthwise convolution, BatchNorm, 1×1 convolution, BatchNorm; `relu`: a ReLU after each BatchNorm.

    The names of the parts are timm's, whose Xception weights so load without a table.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        relu: bool,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(
            in_channels, in_channels, 3, stride, dilation, dilation, groups=in_channels, bias=False
        )
        self.bn_dw = nn.BatchNorm2d(in_channels, eps)
        self.conv_pw = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn_pw = nn.BatchNorm2d(channels, eps)
        self.act = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h/stride, w/stride)."""
        x = self.act(self.bn_dw(self.conv_dw(x)))
        return self.act(self.bn_pw(self.conv_pw(x)))


def nearest_multiple(width: float, of: int) -> int:
    """The multiple of `of` that is nearest to `width`, halves up; the next one where that is over 10 % less.

    MobileNet's rule for widths.
    """
    rounded = max(of, int(width / of + 0.5) * of)
    return rounded if rounded >= 0.9 * width else rounded + of


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (Hu et al., 2018): each channel times a gate that the whole image sets.

    gate = σ(W₂ act(W₁ mean(x))), 0 to 1, with `squeeze` values between the two; names are torchvision's.
    """

    def __init__(self, channels: int, squeeze: int, act: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.act = act
        self.fc2 = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        mean = x.mean((2, 3), keepdim=True)                     # (N, C, 1, 1)
        return x * self.fc2(self.act(self.fc1(mean))).sigmoid()


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
