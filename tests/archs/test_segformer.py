"""If these break, a published SegFormer gives other masks here, or the cheaper head is another function.

Counts and GMACs are those of the authors' code and paper; transformers' network on shared random weights is
the reference for every stage; Eq. 4 is computed once more from its words.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.archs import huggingface
from tests.encoders.test_mit import NARROW, stirred
from tests.scatter import scattered
from zoo.archs.segformer import VARIANTS, AllMLP, SegFormer
from zoo.encoders.mit import MixTransformer
from zoo.errors import InputError
from zoo.profile import macs, profile
from zoo.registry import check_size, legal_size

# name: the head at 150 classes; whole networks at 19, 150 and 171
SIZES = {
    "segformer_b0": (433_302, 3_719_027, 3_752_694, 3_758_091),
    "segformer_b1": (564_374, 13_682_131, 13_715_798, 13_721_195),
    "segformer_b2": (3_265_686, 27_361_235, 27_461_974, 27_478_123),
    "segformer_b3": (3_265_686, 47_237_075, 47_337_814, 47_353_963),
    "segformer_b4": (3_265_686, 64_007_635, 64_108_374, 64_124_523),
    "segformer_b5": (3_265_686, 84_607_955, 84_708_694, 84_724_843),
}
# GMACs at 512×512 to 0.001, literal and rewritten: with 150 classes (the paper: 8.4, 15.9, 62.4, 79.0, 95.7)
COSTS = {
    "segformer_b0": (8.388, 4.093),
    "segformer_b1": (15.878, 11.583),
    "segformer_b2": (62.338, 23.683),
    "segformer_b3": (78.963, 40.308),
    "segformer_b4": (95.568, 56.913),
    "segformer_b5": (111.510, 72.856),
}
COSTS_19 = {
    "segformer_b0": (7.838, 3.543),
    "segformer_b1": (15.329, 11.034),
    "segformer_b2": (60.690, 22.035),
}
# literal, at 1024×2048 with 19 classes; the paper prints its 125.5 … 1460.4 with 150
CITYSCAPES = {
    "segformer_b0": 120.957,
    "segformer_b1": 239.130,
    "segformer_b2": 703.485,
    "segformer_b3": 949.230,
    "segformer_b4": 1226.752,
    "segformer_b5": 1446.368,
}
every_variant = pytest.mark.parametrize("name", VARIANTS)
both_orders = pytest.mark.parametrize("literal", [False, True], ids=["rewritten", "literal"])


def meta(name: str, num_classes: int = 150, **options: object) -> nn.Module:
    with torch.device("meta"):
        return zoo.build(name, num_classes, **options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def narrow(num_classes: int = 5, in_channels: int = 3, **options: object) -> SegFormer:
    """A SegFormer of few channels, in eval mode, with weights and statistics as if trained."""
    model = SegFormer(num_classes, in_channels, width=12, **options)
    model.encoder = MixTransformer(in_channels, **NARROW)
    model.head = AllMLP(model.encoder.channels, 12, num_classes, model.head.literal)
    return scattered(stirred(model))


def head(channels: tuple[int, ...] = (3, 4, 6, 5), width: int = 7, literal: bool = False) -> AllMLP:
    """A head by itself, in float64."""
    return scattered(stirred(AllMLP(channels, width, 4, literal))).double()


def pyramid(size: tuple[int, int], channels: tuple[int, ...] = (3, 4, 6, 5), batch: int = 2) -> tuple:
    """Noise in the place of the encoder's maps for a picture of `size`, in float64."""
    sides = [[-(-side // stride) for side in size] for stride in (4, 8, 16, 32)]
    return tuple(
        torch.randn(batch, c, *side, dtype=torch.float64) for c, side in zip(channels, sides, strict=True)
    )


# ---------------------------------------------------------------------- sizes


@every_variant
def test_sizes(name: str) -> None:
    models = [meta(name, classes) for classes in (19, 150, 171)]
    assert (count(models[1].head), *map(count, models)) == SIZES[name]
    assert count(meta(name, literal=True)) == SIZES[name][2]


@every_variant
def test_costs(name: str) -> None:
    for classes, costs in ((150, COSTS), (19, COSTS_19)):
        if name in costs:
            models = [meta(name, classes, literal=literal) for literal in (True, False)]
            assert [macs(model, 512) / 1e9 for model in models] == pytest.approx(costs[name], abs=1e-3)
    large = macs(meta(name, 19, literal=True), (1024, 2048))
    assert large / 1e9 == pytest.approx(CITYSCAPES[name], abs=1e-3)


def test_costs_of_b5_at_the_size_of_its_paper() -> None:
    assert round(macs(meta("segformer_b5", literal=True), 640) / 1e9, 3) == 183.141  # 183.3 in the paper


@pytest.mark.parametrize(
    ("name", "widths", "e"),
    [
        ("segformer_b0", (32, 64, 160, 256), 256),
        ("segformer_b1", (64, 128, 320, 512), 256),
        ("segformer_b2", (64, 128, 320, 512), 768),
    ],
)
def test_every_module_at_512(name: str, widths: tuple[int, ...], e: int) -> None:
    stages = profile(meta(name, literal=True), 512)
    for s, (c, side) in enumerate(zip(widths, (128, 64, 32, 16), strict=True), 1):
        for part in ("patch_embed", "block", "norm"):
            assert stages[f"encoder.{part}{s}"].shape == (c, side, side)
        assert stages[f"head.linear.{s - 1}"].shape == (e, side, side)
    assert stages["head.fuse"].shape == stages["head.bn"].shape == (e, 128, 128)
    assert stages["head.classify"].shape == stages["head"].shape == (150, 128, 128)
    assert stages[""].shape == (150, 512, 512)


# ---------------------------------------------------------------------- the reference


def their_stages(theirs: nn.Module, x: Tensor) -> list[Tensor]:
    """The four maps and the logits at H/4 that transformers computes."""
    out = theirs(x, output_hidden_states=True)
    return [*out.hidden_states, out.logits]


@torch.no_grad()
@pytest.mark.parametrize("size", huggingface.SIZES)
def test_transformers_computes_the_same_stages_and_logits(size: str, tmp_path: Path) -> None:
    """Its eps are 1e-5 throughout, so ours are set to that; B3 to B5 in full depth on a small picture."""
    theirs = scattered(stirred(huggingface.segformer(size)))
    with torch.device("meta"):
        model = zoo.build(f"segformer_{size}")
    model.load_state_dict(huggingface.under_our_keys(theirs, tmp_path), strict=True, assign=True)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    x = torch.randn(1, 3, 64, 96) if size in ("b3", "b4", "b5") else torch.randn(2, 3, 97, 130)
    expected = their_stages(theirs, x)
    for literal in (False, True):
        model.head.literal = literal
        maps = model.encoder(x)
        for m, e in zip([*maps, model.head(maps)], expected, strict=True):
            assert m.shape == e.shape
            assert (m - e).abs().max() <= 1e-5 * (e.max() - e.min())


# ---------------------------------------------------------------------- equation 4


def enlarge(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear interpolation between pixel centres, one row and one column at a time."""
    for axis, to in ((2, height), (3, width)):
        n, slices = x.shape[axis], []
        for i in range(to):
            at = min(max((i + 0.5) * n / to - 0.5, 0), n - 1)
            low = int(at)
            high = min(low + 1, n - 1)
            slices.append(x.select(axis, low) * (low + 1 - at) + x.select(axis, high) * (at - low))
        x = torch.stack(slices, axis)
    return x


def eq4_by_hand(w: dict[str, Tensor], maps: tuple[Tensor, ...]) -> Tensor:
    """Eq. 4 as written, the deepest stage first in the concatenation; eval mode."""

    def linear(key: str, x: Tensor) -> Tensor:
        return torch.einsum("nchw,dc->ndhw", x, w[f"{key}.weight"].flatten(1))

    def each(key: str) -> Tensor:
        return w[key][:, None, None]

    levels = [
        enlarge(linear(f"linear.{i}", x) + each(f"linear.{i}.bias"), *maps[0].shape[2:])
        for i, x in enumerate(maps)
    ]
    y = linear("fuse", torch.cat([levels[3], levels[2], levels[1], levels[0]], 1))
    y = (y - each("bn.running_mean")) / (each("bn.running_var") + 1e-5).sqrt()
    y = (y * each("bn.weight") + each("bn.bias")).clamp(min=0)
    return linear("classify", y) + each("classify.bias")


@torch.no_grad()
@both_orders
@pytest.mark.parametrize("size", [(64, 96), (75, 46), (29, 130)])
def test_head_is_eq_4(literal: bool, size: tuple[int, int]) -> None:
    model, maps = head(literal=literal), pyramid(size)
    torch.testing.assert_close(model(maps), eq4_by_hand(model.state_dict(), maps), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_logits_are_the_heads_enlarged() -> None:
    model, x = narrow().double(), torch.randn(2, 3, 45, 61, dtype=torch.float64)
    torch.testing.assert_close(model(x), enlarge(model.head(model.encoder(x)), 45, 61))


@torch.no_grad()
@pytest.mark.parametrize("size", ["b0", "b2"])
def test_rewritten_is_literal_in_float32_at_full_width(size: str) -> None:
    """To 1e-5 of the logits' range, BatchNorm included; 2.5e-6 are usual."""
    widths, _, width = huggingface.SIZES[size]
    model = scattered(stirred(AllMLP(widths, width, 150, False)))
    maps = tuple(m.float() for m in pyramid((97, 130), widths, 1))
    rewritten = model(maps)
    model.literal = True
    literal = model(maps)
    assert (rewritten - literal).abs().max() <= 1e-5 * (literal.max() - literal.min())
    assert not torch.equal(rewritten, literal), "both are computed in the same order"


def test_rewritten_trains_like_literal() -> None:
    """Batch statistics, running statistics, the gradient of every parameter and of every map."""
    weights, results = torch.randn(2, 4, 19, 12, dtype=torch.float64), []
    for literal in (False, True):
        torch.manual_seed(0)
        model, maps = head(literal=literal).train(), pyramid((75, 46))
        for m in maps:
            m.requires_grad_()
        torch.manual_seed(1)  # the same channels drop out
        logits = model(maps)
        (logits * weights).sum().backward()
        grads = [p.grad for p in model.parameters()] + [m.grad for m in maps]
        results.append([logits.detach(), *model.buffers(), *grads])
    assert len(results[0]) == 1 + 3 + 4 * 2 + 1 + 2 + 2 + 4
    for rewritten, literal in zip(*results, strict=True):
        torch.testing.assert_close(rewritten, literal, rtol=1e-9, atol=1e-9)


def test_rewritten_trains_like_literal_as_a_whole() -> None:
    """Every gradient of the network, with the same dropped paths and channels."""
    model = narrow().double().train()
    other = copy.deepcopy(model)
    other.head.literal = True
    x, grads = torch.randn(2, 3, 70, 65, dtype=torch.float64), []
    for m in (model, other):
        torch.manual_seed(1)
        m(x).logits.square().mean().backward()
        grads.append([p.grad for p in m.parameters()])
    largest = max(g.abs().max() for g in grads[0])
    for rewritten, literal in zip(*grads, strict=True):
        assert (rewritten - literal).abs().max() <= 1e-10 * largest


@both_orders
def test_a_frozen_batch_norm_keeps_its_statistics(literal: bool) -> None:
    """Fine-tuning with the BatchNorm in eval mode: the head still puts out what it did."""
    model, maps = head(literal=literal), pyramid((64, 64))
    with torch.no_grad():
        expected = model(maps)
    model.train()
    model.bn.eval()
    model.dropout.eval()
    before = [b.clone() for b in model.bn.buffers()]
    torch.testing.assert_close(model(maps).detach(), expected)
    assert all(torch.equal(a, b) for a, b in zip(model.bn.buffers(), before, strict=True))


# ---------------------------------------------------------------------- the rest of the head


def test_dropout_takes_whole_channels() -> None:
    """A tenth of them, in train mode, behind the ReLU: seen through a classifier that is the identity."""
    width = 40
    model = AllMLP((3, 4, 6, 5), width, width, False).double()
    with torch.no_grad():
        model.classify.weight.copy_(torch.eye(width)[..., None, None])
        model.classify.bias.zero_()
        model.bn.bias.fill_(9.0)  # the ReLU lets everything through
    maps = pyramid((32, 32), batch=100)
    off = model.train()(maps).detach() == 0                                     # (100, 40, 8, 8)
    dropped = off.flatten(2).all(2)
    assert torch.equal(dropped, off.flatten(2).any(2)), "a channel is dropped whole or not at all"
    assert 0.08 < dropped.double().mean() < 0.12
    assert not (model.eval()(maps) == 0).any()


def test_first_weights_of_the_head() -> None:
    """The fuse is He normal by outgoing nodes, as mmcv makes it; the linear layers are torch's own."""
    torch.manual_seed(0)
    model = AllMLP((32, 64, 160, 256), 256, 150, False)
    assert model.fuse.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert model.fuse.bias is None
    for layer, c in zip([*model.linear, model.classify], (32, 64, 160, 256, 256), strict=True):
        bound = c**-0.5
        for p in layer.parameters():
            assert 0.9 * bound < p.abs().max() <= bound
            assert p.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


# ---------------------------------------------------------------------- use


@both_orders
@pytest.mark.parametrize(
    ("batch", "channels", "classes", "size"),
    [(1, 3, 1, (29, 29)), (2, 1, 29, (33, 130)), (1, 5, 2, (97, 64))],
)
def test_shapes(literal: bool, batch: int, channels: int, classes: int, size: tuple[int, int]) -> None:
    model = narrow(classes, channels, literal=literal)
    x = torch.rand(batch, channels, *size)
    assert model(x).shape == model.train()(x).logits.shape == (batch, classes, *size)
    assert model.train()(x).aux == ()


def test_the_smallest_picture_fills_one_kernel_of_the_first_reduction() -> None:
    model = narrow()
    assert legal_size(model, 1) == (29, 29)
    check_size(model, 29)
    with pytest.raises(InputError, match="size 28 is too small for SegFormer; its smallest is 29"):
        check_size(model, 28)
    with pytest.raises(RuntimeError, match="Kernel size"):
        model(torch.rand(1, 3, 28, 64))


@pytest.mark.parametrize(
    ("reductions", "least"), [((8, 4, 2, 1), 29), ((4, 2, 1, 1), 13), ((1, 1, 1, 1), 1), ((2, 2, 2, 2), 33)]
)
def test_the_smallest_picture_follows_the_reductions(reductions: tuple[int, ...], least: int) -> None:
    model = zoo.build("segformer_b0", 2, reductions=reductions).eval()
    assert model.min_size == least
    assert model(torch.rand(1, 3, least, least)).shape == (1, 2, least, least)
    if least > 1:
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(torch.rand(1, 3, least - 1, least))


def test_it_learns() -> None:
    """Light from dark, in a few steps from the first weights, dropout and dropped paths and all."""
    model = SegFormer(2, 1, width=16).train()
    x = torch.rand(2, 1, 40, 40).round()
    x = nn.functional.interpolate(x[..., ::8, ::8], scale_factor=8)
    target = x[:, 0].long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(x).logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


@torch.no_grad()
@both_orders
def test_bfloat16(literal: bool) -> None:
    model, x = narrow(literal=literal), torch.randn(2, 3, 65, 97)
    reference = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(x)
    for logits in (autocast, model.bfloat16()(x.bfloat16())):
        assert logits.dtype == torch.bfloat16
        assert (logits - reference).abs().max() < 0.05 * (reference.max() - reference.min())


@torch.no_grad()
@both_orders
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_serves_every_size_and_batch(literal: bool) -> None:
    model = narrow(literal=literal)
    traced = torch.jit.trace(model, torch.rand(1, 3, 40, 56))
    for batch, size in ((3, (63, 49)), (1, (29, 29)), (2, (96, 31))):
        x = torch.rand(batch, 3, *size)
        torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "options"), [("unet_halved", {}), ("deeplabv3plus", {"output_stride": 32, "separable": False})]
)
def test_mit_under_other_decoders(arch: str, options: dict) -> None:
    """A U-Net without a skip at stride 2; DeepLabV3+ at stride 32, as there is no dilation."""
    model = zoo.build(arch, 2, 1, encoder="mit_b0", **options)
    for size in ((33, 47), (64, 64)):
        x = torch.rand(2, 1, *size)
        assert model.train()(x).logits.shape == model.eval()(x).shape == (2, 2, *size)


@pytest.mark.parametrize("width", [0, -3])
def test_a_head_without_channels_is_refused(width: int) -> None:
    with pytest.raises(InputError, match=f"segformer: width {width} must be >= 1"):
        meta("segformer_b0", width=width)


def test_deeplabv3plus_says_that_mit_cannot_be_dilated() -> None:
    with pytest.raises(InputError, match=r"output stride 16 is not possible with MiT, .*; choose 32"):
        zoo.build("deeplabv3plus", encoder="mit_b0")


def test_other_encoders_are_refused() -> None:
    with pytest.raises(InputError, match="encoder 'resnet50' is not possible with segformer_b0, which takes"):
        zoo.build("segformer_b0", encoder="resnet50")
