"""If these break, torchvision's FCN weights do not load as they are, or give other logits here."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.scatter import assert_starts_as_torchs, scattered
from zoo import encoders
from zoo.archs.fcn import FCN
from zoo.errors import InputError
from zoo.layers import Output
from zoo.profile import macs, profile
from zoo.registry import build

# ResNet-50, 3×520×520, 21 classes: output, parameters.
STAGES = [
    ("backbone.conv1", (64, 260, 260), 9_408),
    ("backbone.bn1", (64, 260, 260), 128),
    ("backbone.maxpool", (64, 130, 130), 0),
    ("backbone.layer1", (256, 130, 130), 215_808),
    ("backbone.layer2", (512, 65, 65), 1_219_584),
    ("backbone.layer3", (1024, 65, 65), 7_098_368),
    ("backbone.layer4", (2048, 65, 65), 14_964_736),
    ("classifier", (21, 65, 65), 9_448_981),
]
# encoder, classes: parameters with the auxiliary head, without
PARAMETERS = [
    ("resnet50", 1, 35_306_818, 32_946_753),
    ("resnet50", 2, 35_307_588, 32_947_266),
    ("resnet50", 19, 35_320_678, 32_955_987),
    ("resnet50", 21, 35_322_218, 32_957_013),  # with: what torchvision says of its weights
    ("resnet50", 150, 35_421_548, 33_023_190),
    ("resnet101", 1, 54_298_946, 51_938_881),
    ("resnet101", 2, 54_299_716, 51_939_394),
    ("resnet101", 19, 54_312_806, 51_948_115),
    ("resnet101", 21, 54_314_346, 51_949_141),
    ("resnet101", 150, 54_413_676, 52_015_318),
]


def meta(*args: int, **options: object) -> FCN:
    with torch.device("meta"):
        return FCN(*args, **options)


def torchvisions(name: str, classes: int = 21, aux: bool = True) -> nn.Module:
    return torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux
    )


def test_every_stage() -> None:
    stages = profile(meta(aux=False), 520)
    for path, shape, parameters in STAGES:
        assert (path, stages[path].shape, stages[path].parameters) == (path, shape, parameters)
    assert (stages[""].shape, stages[""].parameters) == ((21, 520, 520), 32_957_013)
    assert sum(parameters for *_, parameters in STAGES) == 32_957_013


@pytest.mark.parametrize(("encoder", "classes", "parameters", "without"), PARAMETERS)
def test_parameters(encoder: str, classes: int, parameters: int, without: int) -> None:
    for model, wanted in (
        (meta(classes, encoder=encoder), parameters),
        (meta(classes, encoder=encoder, aux=False), without),
    ):
        assert sum(p.numel() for p in model.parameters()) == wanted


@pytest.mark.parametrize(
    ("encoder", "size", "multiply_adds"),
    [
        ("resnet50", 520, 142_725_772_800),
        ("resnet50", 512, 138_367_991_808),
        ("resnet101", 520, 222_746_867_200),
        ("resnet101", 512, 215_945_838_592),
    ],
)
def test_multiply_adds(encoder: str, size: int, multiply_adds: int) -> None:
    """In eval; what torchvision publishes for 520 holds the auxiliary head, which there runs in eval, too."""
    assert macs(meta(encoder=encoder), size) == multiply_adds
    auxiliary = (size // 8) ** 2 * (1024 * 256 * 9 + 256 * 21)
    if size == 520:
        published = {"resnet50": 152.717, "resnet101": 232.738}[encoder]
        assert (multiply_adds + auxiliary) / 1e9 == pytest.approx(published, abs=5e-4)


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), [("fcn_resnet50", (65, 98)), ("fcn_resnet101", (40, 47))])
def test_logits_are_torchvisions(name: str, size: tuple[int, int]) -> None:
    """Its state dict goes in as it is; both heads to 1e-5 of the range of their logits."""
    theirs = scattered(torchvisions(name))
    ours = FCN(encoder=name.removeprefix("fcn_")).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, *size)
    expected = theirs(x)
    logits = ours(x)
    ours.training = True  # the outputs of training; dropout and BatchNorm stay in eval mode
    output = ours(x)
    assert type(output) is Output
    assert torch.equal(logits, output.logits)
    for found, wanted in ((logits, expected["out"]), (*output.aux, expected["aux"])):
        assert (found - wanted).abs().max() <= 1e-5 * (wanted.max() - wanted.min())


@pytest.mark.parametrize("aux", [True, False])
@pytest.mark.parametrize("name", ["fcn_resnet50", "fcn_resnet101"])
def test_keys_are_torchvisions(name: str, aux: bool) -> None:
    with torch.device("meta"):
        theirs = torchvisions(name, 3, aux).state_dict()
        ours = FCN(3, encoder=name.removeprefix("fcn_"), aux=aux).state_dict()
    assert {key: t.shape for key, t in ours.items()} == {key: t.shape for key, t in theirs.items()}
    assert len(ours) == {"fcn_resnet50": 326, "fcn_resnet101": 632}[name] + 8 * aux


@torch.no_grad()
def test_training_is_torchvisions() -> None:
    """Batch statistics, what they leave behind, and every gradient: in double, without dropout."""
    theirs = torchvisions("fcn_resnet50", 3).double().train()
    ours = FCN(3).double().train()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for model in (ours, theirs):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    x = torch.randn(2, 3, 17, 25, dtype=torch.float64)
    with torch.enable_grad():
        logits, (aux,) = ours(x)
        (logits.square().mean() + ours.aux_weights[0] * aux.square().mean()).backward()
        expected = theirs(x)
        (expected["out"].square().mean() + 0.5 * expected["aux"].square().mean()).backward()
    weights = theirs.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in ours.state_dict().items())
    gradients = dict(theirs.named_parameters())
    for key, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, gradients[key].grad)


@torch.no_grad()
def test_the_other_dilation_rule_is_another_network() -> None:
    """The same keys and counts, but logits a tenth of their range away: only outputs show the mistake."""
    model = scattered(FCN())
    x = torch.randn(1, 3, 105, 105)
    logits = model(x)
    other = encoders.build("resnet50", output_stride=8, dilate_first=True).eval()
    other.load_state_dict(model.backbone.state_dict(), strict=True)
    model.backbone = other
    assert (model(x) - logits).abs().max() > 0.1 * (logits.max() - logits.min())


@torch.no_grad()
def test_dropout_takes_single_values() -> None:
    """A tenth of them, not of the channels, as in torchvision."""
    model = FCN(2, encoder="resnet18")
    seen: list[Tensor] = []
    for head in (model.classifier, model.aux_classifier):
        head[1].bias.fill_(9.0)  # so that no ReLU makes the zeros
        head[4].register_forward_pre_hook(lambda _, xs: seen.append(xs[0].flatten(2)))
    model.train()(torch.randn(2, 3, 64, 64))
    for y in seen:
        assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
        assert not (y == 0).all(2).any()


@torch.no_grad()
def test_the_auxiliary_head_does_not_touch_the_logits() -> None:
    model = scattered(FCN(3, encoder="resnet18"))
    bare = FCN(3, encoder="resnet18", aux=False).eval()
    weights = model.state_dict()
    bare.load_state_dict({key: w for key, w in weights.items() if not key.startswith("aux_classifier.")})
    x = torch.randn(2, 3, 40, 56)
    assert torch.equal(bare(x), model(x))
    assert (model.aux_weights, bare.aux_weights, bare.train()(x).aux) == ((0.5,), (), ())


@pytest.mark.parametrize(
    "encoder",
    ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"],
)
def test_every_encoder_that_it_takes(encoder: str) -> None:
    model = meta(2, 1, encoder=encoder)
    assert model.encoder is model.backbone
    assert model.eval()(torch.empty(1, 1, 33, 47, device="meta")).shape == (1, 2, 33, 47)


@pytest.mark.parametrize("encoder", ["resnet50s", "xception65"])
def test_other_encoders_are_refused(encoder: str) -> None:
    with pytest.raises(InputError, match=f"'{encoder}' is not possible with fcn, which takes .* 7×7"):
        build("fcn", encoder=encoder)
    with pytest.raises(InputError, match="unknown encoder 'vgg16' for fcn"):
        build("fcn", encoder="vgg16")


def test_the_default_network_trains_on_one_image() -> None:
    """At 9×9, where the deepest map is 2×2; at 8×8 torch cannot train BatchNorm, and says so."""
    model = FCN().train()
    logits, aux = model(torch.randn(1, 3, 9, 9))
    assert [tuple(t.shape) for t in (logits, *aux)] == [(1, 21, 9, 9)] * 2
    (logits.square().mean() + aux[0].square().mean()).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.randn(1, 3, 8, 8))
    assert model.min_size == 9


def test_heads_start_as_torchs() -> None:
    """Uniform within the root of 1 / fan-in, which torchvision leaves as it is."""
    model = FCN(50, encoder="resnet50")
    for conv in (model.classifier[0], model.aux_classifier[0], model.classifier[4]):
        assert_starts_as_torchs(conv)


def test_the_encoder_starts_as_it_does_alone() -> None:
    torch.manual_seed(3)
    alone = encoders.build("resnet18").state_dict()
    torch.manual_seed(3)
    weights = FCN(encoder="resnet18").encoder.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in alone.items())
