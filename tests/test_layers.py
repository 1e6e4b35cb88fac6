"""If these break, every architecture's output is misplaced by a pixel, or starts from the wrong weights."""

import pytest
import torch
from torch import nn

from zoo.layers import Output, he_normal_, resize


def test_output_without_auxiliary_logits_is_the_same_tuple() -> None:
    logits = torch.zeros(1, 2, 3, 3)
    output = Output(logits)
    assert output.logits is logits
    assert output.aux == ()


@pytest.mark.parametrize("size", [(5, 9), (1, 1), (33, 47)])
def test_resize_takes_the_size_of_its_like(size: tuple[int, int]) -> None:
    assert resize(torch.rand(2, 3, 7, 6), torch.rand(2, 8, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_resize_to_the_same_size_changes_nothing(mode: str) -> None:
    x = torch.rand(1, 2, 6, 7)
    torch.testing.assert_close(resize(x, x, mode), x)


def test_resize_puts_pixels_at_their_centres() -> None:
    """Twice as wide: the new centres lie at -1/4, 1/4, 3/4, 5/4 of the old ones (clamped at the ends)."""
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(x, torch.zeros(1, 1, 1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    corners = resize(x, torch.zeros(1, 1, 1, 4), align_corners=True)
    torch.testing.assert_close(corners.flatten(), torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_of_resize_serves_other_sizes() -> None:
    traced = torch.jit.trace(resize, (torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4)))
    x, like = torch.rand(1, 1, 4, 5), torch.rand(1, 1, 9, 7)
    assert torch.equal(traced(x, like), resize(x, like))


@pytest.mark.parametrize(
    ("conv", "n"),
    [
        (nn.Conv2d(64, 128, 3), 576),  # the U-Net paper's own example
        (nn.Conv2d(64, 512, 1), 64),
        (nn.Conv2d(64, 128, 3, groups=4), 144),
        (nn.ConvTranspose2d(128, 64, 2, stride=2), 128),  # an output pixel sees one input pixel
        (nn.ConvTranspose2d(128, 64, 4, stride=2), 512),  # … or four
    ],
)
def test_he_normal_counts_the_nodes_that_an_output_neuron_sees(conv: nn.Module, n: int) -> None:
    he_normal_(conv)
    weight = conv.weight.detach()
    assert weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.03)
    assert weight.mean().abs() < 0.02 * weight.std()
    assert weight.abs().max() > 3 * weight.std()  # a Gaussian, not a uniform
    assert conv.bias.detach().abs().max() == 0


def test_he_normal_keeps_the_variance_through_an_up_convolution() -> None:
    """What the count is for: E[y²] = 2·E[x²] before a ReLU, here without one."""
    up = nn.ConvTranspose2d(256, 128, 2, stride=2)
    he_normal_(up)
    x = torch.randn(1, 256, 16, 16)
    assert up(x).square().mean().item() == pytest.approx(2.0, rel=0.1)
