"""FCN (Long, Shelhamer, Darrell, 2015) in the form that torchvision gave it: the baseline.

New in 2015: a classifier whose dense layers are read as convolutions labels every place of an image at once,
and is trained on whole images, through an up-sampling, to label every pixel.

Read beside papers/fcn.md.  N batch, K classes, (H, W) the size of the input; channels are ResNet-50's.
Departs from the paper, as torchvision does: a dilated ResNet at output stride 8 for VGG-16 at 32; therefore
one up-sampling by 8, bilinear and without weights, and none of the paper's skips from pool3 and pool4; a 3×3
convolution for fc6 and fc7; BatchNorm; an auxiliary classifier in training.  Module names are torchvision's,
so that the state dict of its `fcn_resnet50` or `fcn_resnet101` fits as it is.
"""

from torch import Tensor, nn

from zoo import encoders
from zoo.dropout import Dropout
from zoo.encoders import Encoder
from zoo.layers import Output, conv_bn_relu, resize
from zoo.registry import register

ENCODERS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
)  # fmt: skip


def fcn_head(in_channels: int, num_classes: int) -> nn.Sequential:
    """3×3 convolution to a quarter of the channels, BatchNorm, ReLU, dropout, 1×1 convolution to classes."""
    width = in_channels // 4
    last = nn.Conv2d(width, num_classes, 1)
    return nn.Sequential(*conv_bn_relu(in_channels, width), Dropout(0.1), last)


@register(
    "fcn",
    title="Fully Convolutional Networks for Semantic Segmentation",
    authors="Jonathan Long, Evan Shelhamer, Trevor Darrell",
    year=2015,
    url="https://arxiv.org/abs/1411.4038",
    note="papers/fcn.md",
    encoders=ENCODERS,
    encoders_why="it keeps torchvision's FCN key by key, which stands on a ResNet with a 7×7 stem",
)
class FCN(nn.Module):
    """torchvision's FCN: dilated ResNet, one small head, bilinear up-sampling by 8.

    aux: in training a second head, on layer3.
    """

    aux_weights: tuple[float, ...] = (0.5,)  # torchvision's references/segmentation/train.py; without aux: ()
    margin = 0
    min_size, size_step = 9, 1  # 9: the deepest map is 2×2, on which BatchNorm can train with N = 1

    def __init__(
        self,
        num_classes: int = 21,
        in_channels: int = 3,
        *,
        encoder: str = "resnet50",
        pretrained: bool = False,
        aux: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.backbone = encoders.build(encoder, in_channels, pretrained=pretrained, output_stride=8)
        *_, layer3, layer4 = self.backbone.channels                         # 1024, 2048
        self.classifier = fcn_head(layer4, num_classes)
        self.aux_classifier = fcn_head(layer3, num_classes) if aux else None
        self.aux_weights = FCN.aux_weights if aux else ()

    @property
    def encoder(self) -> Encoder:
        """The encoder, which torchvision calls its backbone."""
        return self.backbone

    def forward(self, x: Tensor) -> Tensor | Output:
        """(N, C, H, W) -> logits (N, K, H, W)."""
        *_, layer3, layer4 = self.backbone(x)                               # (N, 1024 and 2048, H/8, W/8)
        logits = resize(self.classifier(layer4), x)                         # (N, K, H/8, W/8) -> (N, K, H, W)
        if not self.training:
            return logits
        if self.aux_classifier is None:
            return Output(logits)
        return Output(logits, (resize(self.aux_classifier(layer3), x),))
