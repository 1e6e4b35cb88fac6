"""PSPNet (Zhao, Shi, Qi, Wang, Jia, 2017): what a region is depends on the scene it lies in.

New: the mean of the whole map, and means over its 2×2, 3×3 and 6×6 parts, are joined to every pixel before it
is classified ("pyramid pooling"); and a second loss on an earlier stage helps the deep encoder to train.

Read beside papers/pspnet.md and the paper's Fig. 3 and 4.  N batch, K classes, (H, W) the size of the input;
channels in comments are those of the default encoder, sizes those of output stride 8.
Departs from the paper: bilinear resizing by pixel centres, unless `align_corners`; any size from 9×9 on; the
stride of a stage sits on a 3×3 convolution, as in semseg, the authors' PyTorch code (theirs in Caffe: on the
1×1 before it).  Where the paper is silent, about widths, dropout and initial weights, semseg decides.
"""

import torch
from torch import Tensor, nn

from zoo import encoders
from zoo.dropout import Dropout2d
from zoo.errors import InputError
from zoo.layers import Output, PooledBatchNorm, conv_bn_relu, resize
from zoo.registry import register

WIDTH, AUX_WIDTH = 512, 256  # of the 3×3 convolution before each classifier


def interval_means(size: int, bins: int, like: Tensor) -> Tensor:
    """(bins, size): row i takes the mean of the pixels that the i-th of `bins` equal parts of a line touches.

    These are AdaptiveAvgPool2d's intervals, floor(i·size/bins) to ceil((i + 1)·size/bins), which overlap
    where bins do not divide.  In whole numbers, without a division: pixel p covers p·bins … (p + 1)·bins of
    size·bins units, part i covers i·size … (i + 1)·size.
    """
    p = torch.arange(size, device=like.device)
    i = torch.arange(bins, device=like.device)[:, None]
    touched = (p * bins < (i + 1) * size) & (i * size < (p + 1) * bins)     # (bins, size)
    return touched.to(like.dtype) / touched.sum(1, keepdim=True)


class PyramidPooling(nn.Module):
    """Fig. 3c: means over bins×bins parts, a 1×1 convolution to C/levels channels, joined to the map itself.

    The means are products with two matrices made from the map's size: adaptive pooling cannot be exported for
    every size.
    """

    def __init__(self, in_channels: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.bins, width = bins, in_channels // len(bins)
        self.branches = nn.ModuleList()
        for _ in bins:
            conv = nn.Conv2d(in_channels, width, 1, bias=False)
            self.branches.append(nn.Sequential(conv, PooledBatchNorm(width), nn.ReLU(inplace=True)))
        self.channels = in_channels + len(bins) * width

    def forward(self, x: Tensor, align_corners: bool) -> Tensor:
        """(N, C, h, w) -> (N, 2C, h, w): the map, then its levels in the order of `bins`."""
        h, w = x.shape[-2:]
        levels = [x]
        for bins, branch in zip(self.bins, self.branches, strict=True):
            rows, columns = interval_means(h, bins, x), interval_means(w, bins, x)
            means = rows @ (x @ columns.mT)                                 # (N, 2048, bins, bins)
            levels.append(resize(branch(means), x, align_corners=align_corners))    # (N, 512, H/8, W/8)
        return torch.cat(levels, 1)                                         # (N, 4096, H/8, W/8)


def classifier(in_channels: int, width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """3×3 convolution, BatchNorm, ReLU, dropout of whole channels, 1×1 convolution to the classes."""
    last = nn.Conv2d(width, num_classes, 1)
    return nn.Sequential(*conv_bn_relu(in_channels, width), Dropout2d(dropout), last)


@register(
    "pspnet",
    title="Pyramid Scene Parsing Network",
    authors="Hengshuang Zhao, Jianping Shi, Xiaojuan Qi, Xiaogang Wang, Jiaya Jia",
    year=2017,
    url="https://arxiv.org/abs/1612.01105",
    note="papers/pspnet.md",
    encoders=encoders.names(dilatable=True),
    encoders_why="it needs maps at output stride 8",
)
class PSPNet(nn.Module):
    """Fig. 3: dilated encoder, pyramid pooling, classifier; Fig. 4: an auxiliary classifier in training.

    aux: the auxiliary classifier, on the encoder's map before the last (res4b22 of a ResNet-101).
    bins: parts a side of each level of the pyramid; (1,) is the paper's "B1".
    dropout: chance of a channel to be zero before each classifier.
    output_stride: of the encoder's last two maps; 8 is the paper's.
    dilate_first: whether a dilated stage dilates its first block, too, as both codes of the authors do; False
        is torchvision's rule.
    align_corners: resize by corners, as the authors' weights want it.
    """

    aux_weights: tuple[float, ...] = (0.4,)  # Sec. 5.2; of an instance without the auxiliary classifier: ()
    margin = 0
    min_size, size_step = 9, 1  # of an instance: 1 + output_stride, for a deepest map of 2×2

    def __init__(
        self,
        num_classes: int = 21,
        in_channels: int = 3,
        *,
        encoder: str = "resnet50s",
        pretrained: bool = False,
        aux: bool = True,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
        output_stride: int = 8,
        dilate_first: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1:
            raise InputError(f"pspnet: bins {bins} must be one number or more, each >= 1")
        if not 0 <= dropout < 1:
            raise InputError(f"pspnet: dropout {dropout} must be in [0, 1)")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.align_corners = align_corners
        self.min_size = output_stride + 1

        self.encoder = encoders.build(
            encoder,
            in_channels,
            pretrained=pretrained,
            output_stride=output_stride,
            dilate_first=dilate_first,
        )
        *_, res4, res5 = self.encoder.channels                              # 1024, 2048
        self.ppm = PyramidPooling(res5, bins)
        self.head = classifier(self.ppm.channels, WIDTH, num_classes, dropout)
        self.aux = classifier(res4, AUX_WIDTH, num_classes, dropout) if aux else None
        self.aux_weights = PSPNet.aux_weights if aux else ()

    def forward(self, x: Tensor) -> Tensor | Output:
        """(N, C, H, W) -> logits (N, K, H, W)."""
        *_, res4, res5 = self.encoder(x)                                    # (N, 1024 and 2048, H/8, W/8)
        y = self.head(self.ppm(res5, self.align_corners))                   # (N, K, H/8, W/8)
        logits = resize(y, x, align_corners=self.align_corners)             # (N, K, H, W)
        if not self.training:
            return logits
        if self.aux is None:
            return Output(logits)
        return Output(logits, (resize(self.aux(res4), x, align_corners=self.align_corners),))
