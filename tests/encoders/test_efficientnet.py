"""If these break, EfficientNet's published weights do not load, or a U-Net on B7 sees other features.

torchvision is the reference; sizes were counted from its networks, of which ours lack the classifier.
"""

import pytest
import torch
from torch import nn

from tests.scatter import scattered
from zoo import encoders
from zoo.dropout import StochasticDepth
from zoo.encoders.efficientnet import VARIANTS, EfficientNet, scaled_depth, scaled_width
from zoo.encoders.encoder import Encoder
from zoo.errors import InputError
from zoo.profile import macs, profile

from .torchvisions import hold_gates, maps_of, spread, twins

# Stages of B0 at 3×224×224: output, parameters.
B0 = [
    ((32, 112, 112), 928),
    ((16, 112, 112), 1_448),
    ((24, 56, 56), 16_714),
    ((40, 28, 28), 46_640),
    ((80, 14, 14), 242_930),
    ((112, 14, 14), 543_148),
    ((192, 7, 7), 2_026_348),
    ((320, 7, 7), 717_232),
]
B7 = [1_856, 10_920, 253_424, 716_068, 3_721_660, 7_615_904, 28_390_712, 21_432_896]
# The whole network: parameters, MACs at 224; the widths around its last 1×1; channels of our maps.
SIZES = {
    "efficientnet_b0": (5_288_548, 385_814_752, (320, 1280), (32, 24, 40, 112, 320)),
    "efficientnet_b1": (7_794_184, 569_651_680, (320, 1280), (32, 24, 40, 112, 320)),
    "efficientnet_b2": (9_109_994, 658_963_440, (352, 1408), (32, 24, 48, 120, 352)),
    "efficientnet_b3": (12_233_232, 962_708_240, (384, 1536), (40, 32, 48, 136, 384)),
    "efficientnet_b4": (19_341_616, 1_503_710_432, (448, 1792), (48, 32, 56, 160, 448)),
    "efficientnet_b5": (30_389_784, 2_356_493_184, (512, 2048), (48, 40, 64, 176, 512)),
    "efficientnet_b6": (43_040_704, 3_360_166_848, (576, 2304), (56, 40, 72, 200, 576)),
    "efficientnet_b7": (66_347_960, 5_169_865_152, (640, 2560), (64, 48, 80, 224, 640)),
}
# (output stride, dilate_first): (dilation of the first block, of the others) of the stages from 1 to 7.
RATES = {
    (32, False): [(1, 1)] * 7,
    (16, False): [*[(1, 1)] * 5, (1, 2), (2, 2)],
    (16, True): [*[(1, 1)] * 5, (2, 2), (2, 2)],
    (8, False): [*[(1, 1)] * 3, (1, 2), (2, 2), (2, 4), (4, 4)],
    (8, True): [*[(1, 1)] * 3, (2, 2), (2, 2), (4, 4), (4, 4)],
}
every_variant = pytest.mark.parametrize("name", VARIANTS)


def meta(name: str = "efficientnet_b0", in_channels: int = 3, **options: int) -> Encoder:
    with torch.device("meta"):
        return encoders.build(name, in_channels, **options)


def narrow(in_channels: int = 3, width: float = 0.25, **options: int) -> EfficientNet:
    """A quarter of B0's widths and half of its layers, with statistics as if trained."""
    torch.manual_seed(0)
    return scattered(EfficientNet(in_channels, width_coefficient=width, depth_coefficient=0.5, **options))


def test_every_stage_of_table_1() -> None:
    stages = profile(meta(), 224)
    assert [(stages[f"features.{i}"].shape, stages[f"features.{i}"].parameters) for i in range(8)] == B0
    assert sum(parameters for _, parameters in B0) == stages[""].parameters


def test_every_stage_of_b7() -> None:
    encoder = meta("efficientnet_b7")
    assert [sum(p.numel() for p in stage.parameters()) for stage in encoder.features] == B7


@every_variant
def test_sizes(name: str) -> None:
    parameters, whole, (last, head), channels = SIZES[name]
    encoder = meta(name)
    assert encoder.channels == channels
    # Without the 1×1 convolution (7×7 positions), its BatchNorm, and the classifier of 1000 classes.
    parameters -= last * head + 2 * head + head * 1000 + 1000
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert macs(encoder, 224) == whole - last * head * 49 - head * 1000


@pytest.mark.parametrize(
    ("channels", "coefficient", "rounded"),
    [(32, 1.0, 32), (32, 1.1, 32), (16, 1.2, 24), (24, 1.4, 32), (40, 1.6, 64), (112, 1.1, 120)],
)
def test_widths_are_rounded_to_eights(channels: int, coefficient: float, rounded: int) -> None:
    assert scaled_width(channels, coefficient) == rounded


def test_depths_are_rounded_up() -> None:
    assert [scaled_depth(layers, 3.1) for layers in (1, 2, 2, 3, 3, 4, 1)] == [4, 7, 7, 10, 10, 13, 4]


@every_variant
@torch.no_grad()
def test_torchvision_computes_the_same_maps(name: str) -> None:
    theirs, ours = twins(name)
    x = torch.randn(1, 3, 64, 79)
    for m, e in zip(ours(x), maps_of(theirs, x), strict=True):
        assert (m - e).abs().max() <= 1e-5 * e.abs().max()
        assert m.isfinite().all()


@torch.no_grad()
def test_torchvision_trains_the_same() -> None:
    """Statistics of the batch and their running means, and blocks left out with the same draws."""
    theirs, shared = twins("efficientnet_b0")
    ours = encoders.build("efficientnet_b0").double()
    ours.load_state_dict(shared.state_dict())
    theirs.double().train()
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    torch.manual_seed(1)
    expected = maps_of(theirs, x)
    torch.manual_seed(1)
    for m, e in zip(ours(x), expected, strict=True):
        torch.testing.assert_close(m, e)
    statistics = theirs.state_dict()
    for key, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, statistics[key])
    torch.manual_seed(2)
    assert not torch.allclose(ours(x)[-1], expected[-1]), "other draws leave out other blocks"


@pytest.mark.parametrize(
    ("name", "blocks", "last"), [("efficientnet_b0", 16, 0.1875), ("efficientnet_b7", 55, 0.1964)]
)
def test_drop_rates_rise_with_depth(name: str, blocks: int, last: float) -> None:
    """p_i = 0.2·i/N for block i of N, counted from 0 over all blocks, where a block adds to its input."""
    flat = [block for stage in meta(name).features[1:] for block in stage]
    assert len(flat) == blocks
    for i, block in enumerate(flat):
        if block.drop is not None:
            assert block.drop.p == pytest.approx(0.2 * i / blocks)
    assert 0.2 * (blocks - 1) / blocks == pytest.approx(last, abs=5e-5)
    whole, part = (
        [module.p for module in encoder.modules() if isinstance(module, StochasticDepth)]
        for encoder in (narrow(), narrow(depth=3))
    )
    assert part == whole[: len(part)] != []


@every_variant
def test_batch_norm_is_that_of_torchvisions_files(name: str) -> None:
    expected = (1e-3, 0.01) if name.endswith(("b5", "b6", "b7")) else (1e-5, 0.1)
    norms = [module for module in meta(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {expected}


@pytest.mark.parametrize(
    ("name", "output_stride", "strides"),
    [
        ("efficientnet_b0", 32, (2, 4, 8, 16, 32)),
        ("efficientnet_b0", 16, (2, 4, 8, 16, 16)),
        ("efficientnet_b0", 8, (2, 4, 8, 8, 8)),
        ("efficientnet_b3", 8, (2, 4, 8, 8, 8)),
    ],
)
def test_maps(name: str, output_stride: int, strides: tuple[int, ...]) -> None:
    encoder = meta(name, 1, output_stride=output_stride)
    channels = SIZES[name][-1]
    assert (encoder.channels, encoder.strides) == (channels, strides)
    for h, w in ((33, 47), (512, 1024), (1, 1)):
        maps = encoder(torch.empty(2, 1, h, w, device="meta"))
        assert [m.shape for m in maps] == [
            (2, c, -(-h // s), -(-w // s)) for c, s in zip(channels, strides, strict=True)
        ]


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b7"])
def test_every_output_stride_has_the_same_weights(name: str) -> None:
    shapes = [
        {key: tensor.shape for key, tensor in meta(name, output_stride=stride).state_dict().items()}
        for stride in (32, 8)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("setting", "rates"), RATES.items())
def test_strides_become_rates(setting: tuple[int, bool], rates: list[tuple[int, int]]) -> None:
    encoder = meta(output_stride=setting[0], dilate_first=setting[1])
    for stage, (first, others) in zip(encoder.features[1:], rates, strict=True):
        for i, block in enumerate(stage):
            (conv,) = (m for m in block.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
            rate = others if i else first
            assert conv.dilation == (rate, rate)
            assert conv.padding == (conv.kernel_size[0] // 2 * rate,) * 2


@torch.no_grad()
@pytest.mark.parametrize("setting", [setting for setting in RATES if setting[0] < 32])
def test_torchvision_with_its_convolutions_spread(setting: tuple[int, bool]) -> None:
    theirs, ours = twins("efficientnet_b0", output_stride=setting[0], dilate_first=setting[1])
    dilated = 6 if setting[0] == 16 else 4
    for stage, (first, others) in list(zip(theirs.features[1:8], RATES[setting], strict=True))[dilated - 1 :]:
        for i, block in enumerate(stage):
            spread(block, others if i else first)
    x = torch.randn(1, 3, 65, 98)
    for m, e in zip(ours(x), maps_of(theirs, x), strict=True):
        assert (m - e).abs().max() <= 1e-5 * e.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("width", [0.25, 0.02])  # 0.02: equal widths in all stages
@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_rate_sees_what_a_stride_saw(output_stride: int, width: float) -> None:
    """Every k-th pixel of the dense maps is the strided network's map, up to the border.

    With gates held: squeeze-and-excitation takes its mean over k² times as many pixels.
    """
    coarse = narrow(width=width).double()
    dense = narrow(width=width, output_stride=output_stride).double()
    hold_gates(coarse)
    dense.load_state_dict(coarse.state_dict(), strict=True)
    x = torch.randn(1, 3, 67, 94, dtype=torch.float64)
    for m, w, stride, there in zip(dense(x), coarse(x), dense.strides, coarse.strides, strict=True):
        k = there // stride
        torch.testing.assert_close(m[..., ::k, ::k], w)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_depth_builds_no_more_than_its_maps_need(depth: int) -> None:
    whole, part = narrow(2), narrow(2, depth=depth)
    weights = whole.state_dict()
    part.load_state_dict({key: weights[key] for key in part.state_dict()})
    x = torch.randn(2, 2, 40, 33)
    maps = part(x)
    assert all(torch.equal(m, w) for m, w in zip(maps, whole(x), strict=False))
    assert (len(maps), part.channels, part.strides) == (depth, whole.channels[:depth], whole.strides[:depth])
    maps[-1].square().sum().backward()
    assert [key for key, p in part.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_one_small_grey_image_trains() -> None:
    """33×33 leaves 2×2 values at stride 32, so that BatchNorm has something to average."""
    encoder = encoders.build("efficientnet_b0", 1).train()
    for module in encoder.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # a block left out gets no gradient
    maps = encoder(torch.randn(1, 1, 33, 33))
    assert maps[-1].shape == (1, 320, 2, 2)
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_serves_other_sizes() -> None:
    encoder = narrow()
    traced = torch.jit.trace(encoder, torch.randn(1, 3, 64, 64))
    x = torch.randn(2, 3, 45, 83)
    for m, e in zip(traced(x), encoder(x), strict=True):
        torch.testing.assert_close(m, e)


def test_first_weights_are_torchvisions() -> None:
    """He's normal by fan-out, of which torch counts all output channels even in a depthwise convolution."""
    encoder = encoders.build("efficientnet_b4")
    last = encoder.features[7][1].block
    for conv, fan_out in ((last[0][0], 2688), (last[1][0], 2688 * 9), (last[2].fc1, 112), (last[3][0], 448)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert conv.weight.abs().max() > 3 * conv.weight.std()
    assert not last[2].fc1.bias.any()
    assert not last[2].fc2.bias.any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_stride": 4}, "output stride 4 is not possible; choose 8, 16 or 32"),
        ({"depth": 6}, "depth 6 is not possible; the encoder has 5 maps"),
    ],
)
def test_what_cannot_be_built(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        meta(**options)
