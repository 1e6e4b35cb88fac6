"""If these break, a public checkpoint gives another network's output, or half of it, without a word.

The installed references write the files, with random weights.  semseg is not on any index: its layout is made
from our own network by the names of its published files, and its graph is checked against a slow rebuilding.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import segmentation

import zoo
from zoo import download, encoders, weights
from zoo.encoders import Normalisation
from zoo.encoders.pretrained import IMAGENET, SOURCES
from zoo.errors import InputError
from zoo.weights.layouts import CLASSIFIERS, LAYOUTS

TINY = {"encoder": "resnet18"}


def randomised(model: nn.Module) -> nn.Module:
    """With running statistics that differ from what a fresh network has; in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-5 of the range."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * (theirs.max() - theirs.min())


def save(path: Path, content: nn.Module | dict) -> Path:
    torch.save(content.state_dict() if isinstance(content, nn.Module) else content, path)
    return path


def hollow(model: nn.Module) -> dict:
    """A state dict of its shapes, all zeros, that takes no room: for files that are refused."""
    return {key: torch.zeros((), dtype=t.dtype).expand(t.shape) for key, t in model.state_dict().items()}


def bare(name: str, *arguments: int, **options: object) -> nn.Module:
    """A network without storage: for files that are refused."""
    with torch.device("meta"):
        return zoo.build(name, *arguments, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


@pytest.fixture
def said() -> list[str]:
    return []


# ------------------------------------------------------------------ torchvision


def torchvision_fcn(classes: int = 5, aux: bool = True) -> nn.Module:
    """torchvision's FCN on a ResNet-50, built without its downloads."""
    trunk = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
    layers = {"layer4": "out", "layer3": "aux"} if aux else {"layer4": "out"}
    backbone = torchvision.models._utils.IntermediateLayerGetter(trunk, layers)
    head, extra = segmentation.fcn.FCNHead(2048, classes), segmentation.fcn.FCNHead(1024, classes)
    return randomised(segmentation.FCN(backbone, head, extra if aux else None))


def test_fcn_of_torchvision(path: Path, said: list[str]) -> None:
    reference = torchvision_fcn()
    model = zoo.build("fcn", 5)
    loaded = weights.load(model, save(path, reference), say=said.append)
    x = torch.randn(1, 3, 65, 47)
    assert_close(model.eval()(x), reference(x)["out"])
    aux = model.train().apply(lambda m: m.eval() if isinstance(m, nn.BatchNorm2d | nn.Dropout) else m)(x).aux
    assert_close(aux[0], reference(x)["aux"])
    tensors = len(reference.state_dict())
    line = f"weights.pth: torchvision's FCN (resnet50): {tensors} tensors -> fcn; normalisation: ImageNet's"
    assert said == [line]
    assert loaded.line == said[0]
    assert (loaded.fresh, loaded.options) == ((), {})
    assert loaded.normalisation == IMAGENET == zoo.registry.normalisation(model)


def test_an_auxiliary_head_that_only_the_file_has_is_dropped_and_said(path: Path, said: list[str]) -> None:
    reference = randomised(zoo.build("fcn", 5, **TINY))  # its keys are torchvision's: see above
    model = zoo.build("fcn", 5, **TINY, aux=False).eval()
    weights.load(model, save(path, reference), say=said.append)
    x = torch.randn(1, 3, 33, 33)
    assert torch.equal(model(x), reference(x))
    assert said[0].endswith("-> fcn; normalisation: ImageNet's; dropped: aux_classifier")


def test_an_auxiliary_head_that_only_the_model_has_is_refused(path: Path) -> None:
    save(path, hollow(zoo.build("fcn", 5, **TINY, aux=False)))
    with pytest.raises(InputError, match=r"has no auxiliary head, the model has one: build it with aux="):
        weights.load(bare("fcn", 5, **TINY), path)
    weights.load(zoo.build("fcn", 5, **TINY, aux=False), path, say=lambda line: None)


def test_deeplabv3_of_torchvision_fills_encoder_and_aspp(path: Path, said: list[str]) -> None:
    reference = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    randomised(reference)
    model = zoo.build("deeplabv3plus", 4, encoder="resnet50", output_stride=8, separable=False).eval()
    before = {key: t.clone() for key, t in model.state_dict().items()}
    loaded = weights.load(model, save(path, reference), say=said.append)
    x = torch.randn(1, 3, 65, 47)
    assert_close(model.aspp(model.encoder(x)[-1]), reference.classifier[0](reference.backbone(x)["out"]))
    assert loaded.fresh == ("low_level", "decoder", "head")
    for key, tensor in model.state_dict().items():
        if key.startswith(loaded.fresh):
            assert torch.equal(tensor, before[key])
    assert said[0].endswith("; dropped: classifier.[124], aux_classifier; fresh: low_level, decoder, head")


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 16},
        {"output_stride": 16, "rates": (12, 24, 36)},
        {"separable": True},
        {"rates": (6, 12, 18)},
        {"image_pooling": False},
        {"dilate_first": True},
    ],
)
def test_deeplabv3_of_torchvision_needs_the_same_graph(path: Path, options: dict) -> None:
    with torch.device("meta"):
        reference = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
    save(path, hollow(reference))
    model = bare("deeplabv3plus", encoder="resnet50", **{"output_stride": 8, "separable": False, **options})
    says = r"into this deeplabv3plus: build it with output_stride=8 and separable=False, the rest by default"
    with pytest.raises(InputError, match=says):
        weights.load(model, path)


# ------------------------------------------------------------------ segmentation_models_pytorch


@pytest.fixture
def smp() -> object:
    return pytest.importorskip("segmentation_models_pytorch")


@pytest.mark.parametrize("channels", [(256, 128, 64, 32, 16), (384, 256, 160, 112, 56)])
def test_unet_of_the_popular_library(smp: object, path: Path, said: list[str], channels: tuple) -> None:
    reference = randomised(smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=channels))
    model = zoo.build("unet_halved", 3, **TINY, decoder_channels=channels).eval()
    weights.load(model, save(path, reference), say=said.append)
    x = torch.randn(2, 3, 64, 96)
    assert_close(model(x), reference(x))
    assert said == [
        f"weights.pth: segmentation_models_pytorch's Unet (resnet18): {len(reference.state_dict())} tensors "
        f"-> unet_halved; normalisation: ImageNet's"
    ]


def test_unet_of_another_width_is_told(smp: object, path: Path) -> None:
    save(path, hollow(smp.Unet("resnet18", encoder_weights=None)))
    says = r"decoder is \(256, .* 16\) wide, the model's \(384, .*: build it with decoder_channels=\(256, 128"
    with pytest.raises(InputError, match=says):
        weights.load(bare("unet_halved", **TINY), path)


def test_a_shallower_unet_is_refused(smp: object, path: Path) -> None:
    channels = (64, 32, 16, 8)
    shallow = smp.Unet("resnet18", encoder_weights=None, encoder_depth=4, decoder_channels=channels)
    save(path, hollow(shallow))
    with pytest.raises(InputError, match=r"its decoder has 4 blocks, unet_halved always 5$"):
        weights.load(bare("unet_halved", **TINY), path)


def test_unetpp_of_the_popular_library(smp: object, path: Path, said: list[str]) -> None:
    reference = randomised(smp.UnetPlusPlus("resnet34", encoder_weights=None, classes=2))
    model = zoo.build("unetpp", 2, encoder="resnet34").eval()
    weights.load(model, save(path, reference), say=said.append)
    x = torch.randn(1, 3, 64, 32)
    assert_close(model(x), reference(x))
    assert f"UnetPlusPlus (resnet34): {len(reference.state_dict())} tensors -> unetpp" in said[0]


@pytest.mark.parametrize(
    ("theirs", "ours", "options", "fresh", "remark"),
    [
        ("PSPNet", "pspnet", {}, ("ppm", "head", "aux"), "layer3 and layer4 never run there: "),
        (
            "DeepLabV3Plus",
            "deeplabv3plus",
            {"dilate_first": True},
            ("aspp", "low_level", "decoder", "head"),
            "output stride 16 here, there unknown",
        ),
    ],
)
def test_of_heads_that_are_not_the_papers_only_the_encoder_is_taken(
    smp: object, path: Path, said: list[str], theirs: str, ours: str, options: dict, fresh: tuple, remark: str
) -> None:
    reference = randomised(getattr(smp, theirs)("resnet18", encoder_weights=None, classes=7))
    model = zoo.build(ours, 2, **TINY, **options)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    loaded = weights.load(model, save(path, reference), say=said.append)
    there = reference.encoder.state_dict()
    assert model.encoder.state_dict().keys() == there.keys()
    assert all(torch.equal(t, there[key]) for key, t in model.encoder.state_dict().items())
    assert loaded.fresh == fresh
    for key, tensor in model.state_dict().items():
        assert key.startswith("encoder.") or torch.equal(tensor, before[key])
    assert f"{len(there)} tensors -> {ours}; normalisation: ImageNet's; {remark}" in said[0]
    assert said[0].endswith(f"; dropped: decoder, segmentation_head; fresh: {', '.join(fresh)}")


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [16, 8])
def test_every_map_of_the_librarys_dilated_encoder(smp: object, path: Path, output_stride: int) -> None:
    reference = smp.DeepLabV3Plus("resnet18", encoder_weights=None, encoder_output_stride=output_stride)
    save(path, randomised(reference))
    options = {**TINY, "output_stride": output_stride}
    model = zoo.build("deeplabv3plus", 2, **options, dilate_first=True).eval()
    weights.load(model, path, say=lambda line: None)
    x = torch.randn(1, 3, 96, 64)
    maps = reference.encoder(x)[1:]  # the first is the image
    for ours, theirs in zip(model.encoder(x), maps, strict=True):
        assert_close(ours, theirs)

    other = zoo.build("deeplabv3plus", 2, **options).eval()
    other.encoder.load_state_dict(reference.encoder.state_dict())
    wrong = (other.encoder(x)[-1] - maps[-1]).abs().max()
    assert wrong > 0.01 * (maps[-1].max() - maps[-1].min())  # so the option matters


@pytest.mark.parametrize("options", [{}, {"dilate_first": True, "output_stride": 32}])
def test_the_librarys_dilated_encoder_needs_the_same_graph(smp: object, path: Path, options: dict) -> None:
    save(path, hollow(smp.DeepLabV3Plus("resnet18", encoder_weights=None)))
    says = r"build it with dilate_first=True, and with output_stride=16 or 8, which the file does not tell"
    with pytest.raises(InputError, match=says):
        weights.load(bare("deeplabv3plus", **TINY, **options), path)


def test_an_architecture_of_the_library_that_is_none_of_ours(smp: object, path: Path) -> None:
    save(path, hollow(smp.MAnet("resnet18", encoder_weights=None)))
    says = r"looks like segmentation_models_pytorch's Unet, but keys without a place here: \d+, first \["
    with pytest.raises(InputError, match=says):
        weights.load(bare("unet_halved", **TINY), path)


def test_an_encoder_of_the_library_that_is_not_torchvisions_is_refused(smp: object, path: Path) -> None:
    save(path, hollow(smp.Unet("efficientnet-b0", encoder_weights=None)))
    says = r"Unet, but keys without a place here: \d+, first \['encoder\._conv_stem\.weight'.* on a ResNet"
    with pytest.raises(InputError, match=says):
        weights.load(bare("unet_halved", encoder="efficientnet_b0"), path)


def test_one_channel_in_both(smp: object, path: Path) -> None:
    reference = randomised(smp.Unet("resnet18", encoder_weights=None, in_channels=1))
    channels = (256, 128, 64, 32, 16)
    model = zoo.build("unet_halved", 1, 1, **TINY, decoder_channels=channels).eval()
    weights.load(model, save(path, reference), say=lambda line: None)
    x = torch.randn(1, 1, 64, 32)
    assert_close(model(x), reference(x))


# ------------------------------------------------------------------ semseg


def as_semseg(ours: dict, prefix: str = "module.") -> dict:
    """The state dict of our pspnet under the names of semseg's published files."""
    names = {
        r"encoder\.conv1\.(\d)\.(.*)": r"layer0.\1.\2",
        r"encoder\.bn1\.(.*)": r"layer0.7.\1",
        r"encoder\.(layer.*)": r"\1",
        r"ppm\.branches\.(\d)\.0\.(.*)": r"ppm.features.\1.1.\2",
        r"ppm\.branches\.(\d)\.1\.(.*)": r"ppm.features.\1.2.\2",
        r"head\.(.*)": r"cls.\1",
        r"(aux\..*)": r"\1",
    }
    state = {}
    for key, tensor in ours.items():
        (new,) = (re.sub(old, new, key) for old, new in names.items() if re.fullmatch(old, key))
        state[prefix + new] = tensor
    return state


def semseg_logits(state: dict, x: Tensor) -> Tensor:
    """PSPNet-50 as semseg writes it, straight from its state dict: no module of ours is involved."""

    def bn(y: Tensor, key: str) -> Tensor:
        mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        return nn.functional.batch_norm(y, mean, var, state[f"{key}.weight"], state[f"{key}.bias"])

    def conv(y: Tensor, key: str, stride: int = 1, dilation: int = 1) -> Tensor:
        w = state[f"{key}.weight"]
        return nn.functional.conv2d(y, w, None, stride, dilation * (w.shape[-1] // 2), dilation)

    for c, b, stride in (("0", "1", 2), ("3", "4", 1), ("6", "7", 1)):
        x = bn(conv(x, f"layer0.{c}", stride), f"layer0.{b}").relu()
    y = nn.functional.max_pool2d(x, 3, 2, 1)
    for stage, blocks, stride, dilation in ((1, 3, 1, 1), (2, 4, 2, 1), (3, 6, 1, 2), (4, 3, 1, 4)):
        for i in range(blocks):
            at, s = f"layer{stage}.{i}", stride if i == 0 else 1
            z = bn(conv(y, f"{at}.conv1"), f"{at}.bn1").relu()
            z = bn(conv(z, f"{at}.conv2", s, dilation), f"{at}.bn2").relu()
            z = bn(conv(z, f"{at}.conv3"), f"{at}.bn3")
            short = bn(conv(y, f"{at}.downsample.0", s), f"{at}.downsample.1") if i == 0 else y
            y = (z + short).relu()
    size, levels = y.shape[-2:], [y]
    for i, bins in enumerate((1, 2, 3, 6)):
        z = nn.functional.adaptive_avg_pool2d(y, bins)
        z = bn(conv(z, f"ppm.features.{i}.1"), f"ppm.features.{i}.2").relu()
        levels.append(nn.functional.interpolate(z, size=size, mode="bilinear", align_corners=True))
    y = bn(conv(torch.cat(levels, 1), "cls.0"), "cls.1").relu()
    y = nn.functional.conv2d(y, state["cls.4.weight"], state["cls.4.bias"])
    h, w = (8 * (n - 1) + 1 for n in size)
    return nn.functional.interpolate(y, size=(h, w), mode="bilinear", align_corners=True)


def test_pspnet_of_semseg(path: Path, said: list[str]) -> None:
    state = as_semseg(randomised(zoo.build("pspnet", 4)).state_dict())
    save(path, {"epoch": 50, "state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}})
    torch.manual_seed(1)
    model = zoo.build("pspnet", 4).eval()
    loaded = weights.load(model, path, say=said.append)
    x = torch.randn(1, 3, 73, 57)
    with torch.no_grad():
        expected = semseg_logits({key.removeprefix("module."): t for key, t in state.items()}, x)
        assert_close(model(x), expected)
        model.align_corners = False
        wrong = (model(x) - expected).abs().max()
    assert wrong > 0.01 * (expected.max() - expected.min())  # so the flag that was set matters
    assert loaded.options == {"align_corners": True}
    assert loaded.normalisation == IMAGENET
    line = f"weights.pth: semseg's PSPNet (resnet50s): {len(state)} tensors -> pspnet; normalisation: "
    assert said == [f"{line}ImageNet's; align_corners=True"]


@pytest.mark.parametrize("options", [{"dilate_first": False}, {"output_stride": 16}, {"bins": (1, 2, 3, 4)}])
def test_pspnet_of_semseg_needs_the_same_graph(path: Path, options: dict) -> None:
    save(path, as_semseg(hollow(bare("pspnet", 4)), prefix=""))
    with pytest.raises(InputError, match=r"leave output_stride, dilate_first and bins at their defaults"):
        weights.load(bare("pspnet", 4, **options), path)


# ------------------------------------------------------------------ our own


def own_checkpoint(path: Path, arch: str, **build: object) -> nn.Module:
    """A checkpoint as train.py writes it, with its network."""
    from zoo.core import checkpoint
    from zoo.core.config import Preprocess
    from zoo.core.masks import Labels

    model = randomised(zoo.build(arch, **build))
    channels = model.in_channels
    preprocess = Preprocess(channels, (0.25,) * channels, (0.125,) * channels, (64, 64))
    labels = Labels("multilabel", tuple("abcdefg"[: model.num_classes]), ((0, 0, 0),) * model.num_classes)
    state = checkpoint.Checkpoint(arch, dict(build), labels, preprocess, model.state_dict(), {})
    checkpoint.write(path, state)
    return model


def test_a_checkpoint_of_train(path: Path, said: list[str]) -> None:
    reference = own_checkpoint(path, "unetpp", num_classes=2, in_channels=1, width=4)
    model = zoo.build("unetpp", 2, 1, width=4).eval()
    loaded = weights.load(model, path, say=said.append)
    x = torch.randn(1, 1, 33, 47)
    assert torch.equal(model(x), reference(x))
    assert loaded.normalisation == Normalisation((0.25,), (0.125,)) == zoo.registry.normalisation(model)
    line = r"weights\.pth: checkpoint of train\.py: \d+ tensors -> unetpp; normalisation: the checkpoint's"
    assert re.fullmatch(line, said[0])


def test_a_checkpoint_of_train_says_how_corners_are_aligned(path: Path) -> None:
    own_checkpoint(path, "pspnet", num_classes=2, **TINY, align_corners=True)
    model = zoo.build("pspnet", 2, **TINY)
    assert weights.load(model, path, say=lambda line: None).options == {"align_corners": True}
    assert model.align_corners is True


@pytest.mark.parametrize(
    ("name", "there", "here", "needs"),
    [
        ("pspnet", {"dilate_first": False}, {}, "dilate_first=False"),
        ("pspnet", {}, {"dilate_first": False}, "dilate_first=True"),
        ("pspnet", {}, {"output_stride": 32}, "dilate_first=True, output_stride=8"),
        ("pspnet", {"output_stride": 32}, {}, "dilate_first=False"),
        ("pspnet", {"bins": (1, 2, 3, 5)}, {}, r"bins=\(1, 2, 3, 5\)"),
        ("deeplabv3plus", {"dilate_first": True}, {}, "dilate_first=True"),
        ("deeplabv3plus", {"rates": (12, 24, 36)}, {}, r"rates=\(12, 24, 36\)"),
        ("deeplabv3plus", {"rates": (12, 24, 36)}, {"output_stride": 8}, r"rates=\(24, 48, 72\)"),
        ("deeplabv3plus", {}, {"output_stride": 8, "rates": (6, 12, 18)}, r"rates=\(12, 24, 36\)"),
        (
            "deeplabv3plus",
            {"rates": (1, 2, 3)},
            {"output_stride": 32},
            r"rates=\(1, 2, 3\), output_stride=16",
        ),
    ],
)
def test_a_checkpoint_of_train_into_another_graph(
    path: Path, name: str, there: dict, here: dict, needs: str
) -> None:
    own_checkpoint(path, name, num_classes=2, **TINY, **there)
    model = bare(name, 2, **TINY, **here)
    with pytest.raises(InputError, match=rf": build it with {needs}, for the same graph$"):
        weights.load(model, path)


def test_a_checkpoint_of_train_serves_at_another_output_stride(path: Path, said: list[str]) -> None:
    own_checkpoint(path, "deeplabv3plus", num_classes=2, **TINY)
    weights.load(zoo.build("deeplabv3plus", 2, **TINY, output_stride=8), path, say=said.append)
    weights.load(zoo.build("deeplabv3plus", 2, **TINY, rates=(6, 12, 18)), path, say=said.append)
    assert said[0].endswith("; output stride 16 there, 8 here")
    assert said[1].endswith("; normalisation: the checkpoint's")


def test_a_checkpoint_of_another_architecture(path: Path) -> None:
    own_checkpoint(path, "unetpp", width=2)
    with pytest.raises(InputError, match=r"weights\.pth: holds unetpp, not unet$"):
        weights.load(zoo.build("unet", width=2), path)


def test_a_checkpoint_of_another_size(path: Path) -> None:
    own_checkpoint(path, "segformer_b0", num_classes=2)
    with pytest.raises(InputError, match=r"has encoder mit_b0, the model mit_b1: build segformer_b0$"):
        weights.load(bare("segformer_b1", 2), path)


def test_a_bare_state_dict(path: Path, said: list[str]) -> None:
    reference = zoo.build("unet", width=2)
    model = zoo.build("unet", width=2)
    loaded = weights.load(model, save(path, reference), say=said.append)
    assert all(torch.equal(t, reference.state_dict()[key]) for key, t in model.state_dict().items())
    assert loaded.normalisation is None
    assert said[0].endswith("a bare state dict: 46 tensors -> unet; normalisation: not in the file")


# ------------------------------------------------------------------ classes and channels


SMALLEST = {  # of each network, and its options
    "unet": ("unet", {"width": 2}),
    "unet_halved": ("unet_halved", TINY),
    "fcn": ("fcn", TINY),
    "pspnet": ("pspnet", TINY),
    "unetpp": ("unetpp", {"width": 2, "deep_supervision": True}),
    "deeplabv3plus": ("deeplabv3plus", TINY),
    "segformer": ("segformer_b0", {"width": 32}),
    "hrnet_ocr": ("hrnet_ocr", {"encoder": "hrnet_w18"}),
}


@pytest.mark.parametrize("network", list(CLASSIFIERS))
def test_another_number_of_classes(network: str, path: Path, said: list[str]) -> None:
    name, options = SMALLEST[network]
    reference = own_checkpoint(path, name, num_classes=3, **options)
    model = zoo.build(name, 5, **options)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    says = r"weights\.pth: is for 3 classes, the model for 5; --reset-head \(in Python: reset_head=True\)"
    with pytest.raises(InputError, match=says):
        weights.load(model, path)
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())

    loaded = weights.load(model, path, reset_head=True, say=said.append)
    places = {
        "fcn": ("classifier.4", "aux_classifier.4"),
        "pspnet": ("head.4", "aux.4"),
        "unetpp": ("heads.1", "heads.2", "heads.3", "heads.4"),
        "segformer": ("head.classify",),
        "hrnet_ocr": ("regions.3", "head"),
    }
    assert loaded.fresh == places.get(network, ("head",))
    fresh, there = tuple(f"{part}." for part in loaded.fresh), reference.state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, (before if key.startswith(fresh) else there)[key])
    assert said[0].endswith(f"; fresh: {', '.join(loaded.fresh)}")
    own = model.state_dict()
    assert f": {sum(not key.startswith(fresh) for key in own)} tensors -> {network}; " in said[0]


def test_reset_head_keeps_a_head_that_fits(path: Path) -> None:
    reference = own_checkpoint(path, "unet", num_classes=3, width=2)
    model = zoo.build("unet", 3, width=2)
    assert weights.load(model, path, reset_head=True, say=lambda line: None).fresh == ()
    assert torch.equal(model.head.weight, reference.head.weight)


def test_weights_for_rgb_in_a_grey_network(smp: object, path: Path, said: list[str]) -> None:
    reference = randomised(smp.Unet("resnet18", encoder_weights=None))
    model = zoo.build("unet_halved", 1, 1, **TINY, decoder_channels=(256, 128, 64, 32, 16)).eval()
    loaded = weights.load(model, save(path, reference), say=said.append)
    x = torch.randn(1, 1, 64, 32)
    assert_close(model(x), reference(x.expand(-1, 3, -1, -1)))
    assert said[0].endswith("; input channels 3 -> 1")
    assert loaded.normalisation.mean == (pytest.approx(0.449),)


@torch.no_grad()
@pytest.mark.parametrize("network", [network for network in SMALLEST if network != "unet"])
def test_rgb_weights_in_a_network_for_other_channels(network: str, path: Path, said: list[str]) -> None:
    name, options = SMALLEST[network]
    options = TINY if network == "unetpp" else options
    rgb = randomised(zoo.build(name, 2, 3, **options))
    save(path, rgb)
    grey, five = zoo.build(name, 2, 1, **options).eval(), zoo.build(name, 2, 5, **options)
    weights.load(grey, path, say=said.append)
    weights.load(five, path, say=said.append)
    x = torch.randn(1, 1, 64, 33)
    assert_close(grey(x), rgb(x.expand(-1, 3, -1, -1)))
    first, theirs = (
        next(m for m in net.encoder.modules() if isinstance(m, nn.Conv2d)) for net in (five, rgb)
    )
    torch.testing.assert_close(first.weight, theirs.weight[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert ["input channels 3 -> 1" in said[0], "input channels 3 -> 5" in said[1]] == [True, True]


# ------------------------------------------------------------------ files that do not fit


def test_the_file_of_another_encoder_says_which(smp: object, path: Path) -> None:
    save(path, hollow(smp.UnetPlusPlus("resnet34", encoder_weights=None)))
    for encoder in ("resnet50", None):
        says = rf"has encoder resnet34, the model {encoder or 'none'}: build it with encoder='resnet34'"
        with pytest.raises(InputError, match=says):
            weights.load(bare("unetpp", encoder=encoder), path)
    save(path, as_semseg(hollow(bare("pspnet", 4, encoder="resnet101s"))))
    with pytest.raises(InputError, match=r"has encoder resnet101s, the model xception41: build it with"):
        weights.load(bare("pspnet", 4, encoder="xception41"), path)


def test_the_file_of_another_network_says_which(path: Path) -> None:
    save(path, hollow(bare("fcn")))
    with pytest.raises(InputError, match=r"weights\.pth: torchvision's FCN, which is for fcn, not for psp"):
        weights.load(bare("pspnet"), path)


def test_a_file_of_no_known_source(path: Path) -> None:
    save(path, hollow(torchvision.models.resnet18()))
    says = r"not recognised by its keys \['conv1\.weight', .*\]; known: checkpoints of train\.py, torchvis"
    with pytest.raises(InputError, match=says):
        weights.load(bare("fcn"), path)


def test_one_key_too_many_or_too_few(path: Path) -> None:
    state = hollow(bare("fcn", 5, **TINY))
    save(path, {**state, "classifier.7.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"like torchvision's FCN, but keys .* here: 1, first \['classif"):
        weights.load(bare("fcn", 5, **TINY), path)
    del state["classifier.0.weight"]
    save(path, state)
    model = zoo.build("fcn", 5, **TINY)
    before = model.backbone.conv1.weight.clone()
    with pytest.raises(InputError, match=r"1 keys missing \['classifier\.0\.weight'\]"):
        weights.load(model, path)
    assert torch.equal(model.backbone.conv1.weight, before)


def test_no_weights_and_no_file(path: Path) -> None:
    with pytest.raises(InputError, match=r"weights\.pth: no such file"):
        weights.load(zoo.build("unet", width=2), path)
    save(path, {"state_dict": {"a": 1}})
    with pytest.raises(InputError, match=r"not a state dict: its entry 'a' is no tensor"):
        weights.load(zoo.build("unet", width=2), path)
    with pytest.raises(InputError, match=r"Linear is none of zoo\.names\(\); load into what zoo"):
        weights.load(nn.Linear(1, 1), path)


def test_every_layout_is_for_a_network_whose_classifier_is_known() -> None:
    modules = {zoo.registry.architecture(name).__module__.rpartition(".")[2] for name in zoo.names()}
    families = {encoders.family(name).__module__.rpartition(".")[2] for name in encoders.names()}
    assert {layout.network for layout in LAYOUTS} <= modules | families
    assert set(CLASSIFIERS) == modules, "add the classifier's keys of the new architecture"


# ------------------------------------------------------------------ published networks


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("fcn_resnet50_coco", segmentation.FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1),
        ("fcn_resnet101_coco", segmentation.FCN_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1),
    ],
)
def test_the_catalogue_is_torchvisions(name: str, theirs: object) -> None:
    row = weights.known()[name]
    expects = theirs.transforms()
    assert row.url == theirs.url
    assert row.url.endswith(f"-{row.sha256}.pth")
    assert row.mebibytes == theirs.meta["_file_size"]
    assert list(row.classes) == [word.strip("_") for word in theirs.meta["categories"]]
    assert row.normalisation == (tuple(expects.mean), tuple(expects.std))
    with torch.device("meta"):
        model = zoo.build(row.architecture, **row.build)
    assert sum(p.numel() for p in model.parameters()) == theirs.meta["num_params"]


def test_build_by_a_published_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = torchvision_fcn(classes=21)
    save(path, reference)
    asked = []

    def fetch(url: str, **words: object) -> Path:
        asked.append((url, words))
        return path

    monkeypatch.setattr(download, "fetch", fetch)
    model = zoo.build("fcn", pretrained="fcn_resnet50_coco").eval()
    x = torch.randn(1, 3, 33, 33)
    assert_close(model(x), reference(x)["out"])
    row = weights.known()["fcn_resnet50_coco"]
    assert asked == [(row.url, {"name": "", "sha256": row.sha256})]
    assert "torchvision's FCN (resnet50)" in capsys.readouterr().out

    with pytest.raises(InputError, match=r"is for 21 classes, the model for 11; --reset-head"):
        zoo.build("fcn", 11, pretrained="fcn_resnet50_coco")
    assert zoo.build("fcn", 11, pretrained="fcn_resnet50_coco", reset_head=True).num_classes == 11
    with pytest.raises(InputError, match=r"has encoder resnet50, the model resnet18"):
        zoo.build("fcn", encoder="resnet18", pretrained="fcn_resnet50_coco")


def test_a_published_name_is_no_file(path: Path) -> None:
    with pytest.raises(InputError, match=r"segformer_b0_ade20k: a name, not a file: zoo\.build\(…, pretrai"):
        weights.load(bare("segformer_b0"), "segformer_b0_ade20k")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({1: torch.zeros(1)}, r"its entry 1 has a name that is no word"),
        ({"a": torch.zeros(1), 2: torch.zeros(1)}, r"its entry 2 has a name that is no word"),
        ({"a": torch.zeros(1, dtype=torch.complex64)}, r"its entry 'a' is a complex tensor"),
        ({"a": torch.zeros(2, 2).to_sparse()}, r"its entry 'a' is a sparse tensor"),
    ],
)
def test_what_no_state_dict_holds(path: Path, entries: dict, says: str) -> None:
    save(path, entries)
    with pytest.raises(InputError, match=says):
        weights.load(bare("unet", width=2), path)


# The data sets' own lists: how many, and what stands at some places.
CLASSES_OF = {
    "ade20k": (150, {0: "wall", 1: "building", 12: "person", 76: "boat", 126: "animal", 149: "flag"}),
    "cityscapes": (19, {0: "road", 1: "sidewalk", 6: "traffic light", 12: "rider", 13: "car", 18: "bicycle"}),
    "pascal_context": (59, {0: "aeroplane", 1: "bag", 15: "ceiling", 36: "person", 46: "sky", 58: "wood"}),
    "lip": (20, {0: "background", 5: "upper clothes", 6: "dress", 14: "left arm", 19: "right shoe"}),
    "coco_stuff": (171, {0: "person", 79: "toothbrush", 80: "banner", 100: "door-stuff", 170: "wood"}),
    "coco": (21, {0: "background", 1: "aeroplane", 15: "person", 20: "tvmonitor"}),
}  # fmt: skip
HRNETS = "https://github.com/hsfzxjy/models.storage/releases/download/HRNet-OCR/"
HRNET_FILES = {  # name: file, and whether an option aligns corners (with OCR loading the file does it)
    "hrnet_ocr_w48_cityscapes": ("hrnet_ocr_cs_8162_torch11.pth", None),
    "hrnet_ocr_w48_cityscapes_trainval": ("hrnet_ocr_cs_trainval_8227_torch11.pth", None),
    "hrnet_ocr_w48_pascal_context": ("hrnet_ocr_pascal_ctx_5618_torch11.pth", None),
    "hrnet_ocr_w48_lip": ("hrnet_ocr_lip_5648_torch04.pth", None),
    "hrnet_ocr_w48_ade20k": ("hrnet_ocr_ade20k_4451_torch04.pth", None),
    "hrnet_ocr_w48_coco_stuff": ("hrnet_ocr_cocostuff_3965_torch04.pth", None),
    "hrnet_w48_cityscapes": ("hrnet_cs_8090_torch11.pth", False),
    "hrnet_w48_pascal_context": ("hrnet_pascal_ctx_5410_torch11.pth", False),
    "hrnet_w48_lip": ("hrnet_lip_5583_torch04.pth", False),
    "hrnet_w48_ade20k": ("hrnet_ade20k_4312_torch04.pth", True),
    "hrnet_w48_coco_stuff": ("hrnet_cocostuff_3617_torch04.pth", True),
}


@pytest.mark.parametrize("name", list(weights.known()))
def test_each_name_has_the_classes_of_its_data_set(name: str) -> None:
    row = weights.known()[name]
    data = re.search("|".join(sorted(CLASSES_OF, key=len, reverse=True)), name)[0]
    count, places = CLASSES_OF[data]
    assert (len(row.classes), row.build["num_classes"]) == (count, count)
    assert {i: row.classes[i] for i in places} == places


def test_the_files_of_the_hrnet_authors() -> None:
    """Their names, and how each was trained to enlarge, which no key of the plain ones tells."""
    rows = {name: row for name, row in weights.known().items() if row.architecture == "hrnet_ocr"}
    assert {name: row.url for name, row in rows.items()} == {
        name: HRNETS + file for name, (file, _) in HRNET_FILES.items()
    }
    for name, row in rows.items():
        aligned = HRNET_FILES[name][1]
        assert row.build["encoder"] == "hrnet_w48"
        assert row.build.get("ocr", True) == (aligned is None)
        assert row.build.get("align_corners", False) == bool(aligned)


def test_the_files_of_timms_hrnets() -> None:
    """timm no longer names them: their names as its releases had them, which begin with the hash."""
    files = {name: SOURCES[name].url.rpartition("/")[2] for name in SOURCES if name.startswith("hrnet")}
    assert files == {
        "hrnet_w18": "hrnetv2_w18-8cb57bb9.pth",
        "hrnet_w32": "hrnetv2_w32-90d8c5fb.pth",
        "hrnet_w48": "hrnetv2_w48-abd2e6ab.pth",
    }
    assert all(f"-{SOURCES[name].sha256}." in file for name, file in files.items())


@pytest.mark.parametrize("name", list(weights.known()))
def test_each_name_builds_a_network_of_its_classes(name: str) -> None:
    row = weights.known()[name]
    assert len(row.classes) == len(set(row.classes)) == row.build["num_classes"]
    assert row.normalisation == IMAGENET
    model = bare(row.architecture, **row.build)
    assert model.num_classes == len(row.classes)
    assert row.build["encoder"] in zoo.registry._entry(row.architecture).paper.encoders


def test_no_two_files_have_one_name_in_the_cache() -> None:
    """Hugging Face calls every file pytorch_model.bin; a second one would be taken for the first."""
    rows = [*weights.known().values(), *SOURCES.values()]
    files = [row.file or row.url.rsplit("/", 1)[1] for row in rows]
    assert len(files) == len(set(files))
    assert all(re.fullmatch(r"[\w-]+\.(pth|bin)", file) for file in files)


def test_the_names_of_segformer_are_those_at_hugging_face() -> None:
    ids = {row.url.split("/")[4] for row in weights.known().values() if "huggingface" in row.url}
    ade = {f"segformer-b{i}-finetuned-ade-512-512" for i in range(5)} | {"segformer-b5-finetuned-ade-640-640"}
    city = {f"segformer-b{i}-finetuned-cityscapes-1024-1024" for i in range(6)}
    small = {f"segformer-b0-finetuned-cityscapes-{crop}" for crop in ("512-1024", "640-1280", "768-768")}
    assert ids == ade | city | small


def test_what_may_not_be_used_commercially_says_so() -> None:
    for name, row in [*weights.known().items(), *SOURCES.items()]:
        assert ("non-commercial" in row.licence) == name.startswith(("segformer", "mit"))


def test_wrong_names() -> None:
    with pytest.raises(InputError, match=r"unknown weights 'fcn_resnet5'; nearest: fcn_resnet50_coco"):
        zoo.build("fcn", pretrained="fcn_resnet5")
    with pytest.raises(InputError, match=r"coc: no such file, and no published weights; nearest: fcn_res"):
        weights.load(bare("fcn", **TINY), "fcn_resnet50_coc")
    with pytest.raises(InputError, match=r"fcn_resnet50_coc\.pth: no such file$"):
        weights.load(bare("fcn", **TINY), "fcn_resnet50_coc.pth")
    with pytest.raises(InputError, match=r"fcn_resnet50_coco are weights of fcn, not of pspnet"):
        zoo.build("pspnet", pretrained="fcn_resnet50_coco")
    with pytest.raises(InputError, match=r"unknown weights 'x'; .*zoo\.weights"):
        weights.fetch("x")


def test_importing_zoo_costs_no_torchvision() -> None:
    code = "import sys, zoo; zoo.weights.known(), zoo.describe('unet'); print('torchvision' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_describe_lists_them() -> None:
    assert zoo.describe("fcn").pretrained == ("fcn_resnet50_coco", "fcn_resnet101_coco")
    assert zoo.describe("unet").pretrained == ()


def test_a_padded_unet_and_the_papers_hold_the_same_weights_for_another_graph(path: Path) -> None:
    own_checkpoint(path, "unet", num_classes=2, encoder=None, width=2, padded=True)
    with pytest.raises(InputError, match=r": build it with padded=True, for the same graph$"):
        weights.load(bare("unet", 2, width=2), path)
    weights.load(zoo.build("unet", 2, width=2, padded=True), path, say=lambda line: None)
    own_checkpoint(path, "unet", num_classes=2, width=2)
    with pytest.raises(InputError, match=r": build it with padded=False, for the same graph$"):
        weights.load(bare("unet", 2, width=2, padded=True), path)


def test_other_reductions_do_not_fit(path: Path) -> None:
    own_checkpoint(path, "segformer_b0", num_classes=2, width=8, reductions=(4, 4, 2, 1))
    with pytest.raises(InputError, match=r"encoder\.block1\.0\.attn\.sr\.weight"):
        weights.load(bare("segformer_b0", 2, width=8), path)
