"""If these break, RegNet's published weights do not load, or a U-Net on RegNetY-32GF sees other features.

torchvision is the reference; sizes were counted from its networks, of which ours lack the classifier.
"""

import pytest
import torch

from tests.scatter import scattered
from zoo import encoders
from zoo.encoders.encoder import Encoder
from zoo.encoders.regnet import VARIANTS, RegNet, stages
from zoo.errors import InputError
from zoo.profile import macs, profile

from .torchvisions import hold_gates, maps_of, spread, twins

# The 32GF networks at 3×224×224, stage by stage: output, parameters.
X_32GF = [
    ((32, 112, 112), 928),
    ((336, 56, 56), 1_380_960),
    ((672, 28, 28), 13_464_192),
    ((1344, 14, 14), 73_489_920),
    ((2520, 7, 7), 16_954_560),
]
Y_32GF = [
    ((32, 112, 112), 928),
    ((232, 56, 56), 1_179_554),
    ((696, 28, 28), 13_025_002),
    ((1392, 14, 14), 92_647_170),
    ((3712, 7, 7), 34_481_116),
]
# The whole network as torchvision counts it: parameters, billions of MACs at 224; then (width, blocks).
SIZES = {
    "regnet_x_400mf": (5_495_976, 0.414, [(32, 1), (64, 2), (160, 7), (400, 12)]),
    "regnet_x_800mf": (7_259_656, 0.800, [(64, 1), (128, 3), (288, 7), (672, 5)]),
    "regnet_x_1_6gf": (9_190_136, 1.603, [(72, 2), (168, 4), (408, 10), (912, 2)]),
    "regnet_x_3_2gf": (15_296_552, 3.177, [(96, 2), (192, 6), (432, 15), (1008, 2)]),
    "regnet_x_8gf": (39_572_648, 7.995, [(80, 2), (240, 5), (720, 15), (1920, 1)]),
    "regnet_x_16gf": (54_278_536, 15.941, [(256, 2), (512, 6), (896, 13), (2048, 1)]),
    "regnet_x_32gf": (107_811_560, 31.736, [(336, 2), (672, 7), (1344, 13), (2520, 1)]),
    "regnet_y_400mf": (4_344_144, 0.402, [(48, 1), (104, 3), (208, 6), (440, 6)]),
    "regnet_y_800mf": (6_432_512, 0.834, [(64, 1), (144, 3), (320, 8), (784, 2)]),
    "regnet_y_1_6gf": (11_202_430, 1.612, [(48, 2), (120, 6), (336, 17), (888, 2)]),
    "regnet_y_3_2gf": (19_436_338, 3.176, [(72, 2), (216, 5), (576, 13), (1512, 1)]),
    "regnet_y_8gf": (39_381_472, 8.473, [(224, 2), (448, 4), (896, 10), (2016, 1)]),
    "regnet_y_16gf": (83_590_140, 15.912, [(224, 2), (448, 4), (1232, 11), (3024, 1)]),
    "regnet_y_32gf": (145_046_770, 32.280, [(232, 2), (696, 5), (1392, 12), (3712, 1)]),
}
# (output stride, dilate_first): (dilation of the first block, of the others) of the stages from 1 to 4.
RATES = {
    (32, False): [(1, 1)] * 4,
    (16, False): [(1, 1), (1, 1), (1, 1), (1, 2)],
    (16, True): [(1, 1), (1, 1), (1, 1), (2, 2)],
    (8, False): [(1, 1), (1, 1), (1, 2), (2, 4)],
    (8, True): [(1, 1), (1, 1), (2, 2), (4, 4)],
}
every_variant = pytest.mark.parametrize("name", VARIANTS)
with_and_without_gates = pytest.mark.parametrize("gates", [False, True])


def meta(name: str = "regnet_y_400mf", in_channels: int = 3, **options: int) -> Encoder:
    with torch.device("meta"):
        return encoders.build(name, in_channels, **options)


def narrow(in_channels: int = 3, gates: bool = True, **options: int) -> RegNet:
    """Stages of 8, 16, 32, 64 channels and 1, 1, 3, 3 blocks, with statistics as if trained."""
    torch.manual_seed(0)
    rule = {"d": 8, "w": (8, 8, 2), "group_width": 8, "squeeze_excite": gates}
    return scattered(RegNet(in_channels, **rule, **options))


@pytest.mark.parametrize(("name", "table"), [("regnet_x_32gf", X_32GF), ("regnet_y_32gf", Y_32GF)])
def test_every_stage(name: str, table: list) -> None:
    found = profile(meta(name), 224)
    paths = ["stem", *(f"trunk_output.block{i}" for i in range(1, 5))]
    assert [(found[path].shape, found[path].parameters) for path in paths] == table
    assert sum(parameters for _, parameters in table) == found[""].parameters


@every_variant
def test_widths_and_depths_follow_the_rule(name: str) -> None:
    rule = {word: VARIANTS[name][word] for word in ("d", "w", "group_width")}
    assert stages(**rule) == SIZES[name][2]


def test_widths_before_they_meet_the_groups() -> None:
    """Eq. 2 to 4 for X-32GF and Y-32GF, with groups of 8 that leave multiples of 8 alone."""
    assert [width for width, _ in stages(23, (320, 69.86, 2.0), 8)] == [320, 640, 1280, 2560]
    assert [width for width, _ in stages(20, (232, 115.89, 2.53), 8)] == [232, 584, 1488, 3760]


@every_variant
def test_sizes(name: str) -> None:
    parameters, billions, table = SIZES[name]
    encoder = meta(name)
    assert encoder.channels == (32, *(width for width, _ in table))
    fc = encoder.channels[-1] * 1000
    assert sum(p.numel() for p in encoder.parameters()) == parameters - fc - 1000
    assert round((macs(encoder, 224) + fc) / 1e9, 3) == billions


@every_variant
@torch.no_grad()
def test_torchvision_computes_the_same_maps(name: str) -> None:
    theirs, ours = twins(name)
    x = torch.randn(1, 3, 64, 79)
    for m, e in zip(ours(x), maps_of(theirs, x), strict=True):
        assert (m - e).abs().max() <= 1e-5 * e.abs().max()
        assert m.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf"])
def test_torchvision_trains_the_same(name: str) -> None:
    """Statistics of the batch, and the running means that they leave behind."""
    theirs, shared = twins(name)
    ours = encoders.build(name).double()
    ours.load_state_dict(shared.state_dict())
    theirs.double().train()
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for m, e in zip(ours(x), maps_of(theirs, x), strict=True):
        torch.testing.assert_close(m, e)
    statistics = theirs.state_dict()
    for key, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, statistics[key])


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf", "regnet_y_32gf"])
@pytest.mark.parametrize(
    ("output_stride", "strides"),
    [(32, (2, 4, 8, 16, 32)), (16, (2, 4, 8, 16, 16)), (8, (2, 4, 8, 8, 8))],
)
def test_maps(name: str, output_stride: int, strides: tuple[int, ...]) -> None:
    encoder = meta(name, 1, output_stride=output_stride)
    channels = (32, *(width for width, _ in SIZES[name][2]))
    assert (encoder.channels, encoder.strides) == (channels, strides)
    for h, w in ((33, 47), (512, 1024), (1, 1)):
        maps = encoder(torch.empty(2, 1, h, w, device="meta"))
        assert [m.shape for m in maps] == [
            (2, c, -(-h // s), -(-w // s)) for c, s in zip(channels, strides, strict=True)
        ]


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_32gf"])
def test_every_output_stride_has_the_same_weights(name: str) -> None:
    shapes = [
        {key: tensor.shape for key, tensor in meta(name, output_stride=stride).state_dict().items()}
        for stride in (32, 8)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("setting", "rates"), RATES.items())
def test_strides_become_rates(setting: tuple[int, bool], rates: list[tuple[int, int]]) -> None:
    encoder = meta(output_stride=setting[0], dilate_first=setting[1])
    for stage, (first, others) in zip(encoder.trunk_output, rates, strict=True):
        for i, block in enumerate(stage):
            rate = others if i else first
            assert (block.f.b[0].dilation, block.f.b[0].padding) == ((rate, rate), (rate, rate))


@torch.no_grad()
@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf"])
@pytest.mark.parametrize("setting", [setting for setting in RATES if setting[0] < 32])
def test_torchvision_with_its_convolutions_spread(name: str, setting: tuple[int, bool]) -> None:
    theirs, ours = twins(name, output_stride=setting[0], dilate_first=setting[1])
    dilated = 4 if setting[0] == 16 else 3
    for stage, (first, others) in list(zip(theirs.trunk_output, RATES[setting], strict=True))[dilated - 1 :]:
        for i, block in enumerate(stage):
            spread(block, others if i else first)
    x = torch.randn(1, 3, 65, 98)
    for m, e in zip(ours(x), maps_of(theirs, x), strict=True):
        assert (m - e).abs().max() <= 1e-5 * e.abs().max()


@torch.no_grad()
@with_and_without_gates
@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_rate_sees_what_a_stride_saw(output_stride: int, gates: bool) -> None:
    """Every k-th pixel of the dense maps is the strided network's map, up to the border.

    With gates held: squeeze-and-excitation takes its mean over k² times as many pixels.
    """
    coarse = narrow(gates=gates).double()
    dense = narrow(gates=gates, output_stride=output_stride).double()
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


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf"])
def test_one_small_grey_image_trains(name: str) -> None:
    """33×33 leaves 2×2 values at stride 32, so that BatchNorm has something to average."""
    encoder = encoders.build(name, 1).train()
    maps = encoder(torch.randn(1, 1, 33, 33))
    assert maps[-1].shape[2:] == (2, 2)
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
@with_and_without_gates
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_serves_other_sizes(gates: bool) -> None:
    encoder = narrow(gates=gates)
    traced = torch.jit.trace(encoder, torch.randn(1, 3, 64, 64))
    x = torch.randn(2, 3, 45, 83)
    for m, e in zip(traced(x), encoder(x), strict=True):
        torch.testing.assert_close(m, e)


def test_first_weights_are_the_authors() -> None:
    """He's normal by a fan-out of all output channels, whatever the groups; gates keep torch's biases."""
    encoder = encoders.build("regnet_y_3_2gf")
    block = encoder.trunk_output[3][0]
    for conv, fan_out in ((block.proj[0], 1512), (block.f.b[0], 1512 * 9), (block.f.se.fc1, 144)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert conv.weight.abs().max() > 3 * conv.weight.std()
    bias = block.f.se.fc2.bias
    assert bias.abs().max().item() == pytest.approx(144**-0.5, rel=0.02)
    assert bias.std().item() == pytest.approx((3 * 144) ** -0.5, rel=0.05)


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
