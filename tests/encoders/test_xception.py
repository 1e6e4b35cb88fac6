"""If these break, Xception's published weights do not load, or DeepLabV3+ is built on another network.

Counts and shapes were counted from the authors' TensorFlow description; timm's Xception is the reference.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zoo import encoders
from zoo.encoders.encoder import Encoder
from zoo.encoders.xception import VARIANTS, Xception
from zoo.errors import InputError
from zoo.profile import macs, profile

# Xception-65, 3×513×513, output stride 16: modules of equal rows, output, parameters of each.
STAGES = [
    (["stem.0"], (32, 257, 257), 928),
    (["stem.1"], (64, 257, 257), 18_560),
    (["blocks.0"], (128, 129, 129), 53_696),
    (["blocks.1"], (256, 65, 65), 205_696),
    (["blocks.2"], (728, 33, 33), 1_457_360),
    ([f"blocks.{i}" for i in range(3, 19)], (728, 33, 33), 1_618_344),
    (["blocks.19"], (1024, 33, 33), 3_104_384),
    (["blocks.20"], (2048, 33, 33), 7_133_184),
]
# Without the classifier, which has 2,049,000 parameters and 2,048,000 MACs: parameters, MACs at 224 and 299.
SIZES = {
    "xception41": (24_920_560, 4_976_391_584 - 2_048_000, 9_204_134_312 - 2_048_000),
    "xception65": (37_867_312, 7_500_256_928 - 2_048_000, 13_852_682_216 - 2_048_000),
    "xception71": (40_289_736, 9_742_340_128 - 2_048_000, 17_946_553_928 - 2_048_000),
}
CHANNELS = (128, 256, 728, 1024, 2048)
every_variant = pytest.mark.parametrize("name", VARIANTS)


def meta(name: str = "xception65", in_channels: int = 3, **options: int) -> Encoder:
    with torch.device("meta"):
        return encoders.build(name, in_channels, **options)


def narrow(seed: int = 0, **options: int) -> Xception:
    """The entry flow four channels wide and one module in the middle, with statistics as if trained."""
    torch.manual_seed(seed)
    return scattered(Xception(2, entry=((4, 2), (5, 2), (728, 2)), middle=1, **options)).eval()


def scattered(model: nn.Module) -> nn.Module:
    """`model` with random scales, shifts and statistics in each BatchNorm, where a fresh one does nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def test_every_module_of_fig_4() -> None:
    stages = profile(meta(output_stride=16), 513)
    for paths, shape, parameters in STAGES:
        for path in paths:
            assert (path, stages[path].shape, stages[path].parameters) == (path, shape, parameters)
    assert sum(len(paths) * parameters for paths, _, parameters in STAGES) == stages[""].parameters


@every_variant
def test_sizes(name: str) -> None:
    encoder = meta(name)
    parameters = sum(p.numel() for p in encoder.parameters())
    assert (parameters, macs(encoder, 224), macs(encoder, 299)) == SIZES[name]


@every_variant
@pytest.mark.parametrize(
    ("output_stride", "strides"),
    [(32, (2, 4, 8, 16, 32)), (16, (2, 4, 8, 16, 16)), (8, (2, 4, 8, 8, 8))],
)
def test_maps(name: str, output_stride: int, strides: tuple[int, ...]) -> None:
    encoder = meta(name, 1, output_stride=output_stride)
    assert (encoder.channels, encoder.strides) == (CHANNELS, strides)
    for h, w in ((33, 47), (512, 1024), (1, 1)):
        maps = encoder(torch.empty(2, 1, h, w, device="meta"))
        assert [m.shape for m in maps] == [
            (2, c, -(-h // s), -(-w // s)) for c, s in zip(CHANNELS, strides, strict=True)
        ]


@pytest.mark.parametrize(
    ("output_stride", "dilate_first", "rates"),
    [
        (32, False, [1, 1, 1, *[1] * 16, 1, 1]),
        (16, False, [1, 1, 1, *[1] * 16, 1, 2]),  # the authors' rule: unit 1 of a stage keeps the old rate
        (8, False, [1, 1, 1, *[2] * 16, 2, 4]),
        (16, True, [1, 1, 1, *[1] * 16, 2, 2]),
        (8, True, [1, 1, 2, *[2] * 16, 4, 4]),
    ],
)
def test_strides_become_rates(output_stride: int, dilate_first: bool, rates: list[int]) -> None:
    encoder = meta(output_stride=output_stride, dilate_first=dilate_first)
    for block, rate in zip(encoder.blocks, rates, strict=True):
        for conv in ("conv1", "conv2", "conv3"):
            assert block.stack[conv].conv_dw.dilation == (rate, rate)


@pytest.mark.parametrize("entry", [((4, 2), (5, 2), (728, 2)), ((4, 2), (5, 1), (5, 2), (728, 1), (728, 2))])
def test_a_rate_sees_what_a_stride_saw(entry: tuple) -> None:
    """Every k-th pixel of the dense maps is the strided network's map, up to the border."""
    coarse = scattered(Xception(3, entry=entry, middle=1)).double().eval()
    x = torch.randn(1, 3, 67, 94, dtype=torch.float64)
    wanted = coarse(x)
    for output_stride in (16, 8):
        dense = Xception(3, entry=entry, middle=1, output_stride=output_stride).double().eval()
        dense.load_state_dict(coarse.state_dict(), strict=True)
        for m, w, stride, there in zip(dense(x), wanted, dense.strides, coarse.strides, strict=True):
            k = there // stride
            torch.testing.assert_close(m[..., ::k, ::k], w)


@every_variant
def test_every_output_stride_has_the_same_weights(name: str) -> None:
    """Where a stride goes and the width stays (71 at stride 8) the shortcut's convolution must stay, too."""
    shapes = [
        {key: tensor.shape for key, tensor in meta(name, output_stride=stride).state_dict().items()}
        for stride in (32, 16, 8)
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def timms_taps(theirs: nn.Module, blocks: list[int]) -> Callable[[Tensor], list[Tensor]]:
    """A function x -> what the second separable convolutions of `blocks` put out in timm, and the last block.

    Copied in the hook: the ReLU that follows works in place.
    """
    parts = [theirs.blocks[i].stack.conv2.bn_pw for i in blocks] + [theirs.blocks[-1]]
    found: list[Tensor] = []
    for part in parts:
        part.register_forward_hook(lambda _, __, y: found.append(y.clone()))

    def run(x: Tensor) -> list[Tensor]:
        found.clear()
        theirs.forward_features(x)
        return list(found)

    return run


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("xception41", 16),
        ("xception65", 32),
        ("xception65", 16),
        ("xception65", 8),
        ("xception71", 32),  # at 8 timm lacks the fifth block's shortcut convolution: other weights
    ],
)
def test_timm_computes_the_same_maps(name: str, output_stride: int) -> None:
    timm = pytest.importorskip("timm", reason="pip install timm to compare with it")
    theirs = scattered(timm.create_model(name, output_stride=output_stride)).eval()
    ours = encoders.build(name, output_stride=output_stride).eval()
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("head.")}
    ours.load_state_dict(weights, strict=True)

    x = torch.randn(1, 3, 65, 98)
    expected = timms_taps(theirs, ours.taps)(x)
    maps = ours(x)
    assert len(maps) == len(expected) == 5
    for m, e in zip(maps, expected, strict=True):
        assert (m - e).abs().max() <= 1e-5 * e.abs().max()
        assert m.isfinite().all()
    assert all(m.min() < 0 for m in maps[:4]), "the maps are taken before the ReLU"


def by_hand(w: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The narrow network at output stride 32, from its weights alone: the five maps."""

    def norm(key: str, x: Tensor) -> Tensor:
        mean, var = (w[f"{key}.{word}"].view(-1, 1, 1) for word in ("running_mean", "running_var"))
        scale, shift = (w[f"{key}.{word}"].view(-1, 1, 1) for word in ("weight", "bias"))
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    def separable(key: str, x: Tensor, stride: int = 1, act: Callable = lambda x: x) -> Tensor:
        kernel = w[f"{key}.conv_dw.weight"]                     # (C, 1, 3, 3)
        x = torch.conv2d(x, kernel, stride=stride, padding=1, groups=len(kernel))
        x = act(norm(f"{key}.bn_dw", x))
        return act(norm(f"{key}.bn_pw", torch.conv2d(x, w[f"{key}.conv_pw.weight"])))

    x = norm("stem.0.bn", torch.conv2d(x, w["stem.0.conv.weight"], stride=2, padding=1)).relu()
    x = norm("stem.1.bn", torch.conv2d(x, w["stem.1.conv.weight"], padding=1)).relu()
    maps = []
    for block, stride in enumerate((2, 2, 2, 1, 2)):
        key = f"blocks.{block}"
        y = separable(f"{key}.stack.conv1", x.relu())
        y = separable(f"{key}.stack.conv2", y.relu())
        if stride == 2:
            maps.append(y)
            x = norm(f"{key}.shortcut.bn", torch.conv2d(x, w[f"{key}.shortcut.conv.weight"], stride=2))
        x = x + separable(f"{key}.stack.conv3", y.relu(), stride)
    for conv in ("conv1", "conv2", "conv3"):
        x = separable(f"blocks.5.stack.{conv}", x, act=torch.relu)
    return [*maps, x]


@torch.no_grad()
def test_forward_is_fig_4() -> None:
    """ReLUs before each separable convolution, none behind a sum, and the shortcut sees the bare input."""
    encoder = narrow().double()
    x = torch.randn(2, 2, 37, 66, dtype=torch.float64)
    for m, e in zip(encoder(x), by_hand(encoder.state_dict(), x), strict=True):
        torch.testing.assert_close(m, e)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_depth_builds_no_more_than_its_maps_need(depth: int) -> None:
    whole, part = narrow(), narrow(depth=depth)
    weights = whole.state_dict()
    assert set(part.state_dict()) <= set(weights)
    part.load_state_dict({key: weights[key] for key in part.state_dict()})
    x = torch.randn(2, 2, 40, 33)
    maps = part(x)
    assert all(torch.equal(m, w) for m, w in zip(maps, whole(x), strict=False))
    assert (len(maps), part.channels, part.strides) == (depth, whole.channels[:depth], whole.strides[:depth])
    maps[-1].square().sum().backward()
    assert [key for key, p in part.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_first_weights_are_tensorflows() -> None:
    """A normal of 0.09 cut at twice that has a deviation of 0.0792; every BatchNorm has eps 1e-3."""
    encoder = encoders.build("xception65", depth=3)
    for conv in (encoder.stem[1].conv, encoder.blocks[2].stack["conv1"].conv_pw):
        assert conv.weight.std().item() == pytest.approx(0.0792, rel=0.03)
        assert 0.17 < conv.weight.abs().max() <= 0.18
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_stride": 4}, "output stride 4 is not possible; choose 8, 16 or 32"),
        ({"depth": 6}, "depth 6 is not possible; the encoder has 5 maps"),
        ({"depth": 0}, "depth 0 is not possible"),
    ],
)
def test_what_cannot_be_built(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        meta(**options)


@torch.no_grad()
def test_running_statistics_move_by_a_tenth() -> None:
    """torch's momentum of 0.1; the authors' is 0.0003, which needs ten thousands of steps."""
    encoder = encoders.build("xception65", depth=1).train()
    seen = []
    encoder.stem[0].conv.register_forward_hook(lambda _, __, y: seen.append(y.mean((0, 2, 3))))
    encoder(torch.randn(2, 3, 20, 20))
    torch.testing.assert_close(encoder.stem[0].bn.running_mean, 0.1 * seen[0])
