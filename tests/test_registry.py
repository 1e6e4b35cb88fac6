"""If these break, users build another network than they asked for, or meet a trace instead of a sentence."""

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests import small
from zoo import registry
from zoo.errors import InputError
from zoo.layers import Output

PAPER = {
    "title": "A Paper",
    "authors": "A. Author",
    "year": 2031,
    "url": "https://example.org",
    "note": "papers/a.md",
}


class Toy(nn.Module):
    """The least that keeps the contract."""

    aux_weights: tuple[float, ...] = ()
    margin = 0
    min_size, size_step = 1, 1

    def __init__(self, num_classes: int = 5, in_channels: int = 3, *, width: int = 8) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.width = num_classes, in_channels, width
        self.conv = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor | Output:
        return Output(self.conv(x)) if self.training else self.conv(x)


class WithEncoder(Toy):
    """What later architectures look like: an encoder by name, with or without its weights."""

    def __init__(
        self,
        num_classes: int = 5,
        in_channels: int = 3,
        *,
        width: int = 8,
        encoder: str = "resnet18",
        pretrained: bool = False,
        rates: tuple[int, ...] = (6, 12),
        scale: float = 1.0,
    ) -> None:
        super().__init__(num_classes, in_channels, width=width)
        self.encoder, self.pretrained, self.rates, self.scale = encoder, pretrained, rates, scale


@pytest.fixture(autouse=True)
def _own_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


@pytest.fixture
def with_encoder() -> None:
    registry.register(
        "toynet", **PAPER, encoders=("resnet18", "resnet50"), encoders_why="the toy is small"
    )(WithEncoder)


def test_public_surface() -> None:
    assert set(zoo.__all__) == {"build", "names", "describe", "fold", "load", "weights"}
    older = ["unet", "unet_halved", "fcn", "pspnet", "unetpp", "deeplabv3plus", "hrnet_ocr"]
    assert zoo.names() == [*older, *(f"segformer_b{size}" for size in range(6))]
    assert all(isinstance(zoo.build(name, width=1), nn.Module) for name in ("unet", "unetpp"))


def test_arguments_reach_the_class() -> None:
    model = zoo.build("unetpp", 29, 1, width=2, norm="batch", deep_supervision=True, level=3)
    assert (model.num_classes, model.in_channels, model.width, model.level) == (29, 1, 2, 3)
    assert (model.norm, model.deep_supervision) == ("batch", True)


def test_none_means_the_papers_own() -> None:
    unet, unetpp = zoo.build("unet", width=1), zoo.build("unetpp", width=1)
    assert (unet.num_classes, unet.in_channels) == (2, 1)
    assert (unetpp.num_classes, unetpp.in_channels) == (1, 3)


@pytest.mark.parametrize("name", small.NAMES)
def test_same_seed_same_weights(name: str) -> None:
    options = small.options(name)
    torch.manual_seed(7)
    first = zoo.build(name, **options).state_dict()
    torch.manual_seed(7)
    second = zoo.build(name, **options).state_dict()
    third = zoo.build(name, **options).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], third[key]) for key in first)


def test_describe_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    zoo.describe("unetpp")
    assert torch.equal(torch.get_rng_state(), before)


def test_describe() -> None:
    about = zoo.describe("unet")
    assert (about.name, about.year, about.note) == ("unet", 2015, "papers/unet.md")
    assert about.title == "U-Net: Convolutional Networks for Biomedical Image Segmentation"
    assert about.options == {"width": 64, "dropout": 0.5, "padded": False}
    assert (about.num_classes, about.in_channels, about.encoders) == (2, 1, ())
    assert about.parameters == 31_030_658
    with torch.device("meta"):
        assert about.macs == registry.macs(zoo.build("unet"), 700)  # the tile 700 -> 516 covers 512
    assert zoo.describe("unetpp").parameters == 9_042_177
    assert zoo.describe("unetpp").options == {
        "width": 32,
        "norm": None,
        "deep_supervision": False,
        "level": 4,
    }


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: zoo.build("unetp"), r"unknown architecture 'unetp'; nearest: unetpp, unet"),
        (lambda: zoo.describe("segnet"), r"unknown architecture 'segnet'; (nearest|known): .*unet"),
        (lambda: zoo.build("unet", widht=3), r"unet has no option 'widht'; nearest: width; see zoo.describe"),
        (lambda: zoo.build("unet", num_class=3), r"no option 'num_class'; known: dropout, padded, width"),
        (lambda: zoo.build("unet", width="wide"), r"option width of unet must be int, not 'wide'"),
        (lambda: zoo.build("unet", width=True), r"option width of unet must be int, not True"),
        (lambda: zoo.build("unet", width=0), r"width 0 must be >= 1"),
        (lambda: zoo.build("unet", dropout=1.0), r"dropout 1.0 in \[0, 1\)"),
        (lambda: zoo.build("unetpp", norm=3), r"option norm of unetpp must be str \| None, not 3"),
        (lambda: zoo.build("unetpp", norm="layer"), r"norm 'layer' must be None or 'batch'"),
        (lambda: zoo.build("unetpp", level=5), r"level 5 must be 1, 2, 3 or 4"),
        (lambda: zoo.build("unet", 0), r"num_classes of unet must be a whole number >= 1, not 0"),
        (lambda: zoo.build("unet", in_channels="3"), r"in_channels of unet must be a whole number"),
        (lambda: zoo.build("unet", encoder="resnet50"), r"unet has no choice of encoder.*available for: "),
        (lambda: zoo.build("fcn", pretrained=1), r"pretrained of fcn must be True, False or a name .*not 1"),
        (lambda: zoo.build("fcn", pretrained=None), r"pretrained of fcn must be True, .*, not None"),
        (lambda: zoo.build("fcn", reset_head=True), r"reset_head of fcn: .* unless pretrained is a name of"),
        (lambda: zoo.build("fcn", pretrained=True, reset_head=True), r"reset_head of fcn: .*leave reset_"),
        (lambda: zoo.build("unet", pretrained=True), r"unet without an encoder has no ImageNet weights"),
    ],
)
def test_a_wrong_word_gets_a_sentence(call: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.usefixtures("with_encoder")
def test_encoders_and_pretrained_weights_are_chosen_by_name() -> None:
    model = zoo.build("toynet", encoder="resnet50", scale=2, rates=(1, 2, 3))
    assert (model.encoder, model.pretrained, model.scale, model.rates) == ("resnet50", False, 2, (1, 2, 3))
    assert zoo.build("toynet").encoder == "resnet18"
    assert zoo.build("toynet", pretrained=True).pretrained is True
    about = zoo.describe("toynet")
    assert about.encoders == ("resnet18", "resnet50")
    assert set(about.options) == {"width", "rates", "scale"}
    with pytest.raises(InputError, match=r"unknown encoder 'resnet5' for toynet; nearest: resnet50"):
        zoo.build("toynet", encoder="resnet5")
    with pytest.raises(InputError, match=r"'resnet34' is not possible with toynet, .*: the toy is small"):
        zoo.build("toynet", encoder="resnet34")
    with pytest.raises(InputError, match=r"unet has no choice of encoder .*available for: .*toynet"):
        zoo.build("unet", encoder="resnet50")
    with pytest.raises(InputError, match=r"rates of toynet must be .*tuple.*, not \[1, 2\]"):
        zoo.build("toynet", rates=[1, 2])


def test_a_table_of_variants_registers_a_name_a_row() -> None:
    registry.register({"toy_s": {"width": 2}, "toy_l": {"width": 64}}, **PAPER)(Toy)
    assert zoo.build("toy_s").width == 2
    assert zoo.build("toy_l").width == 64
    assert zoo.build("toy_l", width=3).width == 3
    assert zoo.describe("toy_l").options == {"width": 64}
    assert registry.architecture("toy_s") is Toy


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="'unet' is registered twice"):
        registry.register("unet", **PAPER)(Toy)
    assert zoo.describe("unet").year == 2015


def _without(word: str) -> type[nn.Module]:
    return type("Broken", (Toy,), {word: None})


class KeywordSwallower(Toy):
    def __init__(self, num_classes: int = 5, in_channels: int = 3, **options: object) -> None:
        super().__init__(num_classes, in_channels)


class NoDefault(Toy):
    def __init__(self, num_classes: int, in_channels: int = 3, *, width: int = 8) -> None:
        super().__init__(num_classes, in_channels)


class OtherOrder(Toy):
    def __init__(self, in_channels: int = 3, num_classes: int = 5, *, width: int = 8) -> None:
        super().__init__(num_classes, in_channels)


class Positional(Toy):
    def __init__(self, num_classes: int = 5, in_channels: int = 3, width: int = 8) -> None:
        super().__init__(num_classes, in_channels)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_without("aux_weights"), "aux_weights must be a tuple"),
        (_without("margin"), "margin must be a whole number >= 0"),
        (_without("min_size"), "min_size must be a whole number >= 1"),
        (_without("size_step"), "size_step must be a whole number >= 1"),
        (KeywordSwallower, "options must be keyword-only"),
        (NoDefault, "num_classes has no default"),
        (OtherOrder, "the first two arguments"),
        (Positional, "width must be keyword-only"),
    ],
)
def test_a_class_that_breaks_the_contract_is_refused(broken: type[nn.Module], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        registry.register("broken", **PAPER)(broken)
    assert "broken" not in zoo.names()


def test_words_that_the_class_does_not_take_are_refused() -> None:
    with pytest.raises(TypeError, match="encoder is not an argument"):
        registry.register("broken", **PAPER, encoders=("resnet18",))(Toy)
    with pytest.raises(TypeError, match="depth is not an argument"):
        registry.register({"broken": {"depth": 3}}, **PAPER)(Toy)


@pytest.mark.parametrize(
    ("size", "legal"),
    [(4, (4, 4)), (1, (4, 4)), (5, (20, 20)), (388, (388, 388)), (512, (516, 516)), ((260, 700), (260, 708))],
)
def test_legal_size_of_the_unet_is_4_plus_16k(size: int | tuple[int, int], legal: tuple[int, int]) -> None:
    model = zoo.build("unet", width=1)
    assert registry.legal_size(model, size) == legal
    assert registry.legal_size(registry.architecture("unet"), size) == legal
    registry.check_size(model, legal)


def test_any_size_from_the_smallest_is_legal_elsewhere() -> None:
    model = zoo.build("unetpp", width=1)
    assert registry.legal_size(model, (3, 511)) == (17, 511)
    registry.check_size(model, (17, 511))
    with pytest.raises(InputError, match="size 16 is too small for UNetPP; its smallest is 17"):
        registry.check_size(model, (64, 16))


@pytest.mark.parametrize("size", [512, (388, 512)])
def test_a_size_in_between_names_both_neighbours(size: int | tuple[int, int]) -> None:
    says = "size 512 is not possible for UNet, whose outputs measure 4, 20, 36, …; nearest: 500 or 516"
    for model in (zoo.build("unet", width=1), registry.architecture("unet")):
        with pytest.raises(InputError, match=says):
            registry.check_size(model, size)
