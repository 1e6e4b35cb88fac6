"""UNet++ (Zhou et al., 2018; 2020): a triangle of nodes between encoder and decoder, with four heads.

New: each skip connection becomes a row of densely joined convolutions, which bring the encoder's maps closer
to the decoder's before they meet.  U-Nets of every depth share one encoder; trained with a head each ("deep
supervision"), any of them can be cut out and used alone.

Read beside papers/unetpp.md and Fig. 1 of 2018.  N batch, K classes, (H, W) the size of the input, width
32; x[i, j] is the papers' X^{i,j}: i counts down-samplings, j the steps along a row.
Departs from the papers: eval with supervision averages the heads' logits (theirs: the heads' sigmoids); any
size from 17×17 on (theirs: multiples of 16), for which D rounds up and `crop` cuts the surplus; `norm` is
ours.  There is no dropout and no weight decay: the papers name none, though the authors' Keras code has both.

With `encoder` the column X^{i,0} is that encoder's maps, row i at stride 2^(i+1), and the rest is the graph
of segmentation_models_pytorch (the authors' own Keras package is alike): nearest up-sampling without a
convolution, BatchNorm, the encoder's widths, and behind row 0 one more block, to full size.  Supervision and
pruning, which the library lacks, work as in the papers.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from zoo import encoders
from zoo.encoders import Encoder, Normalisation
from zoo.errors import InputError
from zoo.layers import Output, UpBlock, crop, he_normal_, head3x3, recomputable
from zoo.registry import normalisation, register


def two_convs(in_channels: int, width: int, norm: str | None) -> nn.Sequential:
    """H of Eq. 1: two 3×3 convolutions that keep the size, each with a ReLU.

    norm "batch" puts a BatchNorm before each ReLU; it would cancel the convolution's bias, which goes.
    """
    layers: list[nn.Module] = []
    for channels in (in_channels, width):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=norm is None))
        if norm == "batch":
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


@recomputable
class EncoderNode(nn.Module):
    """Eq. 1, j = 0: X^{i,0} = H(D(X^{i-1,0})), D a 2×2 maximum; X^{0,0} takes the image as it is."""

    def __init__(self, in_channels: int, width: int, norm: str | None, *, first: bool) -> None:
        super().__init__()
        self.d = nn.Identity() if first else nn.MaxPool2d(2, ceil_mode=True)
        self.h = two_convs(in_channels, width, norm)

    def forward(self, above: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, width, h/2, w/2), rounded up."""
        return self.h(self.d(above))


@recomputable
class Node(nn.Module):
    """Eq. 1, j > 0: X^{i,j} = H([X^{i,0}, …, X^{i,j-1}, U(X^{i+1,j-1})]), U a 2×2 up-convolution."""

    def __init__(self, j: int, width: int, norm: str | None) -> None:
        super().__init__()
        self.u = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.h = two_convs((j + 1) * width, width, norm)

    def forward(self, below: Tensor, row: list[Tensor]) -> Tensor:
        """X^{i+1,j-1} (N, 2·width, h/2, w/2) and X^{i,j-1}, …, X^{i,0} -> (N, width, h, w) as they are."""
        up = crop(self.u(below), row[0])                        # (N, width, h, w)
        return self.h(torch.cat([*row[::-1], up], 1))           # (N, width, h, w)


@register(
    "unetpp",
    title="UNet++: A Nested U-Net Architecture for Medical Image Segmentation",
    authors="Zongwei Zhou, Md Mahfuzur Rahman Siddiquee, Nima Tajbakhsh, Jianming Liang",
    year=2018,
    url="https://arxiv.org/abs/1807.10165",
    note="papers/unetpp.md",
    encoders=encoders.names(dilatable=True),
    encoders_why="its column X^{i,0} starts at stride 2",
)
class UNetPP(nn.Module):
    """Fig. 1a: the nodes X^{i,j} with i + j <= level, and a head on X^{0,level}.

    encoder: None as in the papers, or the encoder whose maps are the column X^{i,0}.
    width: channels of X^{0,4}; 32 is the papers'.  Row i has width·2^i: in the papers' network in each node,
        over an encoder in the last, X^{i,4-i}, while those before have as many as the encoder's map.
    norm: None as published: no normalisation in the papers' network, BatchNorm over an encoder; or "batch".
    deep_supervision: a head on each of X^{0,1}, …, X^{0,level}; eval returns the mean of them all.
    level: 4 is the whole network; 3, 2, 1 are the papers' pruned L3, L2, L1, to be trained alone.  Over an
        encoder that is its level + 1 finest maps; what lies deeper is not built.
    """

    aux_weights: tuple[float, ...] = ()  # of an instance with supervision: (1, 1, 1), the 2020 paper's eta
    margin = 0
    min_size, size_step = 17, 1  # 17: the deepest map is 2×2, on which BatchNorm can train with N = 1
    normalisation: Normalisation | None = None

    def __init__(
        self,
        num_classes: int = 1,
        in_channels: int = 3,
        *,
        encoder: str | None = None,
        pretrained: bool = False,
        width: int = 32,
        norm: str | None = None,
        deep_supervision: bool = False,
        level: int = 4,
    ) -> None:
        super().__init__()
        least = 1 if encoder is None else 2
        if width < least:
            over = "" if encoder is None else " over an encoder"
            raise InputError(f"unetpp: width {width} must be >= {least}{over}")
        if norm not in (None, "batch"):
            raise InputError(f"unetpp: norm {norm!r} must be None or 'batch'")
        if level not in (1, 2, 3, 4):
            raise InputError(f"unetpp: level {level} must be 1, 2, 3 or 4")
        if pretrained and encoder is None:
            raise InputError("unetpp: pretrained=True needs an encoder; there are no weights without one")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.width, self.norm, self.deep_supervision, self.level = width, norm, deep_supervision, level
        self.encoder_name = encoder

        supervised = range(1, level + 1) if deep_supervision else [level]
        self.x, self.full, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        if encoder is None:
            self.encoder = None
            self._as_in_the_papers(supervised)
        else:
            self.encoder = encoders.build(encoder, in_channels, pretrained=pretrained, depth=level + 1)
            self._over_the_encoder(self.encoder, supervised)
        self.aux_weights = (1.0,) * (len(self.heads) - 1)

    def _as_in_the_papers(self, supervised: Iterable[int]) -> None:
        """Nodes of width·2^i channels, heads of 1×1."""
        widths = [self.width * 2**i for i in range(self.level + 1)]         # 32, 64, 128, 256, 512
        for i, (above, here) in enumerate(zip([self.in_channels, *widths[:-1]], widths, strict=True)):
            self.x[f"{i}0"] = EncoderNode(above, here, self.norm, first=i == 0)
        for i, j in self._triangle():
            self.x[f"{i}{j}"] = Node(j, widths[i], self.norm)
        for j in supervised:
            self.heads[f"{j}"] = nn.Conv2d(self.width, self.num_classes, 1)
        self.min_size = 2**self.level + 1
        he_normal_(self)

    def _over_the_encoder(self, encoder: Encoder, supervised: Iterable[int]) -> None:
        """Nodes as wide as the encoder's maps, but for X^{i,4-i}; a block to full size before each head."""
        c = {(i, 0): channels for i, channels in enumerate(encoder.channels)}  # of X^{i,j}
        for i, j in self._triangle():
            c[i, j] = self.width * 2**i if i + j == 4 else c[i, 0]
            self.x[f"{i}{j}"] = UpBlock(c[i + 1, j - 1], j * c[i, 0], c[i, j])
        for j in supervised:
            self.full[f"{j}"] = UpBlock(c[0, j], 0, self.width // 2)
            self.heads[f"{j}"] = head3x3(self.width // 2, self.num_classes)
        self.min_size = encoder.strides[-1] + 1

    def _triangle(self) -> list[tuple[int, int]]:
        """Every (i, j) with 1 <= j and i + j <= level, in an order in which each can be computed."""
        return [(i, j) for j in range(1, self.level + 1) for i in range(self.level + 1 - j)]

    def forward(self, image: Tensor) -> Tensor | Output:
        """(N, C, H, W) -> logits (N, K, H, W)."""
        x: dict[tuple[int, int], Tensor] = {}
        if self.encoder is None:
            for i in range(self.level + 1):
                x[i, 0] = self.x[f"{i}0"](x[i - 1, 0] if i else image)      # (N, 32·2^i, H/2^i, W/2^i)
        else:
            for i, column in enumerate(self.encoder(image)):
                x[i, 0] = column                                            # (N, C_i, H/2^(i+1), …)
        for i, j in self._triangle():
            row = [x[i, k] for k in reversed(range(j))]                     # the library's order
            x[i, j] = self.x[f"{i}{j}"](x[i + 1, j - 1], row)               # the height and width of X^{i,0}

        top = {key: x[0, int(key)] for key in self.heads}
        for key, full in self.full.items():                                 # none in the papers' network
            top[key] = full(top[key], [], image)                            # (N, 16, H, W)
        *aux, logits = [head(top[key]) for key, head in self.heads.items()]  # each (N, K, H, W)
        if self.training:
            return Output(logits, tuple(aux))
        return sum(aux, logits) / len(self.heads)

    def prune(self, level: int) -> "UNetPP":
        """Fig. 1c, "fast mode": a new network of the nodes with i + j <= level and the head on X^{0,level}.

        Its weights are copies; its output is that head's output in this network, bit for bit.
        """
        if not self.deep_supervision:
            raise InputError("prune: build the network with deep_supervision=True; this one has one head")
        if level not in range(1, self.level + 1):
            raise InputError(f"prune: level {level!r} must be between 1 and {self.level}, the network's own")
        with torch.device("meta"):
            small = UNetPP(
                self.num_classes, self.in_channels,
                encoder=self.encoder_name, width=self.width, norm=self.norm, level=level,
            )  # fmt: skip
        weights = self.state_dict()
        small.load_state_dict({key: weights[key].clone() for key in small.state_dict()}, assign=True)
        small.normalisation = normalisation(self)
        return small.train(self.training)
