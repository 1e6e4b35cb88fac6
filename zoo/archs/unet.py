"""U-Net (Ronneberger, Fischer, Brox, 2015): a contracting path, an expansive path, copies in between.

New: the expansive path is as wide as the contracting one and takes over its feature maps by concatenation,
which brings the context of 1024 channels back to the pixels; and nothing is padded, so that an image of any
size can be cut into tiles whose outputs join without a seam.

Read beside papers/unet.md and the paper's Fig. 1.  N batch, K classes; the sizes in comments are those of
the figure: input 572×572, output 388×388.
Departs from the paper: nowhere.  It leaves open the rate and exact places of dropout, which are taken from
the authors' release (0.5, after the two deepest levels of the contracting path), and the order within a
concatenation, which is the figure's (the copy first).  `padded=True` is what most code called U-Net does
instead: the same weights, convolutions that keep the size, copies that need no crop.
"""

import torch
from torch import Tensor, nn

from zoo.dropout import Dropout
from zoo.errors import InputError
from zoo.layers import Chain, Output, crop, he_normal_
from zoo.registry import register


def two_convs(in_channels: int, width: int, padded: bool) -> Chain:
    """Sec. 2: two unpadded 3×3 convolutions, each with a ReLU; (N, C, h, w) -> (N, width, h - 4, w - 4).

    padded: a border of zeros before each; (N, C, h, w) -> (N, width, h, w).
    """
    return Chain(
        nn.Conv2d(in_channels, width, 3, padding=int(padded)),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=int(padded)),
        nn.ReLU(inplace=True),
    )


def copy_and_crop(skip: Tensor, up: Tensor, border: int) -> Tensor:
    """Fig. 1, grey arrow: the skip without `border` pixels at each side, joined to the up-convolved map.

    The border is a constant of the level.  With an illegal input size some map is odd; it cannot fit here,
    and torch.cat raises instead of joining maps that lie half a pixel apart.
    border 0, of the padded network: the whole skip; where a side of it is odd, `up` has one pixel too many.
    """
    if border == 0:
        return torch.cat([skip, crop(up, skip)], 1)
    return torch.cat([skip[..., border:-border, border:-border], up], 1)


@register(
    "unet",
    title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
    authors="Olaf Ronneberger, Philipp Fischer, Thomas Brox",
    year=2015,
    url="https://arxiv.org/abs/1505.04597",
    note="papers/unet.md",
)
class UNet(nn.Module):
    """Fig. 1: 23 convolutions; an input of S×S becomes logits of (S - 184)×(S - 184), S + 4 a multiple of 16.

    width: channels of the first level, doubled four times; 64 is the paper's, less is for quick looks.
    dropout: chance of a zero at the end of the contracting path (Sec. 3.1).
    padded: not the paper's: zeros around every map, so that the logits have the input's size, which can be
        any; poolings round up.  No weight changes, so a file of one kind fits the other by its shapes.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 92  # pixels lost at each side: (572 - 388) / 2
    min_size, size_step = 4, 16  # outputs are 4, 20, 36, ..., 388, ...

    def __init__(
        self,
        num_classes: int = 2,
        in_channels: int = 1,
        *,
        width: int = 64,
        dropout: float = 0.5,
        padded: bool = False,
    ) -> None:
        super().__init__()
        if width < 1 or not 0 <= dropout < 1:
            raise InputError(f"unet: width {width} must be >= 1 and dropout {dropout} in [0, 1)")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.padded = padded
        if padded:
            self.margin, self.min_size, self.size_step = 0, 1, 1
        self.borders = (0, 0, 0, 0) if padded else (4, 16, 40, 88)  # of the copies, deepest first
        w1, w2, w3, w4, w5 = (width * 2**level for level in range(5))  # 64, 128, 256, 512, 1024

        self.pool = nn.MaxPool2d(2, ceil_mode=padded)
        self.dropout = Dropout(dropout)

        self.enc1 = two_convs(in_channels, w1, padded)
        self.enc2 = two_convs(w1, w2, padded)
        self.enc3 = two_convs(w2, w3, padded)
        self.enc4 = two_convs(w3, w4, padded)
        self.bottom = two_convs(w4, w5, padded)

        self.up4 = nn.ConvTranspose2d(w5, w4, 2, stride=2)
        self.dec4 = two_convs(2 * w4, w4, padded)
        self.up3 = nn.ConvTranspose2d(w4, w3, 2, stride=2)
        self.dec3 = two_convs(2 * w3, w3, padded)
        self.up2 = nn.ConvTranspose2d(w3, w2, 2, stride=2)
        self.dec2 = two_convs(2 * w2, w2, padded)
        self.up1 = nn.ConvTranspose2d(w2, w1, 2, stride=2)
        self.dec1 = two_convs(2 * w1, w1, padded)
        self.head = nn.Conv2d(w1, num_classes, 1)

        he_normal_(self)  # Sec. 3, last paragraph

    def forward(self, x: Tensor) -> Tensor | Output:
        """(N, C, H, W) -> logits (N, K, H - 184, W - 184)."""
        skip1 = self.enc1(x)                                    # (N,   64, 568, 568)
        skip2 = self.enc2(self.pool(skip1))                     # (N,  128, 280, 280)
        skip3 = self.enc3(self.pool(skip2))                     # (N,  256, 136, 136)
        skip4 = self.dropout(self.enc4(self.pool(skip3)))       # (N,  512,  64,  64)
        y = self.dropout(self.bottom(self.pool(skip4)))         # (N, 1024,  28,  28)

        b4, b3, b2, b1 = self.borders                           # 4, 16, 40, 88 pixels a side
        y = self.dec4(copy_and_crop(skip4, self.up4(y), b4))    # (N,  512,  52,  52)
        y = self.dec3(copy_and_crop(skip3, self.up3(y), b3))    # (N,  256, 100, 100)
        y = self.dec2(copy_and_crop(skip2, self.up2(y), b2))    # (N,  128, 196, 196)
        y = self.dec1(copy_and_crop(skip1, self.up1(y), b1))    # (N,   64, 388, 388)

        logits = self.head(y)                                   # (N,    K, 388, 388)
        return Output(logits) if self.training else logits
