"""SegFormer (Xie, Wang, Yu, Anandkumar, Alvarez, Luo, 2021): a transformer pyramid, a head of linear layers.

New: with an encoder whose deep stages already see the whole image, a decoder needs no context module: four
linear layers, one to fuse them, one to classify.

Read beside papers/segformer.md, Sec. 3 and Fig. 2.  N batch, K classes, (H, W) the size of the input, C_i the
width of stage i, C the head's.
Departs from the paper: Eq. 4 is computed in another order (`literal` False), equal up to rounding; the
logits are enlarged to the input's size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import encoders
from zoo.dropout import Dropout2d
from zoo.encoders import mit
from zoo.encoders.mit import Linear2d
from zoo.errors import InputError
from zoo.layers import Output, recomputable, resize
from zoo.registry import register

VARIANTS = {  # Table 6 and the authors' code: the head's width C
    "segformer_b0": dict(encoder="mit_b0", width=256),
    "segformer_b1": dict(encoder="mit_b1", width=256),
    "segformer_b2": dict(encoder="mit_b2", width=768),
    "segformer_b3": dict(encoder="mit_b3", width=768),
    "segformer_b4": dict(encoder="mit_b4", width=768),
    "segformer_b5": dict(encoder="mit_b5", width=768),
}


@recomputable
class AllMLP(nn.Module):
    """Eq. 4: a linear layer A_i for each map F_i, enlarged to H/4; one, B, for all of them; and a classifier.

    A_i has C × C_i weights, B has C × 4C, of which B_i (C × C) are those that meet stage i.
    literal: in that order.  Else B_i up(A_i F_i) is computed as up(B_i A_i F_i), where B_i A_i is one matrix
    of C × C_i.  It is the same, as a linear layer and bilinear interpolation are sums over different axes
    (and a bias comes through, as the weights of an interpolation add up to one); but it runs at the size of
    stage i, and nothing of 4C channels is ever made at H/4.
    """

    def __init__(self, channels: tuple[int, ...], width: int, num_classes: int, literal: bool) -> None:
        super().__init__()
        self.literal = literal
        self.linear = nn.ModuleList([Linear2d(c, width) for c in channels])
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)  # B, of the deepest stage first
        self.bn = nn.BatchNorm2d(width)
        self.dropout = Dropout2d(0.1)
        self.classify = nn.Conv2d(width, num_classes, 1)
        nn.init.kaiming_normal_(self.fuse.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Maps (N, C_i, H/2^(i+1), W/2^(i+1)), i = 1..4 -> logits (N, K, H/4, W/4)."""
        fused = self.eq4(maps) if self.literal else self.eq4_rewritten(maps)
        return self.classify(self.dropout(F.relu(fused, inplace=True)))

    def eq4(self, maps: tuple[Tensor, ...]) -> Tensor:
        """The fused map as Eq. 4 is written, behind its BatchNorm: (N, C, H/4, W/4)."""
        levels = [resize(a(x), maps[0]) for a, x in zip(self.linear, maps, strict=True)]
        return self.bn(self.fuse(torch.cat(levels[::-1], 1)))   # (N, 4C, H/4, W/4) -> (N, C, H/4, W/4)

    def eq4_rewritten(self, maps: tuple[Tensor, ...]) -> Tensor:
        """The same, with both linear layers in one and before the enlarging: (N, C, H/4, W/4)."""
        kernels, bias = self.products()
        y = F.conv2d(maps[0], kernels[0], bias)                 # (N, C, H/4, W/4)
        for x, kernel in zip(maps[1:], kernels[1:], strict=True):
            y += resize(F.conv2d(x, kernel), y)
        return self.bn(y) if self.training else y

    def products(self) -> tuple[list[Tensor], Tensor]:
        """B_i A_i as 1×1 kernels (C, C_i, 1, 1), and the sum of B_i a_i (C), a_i the bias of A_i.

        In eval mode the BatchNorm is a fixed scale and shift and goes in as well.
        """
        parts = self.fuse.weight.flatten(1).chunk(len(self.linear), 1)[::-1]    # B_i: (C, C)
        weights, biases = [], []
        for b, a in zip(parts, self.linear, strict=True):
            assert isinstance(a, Linear2d)
            weights.append(b @ a.weight)                                        # (C, C_i)
            biases.append(b @ a.bias)
        bias = torch.stack(biases).sum(0)
        if not self.training:
            scale = self.bn.weight * torch.rsqrt(self.bn.get_buffer("running_var") + self.bn.eps)
            weights = [scale[:, None] * weight for weight in weights]
            bias = scale * (bias - self.bn.get_buffer("running_mean")) + self.bn.bias
        return [weight[..., None, None] for weight in weights], bias


@register(
    VARIANTS,
    title="SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
    authors="Enze Xie, Wenhai Wang, Zhiding Yu, Anima Anandkumar, Jose M. Alvarez, Ping Luo",
    year=2021,
    url="https://arxiv.org/abs/2105.15203",
    note="papers/segformer.md",
    encoders=tuple(mit.VARIANTS),
    encoders_why="its head has no module for context, which the Mix Transformer brings along",
)
class SegFormer(nn.Module):
    """Fig. 2: Mix Transformer and all-MLP head.

    width: the head's C.  literal: Eq. 4 in the order it is written, slower and equal up to rounding.
    reductions: by how much the keys' and values' map is smaller in each stage, a side; the paper's R counts
        pixels, 64, 16, 4, 1.  Other ones need other weights.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0
    min_size, size_step = 29, 1  # of an instance: the least whose maps are as large as their reduction

    def __init__(
        self,
        num_classes: int = 150,
        in_channels: int = 3,
        *,
        encoder: str = "mit_b0",
        pretrained: bool = False,
        width: int = 256,
        literal: bool = False,
        reductions: tuple[int, ...] = mit.REDUCTIONS,
    ) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"segformer: width {width} must be >= 1")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.encoder = encoders.build(encoder, in_channels, pretrained=pretrained, reductions=reductions)
        self.min_size = 1 + max((r - 1) * s for r, s in zip(reductions, self.encoder.strides, strict=True))
        self.head = AllMLP(self.encoder.channels, width, num_classes, literal)

    def forward(self, x: Tensor) -> Tensor | Output:
        """(N, C, H, W) -> logits (N, K, H, W)."""
        maps = self.encoder(x)                          # (N, C_i, H/2^(i+1), W/2^(i+1))
        logits = resize(self.head(maps), x)             # (N, K, H, W)
        return Output(logits) if self.training else logits
