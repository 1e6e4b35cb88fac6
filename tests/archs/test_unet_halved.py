"""If these break, `zoo.build("unet_halved")` is not the network of the hand-bone ranking any more, or
weights of segmentation_models_pytorch's U-Net give other masks here than there.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo import encoders
from zoo.archs.unet_halved import UNetHalved, halved
from zoo.errors import InputError
from zoo.profile import macs, profile

NOTE = (Path(__file__).resolve().parents[2] / "papers" / "unet_halved.md").read_text(encoding="utf-8")
LIBRARY = (256, 128, 64, 32, 16)  # what segmentation_models_pytorch puts behind any encoder

# Counted with segmentation_models_pytorch 0.6.0 and timm 1.0.31, built with these decoder_channels.
# encoder: blocks (concatenated channels, halved ones, parameters), multiply-adds of 1 class at 224×224
BLOCKS = {
    "resnet18": (
        [
            (768, 384, 3_982_848), (512, 256, 1_770_496), (320, 160, 691_840),
            (224, 112, 339_136), (112, 56, 84_896),
        ],
        14_671_060_992,
    ),
    "resnet34": (
        [
            (768, 384, 3_982_848), (512, 256, 1_770_496), (320, 160, 691_840),
            (224, 112, 339_136), (112, 56, 84_896),
        ],
        16_520_749_056,
    ),
    "resnet50": (
        [
            (3072, 1536, 63_707_136), (2048, 1024, 28_315_648), (1280, 640, 11_061_760),
            (704, 352, 3_346_816), (352, 176, 837_056),
        ],
        157_459_513_344,
    ),
    "resnet101": (
        [
            (3072, 1536, 63_707_136), (2048, 1024, 28_315_648), (1280, 640, 11_061_760),
            (704, 352, 3_346_816), (352, 176, 837_056),
        ],
        161_171_734_528,
    ),
    "efficientnet_b0": (
        [
            (432, 216, 1_260_576), (256, 128, 442_880), (152, 76, 156_256),
            (108, 54, 78_948), (54, 27, 19_791),
        ],
        3_434_671_072,
    ),
    "efficientnet_b4": (
        [
            (608, 304, 2_496_448), (360, 180, 875_520), (212, 106, 303_796),
            (154, 77, 160_391), (77, 38, 39_482),
        ],
        7_587_527_136,
    ),
    "efficientnet_b7": (
        [
            (864, 432, 5_040_576), (512, 256, 1_770_496), (304, 152, 624_416),
            (216, 108, 315_360), (108, 54, 78_948),
        ],
        17_343_464_896,
    ),
    "regnet_x_32gf": (
        [
            (3864, 1932, 100_788_576), (2604, 1302, 45_775_716), (1638, 819, 18_113_823),
            (851, 425, 4_882_400), (425, 212, 1_216_244),
        ],
        266_468_155_968,
    ),
    "regnet_y_32gf": (
        [
            (5104, 2552, 175_853_216), (3248, 1624, 71_215_648), (1856, 928, 23_255_680),
            (960, 480, 6_222_720), (480, 240, 1_556_160),
        ],
        351_663_027_776,
    ),
}  # fmt: skip
# encoder: decoder, whole networks of 1, 2 and 21 classes; from the same library
COUNTS = {
    "resnet18": (6_869_216, 18_046_233, 18_046_738, 18_056_333),
    "resnet34": (6_869_216, 28_154_393, 28_154_898, 28_164_493),
    "resnet50": (107_268_416, 130_778_033, 130_779_618, 130_809_733),
    "resnet101": (107_268_416, 149_770_161, 149_771_746, 149_801_861),
    "efficientnet_b0": (1_958_451, 5_966_243, 5_966_487, 5_971_123),
    "efficientnet_b4": (3_875_637, 21_424_596, 21_424_939, 21_431_456),
    "efficientnet_b7": (7_829_796, 71_617_243, 71_617_730, 71_626_983),
    "regnet_x_32gf": (170_776_759, 276_069_228, 276_071_137, 276_107_408),
    "regnet_y_32gf": (278_103_424, 419_439_355, 419_441_516, 419_482_575),
}
# What those counts hold and ours do not: EfficientNet's last 1×1 convolution with its BatchNorm, which feeds
# the classifier alone; in the library it lies idle, so the multiply-adds are the same.
IDLE = {
    "efficientnet_b0": 320 * 1_280 + 2 * 1_280,
    "efficientnet_b4": 448 * 1_792 + 2 * 1_792,
    "efficientnet_b7": 640 * 2_560 + 2 * 2_560,
}


class Tiny(encoders.Encoder):
    """An encoder without a map at stride 2, like HRNet and MiT: strides 4, 8, 16, 32; sizes round up."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides = in_channels, (5, 6, 7, 9), (4, 8, 16, 32)
        self.stem = nn.Conv2d(in_channels, 3, 3, 2, 1)
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2, 1) for a, b in zip((3, 5, 6, 7), self.channels, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> UNetHalved:
    monkeypatch.setattr(encoders, "build", lambda name, in_channels, pretrained: Tiny(in_channels))
    return UNetHalved(2, 1)


def meta(encoder: str, num_classes: int = 1, **options: object) -> UNetHalved:
    with torch.device("meta"):
        return UNetHalved(num_classes, encoder=encoder, **options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("encoder", BLOCKS)
def test_every_block_halves_what_it_is_given(encoder: str) -> None:
    blocks, cost = BLOCKS[encoder]
    model = meta(encoder)
    stages = profile(model, 224)
    for i, (given, half, parameters) in enumerate(blocks):
        stage = stages[f"decoder.{i}"]
        assert model.decoder[i].conv1[0].in_channels == given
        assert stage.shape == (half, *2 * (224 // 2 ** (4 - i),))
        assert stage.parameters == parameters
    assert macs(model, 224) == cost
    decoder_channels = tuple(half for _, half, _ in blocks)
    assert model.decoder_channels == halved(model.encoder.channels, model.encoder.strides) == decoder_channels
    assert count(model.decoder) == sum(parameters for *_, parameters in blocks) == COUNTS[encoder][0]


@pytest.mark.parametrize("encoder", COUNTS)
def test_parameters(encoder: str) -> None:
    totals = COUNTS[encoder][1:]
    for num_classes, total in zip((1, 2, 21), totals, strict=True):
        assert count(meta(encoder, num_classes)) == total - IDLE.get(encoder, 0)


@pytest.mark.parametrize(
    ("encoder", "decoder", "total"),
    [
        ("resnet18", 3_151_552, 14_328_209),
        ("resnet34", 3_151_552, 24_436_369),
        ("resnet50", 9_012_928, 32_521_105),
        ("resnet101", 9_012_928, 51_513_233),
        ("resnet152", 9_012_928, 67_156_881),
        ("efficientnet_b0", 2_243_776, 6_251_469 - IDLE["efficientnet_b0"]),
        ("efficientnet_b4", 2_676_928, 20_225_689 - IDLE["efficientnet_b4"]),
        ("efficientnet_b7", 3_308_224, 67_095_329 - IDLE["efficientnet_b7"]),
        ("regnet_x_32gf", 11_058_880, 116_349_585),
        ("regnet_y_32gf", 13_883_584, 155_217_499),
    ],
)
def test_the_librarys_channels_cost_what_they_cost_there(encoder: str, decoder: int, total: int) -> None:
    model = meta(encoder, decoder_channels=LIBRARY)
    assert (count(model.decoder), count(model)) == (decoder, total)


def times(encoder: str) -> float:
    return count(meta(encoder).decoder) / count(meta(encoder, decoder_channels=LIBRARY).decoder)


def test_the_price_of_halving() -> None:
    """Bottlenecks hand over four times the channels, and nothing narrows them before they are joined."""
    assert times("resnet101") == times("resnet50") == pytest.approx(11.90, abs=0.005)
    assert times("resnet34") == pytest.approx(2.18, abs=0.005)
    assert times("efficientnet_b7") == pytest.approx(2.37, abs=0.005)


@pytest.mark.parametrize("encoder", BLOCKS)
def test_the_note_has_the_table(encoder: str) -> None:
    """Row by row as the literals above have it."""
    blocks, _ = BLOCKS[encoder]
    steps = ", ".join(f"{given} → {half}" for given, half, _ in blocks)
    decoder, total, *_ = COUNTS[encoder]
    fixed = count(meta(encoder, decoder_channels=LIBRARY).decoder)
    counts = f"{decoder:,} | {total - IDLE.get(encoder, 0):,} | {fixed:,} | {decoder / fixed:.1f}"
    assert f"| `{encoder}` | {steps} | {counts} |" in NOTE


def renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The library's state dict under our keys."""
    words = {"decoder.blocks.": "decoder.", "segmentation_head.0.": "head."}
    for word, ours in words.items():
        theirs = {key.replace(word, ours): value for key, value in theirs.items()}
    return theirs


@pytest.mark.parametrize("decoder_channels", [None, LIBRARY])
@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_logits_are_the_librarys(decoder_channels: tuple[int, ...] | None, size: tuple[int, int]) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = UNetHalved(2, encoder="resnet34", decoder_channels=decoder_channels)
    library = smp.Unet("resnet34", encoder_weights=None, classes=2, decoder_channels=model.decoder_channels)
    model.load_state_dict(renamed(library.state_dict()), strict=True)
    x = torch.rand(2, 3, *size)
    wanted = library.train()(x)  # moves the statistics of both away from 0 and 1
    close(model.train()(x).logits, wanted)
    close(model.eval()(x), library.eval()(x))


def close(found: Tensor, wanted: Tensor) -> None:
    """Within 1e-5 of the range of the logits."""
    assert (found - wanted).abs().max() <= 1e-5 * (wanted.max() - wanted.min())


@pytest.mark.parametrize("size", [(33, 33), (65, 97), (64, 95)])
def test_each_block_meets_the_size_of_its_skip(size: tuple[int, int]) -> None:
    stages = profile(meta("resnet18", decoder_channels=(8, 4, 4, 4, 4)), size)
    for i, stride in enumerate((16, 8, 4, 2, 1)):
        assert stages[f"decoder.{i}"].shape[1:] == tuple(-(-side // stride) for side in size)
    assert stages[""].shape == (1, *size)


def test_batch_norm_has_two_values_at_the_smallest_size() -> None:
    """At 33×33 the deepest map is 2×2; one pixel less and torch cannot train a batch of one, and says so."""
    model = UNetHalved(1, 1, encoder="resnet18", decoder_channels=(4, 4, 4, 4, 4)).train()
    model(torch.rand(1, 1, 33, 33))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.rand(1, 1, 32, 32))
    assert UNetHalved.min_size == 33


def test_an_encoder_that_starts_at_stride_4(tiny: UNetHalved) -> None:
    """No map at stride 2: that block doubles and halves its channels all the same, without a skip."""
    assert tiny.decoder_channels == halved(tiny.encoder.channels, tiny.encoder.strides) == (8, 7, 6, 3, 1)
    for block, given in zip(tiny.decoder, (9 + 7, 8 + 6, 7 + 5, 6, 3), strict=True):
        assert block.conv1[0].in_channels == given

    tiny.eval().double()
    x = torch.randn(2, 1, 65, 97, dtype=torch.float64)
    *skips, y = tiny.encoder(x)
    for block, skip, stride in zip(tiny.decoder, [*skips[::-1], None, None], (16, 8, 4, 2, 1), strict=True):
        y = F.interpolate(y, size=tuple(-(-side // stride) for side in (65, 97)), mode="nearest")
        y = torch.cat([y, skip], 1) if skip is not None else y
        y = block.conv2(block.conv1(y))
    torch.testing.assert_close(tiny(x), tiny.head(y))

    total = tiny.train()(x).logits.square().sum()
    total.backward()
    assert all(p.grad is not None for p in tiny.parameters())


@pytest.mark.parametrize("which", ["tiny", "resnet18"])
def test_one_export_serves_every_size(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue("tiny") if which == "tiny" else UNetHalved(2, 1, encoder="resnet18")
    model.eval()
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        model, (torch.rand(2, 1, 65, 79),), dynamic_shapes=({0: free, 2: free, 3: free},)
    ).module()
    for shape in ((3, 1, 34, 64), (2, 1, 48, 35)):
        x = torch.rand(shape)
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_one_trace_serves_every_size_without_a_map_at_stride_2(tiny: UNetHalved) -> None:
    tiny.eval()
    traced = torch.jit.trace(tiny, torch.rand(1, 1, 40, 40))
    x = torch.rand(2, 1, 47, 66)
    torch.testing.assert_close(traced(x), tiny(x), rtol=1e-4, atol=1e-5)


def test_weights_start_as_in_the_library() -> None:
    """Decoder: He uniform by fan-in, bound sqrt(6 / n).  Head: Xavier uniform, bound sqrt(6 / (n + m))."""
    model = UNetHalved(3, encoder="resnet18", decoder_channels=(64, 32, 32, 32, 16))
    for block, given in zip(model.decoder, (768, 192, 96, 96, 32), strict=True):
        for conv, n in ((block.conv1[0], 9 * given), (block.conv2[0], 9 * block.conv2[0].in_channels)):
            assert conv.bias is None
            assert conv.weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.05)
            assert conv.weight.abs().max().item() == pytest.approx((6 / n) ** 0.5, rel=0.01)
    assert model.head.weight.abs().max().item() == pytest.approx((6 / (9 * 16 + 9 * 3)) ** 0.5, rel=0.05)
    assert model.head.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"decoder_channels": (64, 32)}, r"decoder_channels \(64, 32\) must be five numbers >= 1"),
        ({"decoder_channels": ()}, r"decoder_channels \(\) must be five numbers"),
        ({"decoder_channels": (64, 32, 16, 8, 0)}, r"must be five numbers >= 1, one a block"),
        ({"decoder_channels": 64}, r"decoder_channels of unet_halved must be tuple"),
        ({"encoder": "resnet35"}, r"unknown encoder 'resnet35' for unet_halved; nearest: .*resnet34"),
        ({"width": 3}, r"unet_halved has no option 'width'"),
    ],
)
def test_a_wrong_word_gets_a_sentence(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says), torch.device("meta"):
        zoo.build("unet_halved", **options)


def test_any_encoder_of_the_zoo_goes() -> None:
    """Also those with other widths and rounding; three channels, one class, an odd size."""
    for name in encoders.names():
        assert profile(meta(name), (65, 97))[""].shape == (1, 65, 97), name
