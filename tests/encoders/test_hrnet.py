"""If these break, HRNet's published weights do not load, or give other maps than where they were trained.

Counts are those of the authors' code.  timm has the authors' classifier, whose fusion repeats pixels; the
segmentation networks' fusion, which interpolates, is held to its formula.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests.encoders.hrnets import bilinear, few_blocks, norm, pointwise
from tests.scatter import scattered, settled
from zoo import encoders
from zoo.encoders.encoder import Encoder
from zoo.encoders.hrnet import VARIANTS, HRNet, ModularizedBlock
from zoo.errors import InputError
from zoo.profile import profile

WIDTHS = {"hrnet_w18": 18, "hrnet_w32": 32, "hrnet_w48": 48}
PARAMETERS = {  # all; stem, layer1, transition1, stage2, transition2, stage3, transition3, stage4
    "hrnet_w18": (9_562_260, [38_848, 286_208, 124_524, 124_092, 23_472, 2_162_880, 93_600, 6_708_636]),
    "hrnet_w32": (29_305_536, [38_848, 286_208, 221_376, 390_848, 73_984, 6_821_632, 295_424, 21_177_216]),
    "hrnet_w48": (65_325_120, [38_848, 286_208, 332_064, 878_112, 166_272, 15_335_040, 664_320, 47_624_256]),
}
BILLIONS = {  # multiply-adds at 512×512, of the same parts
    "hrnet_w18": [0.7172, 4.6305, 1.0192, 0.7910, 0.0239, 4.8997, 0.0239, 5.0413],
    "hrnet_w32": [0.7172, 4.6305, 1.8119, 2.4998, 0.0755, 15.4854, 0.0755, 15.9331],
    "hrnet_w48": [0.7172, 4.6305, 2.7179, 5.6246, 0.1699, 34.8421, 0.1699, 35.8495],
}
SIZES = [  # of the image; of the maps
    ((512, 512), [(128, 128), (64, 64), (32, 32), (16, 16)]),
    ((473, 473), [(119, 119), (60, 60), (30, 30), (15, 15)]),
    ((500, 333), [(125, 84), (63, 42), (32, 21), (16, 11)]),
    ((33, 47), [(9, 12), (5, 6), (3, 3), (2, 2)]),
    ((1, 1), [(1, 1), (1, 1), (1, 1), (1, 1)]),
]
CLASSIFIER = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
every_variant = pytest.mark.parametrize("name", VARIANTS)


def meta(name: str = "hrnet_w18", in_channels: int = 3, **options: int) -> Encoder:
    with torch.device("meta"):
        return encoders.build(name, in_channels, **options)


def part_of(key: str) -> str:
    """"stem" for the first two convolutions, else a layer's first name."""
    first = key.split(".")[0]
    return "stem" if first in ("conv1", "bn1", "conv2", "bn2") else first


@every_variant
def test_parameters(name: str) -> None:
    encoder = meta(name)
    parts: dict[str, int] = {}
    for key, parameter in encoder.named_parameters():
        parts[part_of(key)] = parts.get(part_of(key), 0) + parameter.numel()
    assert (sum(parts.values()), list(parts.values())) == PARAMETERS[name]
    assert len(encoder.state_dict()) == 1830


@every_variant
def test_multiply_adds(name: str) -> None:
    """To the last digit that is known; each of 300 convolutions counts."""
    parts: dict[str, int] = {}
    encoder = meta(name)
    convs = [key for key, module in encoder.named_modules() if isinstance(module, nn.Conv2d)]
    stages = profile(encoder, 512)
    for key in convs:
        parts[part_of(key)] = parts.get(part_of(key), 0) + stages[key].macs
    assert sum(parts.values()) == stages[""].macs
    assert [round(n / 1e9, 4) for n in parts.values()] == BILLIONS[name]
    assert len(convs) == 305


@every_variant
def test_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every halving rounds up, so no size may be had by a factor."""
    few_blocks(monkeypatch)
    width = WIDTHS[name]
    encoder = meta(name, 1)
    assert encoder.channels == (width, 2 * width, 4 * width, 8 * width)
    assert encoder.strides == (4, 8, 16, 32)
    for size, sizes in SIZES:
        maps = encoder(torch.empty(2, 1, *size, device="meta"))
        assert [m.shape for m in maps] == [(2, c, *hw) for c, hw in zip(encoder.channels, sizes, strict=True)]


@every_variant
@torch.no_grad()
def test_timm_computes_the_same(name: str) -> None:
    """Equal bit for bit, at the end of every stage too; the keys are the same, in the same order."""
    timm = pytest.importorskip("timm", reason="pip install timm for the reference")
    theirs = timm.create_model(name)
    x = torch.randn(1, 3, 64, 96)
    settled(theirs, torch.randn(2, 3, 64, 96))
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith(CLASSIFIER)}
    ours = meta(name).eval()
    ours.upsampling = "nearest"
    assert list(weights) == list(ours.state_dict())
    ours.load_state_dict(weights, strict=True, assign=True)

    found: dict[str, list[list[Tensor]]] = {}
    for network in (theirs, ours):
        for path in ("layer1.3", "stage2.0", "stage3.3", "stage4.0", "stage4.2"):
            network.get_submodule(path).register_forward_hook(
                lambda _, __, y, path=path: found.setdefault(path, []).append(list(y))  # timm changes y
            )
    theirs(x)
    maps = ours(x)
    assert len(found) == 5
    for path, (expected, got) in found.items():
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert b.abs().max() > 0.5
            assert torch.equal(a, b), path
    assert all(torch.equal(a, b) for a, b in zip(maps, found["stage4.2"][0], strict=True))


@torch.no_grad()
def test_timms_default_features_are_others() -> None:
    """They come from the classifier's head: a comparison with them would say nothing of the four maps."""
    timm = pytest.importorskip("timm", reason="pip install timm for the reference")
    with torch.device("meta"):
        default = timm.create_model("hrnet_w18", features_only=True)
        raw = timm.create_model("hrnet_w18", features_only=True, feature_location="")
    assert default.feature_info.channels() == [64, 128, 256, 512, 1024]
    assert raw.feature_info.channels()[1:] == list(meta().channels)
    assert sum(p.numel() for p in raw.parameters()) == 9_562_260


def fused(block: ModularizedBlock, i: int, x: list[Tensor], align_corners: bool) -> Tensor:
    """Output i of a block whose branches have put out `x`, by functions on the weights."""
    y = torch.zeros_like(x[i])
    for j, x_j in enumerate(x):
        part, row = x_j, block.fuse_layers[i][j]
        if j > i:  # to i's width, then to its size
            part = norm(row[1], pointwise(x_j, row[0].weight))
            part = bilinear(part, x[i].shape[2:], align_corners)
        for k in range(i - j):  # halve it, with a ReLU unless it is the last time
            part = norm(row[k][1], F.conv2d(part, row[k][0].weight, stride=2, padding=1))
            part = part.relu() if k < i - j - 1 else part
        y = y + part
    return y.relu()


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
def test_fusion_is_fig_3(align_corners: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For sizes that are no multiples of one another, from branches that have all run."""
    few_blocks(monkeypatch)
    block = scattered(ModularizedBlock((2, 4, 6, 8), 4)).double()
    sizes = [(11, 17), (6, 9), (3, 5), (2, 3)]
    x = [torch.randn(2, w, *hw).double() for w, hw in zip((2, 4, 6, 8), sizes, strict=True)]
    run = [branch(x_j) for branch, x_j in zip(block.branches, x, strict=True)]
    found = block(x, "bilinear", align_corners)
    for i in range(4):
        torch.testing.assert_close(found[i], fused(block, i, run, align_corners))
    other = block(x, "bilinear", not align_corners)
    assert all((a - b).abs().max() > 0.01 for a, b in zip(found[:3], other[:3], strict=True))
    torch.testing.assert_close(other[3], found[3])  # nothing is enlarged on the way to the smallest


@torch.no_grad()
def test_enlarging_before_narrowing_is_the_same() -> None:
    """The papers enlarge first; the order is free as long as BatchNorm's statistics are given."""
    block = scattered(ModularizedBlock((3, 6), 2)).double()
    conv, bn = block.fuse_layers[0][1]
    x = torch.randn(1, 6, 4, 5).double()
    late = bilinear(norm(bn, pointwise(x, conv.weight)), (7, 9), False)
    early = norm(bn, pointwise(bilinear(x, (7, 9), False), conv.weight))
    torch.testing.assert_close(late, early)


@torch.no_grad()
def test_how_it_enlarges_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    few_blocks(monkeypatch)
    x = torch.randn(1, 3, 70, 90)
    encoder = settled(encoders.build("hrnet_w18"), torch.randn(2, 3, 64, 64))
    outputs = [encoder(x)[0]]
    encoder.align_corners = True
    outputs.append(encoder(x)[0])
    encoder.upsampling = "nearest"
    outputs.append(encoder(x)[0])
    encoder.align_corners = False  # means nothing to it
    assert torch.equal(outputs[2], encoder(x)[0])
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert (outputs[a] - outputs[b]).abs().max() > 0.01 * outputs[0].abs().max()
    fresh = encoders.build("hrnet_w18")
    assert (fresh.upsampling, fresh.align_corners) == ("bilinear", False)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_depth_fuses_no_more_than_is_asked_for(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    few_blocks(monkeypatch)
    whole = scattered(encoders.build("hrnet_w18"))
    encoder = encoders.build("hrnet_w18", depth=depth).eval()
    assert encoder.channels == (18, 36, 72, 144)[:depth]
    assert encoder.strides == (4, 8, 16, 32)[:depth]
    weights = whole.state_dict()
    encoder.load_state_dict({key: weights[key] for key in encoder.state_dict()}, strict=True)
    x = torch.randn(1, 3, 64, 64)
    maps = encoder(x)
    assert len(maps) == depth
    assert all(torch.equal(a, b) for a, b in zip(maps, whole(x), strict=False))
    torch.autograd.backward([m.square().sum() for m in maps])
    assert [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_maps_that_nobody_takes_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What remains is as it was, under the same keys."""
    few_blocks(monkeypatch)
    encoder = scattered(encoders.build("hrnet_w18"))
    x = torch.randn(1, 3, 64, 64)
    maps, keys = encoder(x), set(encoder.state_dict())
    encoder.keep(4, 32)
    assert (encoder.channels, encoder.strides) == ((18, 144), (4, 32))
    assert all(torch.equal(a, b) for a, b in zip(encoder(x), (maps[0], maps[3]), strict=True))
    gone = keys - set(encoder.state_dict())
    assert {key.split(".")[3] for key in gone} == {"1", "2"}
    assert all(key.startswith("stage4.0.fuse_layers.") for key in gone)


def test_first_weights_are_he_normal() -> None:
    """By the outputs that a weight reaches, as in the authors' classifier code."""
    encoder = encoders.build("hrnet_w18")
    for path in ("layer1.1.conv2", "stage4.0.branches.3.0.conv1", "stage3.0.fuse_layers.0.2.0"):
        conv = encoder.get_submodule(path)
        reached = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / reached) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [("unet_halved", {}, (4, 8, 16, 32)), ("deeplabv3plus", {"output_stride": 32}, (4, 32))],
)
def test_under_other_architectures(
    name: str, options: dict, strides: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any size from 33 on, one image too; all weights learn: those of maps that nobody takes are left out."""
    few_blocks(monkeypatch)
    model = zoo.build(name, 2, 1, encoder="hrnet_w18", **options)
    assert model.min_size == 33
    for size in ((33, 33), (50, 71)):
        output = model.train()(torch.randn(1, 1, *size))
        assert output.logits.shape == (1, 2, *size)
        assert model.eval()(torch.randn(2, 1, *size)).shape == (2, 2, *size)
    output.logits.square().mean().backward()
    assert model.encoder.strides == strides
    assert model.encoder.channels == tuple(18 * stride // 4 for stride in strides)
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_stride": 16}, "output stride 16 is not possible with HRNet, .* choose 32"),
        ({"output_stride": 8}, "output stride 8 is not possible with HRNet, .* choose 32"),
        ({"depth": 5}, "depth 5 is not possible; the encoder has 4 maps"),
        ({"depth": 0}, "depth 0 is not possible"),
    ],
)
def test_what_cannot_be_built(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        meta(**options)


def test_deeplabv3plus_says_which_stride_it_needs() -> None:
    says = "stride 16 is not possible with HRNet, whose maps stay at strides 4, 8, 16 and 32; choose 32"
    with pytest.raises(InputError, match=says):
        zoo.build("deeplabv3plus", encoder="hrnet_w18")


def test_batch_norm_has_four_values_at_the_smallest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    few_blocks(monkeypatch)
    encoder = HRNet(width=4).train()
    encoder(torch.rand(1, 3, 33, 33))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        encoder(torch.rand(1, 3, 32, 32))


def test_running_statistics_move_by_a_tenth() -> None:
    """As in the code's newest branch; by 0.01 in its older ones."""
    with torch.device("meta"):
        norms = [m for m in encoders.build("hrnet_w18").modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
