"""If these break, the tables of parameters and MACs that users compare networks by are wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.profile import macs, profile


class Net(nn.Module):
    """One of each counted layer, and what is not counted."""

    in_channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, (3, 5), stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 3, 2, stride=2)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(3, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))  # (N, 6, 8, 7) from 16×16
        x = self.relu(self.up(x))  # (N, 3, 16, 14)
        return self.linear(x.mean((2, 3)))  # (N, 7)


CONV, UP, LINEAR = 6 * 8 * 7 * (2 * 3 * 5), 6 * 8 * 7 * (3 * 2 * 2), 7 * 3


class Functions(nn.Module):
    """The same work without modules, as where two layers' weights are multiplied first; and attention."""

    in_channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.rand(5, 4)), nn.Parameter(torch.rand(6, 5))
        self.kernel = nn.Parameter(torch.rand(3, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        product = self.second @ self.first                      # (6, 4), of weights: not counted
        y = F.conv2d(x, product[..., None, None])               # (N, 6, 8, 10) from 8×10
        y = F.conv_transpose2d(y, y.new_ones(6, 3, 2, 2), stride=2)     # (N, 3, 16, 20)
        y = F.conv2d(y, self.kernel, stride=2, padding=1, groups=3)     # (N, 3, 8, 10)
        tokens = y.flatten(2).transpose(1, 2)                   # (N, 80, 3)
        q = F.linear(tokens, y.new_ones(8, 3), y.new_ones(8))   # (N, 80, 8)
        k, v = q[:, :20], F.pad(q, (0, 2))[:, :20]              # (N, 20, 8), (N, 20, 10)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])


FUNCTIONS = 80 * 6 * 4 + 80 * 6 * 3 * 4 + 80 * 3 * 9 + 80 * 8 * 3 + 80 * 20 * (8 + 10)


def test_macs_of_each_kind_of_layer() -> None:
    stages = profile(Net(), 16)
    assert stages["conv"].macs == CONV
    assert stages["up"].macs == UP
    assert stages["linear"].macs == LINEAR
    assert stages["norm"].macs == stages["relu"].macs == 0
    assert macs(Net(), (16, 16)) == stages[""].macs == CONV + UP + LINEAR


def test_macs_of_functions() -> None:
    assert macs(Functions(), (8, 10)) == FUNCTIONS


@pytest.mark.parametrize(
    ("name", "size", "wanted"),
    [("unet", 572, 150_428_424_448), ("unetpp", 512, 119_151_788_032)],
)
def test_macs_of_whole_networks(name: str, size: int, wanted: int) -> None:
    """Counted by hooks on modules, before functions were counted."""
    with torch.device("meta"):
        assert macs(zoo.build(name), size) == wanted


def test_shapes_parameters_and_order() -> None:
    stages = profile(Net(), 16)
    assert stages["conv"].shape == (6, 8, 7)
    assert stages["conv"].parameters == 6 * 2 * 15 + 6
    assert stages[""].parameters == sum(p.numel() for p in Net().parameters())
    assert list(stages) == ["conv", "norm", "up", "relu", "linear", ""]


def test_leaves_the_network_as_it_was() -> None:
    net = Net().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    profile(net, 16)
    assert net.training
    assert not net._forward_hooks
    assert not net.conv._forward_hooks
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_size_that_fails_leaves_no_hooks() -> None:
    net = Net().train()
    with pytest.raises(RuntimeError):
        profile(net, 1)
    assert net.training
    assert not net.conv._forward_hooks


def test_works_at_any_precision() -> None:
    assert macs(Net().bfloat16(), 16) == macs(Net(), 16)
