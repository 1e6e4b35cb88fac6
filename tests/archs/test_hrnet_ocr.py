"""If these break, HRNet+OCR's published weights give other logits, or its regions are no longer regions.

Counts are those of the authors' code.  The head is held to the paper's equations, written out as sums; its
quicker order of computing to the order in which the paper has it.
"""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.export import Dim

import zoo
from tests.encoders.hrnets import bilinear, few_blocks, norm, pointwise
from tests.scatter import assert_starts_as_torchs, scattered, settled
from zoo.archs import hrnet_ocr
from zoo.archs.hrnet_ocr import HRNetOCR, ObjectContext, OverMaps, attend, gather
from zoo.encoders.resnet import BasicBlock, Bottleneck
from zoo.errors import InputError
from zoo.layers import Output
from zoo.profile import profile

CLASSES = (19, 20, 59, 60, 150, 171)
PARAMETERS = {  # for so many classes
    "hrnet_w18": (12_080_818, 12_081_602, 12_112_178, 12_112_962, 12_183_522, 12_199_986),
    "hrnet_w32": (32_953_894, 32_954_888, 32_993_654, 32_994_648, 33_084_108, 33_104_982),
    "hrnet_w48": (70_372_678, 70_373_912, 70_422_038, 70_423_272, 70_534_332, 70_560_246),
}
PARTS = {  # for 19 classes: aux_head, conv3x3_ocr, ocr_distri_head, cls_head, as the authors call them
    "hrnet_w18": (78_859, 1_245_696, 1_184_256, 9_747),
    "hrnet_w32": (240_979, 2_213_376, 1_184_256, 9_747),
    "hrnet_w48": (534_259, 3_319_296, 1_184_256, 9_747),
}
BILLIONS = [  # multiply-adds of the convolutions: encoder, input, as published, in our order
    ("hrnet_w18", (512, 512), 52.934, 36.154),
    ("hrnet_w32", (473, 473), 82.921, 57.370),
    ("hrnet_w48", (512, 512), 161.922, 116.106),
    ("hrnet_w48", (1024, 2048), 1295.329, 928.787),
]
SIZES = [(33, 33), (45, 70), (64, 50)]


def meta(*args: int, **options: object) -> HRNetOCR:
    with torch.device("meta"):
        return HRNetOCR(*args, **options)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., HRNetOCR]:
    """Makes the network at full width over an HRNet-W18 of few blocks."""
    few_blocks(monkeypatch)
    return lambda *args, **options: HRNetOCR(*args, **{"encoder": "hrnet_w18", **options})


@pytest.fixture
def narrow(shallow: Callable[..., HRNetOCR], monkeypatch: pytest.MonkeyPatch) -> Callable[..., HRNetOCR]:
    """The same with a head of six and four channels."""
    monkeypatch.setattr(hrnet_ocr, "MIDDLE", 6)
    monkeypatch.setattr(hrnet_ocr, "KEY", 4)
    return shallow


def maps_of(channels: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Four maps as of an image of 26×38, (1, 2, 4 and 8) · channels wide."""
    sizes = ((7, 10), (4, 5), (2, 3), (1, 2))
    return [torch.randn(2, channels * 2**i, *size, dtype=dtype) for i, size in enumerate(sizes)]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Counts


@pytest.mark.parametrize("encoder", PARAMETERS)
def test_parameters(encoder: str) -> None:
    model = meta(19, encoder=encoder)
    encoders = parameters(model.encoder)
    for classes, wanted in zip(CLASSES, PARAMETERS[encoder], strict=True):
        model.regions[3] = nn.Conv2d(model.regions[3].in_channels, classes, 1, device="meta")
        model.head = nn.Conv2d(512, classes, 1, device="meta")
        assert parameters(model) == wanted
    model = meta(19, encoder=encoder)
    parts = (model.regions, model.pixels, nn.ModuleList([model.context, model.g]), model.head)
    assert tuple(map(parameters, parts)) == PARTS[encoder]
    assert encoders + sum(PARTS[encoder]) == parameters(model)
    assert len(model.state_dict()) == 1890


HRNET_ALONE = {  # the authors' HRNetV2, for 19, 20, 59, 60, 150 and 171 classes; GMACs at 512x512 with 19
    "hrnet_w18": ((9_641_119, 9_641_390, 9_651_959, 9_652_230, 9_676_620, 9_682_311), 18.425, 17.380),
    "hrnet_w32": ((29_546_515, 29_546_996, 29_565_755, 29_566_236, 29_609_526, 29_619_627), 45.153, 41.850),
    "hrnet_w48": ((65_859_379, 65_860_100, 65_888_219, 65_888_940, 65_953_830, 65_968_971), 93.439, 86.007),
}


@pytest.mark.parametrize("encoder", HRNET_ALONE)
def test_without_ocr_it_is_hrnetv2(encoder: str) -> None:
    counts, published, ours = HRNET_ALONE[encoder]
    model = meta(19, encoder=encoder, ocr=False)
    assert len(model.state_dict()) == 1839
    for classes, wanted in zip(CLASSES, counts, strict=True):
        model.regions[3] = nn.Conv2d(model.regions[3].in_channels, classes, 1, device="meta")
        assert parameters(model) == wanted
    for literal, billions in ((True, published), (False, ours)):
        model = meta(19, encoder=encoder, ocr=False, literal=literal)
        assert round(profile(model, 512)[""].macs / 1e9, 3) == billions


def test_without_ocr_the_regions_are_the_result(shallow: Callable[..., HRNetOCR]) -> None:
    """One loss; the same weights give as logits what else has the auxiliary loss."""
    whole, alone = settled(shallow(5), torch.randn(2, 3, 64, 64)), shallow(5, ocr=False).eval()
    there = whole.state_dict()
    alone.load_state_dict({key: there[key] for key in alone.state_dict()}, strict=True)
    assert (alone.aux_weights, whole.aux_weights) == ((), (0.4,))
    x = torch.randn(2, 3, 45, 70)
    for part in whole.modules():
        if isinstance(part, nn.BatchNorm2d | nn.Dropout2d):
            part.training = False
    whole.training = True
    with torch.no_grad():
        torch.testing.assert_close(alone(x), whole(x).aux[0])
        assert alone.train()(x).aux == ()


def test_defaults_are_the_papers() -> None:
    """W48, 19 classes of Cityscapes, 70.3 million; each number of classes is built, not replaced."""
    assert parameters(meta()) == 70_372_678
    assert parameters(meta(171, 3)) == 70_560_246
    assert HRNetOCR.aux_weights == (0.4,)


@pytest.mark.parametrize(("encoder", "size", "published", "ours"), BILLIONS)
def test_multiply_adds(encoder: str, size: tuple[int, int], published: float, ours: float) -> None:
    """Published are those of convolutions alone; attention has two products more, of P · K · 256 or 512."""
    pixels = -(-size[0] // 4) * -(-size[1] // 4)
    for literal, billions in ((True, published), (False, ours)):
        attention = pixels * 19 * (256 + (256 if literal else 512))
        convolutions = profile(meta(encoder=encoder, literal=literal), size)[""].macs - attention
        assert round(convolutions / 1e9, 3) == billions
    if size == (1024, 2048):
        assert round(published * 1e9 / 2**30, 1) == 1206.4  # the paper's unit; it prints 1206.3


def test_every_stage_of_fig_3(shallow: Callable[..., HRNetOCR]) -> None:
    stages = profile(meta(), 512)
    for path, shape in {
        "encoder": (384, 16, 16),
        "regions": (19, 128, 128),
        "pixels": (512, 128, 128),
        "context.psi": (256, 19, 1),
        "context.delta": (256, 19, 1),
        "context.phi": (256, 128, 128),
        "context": (512, 128, 128),
        "g": (512, 128, 128),
        "head": (19, 128, 128),
        "": (19, 512, 512),
    }.items():
        assert stages[path].shape == shape, path


# Shapes


@pytest.mark.parametrize("size", [(473, 473), (500, 333)])
def test_published_odd_sizes(size: tuple[int, int], shallow: Callable[..., HRNetOCR]) -> None:
    model = meta(20, encoder="hrnet_w18")
    x = torch.empty(1, 3, *size, device="meta")
    output = model.train()(x)
    assert [t.shape for t in (output.logits, *output.aux)] == [(1, 20, *size)] * 2
    assert model.eval()(x).shape == (1, 20, *size)


@pytest.mark.parametrize(
    ("batch", "channels", "classes", "size"),
    [(1, 1, 1, (33, 33)), (1, 3, 29, (47, 33)), (3, 1, 2, (64, 50)), (2, 4, 1, (33, 61))],
)
def test_shapes(
    batch: int, channels: int, classes: int, size: tuple[int, int], shallow: Callable[..., HRNetOCR]
) -> None:
    model = shallow(classes, channels)
    x = torch.randn(batch, channels, *size)
    output = model.train()(x)
    assert type(output) is Output
    assert [t.shape for t in (output.logits, *output.aux)] == [(batch, classes, *size)] * 2
    (output.logits.square().mean() + output.aux[0].square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    logits = model.eval()(x)
    assert logits.shape == (batch, classes, *size)
    assert logits.isfinite().all()


def test_one_class_in_one_image_trains(shallow: Callable[..., HRNetOCR]) -> None:
    """One region vector has no variance: BatchNorm takes the running statistics, and leaves them."""
    model = shallow(1).train()
    before = copy.deepcopy(model.context.psi.state_dict())
    output = model(torch.randn(1, 3, 40, 40))
    output.logits.sum().backward()
    after = model.context.psi.state_dict()
    assert all(torch.equal(before[key], value) for key, value in after.items())
    assert model.context.delta[0].weight.grad.any()
    assert not model.context.phi[0].weight.grad.any()  # a softmax over one region is 1 everywhere
    model(torch.randn(2, 3, 40, 40))
    assert not torch.equal(before["1.running_mean"], model.context.psi[1].running_mean)


def test_one_class_in_one_image_predicts_what_it_trained(shallow: Callable[..., HRNetOCR]) -> None:
    """Its context is one vector, the same at all pixels, and has no variance either."""
    model = shallow(1, 1).train()
    x = torch.zeros(1, 1, 64, 64)
    x[..., 20:44, 12:40] = 1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(100):
        output = model(x + 0.1 * torch.randn_like(x))
        loss = sum(nn.functional.binary_cross_entropy_with_logits(y, x) for y in (output.logits, *output.aux))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rho = model.context.rho[1]
    assert torch.equal(rho.running_var, torch.ones_like(rho.running_var))
    with torch.no_grad():
        found, truth = model.eval()(x) > 0, x > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.8


def test_the_smallest_size(shallow: Callable[..., HRNetOCR]) -> None:
    model = shallow().train()
    model(torch.randn(1, 3, model.min_size, model.min_size))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.randn(1, 3, model.min_size - 1, model.min_size - 1))


# The paper's equations


def dense(layers: Iterable[nn.Module], t: Tensor) -> Tensor:
    """Pairs of 1×1 convolution and BatchNorm, each with a ReLU, on the last axis of `t`."""
    layers = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    for conv, bn in zip(layers[::2], layers[1::2], strict=True):
        t = torch.einsum("...c,oc->...o", t, conv.weight[:, :, 0, 0])
        t = (t - bn.running_mean) / (bn.running_var + 1e-5).sqrt() * bn.weight + bn.bias
        t = t.relu()
    return t


def conv3x3(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Nine sums, with zeros around the map."""
    h, w = x.shape[2:]
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    y = conv.bias.view(-1, 1, 1).expand(len(x), -1, h, w)
    for a in range(3):
        for b in range(3):
            part = padded[:, :, a : a + h, b : b + w]
            y = y + torch.einsum("nchw,oc->nohw", part, conv.weight[:, :, a, b])
    return y


def by_hand(model: HRNetOCR, image: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    """The logits and those of the regions, from HRNet's maps, sum by sum."""
    maps = model.encoder(image)
    size = maps[0].shape[2:]
    joined = torch.cat([bilinear(x, size, align_corners) for x in maps], 1)

    first, bn, _, last = model.regions
    hidden = norm(bn, pointwise(joined, first.weight) + first.bias.view(-1, 1, 1)).relu()
    regions = pointwise(hidden, last.weight) + last.bias.view(-1, 1, 1)
    first, bn, _ = model.pixels
    x = norm(bn, conv3x3(first, joined)).relu()

    m = regions.exp() / regions.exp().sum((2, 3), keepdim=True)         # each region's shares: 1 in all
    f = torch.einsum("nkhw,nchw->nkc", m, x)                            # Eq. 4
    context = model.context
    pixels = x.movedim(1, -1)                                           # (N, h, w, 512)
    kappa = torch.einsum("nhwc,nkc->nhwk", dense(context.phi, pixels), dense(context.psi, f))
    e = (kappa * hrnet_ocr.KEY**-0.5).exp()
    w = e / e.sum(-1, keepdim=True)                                     # Eq. 5
    y = dense(context.rho, torch.einsum("nhwk,nkc->nhwc", w, dense(context.delta, f)))  # Eq. 3
    z = dense(model.g, torch.cat([y, pixels], -1)).movedim(-1, 1)       # Eq. 6
    logits = pointwise(z, model.head.weight) + model.head.bias.view(-1, 1, 1)
    return tuple(bilinear(t, image.shape[2:], align_corners) for t in (logits, regions))


@torch.no_grad()
@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_forward_is_equations_3_to_6(
    align_corners: bool, literal: bool, narrow: Callable[..., HRNetOCR]
) -> None:
    model = narrow(5, align_corners=align_corners, literal=literal)
    model = settled(model, torch.randn(2, 3, 64, 64)).double()
    image = torch.randn(2, 3, 45, 70).double()
    logits, regions = by_hand(model, image, align_corners)
    torch.testing.assert_close(model(image), logits)

    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d | nn.Dropout2d):  # as in eval, so that the regions come out
            part.training = False
    model.training = True
    output = model(image)
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.aux[0], regions)


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_both_orders_give_the_same_logits(
    size: tuple[int, int], align_corners: bool, shallow: Callable[..., HRNetOCR]
) -> None:
    """At full width in single precision: to 1e-5 of the logits' range."""
    model = settled(shallow(19, align_corners=align_corners), torch.randn(2, 3, 64, 64))
    literal = shallow(19, align_corners=align_corners, literal=True).eval()
    literal.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 3, *size)
    expected = literal(x)
    span = expected.max() - expected.min()
    assert span > 0.1
    assert (model(x) - expected).abs().max() <= 1e-5 * span


@torch.no_grad()
@pytest.mark.parametrize("classes", [1, 2])
def test_both_orders_are_as_near_to_the_truth(classes: int, shallow: Callable[..., HRNetOCR]) -> None:
    """With few regions single precision is worth less, in whichever order: both are held to float64."""
    model = settled(shallow(classes), torch.randn(4, 3, 64, 64))
    literal = shallow(classes, literal=True).eval()
    literal.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 3, 45, 70)
    ours, theirs = model(x), literal(x)
    truth, same = model.double()(x.double()), literal.double()(x.double())
    span = truth.max() - truth.min()
    assert (truth - same).abs().max() <= 1e-11 * span
    errors = [((y - truth).abs().max() / span).item() for y in (ours, theirs)]
    assert max(errors) < 1e-4
    assert max(errors) < 5 * min(errors) + 1e-6


@pytest.mark.parametrize("align_corners", [False, True])
def test_both_orders_train_alike(align_corners: bool, narrow: Callable[..., HRNetOCR]) -> None:
    """Outputs, gradients and the statistics that BatchNorm has seen, on whatever batch."""
    options = {"align_corners": align_corners, "dropout": 0.0}
    ours = scattered(narrow(3, **options)).double().train()
    literal = narrow(3, literal=True, **options).double().train()
    literal.load_state_dict(ours.state_dict(), strict=True)
    image = torch.randn(2, 3, 45, 70).double()
    for model in (ours, literal):
        torch.manual_seed(1)
        output = model(image)
        sum((t * torch.randn_like(t)).sum() for t in (output.logits, *output.aux)).backward()
    grads = dict(literal.named_parameters())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[key].grad, rtol=1e-7, atol=1e-8, msg=key)
    statistics = literal.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, statistics[key], msg=key)


def test_gradients_of_eq_4_and_5() -> None:
    """By finite differences; two images, so that none is taken for the other."""
    regions = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 5, 2, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(gather, (regions, x))
    k, v = (torch.randn(2, c, 3, 1, dtype=torch.float64, requires_grad=True) for c in (5, 2))
    assert gradcheck(attend, (x, k, v))


@pytest.mark.parametrize("literal", [False, True])
def test_gradients_of_the_context(literal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hrnet_ocr, "MIDDLE", 4)
    monkeypatch.setattr(hrnet_ocr, "KEY", 3)
    block = ObjectContext(literal).double().train()
    for part in block.modules():
        if isinstance(part, nn.ReLU):
            part.forward = torch.sin  # finite differences must not step over a kink
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    f = torch.randn(2, 4, 3, 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(block, (x, f))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_over_maps(kernel: int, align_corners: bool) -> None:
    """Of the maps and of the weights; and the literal form has the same values."""
    conv = nn.Conv2d(15, 2, kernel, padding=kernel // 2).double()
    ours, literal = (OverMaps(conv, literal=literal) for literal in (False, True))
    ours.align_corners = literal.align_corners = align_corners
    maps = [x.requires_grad_() for x in maps_of(1)]
    torch.testing.assert_close(ours(maps), literal(maps))
    weights = (conv.weight, conv.bias)
    assert gradcheck(lambda *inputs: ours(inputs[:4]), (*maps, *weights))


# Regions


def test_a_region_is_a_mean_over_places() -> None:
    """The softmax runs over places: its shares add up to 1 in a region, not at a pixel."""
    regions, x = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    f = gather(regions, x)
    assert f.shape == (2, 6, 3, 1)
    same = torch.ones_like(x) * 7
    torch.testing.assert_close(gather(regions, same), torch.full_like(f, 7))
    raised = regions + torch.tensor([0.0, 5.0, -5.0]).view(3, 1, 1)  # one class more likely everywhere
    torch.testing.assert_close(gather(raised, x), f)
    peak = regions.clone()
    peak[:, 1, 2, 3] = 100.0
    torch.testing.assert_close(gather(peak, x)[:, :, 1, 0], x[:, :, 2, 3])


def test_classes_may_overlap() -> None:
    """As in a multi-label task: what a region gathers does not depend on who else claims its pixels."""
    regions, x = torch.randn(1, 2, 4, 5), torch.randn(1, 6, 4, 5)
    twice = torch.cat([regions, regions[:, :1], torch.randn(1, 3, 4, 5)], 1)
    f, more = gather(regions, x), gather(twice, x)
    torch.testing.assert_close(more[:, :, :2], f)
    torch.testing.assert_close(more[:, :, 2], f[:, :, 0])


def test_attention_is_a_mean_over_regions() -> None:
    q, k = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 6, 1)
    same = torch.ones(2, 3, 6, 1) * 7
    torch.testing.assert_close(attend(q, k, same), torch.full((2, 3, 3, 5), 7.0))
    alike = k[:, :, :1].expand(-1, -1, 6, -1)
    v = torch.randn(2, 3, 6, 1)
    torch.testing.assert_close(attend(q, alike, v), v.mean(2, keepdim=True).expand(-1, -1, 3, 5))


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_shares_of_many_places_survive_half_precision(dtype: torch.dtype, precision: float) -> None:
    """Of 166,912 equal shares each is 6e-6: float16 has steps of 6e-8 there and would be wrong by 0.5 %."""
    for size in (1, 900):  # of values; at 64 times a thousand float16 ends
        regions, x = torch.zeros(1, 2, 1024, 163, dtype=dtype), (size * torch.rand(1, 3, 1024, 163)).to(dtype)
        found = gather(regions, x)
        assert found.dtype == dtype
        mean = x[0].float().mean((1, 2))
        torch.testing.assert_close(found[0, :, 0, 0].float(), mean, rtol=precision, atol=0)


@torch.no_grad()
def test_bfloat16_and_autocast(shallow: Callable[..., HRNetOCR]) -> None:
    model = settled(shallow(3), torch.randn(2, 3, 64, 64))
    x = torch.randn(1, 3, 45, 70)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        under = model(x)
    for logits in (under, model.bfloat16()(x.bfloat16())):
        assert logits.dtype == torch.bfloat16
        assert (logits - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_last_loss_reaches_the_regions(narrow: Callable[..., HRNetOCR]) -> None:
    """Through Eq. 4: nothing is cut off there."""
    model = narrow(3).train()
    model(torch.randn(2, 3, 40, 40)).logits.square().mean().backward()
    assert model.regions[3].weight.grad.any()
    assert model.regions[0].weight.grad.any()


@torch.no_grad()
def test_dropout_takes_whole_channels() -> None:
    """Of what Eq. 6 gives, with the chance that is asked for."""
    model = meta(2, encoder="hrnet_w18")
    assert model.g[-1].p == 0.05
    dropout = meta(2, encoder="hrnet_w18", dropout=0.3).g[-1]
    y = dropout(torch.ones(40, 512, 2, 2))
    gone = (y == 0).float().mean((2, 3))
    assert set(gone.unique().tolist()) == {0.0, 1.0}
    assert gone.mean().item() == pytest.approx(0.3, abs=0.02)
    assert dropout.eval()(torch.ones(1, 512, 2, 2)).all()


# Corners


@torch.no_grad()
def test_align_corners_reaches_every_enlarging(narrow: Callable[..., HRNetOCR]) -> None:
    """Set at any time, as a loader of weights does: as if built so; in the encoder, and in a copy."""
    x = torch.randn(2, 3, 45, 70)
    model = settled(narrow(4), torch.randn(2, 3, 64, 64))
    built = narrow(4, align_corners=True).eval()
    built.load_state_dict(model.state_dict(), strict=True)
    assert (model.align_corners, built.align_corners) == (False, True)
    centres, middle = model(x), model.encoder(x)[0]

    model.align_corners = True
    assert torch.equal(model(x), built(x))
    assert torch.equal(copy.deepcopy(model)(x), built(x))
    assert (model.encoder(x)[0] - middle).abs().max() > 0.01 * middle.abs().max()
    assert (model(x) - centres).abs().max() > 0.01 * centres.abs().max()
    model.load_state_dict(narrow(4).state_dict())  # no part of it
    assert model.align_corners

    model.load_state_dict(built.state_dict())
    model.align_corners = False
    assert torch.equal(model(x), centres)


# Ways out of Python


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_aligned_corners_leave_python(shallow: Callable[..., HRNetOCR], tmp_path: Path) -> None:
    """As the published weights have them; test_export.py has the others."""
    pytest.importorskip("onnxscript", reason='pip install -e ".[export]" to run this')
    onnxruntime = pytest.importorskip("onnxruntime", reason='pip install -e ".[export]" to run this')
    model = settled(shallow(5, align_corners=True), torch.randn(2, 3, 64, 64))
    for unit in model.modules():  # small sums: in random ones an error of rounding grows from unit to unit
        if isinstance(unit, BasicBlock | Bottleneck):
            (unit.bn2 if isinstance(unit, BasicBlock) else unit.bn3).weight.mul_(0.2)
    traced = torch.jit.trace(model, torch.randn(2, 3, 40, 56))
    axes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    exported = torch.export.export(model, (torch.randn(2, 3, 40, 56),), dynamic_shapes=(axes,))
    torch.onnx.export(exported, opset_version=18, dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch, size in zip((1, 3, 1), SIZES, strict=True):
        x = torch.randn(batch, 3, *size)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = model(x)
        for other in (torch.from_numpy(found), traced(x), exported.module()(x)):
            assert (other - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


@torch.no_grad()
def test_channels_last_changes_nothing(shallow: Callable[..., HRNetOCR]) -> None:
    model = settled(shallow(3), torch.randn(2, 3, 64, 64))
    x = torch.randn(2, 3, 45, 70)
    expected = model(x)
    last = torch.channels_last
    found = model.to(memory_format=last)(x.to(memory_format=last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder": "resnet50"}, "not possible with hrnet_ocr, which takes hrnet_w18, hrnet_w32, hrnet_w48"),
        ({"encoder": "hrnet_w50"}, "unknown encoder 'hrnet_w50' for hrnet_ocr; .*hrnet_w18"),
        ({"dropout": 1.0}, r"hrnet_ocr: dropout 1.0 is not possible; it must be in \[0, 1\)"),
        ({"output_stride": 8}, "hrnet_ocr has no option 'output_stride'"),
    ],
)
def test_what_cannot_be_built(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says), torch.device("meta"):
        zoo.build("hrnet_ocr", **options)


def test_the_head_starts_as_torchs(shallow: Callable[..., HRNetOCR]) -> None:
    """Uniform within the root of 1 / fan-in, which the authors' code leaves as it is."""
    model = shallow(19)
    for conv in (model.regions[0], model.pixels[0], model.g[0]):
        assert_starts_as_torchs(conv)
