"""DeepLabV3+ (Chen, Zhu, Papandreou, Schroff, Adam, 2018): atrous pyramid, then a small decoder.

New: DeepLabV3's encoder, which looks at its last map through atrous convolutions of several rates, gets a
decoder that joins one early map, so that boundaries sharpen; and its convolutions become separable.

Read beside papers/deeplabv3plus.md and the paper's Fig. 2.  N batch, K classes, (H, W) the size of the input;
the sizes in comments are those of output stride 16, channels those of Xception-65.
Departs from the paper: bilinear resizing by pixel centres (the authors' code aligns corners); any size from
17×17 on and any encoder that has a map at stride 4, of ResNets the whole of conv2_x.  Where the paper is
silent, about dropout and initial weights, the authors' TensorFlow code decides.
"""

import torch
from torch import Tensor, nn

from zoo import encoders
from zoo.dropout import Dropout
from zoo.errors import InputError
from zoo.layers import Output, PooledBatchNorm, SeparableConv, conv_bn_relu, resize
from zoo.registry import register

WIDTH = 256  # of ASPP and decoder
LOW_LEVEL = 48  # Table 1: 48 channels of the early map are best
RATES_AT_STRIDE_16 = (6, 12, 18)  # DeepLabV3 Sec. 3.3; doubled at stride 8
# Initial weights of the authors' code: normals cut at twice these; uniform ones by Xavier's rule elsewhere.
DEVIATIONS = {"conv_dw": 0.33, "conv_pw": 0.06, "head": 0.01}


def conv3x3(in_channels: int, channels: int, *, dilation: int = 1, separable: bool) -> nn.Module:
    """3×3 convolution, BatchNorm and ReLU; separable: depthwise and 1×1, each with BatchNorm and ReLU."""
    if separable:
        return SeparableConv(in_channels, channels, dilation=dilation, relu=True)
    return conv_bn_relu(in_channels, channels, 3, dilation)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1×1, a 3×3 at each rate, and the image's mean, joined and projected."""

    def __init__(
        self, in_channels: int, rates: tuple[int, ...], *, separable: bool, image_pooling: bool
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(in_channels, WIDTH, 1)])
        for rate in rates:
            self.branches.append(conv3x3(in_channels, WIDTH, dilation=rate, separable=separable))
        self.image_pooling: nn.Module | None = None
        if image_pooling:
            conv = nn.Conv2d(in_channels, WIDTH, 1, bias=False)
            self.image_pooling = nn.Sequential(conv, PooledBatchNorm(WIDTH), nn.ReLU(inplace=True))
        self.project = conv_bn_relu((1 + len(rates) + image_pooling) * WIDTH, WIDTH, 1)
        self.dropout = Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2048, H/16, W/16) -> (N, 256, H/16, W/16)."""
        maps = [branch(x) for branch in self.branches]          # 4 × (N, 256, H/16, W/16)
        if self.image_pooling is not None:
            image = self.image_pooling(x.mean((2, 3), keepdim=True))    # (N, 256, 1, 1)
            maps.insert(0, resize(image, x))                    # (N, 256, H/16, W/16), the same everywhere
        return self.dropout(self.project(torch.cat(maps, 1)))   # (N, 1280, …) -> (N, 256, H/16, W/16)


@register(
    "deeplabv3plus",
    title="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    authors="Liang-Chieh Chen, Yukun Zhu, George Papandreou, Florian Schroff, Hartwig Adam",
    year=2018,
    url="https://arxiv.org/abs/1802.02611",
    note="papers/deeplabv3plus.md",
    encoders=encoders.names(),
)
class DeepLabV3Plus(nn.Module):
    """Fig. 2: encoder at the output stride, ASPP, and a decoder at stride 4.

    output_stride: 16; 8 is finer, at three times the cost, with the same weights; 32 is coarser.
    separable: depthwise separable 3×3 convolutions in ASPP and decoder; False: plain ones.
    image_pooling: the branch of the image's mean; the paper's best for Cityscapes lacks it (Table 7a).
    rates: of the atrous convolutions; None: 6, 12, 18 at output stride 16, twice those at 8, half at 32.
    dilate_first: whether a dilated stage of the encoder dilates its first block, too, as in the encoders of
        segmentation_models_pytorch; False is the authors' rule.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0
    min_size, size_step = 17, 1  # of an instance: 1 + output_stride, for a deepest map of 2×2

    def __init__(
        self,
        num_classes: int = 21,
        in_channels: int = 3,
        *,
        encoder: str = "xception65",
        pretrained: bool = False,
        output_stride: int = 16,
        separable: bool = True,
        image_pooling: bool = True,
        rates: tuple[int, ...] | None = None,
        dilate_first: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.encoder = encoders.build(
            encoder,
            in_channels,
            pretrained=pretrained,
            output_stride=output_stride,
            dilate_first=dilate_first,
        )
        if rates is None:
            rates = tuple(rate * 16 // output_stride for rate in RATES_AT_STRIDE_16)
        if not rates or min(rates) < 1:
            raise InputError(f"deeplabv3plus: rates {rates} must be one number or more, each >= 1")
        self.rates, self.min_size = rates, output_stride + 1
        self.encoder.keep(4, self.encoder.strides[-1])
        self.early = self.encoder.strides.index(4)  # which map the decoder joins

        self.aspp = ASPP(self.encoder.channels[-1], rates, separable=separable, image_pooling=image_pooling)
        self.low_level = conv_bn_relu(self.encoder.channels[self.early], LOW_LEVEL, 1)
        self.decoder = nn.Sequential(
            conv3x3(WIDTH + LOW_LEVEL, WIDTH, separable=separable),
            conv3x3(WIDTH, WIDTH, separable=separable),
        )
        self.head = nn.Conv2d(WIDTH, num_classes, 1)
        self._start()

    def forward(self, x: Tensor) -> Tensor | Output:
        """(N, C, H, W) -> logits (N, K, H, W)."""
        maps = self.encoder(x)                                  # …, (N, 2048, H/16, W/16)
        low = self.low_level(maps[self.early])                  # (N, 256, H/4, W/4) -> (N, 48, H/4, W/4)
        y = resize(self.aspp(maps[-1]), low)                    # (N, 256, H/4, W/4)
        y = self.decoder(torch.cat([y, low], 1))                # (N, 304, H/4, W/4) -> (N, 256, H/4, W/4)
        logits = resize(self.head(y), x)                        # (N, K, H, W)
        return Output(logits) if self.training else logits

    def _start(self) -> None:
        """The authors' initial weights; the encoder has its own."""
        for path, conv in self.named_modules():
            if isinstance(conv, nn.Conv2d) and not path.startswith("encoder."):
                std = DEVIATIONS.get(path.rpartition(".")[2])
                if std is None:
                    nn.init.xavier_uniform_(conv.weight)
                else:
                    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
