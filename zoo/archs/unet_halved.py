"""U-Net (Ronneberger et al., 2015) on a pretrained encoder, with a decoder that halves its channels.

New against the popular library, segmentation_models_pytorch: there each block of the decoder puts out a fixed
number of channels, 256-128-64-32-16 behind any encoder.  Here it puts out half of what it is given, as the
blocks of the paper's expanding path do, so the decoder is as wide as its encoder asks for.

Read beside papers/unet_halved.md and Fig. 1 of the paper.  N batch, K classes, (H, W) the size of the input;
channel numbers are those of ResNet-34.
Departs from the paper: a classifier's encoder in place of the contracting path; padded convolutions with
BatchNorm; nearest up-sampling, which keeps the channels, in place of the up-convolution, which halves them
(so that half of the concatenation is more here than there); a last block without skip; a 3×3 head; any size
from 33×33 on.  With a ResNet that is the library's graph, its state dict gives the same logits.
"""

from torch import Tensor, nn

from zoo import encoders
from zoo.errors import InputError
from zoo.layers import Output, UpBlock, head3x3
from zoo.registry import register

STRIDES = (16, 8, 4, 2, 1)  # of what the five blocks put out


def halved(channels: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """What each block puts out over an encoder's maps: half of what it is given, rounded down."""
    *skips, up = channels
    at = dict(zip(strides[:-1], skips, strict=True))
    widths = []
    for stride in STRIDES:
        up = (up + at.get(stride, 0)) // 2
        widths.append(up)
    return tuple(widths)


@register(
    "unet_halved",
    title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
    authors="Olaf Ronneberger, Philipp Fischer, Thomas Brox",
    year=2015,
    url="https://arxiv.org/abs/1505.04597",
    note="papers/unet_halved.md",
    encoders=encoders.names(),
)
class UNetHalved(nn.Module):
    """An encoder, five blocks that each double height and width, a 3×3 head.

    decoder_channels: what the five blocks put out, deepest first; None for half of what each is given, i.e.
        (384, 256, 160, 112, 56) with ResNet-34.  (256, 128, 64, 32, 16) are the popular library's.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0
    min_size, size_step = 33, 1  # 33: the deepest map is 2×2, on which BatchNorm can train with N = 1

    def __init__(
        self,
        num_classes: int = 1,
        in_channels: int = 3,
        *,
        encoder: str = "resnet34",
        pretrained: bool = False,
        decoder_channels: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.encoder = encoders.build(encoder, in_channels, pretrained=pretrained)
        if decoder_channels is None:
            decoder_channels = halved(self.encoder.channels, self.encoder.strides)
        elif len(decoder_channels) != len(STRIDES) or min(decoder_channels) < 1:
            raise InputError(
                f"unet_halved: decoder_channels {decoder_channels} must be five numbers >= 1, one a block, "
                f"such as (256, 128, 64, 32, 16)"
            )
        self.decoder_channels = decoder_channels

        *skips, up = self.encoder.channels                              # 64, 64, 128, 256; 512
        at = dict(zip(self.encoder.strides[:-1], skips, strict=True))
        self.decoder = nn.ModuleList()
        for stride, channels in zip(STRIDES, decoder_channels, strict=True):
            self.decoder.append(UpBlock(up, at.get(stride, 0), channels))
            up = channels
        self.head = head3x3(up, num_classes)

    def forward(self, image: Tensor) -> Tensor | Output:
        """(N, C, H, W) -> logits (N, K, H, W)."""
        *skips, x = self.encoder(image)                                 # …, (N, 512, H/32, W/32)
        at = dict(zip(self.encoder.strides[:-1], skips, strict=True))   # 2: (N, 64, H/2, W/2), …, 16: …
        for stride, block in zip(STRIDES, self.decoder, strict=True):
            if stride in at:
                x = block(x, [at[stride]])                              # (N, 384, H/16, W/16), …
            else:  # the last, and the one before where an encoder has no map at stride 2
                x = block(x, [], image[..., ::stride, ::stride])        # (N, 56, H, W)
        logits = self.head(x)                                           # (N, K, H, W)
        return Output(logits) if self.training else logits
