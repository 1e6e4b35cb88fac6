"""If these break, `zoo.build("unetpp")` is not the network of the papers, or over an encoder not the graph of
segmentation_models_pytorch, or pruning changes its answers.
"""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zoo
from zoo.archs.unetpp import UNetPP
from zoo.encoders import Normalisation
from zoo.errors import InputError
from zoo.profile import macs, profile

from .fields import fields

NOTE = (Path(__file__).resolve().parents[2] / "papers" / "unetpp.md").read_text(encoding="utf-8")

# Eq. 1 at 1×96×96: node, output, parameters of H and of U.
NODES = [
    ("00", (32, 96, 96), 9_568, 0),
    ("10", (64, 48, 48), 55_424, 0),
    ("20", (128, 24, 24), 221_440, 0),
    ("30", (256, 12, 12), 885_248, 0),
    ("40", (512, 6, 6), 3_539_968, 0),
    ("01", (32, 96, 96), 27_712, 8_224),
    ("11", (64, 48, 48), 110_720, 32_832),
    ("21", (128, 24, 24), 442_624, 131_200),
    ("31", (256, 12, 12), 1_769_984, 524_544),
    ("02", (32, 96, 96), 36_928, 8_224),
    ("12", (64, 48, 48), 147_584, 32_832),
    ("22", (128, 24, 24), 590_080, 131_200),
    ("03", (32, 96, 96), 46_144, 8_224),
    ("13", (64, 48, 48), 184_448, 32_832),
    ("04", (32, 96, 96), 55_360, 8_224),
]
# level: parameters, MACs at 96×96, MACs at 512×512; 1 channel, 1 class, one head
LEVELS = {
    1: (100_961, 488_964_096, 13_908_312_064),
    2: (511_105, 1_248_657_408, 35_517_366_272),
    3: (2_204_961, 2_451_898_368, 69_742_886_912),
    4: (9_041_601, 4_183_621_632, 119_000_793_088),
}
# Over an encoder, counted with segmentation_models_pytorch 0.6.0: decoder, {classes: whole network},
# multiply-adds of one class at 256×256
OVER = {
    "resnet34": (
        4_793_792,
        {1: 26_078_609, 2: 26_078_754, 19: 26_081_219, 21: 26_081_509, 150: 26_100_214},
        18_383_634_432,
    ),
    "resnet50": (
        25_477_568,
        {1: 48_985_745, 2: 48_985_890, 19: 48_988_355, 21: 48_988_645, 150: 49_007_350},
        57_440_993_280,
    ),
    "resnet101": (
        25_477_568,
        {1: 67_977_873, 2: 67_978_018, 19: 67_980_483, 21: 67_980_773, 150: 67_999_478},
        62_289_608_704,
    ),
    "efficientnet_b0": (2_561_888, {1: 6_569_581, 21: 6_572_481}, 5_517_658_624),
    "efficientnet_b7": (
        4_376_448,
        {1: 68_163_553, 2: 68_163_698, 19: 68_166_163, 21: 68_166_453, 150: 68_185_158},
        18_644_730_880,
    ),
}
# (in, out) of the last 1×1 convolution: in the library it lies idle, here it is left out
IDLE = {"efficientnet_b0": (320, 1_280), "efficientnet_b7": (640, 2_560)}
# Nodes over ResNet-34 at 256×256: concatenated channels, output
OVER_RESNET34 = {
    "x.31": (768, (256, 16, 16)),
    "x.21": (256 + 128, (128, 32, 32)),
    "x.11": (128 + 64, (64, 64, 64)),
    "x.01": (64 + 64, (64, 128, 128)),
    "x.22": (256 + 2 * 128, (128, 32, 32)),
    "x.12": (128 + 2 * 64, (64, 64, 64)),
    "x.02": (64 + 2 * 64, (64, 128, 128)),
    "x.13": (128 + 3 * 64, (64, 64, 64)),
    "x.03": (64 + 3 * 64, (64, 128, 128)),
    "x.04": (64 + 4 * 64, (32, 128, 128)),
    "full.4": (32, (16, 256, 256)),
}
# level over ResNet-34: parameters, MACs at 256×256, smallest size; level 4 as in the library, the rest ours
OVER_LEVELS = {
    1: (354_065, 3_636_461_568, 5),
    2: (1_765_905, 7_797_211_136, 9),
    3: (9_547_793, 13_920_894_976, 17),
    4: (26_078_609, 18_383_634_432, 33),
}


def meta(*args: int, **options: object) -> UNetPP:
    with torch.device("meta"):
        return UNetPP(*args, **options)


def count(model: UNetPP) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_node_of_equation_1() -> None:
    stages = profile(meta(1, 1), 96)
    nodes = [path for path in stages if path.startswith("x.") and path.count(".") == 1]
    assert nodes == [f"x.{node}" for node, *_ in NODES]
    for node, shape, h, u in NODES:
        assert stages[f"x.{node}"].shape == shape
        assert stages[f"x.{node}.h"].parameters == h
        assert stages[f"x.{node}"].parameters == h + u
    assert [path for path in stages if path.startswith("heads")] == ["heads.4"]
    assert stages["heads.4"].shape == (1, 96, 96)
    assert stages["heads.4"].parameters == 33


@pytest.mark.parametrize(
    ("channels", "options", "parameters"),
    [
        (1, {}, 9_041_601),  # the number in the authors' own code
        (1, {"deep_supervision": True}, 9_041_700),
        (3, {}, 9_042_177),
        (3, {"deep_supervision": True}, 9_042_276),
        (1, {"norm": "batch"}, 9_045_249),  # 3,648 channels, scale + shift - bias each
    ],
)
def test_parameters(channels: int, options: dict, parameters: int) -> None:
    assert count(meta(1, channels, **options)) == parameters


@pytest.mark.parametrize("level", LEVELS)
def test_levels_cost_what_the_paper_prunes_to(level: int) -> None:
    for model in (meta(1, 1, level=level), meta(1, 1, deep_supervision=True).prune(level)):
        assert (count(model), macs(model, 96), macs(model, 512)) == LEVELS[level]


def forward_by_the_equation(weights: dict[str, Tensor], x: Tensor, level: int = 4) -> list[Tensor]:
    """Eq. 1 written out for sizes that divide, without modules: the logits of X^{0,1} … X^{0,level}."""

    def h(node: str, x: Tensor) -> Tensor:
        for conv in (f"x.{node}.h.0", f"x.{node}.h.2"):
            x = F.relu(F.conv2d(x, weights[f"{conv}.weight"], weights[f"{conv}.bias"], padding=1))
        return x

    def u(node: str, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weights[f"x.{node}.u.weight"], weights[f"x.{node}.u.bias"], stride=2)

    def node(i: int, j: int) -> Tensor:  # recursive and slow: the definition, not an order of computing
        if j == 0:
            return h(f"{i}0", x if i == 0 else F.max_pool2d(node(i - 1, 0), 2))
        return h(f"{i}{j}", torch.cat([*(node(i, k) for k in range(j)), u(f"{i}{j}", node(i + 1, j - 1))], 1))

    return [
        F.conv2d(node(0, j), weights[f"heads.{j}.weight"], weights[f"heads.{j}.bias"])
        for j in range(1, level + 1)
    ]


def test_forward_is_equation_1() -> None:
    model = UNetPP(3, 2, width=2, deep_supervision=True).double()
    x = torch.randn(2, 2, 32, 48, dtype=torch.float64)
    heads = forward_by_the_equation(dict(model.named_parameters()), x)
    output = model.train()(x)
    torch.testing.assert_close((*output.aux, output.logits), tuple(heads))
    torch.testing.assert_close(model.eval()(x), torch.stack(heads).mean(0))


def test_without_supervision_there_is_one_head_and_it_is_x04() -> None:
    one, four = UNetPP(width=2), UNetPP(width=2, deep_supervision=True)
    assert [key for key in one.state_dict() if key.startswith("heads")] == ["heads.4.weight", "heads.4.bias"]
    assert one.aux_weights == ()
    assert four.aux_weights == (1.0, 1.0, 1.0)
    one.load_state_dict({key: value for key, value in four.state_dict().items() if key in one.state_dict()})
    x = torch.rand(1, 3, 33, 47)
    assert torch.equal(one.eval()(x), four.train()(x).logits)
    assert one.train()(x).aux == ()


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_pruned_network_is_its_head_bit_for_bit(level: int, norm: str | None) -> None:
    model = UNetPP(2, 1, width=4, norm=norm, deep_supervision=True)
    x = torch.rand(2, 1, 37, 50)
    if norm:
        model.train()(x)  # statistics other than the initial ones
        model.eval()
        wanted = {}
        model.heads[f"{level}"].register_forward_hook(lambda _, __, y: wanted.update(y=y))
        model(x)
        wanted = wanted["y"]
    else:
        output = model.train()(x)
        wanted = (*output.aux, output.logits)[level - 1]
    small = model.eval().prune(level)
    assert torch.equal(small(x), wanted)
    assert small.level == level
    assert set(small.x) == {f"{i}{j}" for i in range(5) for j in range(5) if i + j <= level}


def test_pruning_copies() -> None:
    model = UNetPP(width=2, deep_supervision=True).double().train()
    small = model.prune(2)
    assert small.training
    assert next(small.parameters()).dtype == torch.float64
    assert all(p.requires_grad and p.device.type == "cpu" for p in small.parameters())
    before = model.x["00"].h[0].weight.clone()
    with torch.no_grad():
        small.x["00"].h[0].weight.zero_()
    assert torch.equal(model.x["00"].h[0].weight, before)
    assert not model.eval().prune(2).training


def test_pruning_draws_no_random_numbers() -> None:
    model = UNetPP(width=2, deep_supervision=True)
    before = torch.get_rng_state()
    model.prune(2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "level", "says"),
    [
        ({}, 2, "deep_supervision=True"),
        ({"deep_supervision": True}, 0, "level 0 must be between 1 and 4"),
        ({"deep_supervision": True, "level": 2}, 3, "level 3 must be between 1 and 2"),
    ],
)
def test_pruning_what_cannot_be_pruned(options: dict, level: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        UNetPP(width=1, **options).prune(level)


@pytest.mark.parametrize("size", [(17, 17), (33, 47), (95, 64)])
def test_odd_sizes_round_up_at_each_pooling(size: tuple[int, int]) -> None:
    stages = profile(meta(1, 1, width=2), size)
    for node, *_ in NODES:
        i = int(node[0])
        assert stages[f"x.{node}"].shape[1:] == tuple(-(-side // 2**i) for side in size)
    assert stages[""].shape == (1, *size)


def test_odd_sizes_stay_in_place() -> None:
    """Away from the border a crop by one row and column changes nothing: no map is shifted or stretched."""
    model = UNetPP(width=2, level=2).double().eval()
    x = torch.rand(1, 3, 80, 80, dtype=torch.float64)
    inside = (slice(None), slice(None), slice(0, 40), slice(0, 40))
    torch.testing.assert_close(model(x[..., :79, :77])[inside], model(x)[inside])


def test_a_mirrored_network_sees_the_mirrored_image() -> None:
    """Holds where sizes divide by 16; an odd size favours the upper left, where pooling starts."""
    model = UNetPP(width=3).double().eval()
    x = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    odd = x[..., :47]
    expected, expected_odd = model(x).flip(-1), model(odd).flip(-1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 4:
                p.copy_(p.flip(-1))
    torch.testing.assert_close(model(x.flip(-1)), expected)
    assert not torch.allclose(model(odd.flip(-1)), expected_odd)


def test_batch_norm_has_two_values_at_the_smallest_size() -> None:
    """At 17×17 the deepest map is 2×2; one pixel less and torch cannot train a batch of one, and says so."""
    model = UNetPP(1, 1, width=2, norm="batch").train()
    model(torch.rand(1, 1, 17, 17))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.rand(1, 1, 16, 16))
    assert UNetPP.min_size == model.min_size == 17
    assert UNetPP(width=1, level=1).min_size == 3


@pytest.mark.parametrize("supervision", [False, True])
def test_one_export_serves_every_size(supervision: bool) -> None:
    model = UNetPP(width=2, deep_supervision=supervision).eval()
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        model, (torch.rand(2, 3, 33, 47),), dynamic_shapes=({0: free, 2: free, 3: free},)
    ).module()
    for shape in ((3, 3, 17, 64), (2, 3, 48, 31)):
        x = torch.rand(shape)
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)


def test_weights_start_he_normal() -> None:
    model = UNetPP(width=16)
    for name, n in [("x.20.h.2", 9 * 64), ("x.31.h.0", 9 * 256), ("x.31.u", 256), ("x.04.h.0", 9 * 80)]:
        weight = model.get_submodule(name).weight
        assert weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.05), name


@pytest.mark.parametrize(("level", "widths"), [(1, {18}), (2, {44}), (3, {92, 100}), (4, {188, 204})])
def test_receptive_field(level: int, widths: set[int]) -> None:
    """Of output rows far enough from the border; two values where the place among 2^level rows matters."""
    spans = fields(UNetPP(1, 1, width=1, level=level), 256, 32)
    assert {last - first + 1 for first, last in spans[112:144]} == widths


def over(width: int = 4, **options: object) -> UNetPP:
    """Two classes, two channels; narrow but for the encoder."""
    return UNetPP(2, 2, encoder="resnet18", width=width, **options)


def move_statistics(model: UNetPP) -> UNetPP:
    """The model with scales, shifts and statistics other than the initial ones."""
    for key, tensor in model.state_dict().items():
        if tensor.ndim == 1 and not key.endswith("num_batches_tracked"):
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("encoder", OVER)
def test_parameters_over_an_encoder(encoder: str) -> None:
    decoder, totals, cost = OVER[encoder]
    given, out = IDLE.get(encoder, (0, 0))
    for classes, total in totals.items():
        model = meta(classes, 3, encoder=encoder)
        assert count(model) == total - given * out - 2 * out
        assert count(model.x) + count(model.full) == decoder
    assert macs(meta(1, 3, encoder=encoder), 256) == cost


def test_every_node_over_resnet34() -> None:
    model = meta(1, 3, encoder="resnet34")
    stages = profile(model, 256)
    nodes = [path for path in stages if re.fullmatch(r"(x|full)\.\d+", path)]
    assert set(nodes) == set(OVER_RESNET34)
    for node, (given, shape) in OVER_RESNET34.items():
        assert model.get_submodule(f"{node}.conv1")[0].in_channels == given
        assert stages[node].shape == shape
        size = "×".join(map(str, shape))
        assert f"| `{node}` | {given} → {shape[0]} | {size} | {stages[node].parameters:,} | `" in NOTE
    four = profile(meta(1, 3, encoder="resnet34", deep_supervision=True), 256)
    assert {path for path in four if re.fullmatch(r"(x|full)\.\d+", path)} - set(nodes) == {
        "full.1",
        "full.2",
        "full.3",
    }
    assert sum(stage.parameters for path, stage in four.items() if path in ("full.1", "heads.1")) == 11_729
    assert four[""].parameters == 26_078_609 + 3 * 11_729


def renamed(key: str) -> str:
    """The library's x_{d}_{l} is X^{3-l, l-d+1}; its x_0_4 the block to full size."""
    key = key.replace("segmentation_head.0.", "heads.4.").replace("decoder.blocks.x_0_4.", "full.4.")
    return re.sub(
        r"decoder\.blocks\.x_(\d)_(\d)\.",
        lambda m: f"x.{3 - int(m[2])}{int(m[2]) - int(m[1]) + 1}.",
        key,
    )


@pytest.mark.parametrize("supervision", [False, True])
def test_logits_are_the_librarys(supervision: bool) -> None:
    """With supervision its decoder's logits are X^{0,4}'s."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    library = smp.UnetPlusPlus("resnet34", encoder_weights=None, classes=2)
    model = UNetPP(2, encoder="resnet34", deep_supervision=supervision)
    theirs = {renamed(key): value for key, value in library.state_dict().items()}
    assert set(theirs) == {key for key in model.state_dict() if not re.match(r"(full|heads)\.[123]", key)}
    model.load_state_dict({**model.state_dict(), **theirs})

    x = torch.rand(2, 3, 64, 96)
    wanted = library.train()(x)  # moves the statistics of both away from 0 and 1
    close(model.train()(x).logits, wanted)
    if not supervision:
        close(model.eval()(x), library.eval()(x))


def close(found: Tensor, wanted: Tensor) -> None:
    """Within 1e-5 of the range of the logits."""
    assert (found - wanted).abs().max() <= 1e-5 * (wanted.max() - wanted.min())


def test_forward_over_an_encoder_is_equation_1() -> None:
    """Eq. 1 by recursion, at sizes that do not divide; H and U as the library has them."""
    model = move_statistics(over(deep_supervision=True).double())
    x = torch.randn(2, 2, 65, 79, dtype=torch.float64)
    weights = model.state_dict()
    columns = model.eval().encoder(x)

    def h(name: str, x: Tensor) -> Tensor:
        for conv in (f"{name}.conv1", f"{name}.conv2"):
            x = F.conv2d(x, weights[f"{conv}.0.weight"], padding=1)
            norm = [weights[f"{conv}.1.{word}"] for word in ("running_mean", "running_var", "weight", "bias")]
            x = F.batch_norm(x, *norm).relu()
        return x

    def node(i: int, j: int) -> Tensor:
        if j == 0:
            return columns[i]
        up = F.interpolate(node(i + 1, j - 1), columns[i].shape[2:], mode="nearest")
        return h(f"x.{i}{j}", torch.cat([up, *(node(i, k) for k in range(j - 1, -1, -1))], 1))

    heads = []
    for j in range(1, 5):
        y = h(f"full.{j}", F.interpolate(node(0, j), (65, 79), mode="nearest"))
        heads.append(F.conv2d(y, weights[f"heads.{j}.weight"], weights[f"heads.{j}.bias"], padding=1))
    torch.testing.assert_close(model(x), torch.stack(heads).mean(0))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_pruning_over_an_encoder_is_its_head_bit_for_bit(level: int, training: bool) -> None:
    model = move_statistics(over(deep_supervision=True)).train(training)
    small = model.prune(level)
    x = torch.rand(2, 2, 37, 50)
    wanted = {}
    model.heads[f"{level}"].register_forward_hook(lambda _, __, y: wanted.update(y=y))
    model(x)
    found = small(x)
    assert torch.equal(found.logits if training else found, wanted["y"])
    assert len(small.encoder.channels) == level + 1
    assert [*small.full, *small.heads] == [f"{level}", f"{level}"]


@pytest.mark.parametrize("level", OVER_LEVELS)
def test_levels_over_an_encoder_cost(level: int) -> None:
    parameters, cost, least = OVER_LEVELS[level]
    for model in (
        meta(1, 3, encoder="resnet34", level=level),
        meta(1, 3, encoder="resnet34", deep_supervision=True).prune(level),
    ):
        assert (count(model), macs(model, 256), model.min_size) == OVER_LEVELS[level]
    assert f"| {level} | {parameters:,} | {cost:,} | {least} |" in NOTE


@pytest.mark.parametrize("level", [1, 2, 3])
def test_levels_over_an_encoder_are_parts_of_the_whole(level: int) -> None:
    """Keys and widths; whether any weight lies idle, tests/test_contract.py asks."""
    whole = {key: value.shape for key, value in over(deep_supervision=True).state_dict().items()}
    part = {key: value.shape for key, value in over(level=level).state_dict().items()}
    assert part.items() <= whole.items()
    assert over(level=level, deep_supervision=True).aux_weights == (1.0,) * (level - 1)


def test_a_pruned_network_expects_the_same_input() -> None:
    """The weights' normalisation goes with them, whether the encoder's or the whole network's."""
    model = over(deep_supervision=True)
    assert zoo.registry.normalisation(model.prune(1)) is None
    model.encoder.normalisation = of_encoder = Normalisation((0.1, 0.2), (0.3, 0.4))
    assert zoo.registry.normalisation(model.prune(1)) == of_encoder
    model.normalisation = of_model = Normalisation((0.0, 0.0), (1.0, 1.0))
    assert zoo.registry.normalisation(model.prune(1)) == of_model


def test_batch_norm_has_two_values_at_the_smallest_size_over_an_encoder() -> None:
    model = over(level=3).train()
    assert model.min_size == 17
    model(torch.rand(1, 2, 17, 17))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.rand(1, 2, 16, 16))
    assert over().min_size == 33


def test_one_export_over_an_encoder_serves_every_size() -> None:
    model = over(deep_supervision=True, level=3).eval()
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        model, (torch.rand(2, 2, 33, 47),), dynamic_shapes=({0: free, 2: free, 3: free},)
    ).module()
    for shape in ((3, 2, 18, 64), (2, 2, 48, 35)):
        x = torch.rand(shape)
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)


def test_width_and_norm_over_an_encoder() -> None:
    """`width` is that of the last nodes; BatchNorm there is in any case, so the default recipe serves."""
    shapes = {key: value.shape for key, value in over(width=8).state_dict().items()}
    assert shapes == {key: value.shape for key, value in over(width=8, norm="batch").state_dict().items()}
    for node, width in (("x.31", 64), ("x.22", 32), ("x.13", 16), ("x.04", 8), ("full.4", 4)):
        assert shapes[f"{node}.conv2.0.weight"][:2] == (width, width)
    assert shapes["x.12.conv2.0.weight"][:2] == (64, 64)  # layer1's


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder": "resnet18", "width": 1}, "^unetpp: width 1 must be >= 2 over an encoder$"),
        ({"encoder": "resnet18", "norm": "layer"}, "^unetpp: norm 'layer' must be None or 'batch'$"),
        ({"width": 0}, "^unetpp: width 0 must be >= 1$"),
        ({"encoder": "resnet18", "level": 5}, "^unetpp: level 5 must be 1, 2, 3 or 4$"),
        ({"encoder": "resnet5"}, "unknown encoder 'resnet5'"),
        ({"pretrained": True}, "pretrained=True needs an encoder"),
    ],
)
def test_what_an_encoder_cannot_do(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says), torch.device("meta"):
        UNetPP(**options)
