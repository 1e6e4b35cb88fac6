"""If these break, ResNet's public weights do not load, or FCN and PSPNet stand on another network.

torchvision's ResNets are the reference, and timm's for the stem of three convolutions; sizes are theirs.
"""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.scatter import scattered
from zoo import encoders
from zoo.encoders.encoder import Encoder
from zoo.encoders.resnet import VARIANTS, ResNet
from zoo.profile import macs, profile

# Table 1, ResNet-50 at 3×224×224: output, parameters, multiply-adds.
STAGES = [
    ("conv1", (64, 112, 112), 9_408, 118_013_952),
    ("bn1", (64, 112, 112), 128, 0),
    ("layer1", (256, 56, 56), 215_808, 667_942_912),
    ("layer2", (512, 28, 28), 1_219_584, 1_027_604_480),
    ("layer3", (1024, 14, 14), 7_098_368, 1_464_336_384),
    ("layer4", (2048, 7, 7), 14_964_736, 809_238_528),
]
FC_BASIC, FC = 512_000, 2_048_000  # multiply-adds of the classifier, which is not ours
# Without the classifier: parameters, multiply-adds at 224×224.
SIZES = {
    "resnet18": (11_176_512, 1_814_073_344 - FC_BASIC),
    "resnet34": (21_284_672, 3_663_761_408 - FC_BASIC),
    "resnet50": (23_508_032, 4_089_184_256 - FC),
    "resnet101": (42_500_160, 7_801_405_440 - FC),
    "resnet152": (58_143_808, 11_513_626_624 - FC),
    "resnet50s": (23_631_808, 5_444_337_664 - FC),
    "resnet101s": (42_623_936, 9_156_558_848 - FC),
    "resnet152s": (58_267_584, 12_868_780_032 - FC),
    "resnext50_32x4d": (22_979_904, 4_230_479_872 - FC),
    "resnext101_32x8d": (86_742_336, 16_414_015_488 - FC),
}
TORCHVISION = [name for name in VARIANTS if not name.endswith("s")]
every_variant = pytest.mark.parametrize("name", VARIANTS)


def meta(name: str = "resnet50", in_channels: int = 3, **options: int) -> Encoder:
    with torch.device("meta"):
        return encoders.build(name, in_channels, **options)


def narrow(**options: object) -> ResNet:
    """One or two blocks a stage, as wide as ResNet-18, with statistics as if trained."""
    shape = {"layers": (1, 2, 1, 2), "bottleneck": False, **options}
    return scattered(ResNet(2, **shape))


def without_fc(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}


def maps_of(theirs: nn.Module, x: Tensor) -> list[Tensor]:
    """What torchvision's or timm's network computes before its pooling and behind each stage."""
    found = []
    hooks = [theirs.maxpool.register_forward_pre_hook(lambda _, xs: found.append(xs[0].clone()))]
    for i in range(1, 5):
        stage = theirs.get_submodule(f"layer{i}")
        hooks.append(stage.register_forward_hook(lambda _, __, y: found.append(y.clone())))
    theirs(x)
    for hook in hooks:
        hook.remove()
    return found


def assert_same_maps(maps: tuple[Tensor, ...], expected: list[Tensor]) -> None:
    """To 1e-5 of each map's range."""
    assert [m.shape for m in maps] == [e.shape for e in expected]
    for m, e in zip(maps, expected, strict=True):
        assert e.isfinite().all()
        assert (m - e).abs().max() <= 1e-5 * (e.max() - e.min())


def test_every_stage_of_table_1() -> None:
    stages = profile(meta(), 224)
    for path, *row in STAGES:
        assert (path, [stages[path].shape, stages[path].parameters, stages[path].macs]) == (path, row)
    assert sum(row[2] for row in STAGES) == stages[""].parameters
    assert sum(row[3] for row in STAGES) == stages[""].macs


@every_variant
def test_sizes(name: str) -> None:
    encoder = meta(name)
    assert (sum(p.numel() for p in encoder.parameters()), macs(encoder, 224)) == SIZES[name]


@every_variant
def test_maps(name: str) -> None:
    """Strides cost no weights; the maps' sizes are tested in test_encoder.py."""
    stem = 128 if name.endswith("s") else 64
    channels = (64, 64, 128, 256, 512) if name in ("resnet18", "resnet34") else (stem, 256, 512, 1024, 2048)
    shapes = {key: tensor.shape for key, tensor in meta(name, 1).state_dict().items()}
    for output_stride, strides in (
        (32, (2, 4, 8, 16, 32)),
        (16, (2, 4, 8, 16, 16)),
        (8, (2, 4, 8, 8, 8)),
    ):
        encoder = meta(name, 1, output_stride=output_stride)
        assert (encoder.in_channels, encoder.channels, encoder.strides) == (1, channels, strides)
        assert {key: tensor.shape for key, tensor in encoder.state_dict().items()} == shapes


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 46)])
def test_any_size_goes(size: tuple[int, int]) -> None:
    h, w = size
    for m, stride in zip(narrow()(torch.randn(1, 2, h, w)), (2, 4, 8, 16, 32), strict=True):
        assert m.shape[-2:] == (-(-h // stride), -(-w // stride))
        assert m.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_computes_the_same_maps(name: str) -> None:
    theirs = scattered(torchvision.models.get_model(name, weights=None))
    ours = encoders.build(name).eval()
    ours.load_state_dict(without_fc(theirs), strict=True)
    x = torch.randn(1, 3, 65, 98)
    assert_same_maps(ours(x), maps_of(theirs, x))


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_torchvision_dilates_alike(name: str, output_stride: int) -> None:
    """`replace_stride_with_dilation`, which it has for bottlenecks alone."""
    replace = [False, output_stride == 8, True]
    theirs = scattered(
        torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=replace)
    )
    ours = encoders.build(name, output_stride=output_stride).eval()
    ours.load_state_dict(without_fc(theirs), strict=True)
    x = torch.randn(1, 3, 65, 98)
    assert_same_maps(ours(x), maps_of(theirs, x))


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_dilate_first_dilates_every_block(name: str, output_stride: int) -> None:
    """semseg's rule, done to torchvision's network: no stride in the stage, its dilation in every 3×3."""
    theirs = scattered(torchvision.models.get_model(name, weights=None))
    strided = {key: value.clone() for key, value in without_fc(theirs).items()}
    for stage, dilation in ((theirs.layer3, 16 // output_stride), (theirs.layer4, 32 // output_stride)):
        for conv in stage.modules():
            if isinstance(conv, nn.Conv2d) and dilation > 1:
                conv.stride = (1, 1)
                if conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (dilation, dilation)
    ours, other = (
        encoders.build(name, output_stride=output_stride, dilate_first=first).eval()
        for first in (True, False)
    )
    for encoder in (ours, other):
        encoder.load_state_dict(strided, strict=True)
    x = torch.randn(1, 3, 65, 98)
    expected = maps_of(theirs, x)
    assert_same_maps(ours(x), expected)
    assert (other(x)[4] - expected[4]).abs().max() > 0.01 * expected[4].max(), "the rules must differ"


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"bottleneck": True, "groups": 4, "group_width": 8}])
def test_a_dilation_sees_what_a_stride_saw(options: dict) -> None:
    """Without dilate_first, every k-th pixel of the dense maps is the strided network's map."""
    coarse = narrow(**options).double()
    x = torch.randn(1, 2, 67, 94, dtype=torch.float64)
    wanted = coarse(x)
    for output_stride in (16, 8):
        dense = narrow(output_stride=output_stride, **options).double()
        dense.load_state_dict(coarse.state_dict(), strict=True)
        for m, w, stride, there in zip(dense(x), wanted, dense.strides, coarse.strides, strict=True):
            k = there // stride
            torch.testing.assert_close(m[..., ::k, ::k], w)


@torch.no_grad()
def test_timm_computes_the_same_with_the_deep_stem() -> None:
    timm = pytest.importorskip("timm", reason="pip install timm to compare with it")
    theirs = scattered(timm.create_model("resnet50s"))
    ours = encoders.build("resnet50s").eval()
    ours.load_state_dict(without_fc(theirs), strict=True)
    x = torch.randn(1, 3, 65, 98)
    assert_same_maps(ours(x), maps_of(theirs, x))


@pytest.mark.parametrize("name", ["resnet101s", "resnet152s"])
def test_timm_has_the_same_keys(name: str) -> None:
    timm = pytest.importorskip("timm", reason="pip install timm to compare with it")
    with torch.device("meta"):
        theirs = without_fc(timm.create_model(name))
    ours = meta(name).state_dict()
    assert {key: t.shape for key, t in ours.items()} == {key: t.shape for key, t in theirs.items()}


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("options", [{}, {"bottleneck": True, "deep_stem": True, "output_stride": 16}])
def test_depth_builds_no_more_than_its_maps_need(depth: int, options: dict) -> None:
    whole, part = narrow(**options), narrow(depth=depth, **options)
    weights = whole.state_dict()
    assert set(part.state_dict()) <= set(weights)
    part.load_state_dict({key: weights[key] for key in part.state_dict()})
    x = torch.randn(2, 2, 40, 33)
    maps = part(x)
    assert all(torch.equal(m, w) for m, w in zip(maps, whole(x), strict=False))
    assert (len(maps), part.channels, part.strides) == (depth, whole.channels[:depth], whole.strides[:depth])
    maps[-1].square().sum().backward()
    assert [key for key, p in part.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [32, 8])
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_serves_every_size_and_batch(output_stride: int) -> None:
    encoder = narrow(output_stride=output_stride)
    traced = torch.jit.trace(encoder, torch.randn(1, 2, 64, 64))
    x = torch.randn(3, 2, 37, 50)
    for m, w in zip(traced(x), encoder(x), strict=True):
        torch.testing.assert_close(m, w)


def test_first_weights_are_torchvisions() -> None:
    """He's normal by fan-out: a deviation of the root of 2 / (channels · k²); BatchNorm at one and zero."""
    encoder = encoders.build("resnet50s")
    for conv, fan_out in (
        (encoder.conv1[0], 64 * 9),
        (encoder.layer3[1].conv1, 256),
        (encoder.layer4[2].conv2, 512 * 9),
        (encoder.layer4[0].downsample[0], 2048),
    ):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.04)
        assert conv.weight.mean().item() == pytest.approx(0, abs=0.03 * (2 / fan_out) ** 0.5 + 1e-4)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}
