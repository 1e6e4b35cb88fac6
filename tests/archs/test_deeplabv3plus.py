"""If these break, `zoo.build("deeplabv3plus")` is not the paper's network, or an encoder no longer fits.

Counts and multiply-adds were counted from the authors' TensorFlow code; torchvision's ASPP, which has plain
convolutions, is the reference.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP as TorchvisionASPP

from zoo import encoders
from zoo.archs.deeplabv3plus import ASPP, DeepLabV3Plus
from zoo.errors import InputError
from zoo.profile import macs, profile

# Xception-65, 3×513×513, 21 classes, output stride 16.
STAGES = [
    ("encoder", (2048, 33, 33), 37_867_312),
    ("aspp.image_pooling", (256, 1, 1), 524_800),
    ("aspp.branches.0", (256, 33, 33), 524_800),
    ("aspp.branches.1", (256, 33, 33), 547_328),
    ("aspp.branches.2", (256, 33, 33), 547_328),
    ("aspp.branches.3", (256, 33, 33), 547_328),
    ("aspp.project", (256, 33, 33), 328_192),
    ("low_level", (48, 129, 129), 12_384),
    ("decoder.0", (256, 129, 129), 81_680),
    ("decoder.1", (256, 129, 129), 68_864),
    ("head", (21, 129, 129), 5_397),
    ("", (21, 513, 513), 41_055_413),
]
# classes, options: parameters, multiply-adds at 513×513
SIZES = [
    (21, {}, 41_055_413, 54_035_303_024),
    (19, {}, 41_054_899, 54_026_782_832),
    (150, {}, 41_088_566, 54_584_855_408),
    (21, {"output_stride": 8}, 41_055_413, 176_851_524_720),
    (21, {"separable": False}, 54_711_461, 86_679_236_288),
    (21, {"separable": False, "output_stride": 8}, 54_711_461, 248_782_061_760),
    (19, {"image_pooling": False}, 40_464_563, 53_954_889_840),
    (19, {"image_pooling": False, "encoder": "xception71"}, 42_886_987, 65_987_599_672),
    (21, {"separable": False, "encoder": "resnet101"}, 59_344_309, 92_820_363_712),
    (21, {"separable": False, "encoder": "resnet101s"}, 59_468_085, 99_958_406_080),
]


def meta(*args: int, **options: object) -> DeepLabV3Plus:
    with torch.device("meta"):
        return DeepLabV3Plus(*args, **options)


def scattered(model: nn.Module) -> nn.Module:
    """`model` in eval mode with random scales, shifts and statistics in each BatchNorm."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def test_every_stage_of_fig_2() -> None:
    stages = profile(meta(), 513)
    for path, shape, parameters in STAGES:
        assert (path, stages[path].shape, stages[path].parameters) == (path, shape, parameters)
    assert sum(parameters for *_, parameters in STAGES[:-1]) == STAGES[-1][2]


@pytest.mark.parametrize(("classes", "options", "parameters", "multiply_adds"), SIZES)
def test_sizes(classes: int, options: dict, parameters: int, multiply_adds: int) -> None:
    model = meta(classes, **options)
    assert (sum(p.numel() for p in model.parameters()), macs(model, 513)) == (parameters, multiply_adds)


@pytest.mark.parametrize(
    ("classes", "options", "size", "billions"),
    [
        (21, {}, 513, 54.17),  # Table 5
        (21, {"output_stride": 8}, 513, 177.10),  # Table 5
        (19, {}, (1025, 2049), 418.64),  # the authors' model zoo, Cityscapes
    ],
)
def test_multiply_adds_are_published(classes: int, options: dict, size: int, billions: float) -> None:
    """To 0.3 %.  The plain variants are further off: there TensorFlow counted its own padding."""
    assert macs(meta(classes, **options), size) / 1e9 == pytest.approx(billions, rel=3e-3)


UNDILATED = [name for name in encoders.names() if name not in encoders.names(dilatable=True)]
STRIDES = [(name, *case) for name in encoders.names(dilatable=True) for case in ((16, 512), (8, 1024))]
STRIDES += [(name, 32, 512) for name in UNDILATED]


@pytest.mark.parametrize(("encoder", "output_stride", "size"), STRIDES)
def test_every_encoder(encoder: str, output_stride: int, size: int) -> None:
    model = meta(2, encoder=encoder, output_stride=output_stride)
    stages = profile(model, size)
    assert stages["aspp"].shape == (256, size // output_stride, size // output_stride)
    assert stages["low_level"].shape == (48, size // 4, size // 4)
    assert stages["decoder"].shape == (256, size // 4, size // 4)
    assert stages[""].shape == (2, size, size)
    assert model.eval()(torch.empty(1, 3, 33, 47, device="meta")).shape == (1, 2, 33, 47)


def offsets() -> Iterator[tuple[int, int, int, int]]:
    """(row, column) in a 3×3 kernel, and the same counted from its centre."""
    return ((i, j, i - 1, j - 1) for i in range(3) for j in range(3))


def atrous(x: Tensor, kernel: Tensor, rate: int) -> Tensor:
    """Eq. 1, y[i] = sum over k of x[i + r·k]·w[k], as it stands: x (N, C, h, w), w (C', C, 3, 3)."""
    n, _, height, width = x.shape
    y = x.new_zeros(n, len(kernel), height, width)
    for a in range(height):
        for b in range(width):
            for i, j, down, right in offsets():
                c, d = a + rate * down, b + rate * right
                if 0 <= c < height and 0 <= d < width:  # zeros outside
                    y[:, :, a, b] += x[:, :, c, d] @ kernel[:, :, i, j].T
    return y


def norm_relu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var, scale, shift = (
        t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).relu()


def pointwise(x: Tensor, kernel: Tensor) -> Tensor:
    return torch.einsum("nchw,oc->nohw", x, kernel[:, :, 0, 0])


@torch.no_grad()
@pytest.mark.parametrize("image_pooling", [True, False])
@pytest.mark.parametrize("separable", [True, False])
def test_aspp_is_equation_1(separable: bool, image_pooling: bool) -> None:
    """Every branch from Eq. 1, joined in the authors' order: image, 1×1, then the rates."""
    aspp = scattered(ASPP(3, (1, 2, 4), separable=separable, image_pooling=image_pooling).double())
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)

    first = aspp.branches[0]
    maps = [norm_relu(first[1], pointwise(x, first[0].weight))]
    for rate, branch in zip((1, 2, 4), list(aspp.branches)[1:], strict=True):
        if separable:
            diagonal = x.new_zeros(3, 3, 3, 3)
            diagonal[range(3), range(3)] = branch.conv_dw.weight[:, 0]
            y = norm_relu(branch.bn_dw, atrous(x, diagonal, rate))
            maps.append(norm_relu(branch.bn_pw, pointwise(y, branch.conv_pw.weight)))
        else:
            maps.append(norm_relu(branch[1], atrous(x, branch[0].weight, rate)))
    if image_pooling:
        conv, norm, _ = aspp.image_pooling
        mean = torch.stack([image.flatten(1).mean(1) for image in x])[:, :, None, None]
        maps = [norm_relu(norm, pointwise(mean, conv.weight)).expand(-1, -1, 6, 5), *maps]
    wanted = norm_relu(aspp.project[1], pointwise(torch.cat(maps, 1), aspp.project[0].weight))

    torch.testing.assert_close(aspp(x), wanted)


@torch.no_grad()
def test_torchvisions_aspp_computes_the_same() -> None:
    """It joins the image's mean last, not first; otherwise it is DeepLabV3's own, with plain convolutions."""
    theirs = scattered(TorchvisionASPP(20, [6, 12, 18], 256))
    ours = ASPP(20, (6, 12, 18), separable=False, image_pooling=True).eval()
    weights = {}
    for key, value in theirs.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "convs":
            i, _, rest = rest.partition(".")
            key = f"branches.{i}.{rest}" if i != "4" else f"image_pooling.{int(rest[0]) - 1}{rest[1:]}"
        elif key == "project.0.weight":
            value = torch.cat([value[:, -256:], value[:, :-256]], 1)
        weights[key] = value
    ours.load_state_dict(weights, strict=True)
    x = torch.randn(2, 20, 41, 23)
    expected = theirs(x)
    assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("separable", [True, False])
def test_decoder_is_fig_2(separable: bool) -> None:
    """From the encoder's maps and ASPP's output to the logits, by functions on the weights."""
    model = scattered(DeepLabV3Plus(3, 2, encoder="resnet18", separable=separable)).double()
    x = torch.randn(2, 2, 38, 61, dtype=torch.float64)
    maps = model.encoder(x)
    assert [tuple(m.shape[1:]) for m in (maps[1], maps[-1])] == [(64, 10, 16), (512, 3, 4)]

    low = norm_relu(model.low_level[1], pointwise(maps[1], model.low_level[0].weight))
    up = F.interpolate(model.aspp(maps[-1]), (10, 16), mode="bilinear")
    y = torch.cat([up, low], 1)
    for part in model.decoder:
        if separable:
            y = norm_relu(part.bn_dw, F.conv2d(y, part.conv_dw.weight, padding=1, groups=y.shape[1]))
            y = norm_relu(part.bn_pw, pointwise(y, part.conv_pw.weight))
        else:
            y = norm_relu(part[1], F.conv2d(y, part[0].weight, padding=1))
    logits = F.conv2d(y, model.head.weight, model.head.bias)
    wanted = F.interpolate(logits, (38, 61), mode="bilinear")

    torch.testing.assert_close(model(x), wanted)


@torch.no_grad()
def test_a_smaller_output_stride_looks_at_the_same_places() -> None:
    """The weights serve at 32, 16 and 8: with the rates scaled, every k-th pixel of ASPP's map stays.

    Without image pooling, for the mean over a denser map is another number.
    """
    x = torch.randn(1, 3, 75, 130)
    coarse = scattered(DeepLabV3Plus(encoder="resnet18", output_stride=32, image_pooling=False))
    wanted = coarse.aspp(coarse.encoder(x)[-1])
    assert wanted.any()
    for output_stride, k in ((16, 2), (8, 4)):
        dense = DeepLabV3Plus(encoder="resnet18", output_stride=output_stride, image_pooling=False)
        dense.load_state_dict(coarse.state_dict(), strict=True)
        dense.eval()
        found = dense.aspp(dense.encoder(x)[-1])[..., ::k, ::k]
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({}, [1, 6, 12, 18]),
        ({"output_stride": 8}, [1, 12, 24, 36]),
        ({"output_stride": 32}, [1, 3, 6, 9]),
        ({"rates": (12, 24, 36)}, [1, 12, 24, 36]),  # segmentation_models_pytorch's
        ({"rates": (2,)}, [1, 2]),
    ],
)
@pytest.mark.parametrize("separable", [True, False])
def test_rates_follow_the_output_stride(options: dict, rates: list[int], separable: bool) -> None:
    model = meta(encoder="resnet18", separable=separable, **options)
    convs = [
        next(part for part in branch.modules() if isinstance(part, nn.Conv2d))
        for branch in model.aspp.branches
    ]
    assert [conv.dilation for conv in convs] == [(rate, rate) for rate in rates]


def test_the_default_network_trains_on_one_image() -> None:
    """Every weight of Xception-65 gets a gradient, although image pooling sees one value a channel."""
    model = DeepLabV3Plus().train()
    logits, aux = model(torch.randn(1, 3, 33, 40))
    assert (logits.shape, aux) == ((1, 21, 33, 40), ())
    logits.square().mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_running_statistics_move_by_a_tenth() -> None:
    """torch's momentum of 0.1; the authors' is 0.0003, which needs ten thousands of steps."""
    model = DeepLabV3Plus(2, encoder="resnet18").train()
    seen = []
    model.decoder[1].conv_pw.register_forward_hook(lambda _, __, y: seen.append(y.mean((0, 2, 3))))
    model(torch.randn(2, 3, 40, 40))
    torch.testing.assert_close(model.decoder[1].bn_pw.running_mean, 0.1 * seen[0])


@torch.no_grad()
def test_a_tenth_of_the_projection_drops_out() -> None:
    aspp = ASPP(2, (1,), separable=True, image_pooling=False)
    aspp.project[1].bias.fill_(9.0)  # so that no ReLU makes the zeros
    y = aspp.train()(torch.randn(4, 2, 10, 10))
    assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    y = aspp.eval()(torch.randn(4, 2, 10, 10))
    assert y.all()


@pytest.mark.parametrize(("output_stride", "least"), [(8, 9), (16, 17), (32, 33)])
def test_batch_norm_has_four_values_at_the_smallest_size(output_stride: int, least: int) -> None:
    """One pixel less makes the deepest map 1×1; torch cannot train a batch of one on it, and says so."""
    model = DeepLabV3Plus(encoder="resnet18", output_stride=output_stride).train()
    assert model.min_size == least
    model(torch.rand(1, 3, least, least))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.rand(1, 3, least - 1, least - 1))
    assert DeepLabV3Plus.min_size == 17


def test_first_weights_are_tensorflows() -> None:
    """A normal cut at twice its deviation keeps 0.880 of it; Xavier: a variance of 2 / (in + out)."""
    model = DeepLabV3Plus(50, encoder="resnet18")
    for weight, deviation in (
        (model.aspp.branches[1].conv_dw.weight, 0.33 * 0.880),
        (model.aspp.branches[1].conv_pw.weight, 0.06 * 0.880),
        (model.decoder[0].conv_pw.weight, 0.06 * 0.880),
        (model.head.weight, 0.01 * 0.880),
        (model.aspp.project[0].weight, (2 / (1280 + 256)) ** 0.5),
        (model.low_level[0].weight, (2 / (64 + 48)) ** 0.5),
    ):
        assert weight.std().item() == pytest.approx(deviation, rel=0.04)
    assert model.aspp.branches[1].conv_dw.weight.abs().max() <= 0.66
    assert not model.head.bias.any()


def test_the_encoder_starts_as_it_does_alone() -> None:
    torch.manual_seed(3)
    alone = encoders.build("resnet18", output_stride=16)
    torch.manual_seed(3)
    model = DeepLabV3Plus(encoder="resnet18")
    weights = model.encoder.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in alone.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("dilate_first", [False, True])
@pytest.mark.parametrize(("output_stride", "old", "new"), [(16, 1, 2), (8, 2, 4)])
def test_the_first_block_of_a_dilated_stage(
    output_stride: int, old: int, new: int, dilate_first: bool
) -> None:
    """Of layer4, whose other block has the new dilation in either case."""
    model = meta(encoder="resnet18", output_stride=output_stride, dilate_first=dilate_first)
    first, other = (block.conv1.dilation[0] for block in model.encoder.layer4)
    assert (first, other) == (new if dilate_first else old, new)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_stride": 4}, "output stride 4 is not possible; choose 8, 16 or 32"),
        ({"rates": ()}, r"rates \(\) must be one number or more"),
        ({"rates": (6, 0)}, r"rates \(6, 0\) must be .* each >= 1"),
        ({"encoder": "resnet5"}, "unknown encoder 'resnet5'"),
    ],
)
def test_what_cannot_be_built(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        meta(**{"encoder": "resnet18", **options})
