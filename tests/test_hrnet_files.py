"""If these break, a public HRNet or HRNet+OCR gives another network's output, or half of it.

timm writes its own files.  The authors' segmentation code is on no index: its files are made from our network
by the names in that code, and what they mean is computed slowly, straight from the file.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests.test_segformer_files import quiet, shaken
from tests.test_weights import assert_close, bare, hollow, save
from zoo import encoders, weights
from zoo.encoders import layouts as encoder_layouts
from zoo.encoders.pretrained import IMAGENET
from zoo.errors import InputError
from zoo.weights import layouts

OCR = {"encoder": "hrnet_w18"}
COUNT = "num_batches_tracked"
NORM = ("weight", "bias", "running_mean", "running_var", COUNT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hrnet.pth"


@pytest.fixture
def said() -> list[str]:
    return []


def as_the_authors(model: nn.Module) -> dict[str, Tensor]:
    """Our HRNet+OCR under the names of the authors' code."""
    attention = "ocr_distri_head.object_context_block."
    names = {"encoder.": "", "head.": "cls_head.", "pixels.": "conv3x3_ocr.", "regions.": "aux_head."}
    names |= {"g.0.": "ocr_distri_head.conv_bn_dropout.0.", "g.1.": "ocr_distri_head.conv_bn_dropout.1.0."}
    for ours, theirs in (("phi", "f_pixel"), ("psi", "f_object"), ("delta", "f_down"), ("rho", "f_up")):
        for i, place in ((0, "0"), (1, "1.0"), (3, "2"), (4, "3.0")):
            names[f"context.{ours}.{i}."] = f"{attention}{theirs}.{place}."
    file = {}
    for key, tensor in model.state_dict().items():
        (old,) = (old for old in names if key.startswith(old))
        file[names[old] + key.removeprefix(old)] = tensor
    return file


def wrapped(file: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the authors save it: the network beside its loss."""
    return {**{f"model.{key}": t for key, t in file.items()}, "loss.criterion.weight": torch.ones(19)}


# ------------------------------------------------------------------ ImageNet


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    return shaken(pytest.importorskip("timm").create_model("hrnet_w18", pretrained=False))


def test_hrnet_of_timm(classifier: nn.Module, path: Path, said: list[str]) -> None:
    """The encoder alone, and as a part of what has it."""
    save(path, classifier)
    encoder = encoders.build("hrnet_w18").eval()
    loaded = weights.load(encoder, path, say=said.append)
    encoder.upsampling = "nearest"
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        y = classifier.bn1(classifier.conv1(x)).relu()
        y = classifier.bn2(classifier.conv2(y)).relu()
        for ours, theirs in zip(encoder(x), classifier.stages(y), strict=True):
            assert_close(ours, theirs)
    dropped = "dropped: incre_modules, downsamp_modules, final_layer, classifier"
    source = "hrnet.pth: HRNet's ImageNet classifier (hrnet_w18): 1830 tensors"
    assert said == [f"{source} -> hrnet; normalisation: ImageNet's; {dropped}"]
    assert loaded.normalisation == encoder.normalisation == IMAGENET

    there = encoder.state_dict()
    for name, fresh in (("hrnet_ocr", "regions, pixels, context, g, head"), ("unet_halved", "decoder, head")):
        model = zoo.build(name, 4, **OCR)
        loaded = weights.load(model, path, say=said.append)
        assert all(torch.equal(t, there[key]) for key, t in model.encoder.state_dict().items())
        assert loaded.options == {}
        assert said[-1] == f"{source} -> {name}; normalisation: ImageNet's; {dropped}; fresh: {fresh}"

    with pytest.raises(InputError, match=r"is of hrnet_w18, the model is hrnet_w32$"):
        weights.load(encoders.build("hrnet_w32"), path)


def test_hrnet_without_the_maps_that_deeplab_leaves_out(
    classifier: nn.Module, path: Path, tmp_path: Path
) -> None:
    """DeepLabV3+ takes the finest and the coarsest; the whole file still loads, and nothing else does."""
    save(path, classifier)
    model = zoo.build("deeplabv3plus", 4, **OCR, output_stride=32)
    loaded = weights.load(model, path, say=quiet)
    assert loaded.fresh == ("aspp", "low_level", "decoder", "head")
    whole = encoders.build("hrnet_w18")
    weights.load(whole, path, say=quiet)
    there, own = whole.state_dict(), model.encoder.state_dict()
    assert 0 < len(there) - len(own) < 100
    assert all(torch.equal(t, there[key]) for key, t in own.items())
    other = zoo.build("deeplabv3plus", 4, encoder="hrnet_w32", output_stride=32)
    own = tmp_path / "own.pth"
    save(own, model)
    for file in (path, own):
        with pytest.raises(InputError, match=r"has encoder hrnet_w18, the model hrnet_w32: build it with"):
            weights.load(other, file)
    loaded = weights.load(zoo.build("deeplabv3plus", 4, **OCR, output_stride=32), own, say=quiet)
    assert "(hrnet_w18)" in loaded.line


def test_a_shallow_hrnet(classifier: nn.Module, path: Path) -> None:
    save(path, classifier)
    shallow, whole = (encoders.build("hrnet_w18", depth=depth).eval() for depth in (1, None))
    for encoder in (shallow, whole):
        weights.load(encoder, path, say=quiet)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(shallow(x)[0], whole(x)[0])


# ------------------------------------------------------------------ HRNet+OCR


def ocr_from(file: dict[str, Tensor], maps: list[Tensor], scale: Callable[[Tensor], Tensor]) -> Tensor:
    """The logits of the authors' head at a quarter of the input's size, from the maps of HRNet.

    scale: what a normalisation makes of its weight.
    """

    def conv(x: Tensor, key: str, padding: int = 0) -> Tensor:
        return F.conv2d(x, file[f"{key}.weight"], file.get(f"{key}.bias"), padding=padding)

    def bn(x: Tensor, key: str) -> Tensor:
        weight, bias, mean, var = (file[f"{key}.{word}"][:, None, None] for word in NORM[:4])
        return (scale(weight) * (x - mean) / (var + 1e-5).sqrt() + bias).relu()

    size = maps[0].shape[-2:]
    feats = torch.cat(
        [maps[0], *(F.interpolate(m, size, mode="bilinear", align_corners=True) for m in maps[1:])], 1
    )
    aux = conv(bn(conv(feats, "aux_head.0"), "aux_head.1"), "aux_head.3")
    pixels = bn(conv(feats, "conv3x3_ocr.0", 1), "conv3x3_ocr.1")
    share = aux.flatten(2).softmax(2)
    regions = torch.einsum("nkp,ncp->nck", share, pixels.flatten(2))[..., None]
    block = "ocr_distri_head.object_context_block"
    query, key = (
        bn(conv(bn(conv(x, f"{block}.{f}.0"), f"{block}.{f}.1.0"), f"{block}.{f}.2"), f"{block}.{f}.3.0")
        for x, f in ((pixels, "f_pixel"), (regions, "f_object"))
    )
    value = bn(conv(regions, f"{block}.f_down.0"), f"{block}.f_down.1.0")
    look = torch.einsum("nchw,nck->nkhw", query, key[..., 0]).div(16).softmax(1)
    context = torch.einsum("nkhw,nck->nchw", look, value[..., 0])
    context = bn(conv(context, f"{block}.f_up.0"), f"{block}.f_up.1.0")
    fused = conv(torch.cat([context, pixels], 1), "ocr_distri_head.conv_bn_dropout.0")
    return conv(bn(fused, "ocr_distri_head.conv_bn_dropout.1.0"), "cls_head")


@pytest.mark.parametrize("classes", [19, 20, 59])
def test_hrnet_ocr_of_the_authors(path: Path, classes: int, said: list[str]) -> None:
    """Cityscapes, LIP and PASCAL-Context as torch 1.1 wrote them; the second as training goes on from it."""
    source = shaken(zoo.build("hrnet_ocr", classes, **OCR))
    file = as_the_authors(source)
    whole = {"epoch": 3, "best_mIoU": 0.5, "state_dict": wrapped(file), "optimizer": {"state": {}}}
    save(path, whole if classes == 20 else wrapped(file))
    model = zoo.build("hrnet_ocr", classes, **OCR).eval()
    assert not model.align_corners
    loaded = weights.load(model, path, say=said.append)
    assert loaded.options == {"align_corners": True}
    assert loaded.normalisation == IMAGENET
    assert said == [
        "hrnet.pth: HRNet+OCR of HRNet-Semantic-Segmentation (hrnet_w18): 1890 tensors -> hrnet_ocr; "
        "normalisation: ImageNet's; align_corners=True; dropped: loss"
    ]
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        source.align_corners = True
        maps = source.encoder(x)
        for ours, theirs in zip(model.encoder(x), maps, strict=True):
            assert torch.equal(ours, theirs)
        expected = ocr_from(file, maps, lambda w: w)
        expected = F.interpolate(expected, size=(64, 96), mode="bilinear", align_corners=True)
        assert_close(model(x), expected)
        model.align_corners = False
        wrong = (model(x) - expected).abs().max()
    assert wrong > 0.01 * (expected.max() - expected.min())  # so the flag that was set matters


class InPlaceABN(nn.BatchNorm2d):
    """What torch 0.4's files were trained with, in eval mode: mapillary's, whose scale is never negative."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs() + self.eps
        return F.batch_norm(x, self.running_mean, self.running_var, scale, self.bias, False, 0, self.eps)


def test_files_of_torch_04(path: Path, said: list[str]) -> None:
    source = shaken(zoo.build("hrnet_ocr", 5, **OCR))
    norms = [module for module in source.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, -1.5, 1.5)
    file = {key: t for key, t in as_the_authors(source).items() if not key.endswith(COUNT)}
    save(path, wrapped(file))
    model = zoo.build("hrnet_ocr", 5, **OCR).eval()
    weights.load(model, path, say=said.append)
    assert said == [
        "hrnet.pth: HRNet+OCR of HRNet-Semantic-Segmentation, with in-place activated BatchNorm (hrnet_w18): "
        "1576 tensors -> hrnet_ocr; normalisation: ImageNet's; align_corners=True; scales |weight| + 1e-5; "
        "dropped: loss"
    ]
    assert len(norms) == 314
    reference = copy.deepcopy(source)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = InPlaceABN
    reference.align_corners = True
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = reference.encoder(x)
        for ours, theirs in zip(model.encoder(x), maps, strict=True):
            assert_close(ours, theirs)
        expected = ocr_from(file, maps, lambda w: w.abs() + 1e-5)
        expected = F.interpolate(expected, size=(64, 64), mode="bilinear", align_corners=True)
        assert_close(model(x), expected)


def test_a_later_file_keeps_its_negative_scales(path: Path) -> None:
    source = shaken(zoo.build("hrnet_ocr", 5, **OCR))
    nn.init.uniform_(source.encoder.bn1.weight, -1, 1)
    save(path, wrapped(as_the_authors(source)))
    model = zoo.build("hrnet_ocr", 5, **OCR)
    weights.load(model, path, say=quiet)
    assert torch.equal(model.encoder.bn1.weight, source.encoder.bn1.weight)


def without_ocr(source: nn.Module, old: bool = False) -> dict[str, Tensor]:
    """The authors' file of HRNet alone: its head has the layers of the one that makes OCR's regions."""
    file = {key.replace("aux_head", "last_layer"): t for key, t in as_the_authors(source).items()}
    if old:
        file = {key: t for key, t in file.items() if not key.endswith(COUNT)}
    assert len(file) == (1533 if old else 1839)
    return file


@pytest.mark.parametrize("align_corners", [False, True])
def test_hrnet_without_ocr(path: Path, align_corners: bool, said: list[str]) -> None:
    """Whole; how it enlarges stays as the model was built, for no key tells."""
    options = {**OCR, "ocr": False, "align_corners": align_corners}
    source = shaken(zoo.build("hrnet_ocr", 5, **options))
    file = without_ocr(source)
    save(path, wrapped(file))
    model = zoo.build("hrnet_ocr", 5, **options).eval()
    loaded = weights.load(model, path, say=said.append)
    assert (loaded.fresh, loaded.options) == ((), {})
    assert f"; align_corners={align_corners}, as the model was built: the authors' files for City" in said[0]
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = model.encoder(x)
        up = [F.interpolate(m, (16, 24), mode="bilinear", align_corners=align_corners) for m in maps]
        y = F.conv2d(torch.cat(up, 1), file["last_layer.0.weight"], file["last_layer.0.bias"])
        weight, bias, mean, var = (file[f"last_layer.1.{word}"] for word in NORM[:4])
        y = F.batch_norm(y, mean, var, weight, bias).relu()
        y = F.conv2d(y, file["last_layer.3.weight"], file["last_layer.3.bias"])
        expected = F.interpolate(y, (64, 96), mode="bilinear", align_corners=align_corners)
        assert_close(model(x), expected)

    with pytest.raises(InputError, match=r"HRNet\+OCR .* into this hrnet_ocr: build it with ocr=True$"):
        weights.load(model, save(path, wrapped(as_the_authors(shaken(zoo.build("hrnet_ocr", 5, **OCR))))))


@pytest.mark.parametrize("old", [False, True])
def test_hrnet_without_ocr_starts_a_network_with_it(path: Path, old: bool, said: list[str]) -> None:
    """As the authors' code does: its head makes the regions."""
    source = shaken(zoo.build("hrnet_ocr", 5, **OCR, ocr=False))
    nn.init.uniform_(source.encoder.bn1.weight, -1, 1)
    save(path, wrapped(without_ocr(source, old)))
    model = zoo.build("hrnet_ocr", 5, **OCR)
    loaded = weights.load(model, path, say=said.append)
    assert loaded.fresh == ("pixels", "context", "g", "head")
    scale = source.encoder.bn1.weight
    assert torch.equal(model.encoder.bn1.weight, scale.abs() + 1e-5 if old else scale)
    assert torch.equal(model.regions[3].weight, source.regions[3].weight)
    assert ("scales |weight| + 1e-5; align_corners=False" in said[0]) is old
    assert said[0].endswith("; dropped: loss; fresh: pixels, context, g, head")

    other = zoo.build("hrnet_ocr", 7, **OCR)
    with pytest.raises(InputError, match="is for 5 classes, the model for 7; --reset-head"):
        weights.load(other, path)
    loaded = weights.load(other, path, reset_head=True, say=quiet)
    assert loaded.fresh == ("pixels", "context", "g", "head", "regions.3")


@pytest.mark.parametrize("width", [18, 32, 48])
def test_each_key_of_each_width_has_its_place(width: int) -> None:
    file = as_the_authors(bare("hrnet_ocr", encoder=f"hrnet_w{width}"))
    assert len(file) == 1890
    assert sum(not key.endswith(COUNT) for key in file) == 1576
    mapped = encoder_layouts.mapped(file, layouts.HRNET_OCR)
    own = bare("hrnet_ocr", encoder=f"hrnet_w{width}").state_dict()
    assert {key: t.shape for key, t in mapped.weights.items()} == {key: t.shape for key, t in own.items()}
    assert (mapped.dropped, mapped.unknown) == ([], [])


# ------------------------------------------------------------------ files that do not fit


def test_another_width_says_which(path: Path) -> None:
    save(path, wrapped(as_the_authors(hollowed(zoo.build("hrnet_ocr", **OCR)))))
    says = r"has encoder hrnet_w18, the model hrnet_w48: build it with encoder='hrnet_w18'$"
    with pytest.raises(InputError, match=says):
        weights.load(bare("hrnet_ocr"), path)


def hollowed(model: nn.Module) -> nn.Module:
    """`model` with a state dict that takes no room."""
    file = hollow(model)
    model.state_dict = lambda *args, **words: file  # type: ignore[method-assign]
    return model


def test_another_number_of_classes(path: Path) -> None:
    source = shaken(zoo.build("hrnet_ocr", 19, **OCR))
    save(path, wrapped(as_the_authors(source)))
    model = zoo.build("hrnet_ocr", 3, **OCR)
    with pytest.raises(InputError, match=r"is for 19 classes, the model for 3; --reset-head"):
        weights.load(model, path)
    before = model.regions[3].weight.clone()
    loaded = weights.load(model, path, reset_head=True, say=quiet)
    assert loaded.fresh == ("regions.3", "head")
    assert torch.equal(model.regions[3].weight, before)
    assert torch.equal(model.regions[0].weight, source.regions[0].weight)


def test_a_bias_that_the_authors_code_has_not(path: Path) -> None:
    """As openseg's file would be with its first names changed: its graph would be another one still."""
    file = as_the_authors(hollowed(zoo.build("hrnet_ocr", **OCR)))
    save(path, {**file, "ocr_distri_head.conv_bn_dropout.0.bias": torch.zeros(512)})
    says = r"keys without a place here: 1, first \['ocr_distri_head.conv_bn_dropout.0.bias'\]; what can"
    with pytest.raises(InputError, match=says):
        weights.load(bare("hrnet_ocr", **OCR), path)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            ("module.backbone.conv1.weight", "module.conv3x3.0.weight", "module.cls_head.weight"),
            r"openseg's HRNet\+OCR cannot be loaded: another network under the name: leaky ReLU",
        ),
        (
            ("backbone.conv1.weight", "decode_head.1.object_context_block.query_project.0.conv.weight"),
            r"mmsegmentation's OCRNet cannot be loaded: its convolutions have no biases",
        ),
    ],
)
def test_what_looks_like_it_is_refused_with_the_reason(path: Path, keys: tuple, says: str) -> None:
    save(path, {"state_dict": {key: torch.zeros(1) for key in keys}})
    with pytest.raises(InputError, match=says):
        weights.load(bare("hrnet_ocr", **OCR), path)
