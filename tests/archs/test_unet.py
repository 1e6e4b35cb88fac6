"""If these break, `zoo.build("unet")` is not the network of the 2015 paper any more."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.unet import UNet
from zoo.profile import macs, profile

from .fields import fields

# Fig. 1 at its input of 572×572: every convolution with its output and its parameters.
STAGES = [
    ("enc1.0", (64, 570, 570), 640),
    ("enc1.2", (64, 568, 568), 36_928),
    ("enc2.0", (128, 282, 282), 73_856),
    ("enc2.2", (128, 280, 280), 147_584),
    ("enc3.0", (256, 138, 138), 295_168),
    ("enc3.2", (256, 136, 136), 590_080),
    ("enc4.0", (512, 66, 66), 1_180_160),
    ("enc4.2", (512, 64, 64), 2_359_808),
    ("bottom.0", (1024, 30, 30), 4_719_616),
    ("bottom.2", (1024, 28, 28), 9_438_208),
    ("up4", (512, 56, 56), 2_097_664),
    ("dec4.0", (512, 54, 54), 4_719_104),
    ("dec4.2", (512, 52, 52), 2_359_808),
    ("up3", (256, 104, 104), 524_544),
    ("dec3.0", (256, 102, 102), 1_179_904),
    ("dec3.2", (256, 100, 100), 590_080),
    ("up2", (128, 200, 200), 131_200),
    ("dec2.0", (128, 198, 198), 295_040),
    ("dec2.2", (128, 196, 196), 147_584),
    ("up1", (64, 392, 392), 32_832),
    ("dec1.0", (64, 390, 390), 73_792),
    ("dec1.2", (64, 388, 388), 36_928),
    ("head", (2, 388, 388), 130),
]


@pytest.fixture(scope="module")
def full() -> UNet:
    with torch.device("meta"):
        return UNet()


def test_every_box_of_figure_1(full: UNet) -> None:
    stages = profile(full, 572)
    got = [(path, stages[path].shape, stages[path].parameters) for path, _, _ in STAGES]
    assert got == STAGES
    convolutions = [path for path, m in full.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert convolutions == [path for path, _, _ in STAGES]  # the paper's 23, and no other


@pytest.mark.parametrize(
    ("channels", "classes", "parameters"),
    [(1, 2, 31_030_658), (1, 1, 31_030_593), (3, 1, 31_031_745), (3, 2, 31_031_810), (3, 21, 31_033_045)],
)
def test_parameters(channels: int, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        model = UNet(classes, channels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.buffers()) == 0  # no statistics: no BatchNorm


def test_macs_at_the_papers_size(full: UNet) -> None:
    assert macs(full, 572) == 150_428_424_448


@pytest.mark.parametrize(
    ("size", "out"), [((572, 572), (388, 388)), ((188, 188), (4, 4)), ((444, 892), (260, 708))]
)
def test_output_is_184_pixels_smaller(full: UNet, size: tuple[int, int], out: tuple[int, int]) -> None:
    assert profile(full, size)[""].shape == (2, *out)
    assert UNet.margin * 2 == 184


def test_an_illegal_size_raises_and_never_misplaces() -> None:
    """S + 4 a multiple of 16, S >= 188; others must fail rather than join maps half a pixel apart."""
    model = UNet(width=1).eval()
    legal = []
    for size in range(168, 224):
        try:
            model(torch.zeros(1, 1, 188, size))
            legal.append(size)
        except RuntimeError:
            pass
    assert legal == [188, 204, 220]


def forward_by_the_equations(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Fig. 1 once more, from arrows alone: no module, the crop taken at the centre of whatever is there."""

    def blue(name: str, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"]))

    skips = []
    for name in ("enc1", "enc2", "enc3", "enc4"):
        x = blue(f"{name}.2", blue(f"{name}.0", x))
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = blue("bottom.2", blue("bottom.0", x))
    for level in (4, 3, 2, 1):
        x = F.conv_transpose2d(x, weights[f"up{level}.weight"], weights[f"up{level}.bias"], stride=2)
        skip = skips.pop()
        top, left = ((a - b) // 2 for a, b in zip(skip.shape[-2:], x.shape[-2:], strict=True))
        x = torch.cat([skip[..., top : top + x.shape[-2], left : left + x.shape[-1]], x], 1)
        x = blue(f"dec{level}.2", blue(f"dec{level}.0", x))
    return F.conv2d(x, weights["head.weight"], weights["head.bias"])


@pytest.mark.parametrize("size", [(188, 188), (236, 204)])
def test_forward_is_figure_1(size: tuple[int, int]) -> None:
    model = UNet(3, 2, width=3).double().eval()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(model(x), forward_by_the_equations(dict(model.named_parameters()), x))


def test_tiles_join_without_a_seam() -> None:
    """Sec. 2, overlap-tile strategy: a part of the output depends on nothing but its own tile with margin."""
    model = UNet(width=4).double().eval()
    x = torch.randn(1, 1, 220, 236, dtype=torch.float64)
    whole = model(x)  # 36×52
    for top, left in ((0, 0), (16, 0), (0, 32), (16, 32)):
        tile = model(x[..., top : top + 204, left : left + 204])  # 20×20
        torch.testing.assert_close(tile, whole[..., top : top + 20, left : left + 20])


def test_a_mirrored_network_sees_the_mirrored_image() -> None:
    """Every legal size is even at each pooling, so flipping image and kernels flips the output."""
    model = UNet(width=4).double().eval()
    x = torch.randn(1, 1, 188, 204, dtype=torch.float64)
    expected = model(x).flip(-1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 4:
                p.copy_(p.flip(-1))
    torch.testing.assert_close(model(x.flip(-1)), expected)


def test_dropout_ends_the_contracting_path() -> None:
    """After both convolutions of the two deepest levels, in training alone; half of the values are zeroed."""
    model = UNet(width=8)
    seen = []
    model.dropout.register_forward_hook(lambda _, x, y: seen.append((x[0].shape[1], x[0], y)))
    x = torch.rand(1, 1, 188, 188)
    model.train()(x)
    assert [channels for channels, _, _ in seen] == [64, 128]
    for _, before, after in seen:
        kept = after[before > 0] > 0
        assert kept.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(model(x).logits, model(x).logits)
    assert torch.equal(model.eval()(x), model(x))

    plain = UNet(width=2, dropout=0.0)
    assert torch.equal(plain.train()(x).logits, plain.eval()(x))


def test_weights_start_he_normal() -> None:
    """Sec. 3: standard deviation sqrt(2 / N), N the incoming nodes of one neuron; 576 for 3×3 over 64."""
    model = UNet(width=16)
    nodes = {"enc3.2": 9 * 64, "dec3.0": 9 * 128, "bottom.2": 9 * 256, "up4": 256, "up3": 128}
    for name, n in nodes.items():
        weight = model.get_submodule(name).weight
        assert weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.05), name
    assert all(not p.any() for key, p in model.named_parameters() if key.endswith("bias"))


def test_receptive_field() -> None:
    """An output pixel sees 188 or 204 pixels in a row, by its place among 16, at least 92 to each side."""
    spans = fields(UNet(1, width=1), 252, 188)
    assert {last - first + 1 for first, last in spans} == {188, 204}
    assert all(first <= row <= row + 2 * UNet.margin <= last for row, (first, last) in enumerate(spans))


@pytest.mark.parametrize("size", [(572, 572), (33, 47), (1, 1)])
def test_padded_gives_logits_for_every_pixel_of_any_image(size: tuple[int, int]) -> None:
    model = UNet(width=2, padded=True)
    assert (model.margin, model.min_size, model.size_step) == (0, 1, 1)
    assert profile(model, size)[""].shape == (2, *size)


def test_padded_maps_keep_their_size_and_lose_no_border() -> None:
    stages = profile(UNet(width=2, padded=True), (572, 100))
    shapes = [stages[path].shape for path in ("enc1", "enc2", "enc3", "enc4", "bottom", "dec4", "dec1")]
    assert shapes == [
        (2, 572, 100), (4, 286, 50), (8, 143, 25), (16, 72, 13), (32, 36, 7), (16, 72, 13), (2, 572, 100)
    ]  # fmt: skip


def test_padded_is_the_papers_network_away_from_the_border() -> None:
    """The same weights give the same logits wherever no zero of the border is seen, if the poolings meet.

    The unpadded network loses 2, 6, 14 and 30 pixels before its poolings; cut 2 pixels further in, it halves
    the same pairs as the padded one.
    """
    padded, valid = UNet(width=4, padded=True).double().eval(), UNet(width=4).double().eval()
    valid.load_state_dict(padded.state_dict(), strict=True)
    x = torch.randn(1, 1, 256, 240, dtype=torch.float64)
    expected = valid(x[..., 2:238, 2:222])
    found = padded(x)[..., 94:146, 94:130]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(padded(x[..., 1:, :])[..., 94:146, 94:130], expected)  # else nothing is shown


def test_padded_sees_as_far() -> None:
    """188 or 204 rows around one in the middle, as the paper's network does."""
    spans = fields(UNet(1, width=1, padded=True), 256, 16)[112:144]
    assert {last - first + 1 for first, last in spans} == {188, 204}
