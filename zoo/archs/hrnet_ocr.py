"""HRNet+OCR (Yuan, Chen, Wang, 2020): each pixel asks the object regions what it is part of.

New: context is not a neighbourhood.  A first, rough segmentation gathers one vector for each class's region;
each pixel attends to those K vectors, and is classified with what it got from them.

Read beside papers/ocr.md (and papers/hrnet.md), Sec. 3 and Fig. 3.  N batch, K classes, (H, W) the size of
the input, P = H/4 · W/4 pixels; 720 is the sum of HRNet-W48's four widths.
Departs from the paper: Eq. 3 and the convolutions over the joined map are computed in another order, equal
up to rounding (`literal`); the logits are enlarged to the input's size.  Where the paper is silent or the
authors' code differs, the code decides: order of Eq. 6, scale of Eq. 5, dropout, two layers for φ, ψ and M.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import encoders
from zoo.dropout import Dropout2d
from zoo.encoders import hrnet
from zoo.errors import InputError
from zoo.layers import Output, PooledBatchNorm, conv_bn_relu, fixed_norm, recomputable, resize
from zoo.registry import register

MIDDLE, KEY = 512, 256  # channels of pixels and regions, and of what is compared; Sec. 3.3


@recomputable
class OverMaps(nn.Sequential):
    """A convolution and further layers over HRNetV2's joined map, [x_0; up(x_1); up(x_2); up(x_3)].

    literal: join, then convolve.  Else the convolution is taken apart into one of each map, which is done
    before the map is enlarged: the one mixes channels, the other pixels, so that the order is free.
    """

    align_corners = False

    def __init__(self, conv: nn.Conv2d, *layers: nn.Module, literal: bool) -> None:
        super().__init__(conv, *layers)
        self.literal = literal

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """The four maps -> what the last layer puts out, (N, …, H/4, W/4)."""
        conv, *layers = self
        assert isinstance(conv, nn.Conv2d)
        if self.literal:
            y = conv(self.join(maps))
        elif conv.kernel_size == (1, 1):
            y = self.conv1x1(conv, maps)
        else:
            y = self.conv3x3(conv, maps)
        for layer in layers:
            y = layer(y)
        return y

    def join(self, maps: tuple[Tensor, ...]) -> Tensor:
        """(N, sum of the channels, H/4, W/4)."""
        up = (resize(x, maps[0], align_corners=self.align_corners) for x in maps[1:])
        return torch.cat([maps[0], *up], 1)

    def conv1x1(self, conv: nn.Conv2d, maps: tuple[Tensor, ...]) -> Tensor:
        """W [x_0; up(x_1); …] = W_0 x_0 + up(W_1 x_1) + …"""
        first, *weights = conv.weight.split([x.shape[1] for x in maps], 1)
        y = F.conv2d(maps[0], first, conv.bias)                         # (N, 720, H/4, W/4)
        for x, weight in zip(maps[1:], weights, strict=True):
            y = y + resize(F.conv2d(x, weight), y, align_corners=self.align_corners)
        return y

    def conv3x3(self, conv: nn.Conv2d, maps: tuple[Tensor, ...]) -> Tensor:
        """Over x_2 and x_3 the width is enlarged first, then each row of the kernel is applied by itself.

        What is left, to enlarge the height and to add the three up, is one matrix.  x_1 is joined to x_0:
        half as high, it would gain nothing.
        """
        near, far = maps[:2], maps[2:]
        first, *weights = conv.weight.split([sum(x.shape[1] for x in near), *(x.shape[1] for x in far)], 1)
        y = F.conv2d(self.join(near), first, conv.bias, padding=1)      # (N, 512, H/4, W/4)
        for x, weight in zip(far, weights, strict=True):
            size = (x.shape[2], y.shape[3])
            x = F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)  # (N, …, h, W/4)
            rows = [F.conv2d(x, row, padding=(0, 1)) for row in weight.split(1, 2)]  # 3: (N, 512, h, W/4)
            z = torch.cat(rows, 2).movedim(1, -1)                       # (N, 3h, W/4, 512)
            z = self.heights(x, y) @ z.flatten(2)                       # (N, H/4, W/4 · 512)
            y = y + z.unflatten(2, (-1, y.shape[1])).movedim(-1, 1)
        return y

    def heights(self, x: Tensor, y: Tensor) -> Tensor:
        """(H/4, 3h): from the h lines of `x` under each of a 3×3 kernel's rows to the lines of `y`."""
        h, height = x.shape[2], y.shape[2]
        lines = torch.eye(h, dtype=y.dtype, device=y.device)[None, None]
        up = F.interpolate(lines, (height, h), mode="bilinear", align_corners=self.align_corners)[0, 0]
        up = F.pad(up, (0, 0, 1, 1))                                    # (H/4 + 2, h), the kernel's padding
        return torch.cat([up[:-2], up[1:-1], up[2:]], 1)


def transform(*widths: int, over_regions: bool = False) -> nn.Sequential:
    """φ, ψ, δ, ρ of Sec. 3.2: 1×1 convolution, BatchNorm, ReLU from each width to the next."""
    norm = PooledBatchNorm if over_regions else nn.BatchNorm2d  # one region of one image is a single value
    layers: list[nn.Module] = []
    for here, there in pairwise(widths):
        layers += [nn.Conv2d(here, there, 1, bias=False), norm(there), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def gather(regions: Tensor, x: Tensor) -> Tensor:
    """Eq. 4: f_k = sum_i m_ki x_i, m_k the softmax of region k's logits over the pixels.

    (N, K, h, w), (N, C, h, w) -> (N, C, K, 1).  The softmax runs over places, not classes: these may overlap.
    """
    m = regions.flatten(2).softmax(-1, dtype=torch.promote_types(regions.dtype, torch.float32))  # (N, K, P)
    # Of 100,000 pixels each has an m of 1e-5, where float16 has two digits left.  64 times that has all of
    # them up to a million pixels, and 64 times a mean fits as long as that is below 1000.
    f = (64 * m).to(x.dtype) @ x.flatten(2).mT / 64                     # (N, K, C)
    return f.mT.unsqueeze(-1)


@recomputable
class ObjectContext(nn.Module):
    """Eq. 3, 5: y_i = ρ(sum_k w_ik δ(f_k)), w_ik the softmax over regions of φ(x_i)ᵀ ψ(f_k) / sqrt(256).

    literal: as the equation has it.  Else ρ's convolution, which is linear, is applied to the K vectors
    before the sum and not to P sums; its BatchNorm and ReLU stay behind it.
    """

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.literal = literal
        self.phi = transform(MIDDLE, KEY, KEY)
        self.psi = transform(MIDDLE, KEY, KEY, over_regions=True)
        self.delta = transform(MIDDLE, KEY, over_regions=True)
        self.rho = transform(KEY, MIDDLE)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """Pixels (N, 512, h, w) and regions (N, 512, K, 1) -> context (N, 512, h, w)."""
        q, k, v = self.phi(x), self.psi(f), self.delta(f)               # (N, 256, …)
        conv, norm, relu = self.rho
        y = conv(attend(q, k, v)) if self.literal else attend(q, k, conv(v))
        if self.training and f.shape[0] * f.shape[2] == 1:  # one region of one image: the same at all pixels
            assert isinstance(norm, nn.BatchNorm2d)
            return relu(fixed_norm(norm, y))
        return relu(norm(y))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries (N, C, h, w), keys (N, C, K, 1), values (N, C', K, 1) -> (N, C', h, w)."""
    size = q.shape[2:]
    q, k, v = (t.flatten(2).mT.unsqueeze(1) for t in (q, k, v))         # (N, one head, P or K, C)
    y = F.scaled_dot_product_attention(q, k, v)                         # (N, 1, P, C')
    return y.squeeze(1).mT.unflatten(2, size)


@register(
    "hrnet_ocr",
    title="Object-Contextual Representations for Semantic Segmentation",
    authors="Yuhui Yuan, Xilin Chen, Jingdong Wang",
    year=2020,
    url="https://arxiv.org/abs/1909.11065",
    note="papers/ocr.md",
    encoders=tuple(hrnet.VARIANTS),
    encoders_why="it concatenates the four resolutions that HRNet keeps",
)
class HRNetOCR(nn.Module):
    """Fig. 3 on HRNetV2: soft object regions, region representations, contextual representations.

    ocr: False is HRNetV2 without it: the head that else makes the regions, as the network's own.
    dropout: chance of a channel to be zero before the classifier.
    align_corners: of every enlarging, the encoder's too; True for the authors' weights.
    literal: all in the order in which it is written, slower and equal up to rounding.
    """

    aux_weights: tuple[float, ...] = (0.4,)  # Sec. 4.2; of an instance without OCR: ()
    margin = 0
    min_size, size_step = 33, 1  # the smallest map is then 2×2

    def __init__(
        self,
        num_classes: int = 19,
        in_channels: int = 3,
        *,
        encoder: str = "hrnet_w48",
        pretrained: bool = False,
        ocr: bool = True,
        dropout: float = 0.05,
        align_corners: bool = False,
        literal: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"hrnet_ocr: dropout {dropout} is not possible; it must be in [0, 1)")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.encoder = encoders.build(encoder, in_channels, pretrained=pretrained)
        width = sum(self.encoder.channels)                              # 720
        self.ocr, self.aux_weights = ocr, HRNetOCR.aux_weights if ocr else ()

        self.regions = OverMaps(
            nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, num_classes, 1),
            literal=literal,
        )  # fmt: skip
        if ocr:
            conv = nn.Conv2d(width, MIDDLE, 3, padding=1)
            self.pixels = OverMaps(conv, nn.BatchNorm2d(MIDDLE), nn.ReLU(inplace=True), literal=literal)
            self.context = ObjectContext(literal)
            self.g = nn.Sequential(*conv_bn_relu(2 * MIDDLE, MIDDLE, 1), Dropout2d(dropout))
            self.head = nn.Conv2d(MIDDLE, num_classes, 1)
        self.align_corners = align_corners

    @property
    def align_corners(self) -> bool:
        """Of every enlarging: within the encoder, of its maps, of the logits."""
        return self.regions.align_corners

    @align_corners.setter
    def align_corners(self, value: bool) -> None:
        for part in self.modules():
            if isinstance(part, hrnet.HRNet | OverMaps):
                part.align_corners = value

    def forward(self, image: Tensor) -> Tensor | Output:
        """(N, C, H, W) -> logits (N, K, H, W)."""
        # Channels last in memory: as attention and the matrices of `OverMaps` want them.
        maps = tuple(x.contiguous(memory_format=torch.channels_last) for x in self.encoder(image))
        m = self.regions(maps)                                          # (N,   K, H/4, W/4), M of Sec. 3.2
        if not self.ocr:
            return self.enlarged(image, m)
        x = self.pixels(maps)                                           # (N, 512, H/4, W/4)
        f = gather(m, x)                                                # (N, 512, K, 1),     Eq. 4
        y = self.context(x, f)                                          # (N, 512, H/4, W/4), Eq. 3 and 5
        z = self.g(torch.cat([y, x], 1))                                # (N, 512, H/4, W/4), Eq. 6
        return self.enlarged(image, self.head(z), m)

    def enlarged(self, image: Tensor, logits: Tensor, *aux: Tensor) -> Tensor | Output:
        """The network's result: logits (N, K, H/4, W/4), and in training the auxiliary ones, at (H, W)."""
        logits = resize(logits, image, align_corners=self.align_corners)
        if not self.training:
            return logits
        return Output(logits, tuple(resize(t, image, align_corners=self.align_corners) for t in aux))
