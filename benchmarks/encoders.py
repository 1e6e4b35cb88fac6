"""Do our encoders compute what torchvision's networks compute, and as fast?

    python benchmarks/encoders.py [NAME …] [--size 224] [--pairs 7]

Names are encoders that torchvision has; without one, a small set of each family.  Both networks hold the
same random weights, ours without the classifier, torchvision's run up to it.  They run in turns, so that
other work on the machine slows both: read the ratio, which is the median over pairs of runs.
"""

import argparse
import sys
from functools import partial

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from timing import in_turn
from torch import Tensor, nn

from zoo import encoders
from zoo.encoders.encoder import Encoder
from zoo.encoders.pretrained import TORCHVISION
from zoo.errors import nearest

DEFAULT = ("resnet50", "efficientnet_b0", "efficientnet_b7", "regnet_x_8gf", "regnet_y_400mf")


class Trunk(nn.Module):
    """torchvision's network up to its last map; `taps` are the parts whose outputs are the five maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if isinstance(network, torchvision.models.ResNet):
            parts = [network.conv1, network.bn1, network.relu, network.maxpool]
            parts += [network.layer1, network.layer2, network.layer3, network.layer4]
            self.taps = (2, 4, 5, 6, 7)
        elif isinstance(network, torchvision.models.RegNet):
            parts = [network.stem, *network.trunk_output]
            self.taps = (0, 1, 2, 3, 4)
        else:
            parts = list(network.features)[:8]
            self.taps = (0, 2, 3, 5, 7)
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> the maps, finest first."""
        maps = []
        for i, part in enumerate(self.parts):
            x = part(x)
            if i in self.taps:
                maps.append(x)
        return tuple(maps)


def pair(name: str) -> tuple[Encoder, Trunk]:
    """Our encoder and torchvision's trunk with the very same tensors, as if trained, in eval mode."""
    network = torchvision.models.get_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.device("meta"):
        ours = encoders.build(name)
    weights = network.state_dict()
    ours.load_state_dict({key: weights[key] for key in ours.state_dict()}, strict=True, assign=True)
    return ours.eval(), Trunk(network).eval()


@torch.inference_mode()
def main(names: list[str], size: int, pairs: int) -> None:
    """Print the table."""
    table = Table(caption=f"1×3×{size}×{size}, threads: {torch.get_num_threads()}, torch {torch.__version__}")
    columns = ("", "parameters", "ours, ms", "torchvision, ms", "ours / torchvision", "largest difference")
    for column in columns:
        table.add_column(column, justify="right")
    for name in names:
        ours, theirs = pair(name)
        x = torch.randn(1, 3, size, size)
        # Relative to the largest value of each map.
        differences = [
            ((m - e).abs().max() / e.abs().max()).item() for m, e in zip(ours(x), theirs(x), strict=True)
        ]
        here, there, ratio = in_turn(partial(ours, x), partial(theirs, x), pairs)
        table.add_row(
            name,
            f"{sum(p.numel() for p in ours.parameters()):,}",
            f"{1000 * here:.0f}",
            f"{1000 * there:.0f}",
            f"{ratio:.3f}",
            f"{max(differences):.1e}",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TORCHVISION)}")
    parser.add_argument("--size", type=int, default=224, help="side of the square image, pixels")
    parser.add_argument("--pairs", type=int, default=7, help="timed runs of each network")
    args = parser.parse_args()
    for unknown in set(args.names) - set(TORCHVISION):
        parser.error(f"torchvision has no encoder {unknown}; {nearest(unknown, TORCHVISION)}")
    main(args.names or list(DEFAULT), args.size, args.pairs)
