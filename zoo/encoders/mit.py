"""Mix Transformer, SegFormer's encoder (Xie et al., 2021), with the authors' state-dict keys.

New: a transformer that yields a pyramid, from overlapping patches; attention whose keys and values are a
small map ("sequence reduction"); and no positional code, since a 3×3 convolution in each feed-forward part
lets zero padding tell where the border is.

Read beside papers/segformer.md, Sec. 3.1 and Table 6.  N batch, (H, W) the size of the input, C the width of
a stage, (h, w) its map's size, L = h·w its tokens, M of them after reduction.
Departs from the paper: nowhere.  Its L × C tokens are kept as the map (N, C, h, w) that they are, channels
last in memory: to linear layers and norms that is (L, C), and convolutions read it without a copy.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.dropout import StochasticDepth
from zoo.encoders.encoder import Encoder, check_depth, check_undilated
from zoo.errors import InputError
from zoo.layers import recomputable

VARIANTS = {  # Table 6
    "mit_b0": dict(widths=(32, 64, 160, 256),  depths=(2, 2, 2, 2)),
    "mit_b1": dict(widths=(64, 128, 320, 512), depths=(2, 2, 2, 2)),
    "mit_b2": dict(widths=(64, 128, 320, 512), depths=(3, 4, 6, 3)),
    "mit_b3": dict(widths=(64, 128, 320, 512), depths=(3, 4, 18, 3)),
    "mit_b4": dict(widths=(64, 128, 320, 512), depths=(3, 8, 27, 3)),
    "mit_b5": dict(widths=(64, 128, 320, 512), depths=(3, 6, 40, 3)),
}  # fmt: skip
# One number a stage.  REDUCTIONS are of a side: the paper's R counts pixels, 64, 16, 4, 1.
STRIDES, HEADS, REDUCTIONS = (4, 8, 16, 32), (1, 2, 5, 8), (8, 4, 2, 1)
EXPANSION = 4  # of the feed-forward part
DROP_PATH = 0.1  # of the last block; it rises linearly from 0 at the first
EPS = 1e-6  # of a block's norms and a stage's last; those behind a strided convolution have torch's 1e-5


class Linear2d(nn.Linear):
    """A linear layer on the channels of a map, pixel by pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', h, w), channels last in memory."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm on the channels of a map, pixel by pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape, channels last in memory."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class OverlapPatchEmbed(nn.Module):
    """Sec. 3.1, overlapped patch merging: a strided convolution whose kernel is wider than its stride."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2)
        self.norm = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, H/stride, W/stride)."""
        return self.norm(self.proj(x))


class Attention(nn.Module):
    """Eq. 1 and 2: softmax(q kᵀ / sqrt(d)) v, with keys and values from R = reduction² times fewer tokens."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = Linear2d(channels, channels)
        self.kv = Linear2d(channels, 2 * channels)
        self.proj = Linear2d(channels, channels)
        if reduction > 1:  # Eq. 2's reshape and Linear(C·R, C), as one convolution
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        reduced = self.norm(self.sr(x)) if self.reduction > 1 else x    # (N, C, h/√R, w/√R)
        q = self.split(self.q(x))                                       # (N, heads, L, d)
        k, v = (self.split(t) for t in self.kv(reduced).chunk(2, 1))    # (N, heads, M, d)
        y = F.scaled_dot_product_attention(q, k, v)                     # (N, heads, L, d)
        return self.proj(y.transpose(2, 3).reshape(x.shape))            # (N, C, h, w)

    def split(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, heads, L, d)."""
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)


class DWConv(nn.Module):
    """The 3×3 convolution of Eq. 3, a channel each; in a module of its own as the authors' keys have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        return self.dwconv(x)


class MixFFN(nn.Module):
    """Eq. 3 without its residual: MLP(GELU(Conv3×3(MLP(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = Linear2d(channels, EXPANSION * channels)
        self.dwconv = DWConv(EXPANSION * channels)
        self.fc2 = Linear2d(EXPANSION * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape, by way of (N, 4C, h, w)."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


@recomputable
class Block(nn.Module):
    """Fig. 2: efficient self-attention, then Mix-FFN, each on normed tokens and added to its input."""

    def __init__(self, channels: int, heads: int, reduction: int, drop: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels, EPS)
        self.attn = Attention(channels, heads, reduction)
        self.norm2 = LayerNorm2d(channels, EPS)
        self.mlp = MixFFN(channels)
        self.drop_path = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MixTransformer(Encoder):
    """Fig. 2, left: four stages; maps at strides 4, 8, 16, 32, each behind its LayerNorm.

    reductions: of a side, one a stage: 1 leaves a stage all its keys, at a cost that grows with the square of
        the pixels.  Others than the paper's change the weights' shapes: the published ones do not fit.
    """

    options = ("reductions",)
    dilatable = False

    def __init__(
        self,
        in_channels: int = 3,
        *,
        widths: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        reductions: tuple[int, ...] = REDUCTIONS,
        output_stride: int = 32,
        dilate_first: bool = False,
        depth: int = 4,
    ) -> None:
        super().__init__()
        check_depth(depth, 4)
        check_undilated(output_stride, "MiT")
        if len(reductions) != len(STRIDES) or min(reductions) < 1:
            raise InputError(f"MiT: reductions {reductions} must be four numbers >= 1, such as (8, 4, 2, 1)")
        self.in_channels = in_channels
        self.channels, self.strides = widths[:depth], STRIDES[:depth]
        last = sum(depths) - 1
        drops = iter([DROP_PATH * b / last for b in range(sum(depths))])
        above = in_channels
        for s, channels in enumerate(self.channels):
            kernel, stride = (3, 2) if s else (7, 4)
            blocks = [Block(channels, HEADS[s], reductions[s], next(drops)) for _ in range(depths[s])]
            self.add_module(f"patch_embed{s + 1}", OverlapPatchEmbed(above, channels, kernel, stride))
            self.add_module(f"block{s + 1}", nn.Sequential(*blocks))
            self.add_module(f"norm{s + 1}", LayerNorm2d(channels, EPS))
            above = channels
        self.apply(start)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> maps (N, channels[s], H/strides[s], W/strides[s])."""
        x, maps = image, []
        for s in range(1, len(self.channels) + 1):
            for part in ("patch_embed", "block", "norm"):
                x = self.get_submodule(f"{part}{s}")(x)
            maps.append(x)                                      # (N, C_s, h, w)
        return tuple(maps)


def start(module: nn.Module) -> None:
    """The authors' initial weights: linear 0.02, convolutions sqrt(2 / outgoing nodes), biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        outgoing = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / outgoing))
        nn.init.zeros_(module.get_parameter("bias"))
