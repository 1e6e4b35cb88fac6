"""HRNetV2 (Sun et al., 2019; Wang et al., 2020), with the authors' keys: high resolution from end to end.

New: in place of going down and up again, branches of resolution 1/4, 1/8, 1/16 and 1/32 run side by side, and
after every few blocks each of them receives the others' maps.

Read beside papers/hrnet.md and Fig. 2 and 3 of 2020.  N batch, (H, W) the size of the input, w the width of
the first branch.
Departs from the papers: a map is narrowed by its 1×1 convolution before it is enlarged, not after, as in the
authors' code.  Their classifier repeats pixels to enlarge (`upsampling`), their segmentation networks
interpolate, some of them with aligned corners (`align_corners`).
"""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.encoders.encoder import Encoder, check_depth, check_undilated
from zoo.encoders.resnet import BasicBlock, Bottleneck
from zoo.layers import recomputable, resize

VARIANTS = {  # the number is w
    "hrnet_w18": dict(width=18),
    "hrnet_w32": dict(width=32),
    "hrnet_w48": dict(width=48),
}
MODULES = (1, 4, 3)  # modularized blocks of stages 2, 3 and 4; Sec. 3.4 of 2020
UNITS = 4  # residual units of each branch in such a block, and of stage 1


def conv3x3(in_channels: int, channels: int, stride: int, *, relu: bool = True) -> nn.Sequential:
    """3×3 convolution and BatchNorm; with a ReLU unless a sum follows."""
    layers = [nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def f(i: int, j: int, widths: tuple[int, ...]) -> nn.Module:
    """What takes branch j's map to the width of branch i: f_ji of Sec. 3.2 but for the enlarging (j > i)."""
    if j == i:
        return nn.Identity()
    if j > i:
        return nn.Sequential(nn.Conv2d(widths[j], widths[i], 1, bias=False), nn.BatchNorm2d(widths[i]))
    halvings = [conv3x3(widths[j], widths[j], 2) for _ in range(i - j - 1)]
    return nn.Sequential(*halvings, conv3x3(widths[j], widths[i], 2, relu=False))


@recomputable
class ModularizedBlock(nn.Module):
    """Sec. 3.4: residual units in every branch, then Fig. 3: each output from all branches.

    outputs: how many of the branches are fused; the others end here.
    """

    def __init__(self, widths: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(w, w, 1, (1, 1)) for _ in range(UNITS))) for w in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(f(i, j, widths) for j in range(len(widths))) for i in range(outputs)
        )

    def forward(self, x: list[Tensor], upsampling: str, align_corners: bool) -> list[Tensor]:
        """Maps (N, 2^i·w, H/2^(i+2), W/2^(i+2)) -> those of the outputs, of the same shapes."""
        x = [branch(x_j) for branch, x_j in zip(self.branches, x, strict=True)]
        rows = [i for i, row in enumerate(self.fuse_layers) if isinstance(row, nn.ModuleList)]
        return [self.fuse(i, x, upsampling, align_corners) for i in rows]

    def fuse(self, i: int, x: list[Tensor], upsampling: str, align_corners: bool) -> Tensor:
        """relu(sum over j of f_ji(x_j)), of the shape of x_i."""
        row = self.fuse_layers[i]
        assert isinstance(row, nn.ModuleList)
        parts = [f_ji(x_j) for f_ji, x_j in zip(row, x, strict=True)]
        y = parts[0]
        for j, part in enumerate(parts[1:], 1):
            y = y + (resize(part, x[i], upsampling, align_corners) if j > i else part)
        return F.relu(y)


class HRNet(Encoder):
    """Fig. 2 of 2020: stem, then four stages of one to four branches; maps at strides 4, 8, 16, 32.

    upsampling, align_corners: of the enlarging in every fusion; to be set on an instance.  "nearest" is that
    of the authors' classifier, whose weights their segmentation networks then use with "bilinear".
    """

    dilatable = False
    upsampling = "bilinear"
    align_corners = False

    def __init__(
        self,
        in_channels: int = 3,
        *,
        width: int,
        output_stride: int = 32,
        dilate_first: bool = False,
        depth: int = 4,
    ) -> None:
        super().__init__()
        check_depth(depth, 4)
        check_undilated(output_stride, "HRNet")
        self.in_channels = in_channels
        widths = tuple(width * 2**i for i in range(4))
        self.channels, self.strides = widths[:depth], (4, 8, 16, 32)[:depth]

        self.conv1 = nn.Conv2d(in_channels, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(*(Bottleneck(256 if u else 64, 64, 256, 1, 1, 1) for u in range(UNITS)))
        # The authors' keys: a transition holds the branches that it makes anew, under their numbers, and each
        # of these, but not the one at stride 4 that only changes its width, is one Sequential deeper.
        self.transition1 = nn.ModuleList(
            [conv3x3(256, widths[0], 1), nn.Sequential(conv3x3(256, widths[1], 2))]
        )
        self.stage2 = self.stage(MODULES[0], widths[:2], 2)
        self.transition2 = nn.ModuleDict({"2": nn.Sequential(conv3x3(widths[1], widths[2], 2))})
        self.stage3 = self.stage(MODULES[1], widths[:3], 3)
        self.transition3 = nn.ModuleDict({"3": nn.Sequential(conv3x3(widths[2], widths[3], 2))})
        self.stage4 = self.stage(MODULES[2], widths, depth)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def stage(blocks: int, widths: tuple[int, ...], outputs: int) -> nn.ModuleList:
        """`blocks` modularized blocks, of which the last puts out `outputs` maps."""
        all_of_them = [len(widths)] * (blocks - 1)
        return nn.ModuleList(ModularizedBlock(widths, n) for n in [*all_of_them, outputs])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> maps (N, 2^i·w, H/2^(i+2), W/2^(i+2)), i = 0..3."""
        y = F.relu(self.bn1(self.conv1(image)))                         # (N,  64, H/2, W/2)
        y = F.relu(self.bn2(self.conv2(y)))                             # (N,  64, H/4, W/4)
        y = self.layer1(y)                                              # (N, 256, H/4, W/4)
        x = [branch(y) for branch in self.transition1]                  # w at H/4, 2w at H/8
        x = self.run(self.stage2, x)
        x = self.run(self.stage3, [*x, self.transition2["2"](x[-1])])   # … 4w at H/16
        x = self.run(self.stage4, [*x, self.transition3["3"](x[-1])])   # … 8w at H/32
        return tuple(x)

    def keep(self, *strides: int) -> None:
        """See `Encoder`: of the last fusion, the rows of other maps go; the others keep their numbers."""
        last = self.stage4[-1]
        assert isinstance(last, ModularizedBlock)
        for i, stride in enumerate(self.strides):
            if stride not in strides:
                last.fuse_layers[i] = nn.Identity()
        kept = [(c, s) for c, s in zip(self.channels, self.strides, strict=True) if s in strides]
        self.channels, self.strides = (tuple(values) for values in zip(*kept, strict=True))

    def run(self, blocks: Iterable[nn.Module], x: list[Tensor]) -> list[Tensor]:
        """One stage: its blocks, one after the other."""
        for block in blocks:
            x = block(x, self.upsampling, self.align_corners)
        return x
