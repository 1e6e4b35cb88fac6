"""If these break, `zoo.build("pspnet")` is not the authors' network, or their weights give other logits.

Sizes were counted from semseg, the authors' PyTorch code, and from their Caffe files, which agree with it.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from tests.scatter import assert_starts_as_torchs, scattered
from zoo import encoders
from zoo.archs.pspnet import PSPNet, PyramidPooling, interval_means
from zoo.errors import InputError
from zoo.layers import Output
from zoo.profile import macs, profile

# ResNet-50, 3×473×473, 21 classes: output, parameters.
STAGES = [
    ("encoder.conv1", (128, 237, 237), 112_576),
    ("encoder.bn1", (128, 237, 237), 256),
    ("encoder.maxpool", (128, 119, 119), 0),
    ("encoder.layer1", (256, 119, 119), 236_288),
    ("encoder.layer2", (512, 60, 60), 1_219_584),
    ("encoder.layer3", (1024, 60, 60), 7_098_368),
    ("encoder.layer4", (2048, 60, 60), 14_964_736),
    ("ppm.branches.0", (512, 1, 1), 1_049_600),
    ("ppm.branches.1", (512, 2, 2), 1_049_600),
    ("ppm.branches.2", (512, 3, 3), 1_049_600),
    ("ppm.branches.3", (512, 6, 6), 1_049_600),
    ("head", (21, 60, 60), 18_886_165),
]
# encoder, classes: parameters with the auxiliary head, without
PARAMETERS = [
    ("resnet50s", 19, 49_080_038, 46_715_347),
    ("resnet50s", 21, 49_081_578, 46_716_373),
    ("resnet50s", 150, 49_180_908, 46_782_550),
    ("resnet101s", 19, 68_072_166, 65_707_475),
    ("resnet101s", 21, 68_073_706, 65_708_501),
    ("resnet101s", 150, 68_173_036, 65_774_678),
    ("resnet152s", 19, 83_715_814, 81_351_123),
    ("resnet152s", 21, 83_717_354, 81_352_149),
    ("resnet152s", 150, 83_816_684, 81_418_326),
    # Not published: the encoder's count, and the heads' by their formula.
    ("resnet18", 21, 16_765_802, 11_176_512 + 263_168 + 4_719_616 + 10_773),
    ("resnet50", 21, 48_957_802, 23_508_032 + 4_198_400 + 18_875_392 + 10_773),
    ("efficientnet_b7", 21, 68_986_362, 62_143_440 + 410_880 + 5_899_264 + 10_773),
]
LINES = [*range(1, 41), 59, 60, 61, 89, 90, 97, 101]  # lengths; 60 and 90 are those of inputs of 473 and 713


def meta(*args: int, **options: object) -> PSPNet:
    with torch.device("meta"):
        return PSPNet(*args, **options)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_stage_of_fig_3() -> None:
    stages = profile(meta(aux=False), 473)
    for path, shape, parameters in STAGES:
        assert (path, stages[path].shape, stages[path].parameters) == (path, shape, parameters)
    assert stages["ppm"].shape == (4096, 60, 60)
    assert (stages[""].shape, stages[""].parameters) == ((21, 473, 473), 46_716_373)
    assert sum(parameters for *_, parameters in STAGES) == 46_716_373


def test_the_crop_of_cityscapes() -> None:
    stages = profile(meta(19, aux=False), 713)
    shapes = [stages[f"encoder.{path}"].shape[1] for path in ("conv1", "maxpool", "layer2", "layer4")]
    assert (shapes, stages[""].shape) == ([357, 179, 90, 90], (19, 713, 713))


@pytest.mark.parametrize(("encoder", "classes", "parameters", "without"), PARAMETERS)
def test_parameters(encoder: str, classes: int, parameters: int, without: int) -> None:
    assert count(meta(classes, encoder=encoder)) == parameters
    assert count(meta(classes, encoder=encoder, aux=False)) == without


@pytest.mark.parametrize(
    ("encoder", "classes", "size", "multiply_adds"),
    [
        ("resnet50s", 21, 473, 161_637_065_920),
        ("resnet50s", 150, 473, 161_874_838_720),
        ("resnet50s", 19, 713, 363_777_200_320),
        ("resnet101s", 21, 473, 229_820_720_320),
    ],
)
def test_multiply_adds(encoder: str, classes: int, size: int, multiply_adds: int) -> None:
    assert macs(meta(classes, encoder=encoder), size) == multiply_adds


@pytest.mark.parametrize("bins", [1, 2, 3, 6, 7])
def test_intervals_run_from_floor_to_ceiling(bins: int) -> None:
    for size in LINES:
        rows = interval_means(size, bins, torch.zeros((), dtype=torch.float64))
        assert rows.shape == (bins, size)
        for i in range(bins):
            first, end = i * size // bins, math.ceil((i + 1) * size / bins)
            wanted = [1 / (end - first) if first <= p < end else 0.0 for p in range(size)]
            assert rows[i].tolist() == wanted


@torch.no_grad()
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_means_are_adaptive_pooling(bins: int) -> None:
    """To 1e-6 of values up to 1, at every pair of a line with another."""
    for h, w in zip(LINES, reversed(LINES), strict=True):
        x = torch.rand(2, 3, h, w)
        rows, columns = interval_means(h, bins, x), interval_means(w, bins, x)
        torch.testing.assert_close(
            rows @ (x @ columns.mT), F.adaptive_avg_pool2d(x, bins), rtol=0, atol=1e-6
        )


@torch.no_grad()
@pytest.mark.parametrize(("size", "kernels"), [(60, (60, 30, 20, 10)), (90, (90, 45, 30, 15))])
def test_means_are_the_fixed_pooling_of_caffe(size: int, kernels: tuple[int, ...]) -> None:
    """Its files for 473 and 713 pool with a stride as long as the kernel."""
    x = torch.rand(1, 2, size, size)
    for bins, kernel in zip((1, 2, 3, 6), kernels, strict=True):
        rows = interval_means(size, bins, x)
        torch.testing.assert_close(rows @ (x @ rows.mT), F.avg_pool2d(x, kernel), rtol=0, atol=1e-6)


@torch.no_grad()
def test_pooling_joins_the_map_and_its_levels_in_order() -> None:
    ppm = scattered(PyramidPooling(6, (1, 2, 3))).double()
    x = torch.randn(2, 6, 7, 11, dtype=torch.float64)
    found = ppm(x, align_corners=False)
    assert found.shape == (2, ppm.channels, 7, 11)
    assert torch.equal(found[:, :6], x)
    for k, bins in enumerate((1, 2, 3)):
        conv, norm, _ = ppm.branches[k]
        y = norm(F.conv2d(F.adaptive_avg_pool2d(x, bins), conv.weight)).relu()
        wanted = F.interpolate(y, (7, 11), mode="bilinear")
        torch.testing.assert_close(found[:, 6 + 2 * k : 8 + 2 * k], wanted)


def semsegs(w: dict[str, Tensor], x: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    """semseg's PSPNet-50 by functions on the weights: logits of the main and of the auxiliary classifier."""
    size = x.shape[2:]

    def norm(key: str, x: Tensor) -> Tensor:
        words = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(w[f"{key}.{word}"] for word in words), eps=1e-5)

    def conv(key: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        kernel = w[f"{key}.weight"]
        padding = dilation * (kernel.shape[2] // 2)
        return F.conv2d(x, kernel, w.get(f"{key}.bias"), stride, padding, dilation)

    def up(x: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)

    def bottleneck(key: str, x: Tensor, stride: int, dilation: int) -> Tensor:
        y = norm(f"{key}.bn1", conv(f"{key}.conv1", x)).relu()
        y = norm(f"{key}.bn2", conv(f"{key}.conv2", y, stride, dilation)).relu()
        y = norm(f"{key}.bn3", conv(f"{key}.conv3", y))
        if f"{key}.downsample.0.weight" in w:
            x = norm(f"{key}.downsample.1", conv(f"{key}.downsample.0", x, stride))
        return (y + x).relu()

    def classify(key: str, x: Tensor) -> Tensor:
        return up(conv(f"{key}.4", norm(f"{key}.1", conv(f"{key}.0", x)).relu()), size)

    x = norm("encoder.conv1.1", conv("encoder.conv1.0", x, stride=2)).relu()
    x = norm("encoder.conv1.4", conv("encoder.conv1.3", x)).relu()
    x = norm("encoder.bn1", conv("encoder.conv1.6", x)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    res = []
    for layer, blocks, stride, dilation in ((1, 3, 1, 1), (2, 4, 2, 1), (3, 6, 1, 2), (4, 3, 1, 4)):
        for block in range(blocks):
            x = bottleneck(f"encoder.layer{layer}.{block}", x, stride if block == 0 else 1, dilation)
        res.append(x)
    levels = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        y = conv(f"ppm.branches.{i}.0", F.adaptive_avg_pool2d(x, bins))
        levels.append(up(norm(f"ppm.branches.{i}.1", y).relu(), x.shape[2:]))
    return classify("head", torch.cat(levels, 1)), classify("aux", res[2])


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(65, 97), (70, 43)])
def test_logits_are_semsegs(align_corners: bool, size: tuple[int, int]) -> None:
    """To 1e-5 of their range; semseg aligns corners and takes 8k + 1 pixels a side alone."""
    model = scattered(PSPNet(21, align_corners=align_corners))
    x = torch.randn(2, 3, *size)
    logits, aux = semsegs(model.state_dict(), x, align_corners)
    model.training = True  # the outputs of training; dropout and BatchNorm stay in eval mode
    output = model(x)
    assert type(output) is Output
    for found, wanted in ((output.logits, logits), (*output.aux, aux)):
        assert (found - wanted).abs().max() <= 1e-5 * (wanted.max() - wanted.min())
    assert torch.equal(model.eval()(x), output.logits)


@torch.no_grad()
def test_align_corners_is_read_at_each_forward() -> None:
    """So that loaded weights can set it, without another network."""
    model = scattered(PSPNet(3, encoder="resnet18"))
    x = torch.randn(1, 3, 57, 41)
    centres = model(x)
    model.align_corners = True
    corners = model(x)
    assert (centres - corners).abs().max() > 0.01 * (centres.max() - centres.min())
    same = PSPNet(3, encoder="resnet18", align_corners=True).eval()
    same.load_state_dict(model.state_dict())
    assert torch.equal(same(x), corners)


@torch.no_grad()
def test_a_wrong_flag_moves_the_logits() -> None:
    """By more than a tenth of their range, on random weights: why two options exist that no count shows."""
    right = scattered(PSPNet(align_corners=True))
    wrong = PSPNet(align_corners=True, dilate_first=False).eval()
    wrong.load_state_dict(right.state_dict(), strict=True)
    x = torch.randn(1, 3, 105, 105)
    wanted = right(x)
    right.align_corners = False
    for logits in (right(x), wrong(x)):
        assert (logits - wanted).abs().max() > 0.1 * (wanted.max() - wanted.min())


@torch.no_grad()
def test_the_auxiliary_head_does_not_touch_the_logits() -> None:
    model = scattered(PSPNet(3, encoder="resnet18"))
    weights = model.state_dict()
    bare = PSPNet(3, encoder="resnet18", aux=False).eval()
    bare.load_state_dict({key: value for key, value in weights.items() if not key.startswith("aux.")})
    x = torch.randn(2, 3, 40, 56)
    assert torch.equal(bare(x), model(x))
    assert (model.aux_weights, bare.aux_weights, bare.train()(x).aux) == ((0.4,), (), ())


@torch.no_grad()
@pytest.mark.parametrize("encoder", encoders.names(dilatable=True))
def test_every_encoder(encoder: str) -> None:
    """Branches share the deepest map's channels; the auxiliary head reads the map before it."""
    model = meta(2, encoder=encoder)
    *_, res4, res5 = model.encoder.channels
    assert [branch[0].out_channels for branch in model.ppm.branches] == [res5 // 4] * 4
    assert (model.aux[0].in_channels, model.aux[0].out_channels) == (res4, 256)
    assert (model.head[0].in_channels, model.head[0].out_channels) == (res5 + 4 * (res5 // 4), 512)
    assert model.eval()(torch.empty(1, 3, 33, 47, device="meta")).shape == (1, 2, 33, 47)


@pytest.mark.parametrize(
    ("bins", "width", "parameters"),
    [
        ((1,), 2048, 46_716_373),  # Table 1's "B1": as many channels as the map has
        ((1, 2, 3, 6), 512, 46_716_373),
        ((6, 3, 2, 1), 512, 46_716_373),  # Caffe's order
        ((1, 2), 1024, 46_716_373),
    ],
)
def test_bins_share_the_channels(bins: tuple[int, ...], width: int, parameters: int) -> None:
    """The rule of 1/N keeps the pyramid at as many channels as the map, whatever the number of levels."""
    model = meta(21, bins=bins, aux=False)
    assert [branch[0].out_channels for branch in model.ppm.branches] == [width] * len(bins)
    assert (model.ppm.channels, count(model)) == (4096, parameters)


@torch.no_grad()
@pytest.mark.parametrize(("options", "share"), [({}, 0.1), ({"dropout": 0.5}, 0.5)])
def test_dropout_takes_whole_channels(options: dict, share: float) -> None:
    model = PSPNet(2, encoder="resnet18", **options)
    seen = []
    for head in (model.head, model.aux):
        head[1].bias.fill_(9.0)  # so that no ReLU makes the zeros
        head[4].register_forward_pre_hook(lambda _, xs: seen.append(xs[0].flatten(2)))
    model.train()(torch.randn(8, 3, 24, 24))
    for y in seen:
        zero = y == 0
        assert torch.equal(zero.any(2), zero.all(2))
        assert zero.float().mean().item() == pytest.approx(share, abs=0.03)
    seen.clear()
    model.eval()(torch.randn(1, 3, 24, 24))
    assert len(seen) == 1
    assert seen[0].all()


def test_the_default_network_trains_on_one_image() -> None:
    """At the smallest size; level 1 has one value a channel then and keeps its running statistics."""
    model = PSPNet().train()
    before = model.ppm.branches[0][1].running_mean.clone()
    logits, aux = model(torch.randn(1, 3, 9, 9))
    assert [tuple(t.shape) for t in (logits, *aux)] == [(1, 21, 9, 9)] * 2
    (logits.square().mean() + aux[0].square().mean()).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert torch.equal(model.ppm.branches[0][1].running_mean, before)
    assert model.ppm.branches[1][1].running_mean.any()


@pytest.mark.parametrize(("output_stride", "least"), [(8, 9), (16, 17), (32, 33)])
def test_batch_norm_has_four_values_at_the_smallest_size(output_stride: int, least: int) -> None:
    """One pixel less makes the deepest map 1×1; torch cannot train a batch of one on it, and says so."""
    model = PSPNet(encoder="resnet18", output_stride=output_stride).train()
    assert model.min_size == least
    assert model.encoder.strides[-1] == output_stride
    model(torch.rand(1, 3, least, least))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.rand(1, 3, least - 1, least - 1))
    assert PSPNet.min_size == 9


@torch.no_grad()
@pytest.mark.parametrize("dilate_first", [True, False])
def test_dilate_first_is_the_encoders(dilate_first: bool) -> None:
    """True is semseg's, tested above; False torchvision's, tested with the encoder."""
    model = scattered(PSPNet(2, encoder="resnet18", dilate_first=dilate_first))
    alone = encoders.build("resnet18", output_stride=8, dilate_first=dilate_first).eval()
    alone.load_state_dict(model.encoder.state_dict())
    x = torch.randn(1, 3, 41, 50)
    assert torch.equal(alone(x)[-1], model.encoder(x)[-1])
    other = encoders.build("resnet18", output_stride=8, dilate_first=not dilate_first).eval()
    other.load_state_dict(model.encoder.state_dict())
    assert not torch.allclose(other(x)[-1], model.encoder(x)[-1])


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_pyramid_leaves_python_for_every_size() -> None:
    """Traced and exported from one map, run at maps smaller than the bins, at odd ones and at 60."""
    x = torch.randn(2, 4, 11, 8)
    ppm = scattered(PyramidPooling(4, (1, 2, 3, 6)))
    run = Corners(ppm)
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    others = (torch.jit.trace(run, x), torch.export.export(run, (x,), dynamic_shapes=(sizes,)).module())
    for shape in ((1, 4, 2, 3), (3, 4, 5, 19), (1, 4, 60, 60), (2, 4, 61, 12)):
        x = torch.randn(shape)
        for other in others:
            torch.testing.assert_close(other(x), ppm(x, align_corners=True), rtol=1e-5, atol=1e-6)


class Corners(nn.Module):
    """The pyramid with corners aligned, which the suites of whole networks do not export."""

    def __init__(self, ppm: PyramidPooling) -> None:
        super().__init__()
        self.ppm = ppm

    def forward(self, x: Tensor) -> Tensor:
        return self.ppm(x, align_corners=True)


@torch.no_grad()
def test_running_statistics_move_by_a_tenth() -> None:
    """torch's momentum, as in semseg; Caffe's files have half of it."""
    model = PSPNet(2, encoder="resnet18").train()
    seen = []
    model.head[0].register_forward_hook(lambda _, __, y: seen.append(y.mean((0, 2, 3))))
    model(torch.randn(2, 3, 40, 40))
    torch.testing.assert_close(model.head[1].running_mean, 0.1 * seen[0])


def test_new_layers_start_as_torchs() -> None:
    """Uniform within the root of 1 / fan-in, as semseg leaves them; the encoder starts as it does alone."""
    torch.manual_seed(3)
    alone = encoders.build("resnet18").state_dict()
    torch.manual_seed(3)
    model = PSPNet(50, encoder="resnet18")
    assert all(torch.equal(value, alone[key]) for key, value in model.encoder.state_dict().items())
    for conv in (model.ppm.branches[3][0], model.head[0], model.aux[0], model.head[4]):
        assert_starts_as_torchs(conv)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_stride": 4}, "output stride 4 is not possible; choose 8, 16 or 32"),
        ({"bins": ()}, r"^pspnet: bins \(\) must be one number or more, each >= 1$"),
        ({"bins": (1, 0)}, r"^pspnet: bins \(1, 0\) must be .* each >= 1$"),
        ({"dropout": 1.0}, r"^pspnet: dropout 1.0 must be in \[0, 1\)$"),
        ({"dropout": -0.1}, r"^pspnet: dropout -0.1 must be in \[0, 1\)$"),
        ({"encoder": "resnet5"}, "unknown encoder 'resnet5'"),
    ],
)
def test_what_cannot_be_built(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        meta(**{"encoder": "resnet18", **options})
