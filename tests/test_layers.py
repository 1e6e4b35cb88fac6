"""If these break, every architecture's output is misplaced by a pixel, or starts from the wrong weights."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers import (
    Output,
    PooledBatchNorm,
    SeparableConv,
    SqueezeExcite,
    UpBlock,
    conv_bn,
    conv_bn_relu,
    he_normal_,
    head3x3,
    nearest_multiple,
    resize,
)


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


def scatter_statistics(module: nn.Module) -> None:
    """Give every BatchNorm in `module` scales, shifts and statistics other than its first ones."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Eval-mode BatchNorm by its formula."""
    mean, var, scale, shift = (
        t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + norm.eps).sqrt() * scale + shift


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 4)])
def test_conv_bn_relu_keeps_the_size_and_is_its_formula(kernel: int, dilation: int) -> None:
    block = conv_bn_relu(3, 5, kernel, dilation).double().eval()
    scatter_statistics(block)
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    conv, norm, _ = block
    assert conv.bias is None
    y = F.conv2d(x, conv.weight, padding=kernel // 2 * dilation, dilation=dilation)
    torch.testing.assert_close(block(x), normalised(norm, y).relu())
    assert block(x).shape == (2, 5, 7, 9)


@pytest.mark.parametrize("act", [None, nn.SiLU])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 2, 1), (3, 2, 1), (5, 1, 2), (3, 2, 2)])
def test_conv_bn_is_its_formula(kernel: int, stride: int, dilation: int, act: type | None) -> None:
    norm = partial(nn.BatchNorm2d, eps=0.5)
    block = conv_bn(4, 6, kernel, stride=stride, dilation=dilation, groups=2, norm=norm, act=act)
    scatter_statistics(block.double().eval())
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    assert block[0].bias is None
    padding = kernel // 2 * dilation
    y = F.conv2d(x, block[0].weight, None, stride, padding, dilation, groups=2)
    y = normalised(block[1], y)
    assert block[1].eps == 0.5
    torch.testing.assert_close(block(x), y * y.sigmoid() if act else y)
    assert block(x).shape == (2, 6, -(-7 // stride), -(-9 // stride))


def test_pooled_batch_norm_takes_a_batch_of_one_by_the_running_statistics() -> None:
    norm = PooledBatchNorm(4, eps=1e-3).train()
    scatter_statistics(norm)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    x = torch.randn(1, 4, 1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(4)(x)  # what it is for
    y = norm(x)
    torch.testing.assert_close(y, normalised(norm, x))
    assert torch.equal(y, norm.eval()(x))
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    y.square().sum().backward()
    assert x.grad.all()
    assert norm.weight.grad.all()
    assert norm.bias.grad.all()


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (3, 4, 2, 2)])
def test_pooled_batch_norm_is_batch_norm_from_two_values_on(shape: tuple[int, ...]) -> None:
    ours, torchs = PooledBatchNorm(4).train(), nn.BatchNorm2d(4).train()
    for _ in range(2):
        x = torch.randn(shape)
        assert torch.equal(ours(x), torchs(x))
    assert list(ours.state_dict()) == list(torchs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), torchs.buffers(), strict=True))
    assert torch.equal(ours.eval()(x), torchs.eval()(x))


@pytest.mark.parametrize(
    ("in_channels", "channels", "parameters"),
    [(2048, 256, 547_328), (304, 256, 81_680), (256, 256, 68_864)],  # in DeepLabV3+, by the authors' code
)
def test_separable_conv_has_the_published_size(in_channels: int, channels: int, parameters: int) -> None:
    with torch.device("meta"):
        block = SeparableConv(in_channels, channels, relu=True)
    assert sum(p.numel() for p in block.parameters()) == parameters


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_separable_conv_is_its_formula(stride: int, dilation: int, relu: bool) -> None:
    """Sums written out: each channel alone over a 3×3 of that spacing, then the channels in each pixel."""
    block = SeparableConv(3, 4, stride=stride, dilation=dilation, relu=relu, eps=1e-3).double().eval()
    scatter_statistics(block)
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    act = torch.relu if relu else torch.clone

    padded = F.pad(x, (dilation,) * 4)
    rows, columns = (range(0, side, stride) for side in x.shape[2:])
    y = torch.zeros(2, 3, len(rows), len(columns), dtype=torch.float64)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for k in range(9):
                spot = padded[:, :, row + k // 3 * dilation, column + k % 3 * dilation]
                y[:, :, i, j] += spot * block.conv_dw.weight[:, 0, k // 3, k % 3]
    y = act(normalised(block.bn_dw, y))
    y = torch.einsum("nchw,oc->nohw", y, block.conv_pw.weight[:, :, 0, 0])
    wanted = act(normalised(block.bn_pw, y))

    torch.testing.assert_close(block(x), wanted)
    assert (wanted < 0).any() != relu
    assert {block.bn_dw.eps, block.bn_pw.eps} == {1e-3}


def test_up_block_is_its_formula() -> None:
    """Nearest up-sampling to the first skip's size, then the skips in the order in which they come."""
    block = UpBlock(3, 2 + 4, 5).double().eval()
    scatter_statistics(block)
    sizes = ((3, 4, 5), (2, 7, 9), (4, 7, 9))
    x, one, two = (torch.randn(2, *size, dtype=torch.float64) for size in sizes)
    rows = torch.arange(7) * 4 // 7  # the source row of each output row
    columns = torch.arange(9) * 5 // 9
    y = torch.cat([x[:, :, rows][..., columns], one, two], 1)
    for conv, norm, _ in (block.conv1, block.conv2):
        y = normalised(norm, F.conv2d(y, conv.weight, padding=1)).relu()
    torch.testing.assert_close(block(x, [one, two]), y)


@pytest.mark.parametrize("size", [(8, 10), (7, 9), (16, 3)])
def test_up_block_without_a_skip_takes_the_size_it_is_told(size: tuple[int, int]) -> None:
    assert UpBlock(3, 0, 5)(torch.rand(2, 3, 4, 5), [], torch.rand(2, 1, *size)).shape == (2, 5, *size)


def test_up_block_and_its_head_start_uniform() -> None:
    """The block He by fan-in, with bound sqrt(6 / n); the head Xavier, with bound sqrt(6 / (n + m))."""
    block, head = UpBlock(40, 24, 32), head3x3(64, 32)
    for conv, n in ((block.conv1[0], 9 * 64), (block.conv2[0], 9 * 32)):
        assert conv.weight.abs().max().item() == pytest.approx((6 / n) ** 0.5, rel=0.01)
        assert conv.weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.03)
    assert head.weight.abs().max().item() == pytest.approx((6 / (9 * 64 + 9 * 32)) ** 0.5, rel=0.01)
    assert head.bias.abs().max() == 0
    assert head(torch.rand(1, 64, 5, 7)).shape == (1, 32, 5, 7)


@pytest.mark.parametrize(
    ("width", "of", "rounded"),
    [
        (35.2, 8, 32),  # 9 % less will do
        (44.8, 8, 48),
        (640, 168, 672),
        (392, 16, 400),  # halves go up, and not to the even multiple
        (192, 56, 224),  # 168 is nearer, but 12.5 % less
        (80, 72, 72),  # 10 % less, and no more
        (3, 8, 8),  # never none
    ],
)
def test_nearest_multiple(width: float, of: int, rounded: int) -> None:
    assert nearest_multiple(width, of) == rounded


def test_squeeze_excite_is_its_formula() -> None:
    """Image by image: the mean of each channel, two matrices, and one gate a channel between 0 and 1."""
    block = SqueezeExcite(3, 2, nn.ReLU()).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    w1, w2 = block.fc1.weight[:, :, 0, 0], block.fc2.weight[:, :, 0, 0]
    for image, y in zip(x, block(x), strict=True):
        mean = torch.stack([channel.sum() / 20 for channel in image])
        gate = 1 / (1 + (-(w2 @ (w1 @ mean + block.fc1.bias).relu() + block.fc2.bias)).exp())
        wanted = torch.stack([g * channel for g, channel in zip(gate, image, strict=True)])
        torch.testing.assert_close(y, wanted)
