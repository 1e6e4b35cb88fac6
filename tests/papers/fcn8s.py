"""FCN-8s on VGG-16 as its authors released it: what papers/fcn.md compares torchvision's FCN with."""

import torch
from torch import Tensor, nn

from zoo.profile import profile

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CLASSES, SIZE = 21, 500


class FCN8s(nn.Module):
    """Fig. 3 of the paper, with the released code's padding of 100 and its crops by 9, 5 and 31."""

    in_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.pools, above = nn.ModuleList(), 3
        for widths in VGG16:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(above, width, 3, padding=1 if above > 3 else 100), nn.ReLU()]
                above = width
            self.pools.append(nn.Sequential(*layers, nn.MaxPool2d(2, 2, ceil_mode=True)))
        self.fc6, self.fc7 = nn.Conv2d(512, 4096, 7), nn.Conv2d(4096, 4096, 1)
        self.score, self.score4, self.score3 = (nn.Conv2d(c, CLASSES, 1) for c in (4096, 512, 256))
        self.up, self.up4, self.up3 = (
            nn.ConvTranspose2d(CLASSES, CLASSES, 2 * s, s, bias=False) for s in (2, 2, 8)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> scores (N, 21, H, W)."""
        size, maps = x.shape[-2:], []
        for pool in self.pools:
            x = pool(x)
            maps.append(x)
        y = self.up(self.score(self.fc7(self.fc6(x))))
        y = self.up4(y + cropped(self.score4(maps[3]), 5, y.shape[-2:]))
        y = self.up3(y + cropped(self.score3(maps[2]), 9, y.shape[-2:]))
        return cropped(y, 31, size)


def cropped(x: Tensor, offset: int, size: torch.Size) -> Tensor:
    """`size` of x from `offset` on."""
    return x[..., offset : offset + size[0], offset : offset + size[1]]


def shapes() -> list[str]:
    """C×H×W along the way, in the order of the note's table."""
    with torch.device("meta"):
        stages = profile(FCN8s(), SIZE)
    paths = ["pools.0.2", *(f"pools.{i}" for i in range(5)), "fc7", "score", "up", "up4", "up3", ""]
    return ["×".join(map(str, stages[path].shape)) for path in paths]


def totals() -> tuple[int, int]:
    """Parameters and multiply-adds."""
    with torch.device("meta"):
        whole = profile(FCN8s(), SIZE)[""]
    return whole.parameters, whole.macs
