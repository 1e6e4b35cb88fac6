"""If these break, an encoder starts from weights that are not what the user asked for, and trains on.

The installed references write the files, with random weights, under the names and in the place of the real
ones; what comes out of the loaded encoder is compared with what the reference computes.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from zoo import encoders
from zoo.encoders import Normalisation, pretrained
from zoo.encoders.pretrained import IMAGENET, fit_input, fit_normalisation
from zoo.errors import InputError
from zoo.state import read

Put = Callable[[str, dict], Path]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Writes a state dict where the download of an encoder's weights would be, and has its hash expected."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    real = pretrained.source

    def write(name: str, state: dict) -> Path:
        path = folder / (real(name).file or real(name).url.rsplit("/", 1)[1])
        torch.save(state, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        monkeypatch.setattr(pretrained, "source", lambda name: real(name)._replace(sha256=digest))
        return path

    return write


def randomised(model: nn.Module) -> nn.Module:
    """With running statistics that differ from what a fresh network has."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def last_map_of_torchvision(model: nn.Module, x: Tensor) -> Tensor:
    """What comes before pooling; of EfficientNet before the 1×1 convolution for the classifier."""
    if isinstance(model, torchvision.models.EfficientNet):
        return model.features[:8](x)
    if isinstance(model, torchvision.models.RegNet):
        return model.trunk_output(model.stem(x))
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf"])
def test_torchvisions_weights(name: str, put: Put) -> None:
    reference = randomised(torchvision.models.get_model(name, weights=None))
    put(name, reference.state_dict())
    encoder = encoders.build(name, pretrained=True).eval()
    x = torch.randn(2, 3, 65, 47)
    assert_close(encoder(x)[-1], last_map_of_torchvision(reference, x))
    assert encoder.normalisation == IMAGENET


@pytest.mark.parametrize(
    ("name", "normalisation"),
    [("resnet50s", IMAGENET), ("xception65", Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))],
)
def test_timms_weights(name: str, normalisation: Normalisation, put: Put) -> None:
    timm = pytest.importorskip("timm")
    reference = randomised(timm.create_model(name, pretrained=False))
    put(name, reference.state_dict())
    encoder = encoders.build(name, pretrained=True).eval()
    x = torch.randn(1, 3, 65, 47)
    assert_close(encoder(x)[-1], reference.forward_features(x))
    assert encoder.normalisation == normalisation


@pytest.mark.parametrize("depth", [None, 2])
def test_hrnets_weights(depth: int | None, put: Put) -> None:
    timm = pytest.importorskip("timm")
    reference = randomised(timm.create_model("hrnet_w18", pretrained=False))
    put("hrnet_w18", reference.state_dict())
    encoder = encoders.build("hrnet_w18", pretrained=True, depth=depth).eval()
    encoder.upsampling = "nearest"  # as the classifier has it
    x = torch.randn(1, 3, 64, 96)
    y = reference.bn1(reference.conv1(x)).relu()
    y = reference.bn2(reference.conv2(y)).relu()
    for ours, theirs in zip(encoder(x), reference.stages(y)[:depth], strict=True):
        assert_close(ours, theirs)
    assert encoder.normalisation == IMAGENET


@pytest.mark.parametrize("depth", [None, 3])
def test_mix_transformers_weights(depth: int | None, put: Put, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    reference = transformers.SegformerForImageClassification(transformers.SegformerConfig()).eval()
    for p in reference.parameters():  # biases and scales start as zeros and ones, which hides an exchange
        nn.init.normal_(p, p.mean().item(), 0.05)
    reference.save_pretrained(tmp_path)
    put("mit_b0", read(tmp_path / "model.safetensors"))
    encoder = encoders.build("mit_b0", pretrained=True, depth=depth).eval()
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5  # as transformers computes
    x = torch.randn(1, 3, 65, 47)
    theirs = reference(x, output_hidden_states=True).hidden_states
    for ours, their in zip(encoder(x), theirs[:depth], strict=True):
        assert_close(ours, their)
    assert encoder.normalisation == IMAGENET


def test_a_mix_transformer_of_another_layout_is_refused(put: Put) -> None:
    path = put("mit_b0", {"patch_embed1.proj.weight": torch.zeros(1), "classifier.bias": torch.zeros(1)})
    says = rf"{path} for encoder mit_b0: 1 keys have no place here, \['patch_embed1\.proj\.weight'\]"
    with pytest.raises(InputError, match=says):
        encoders.build("mit_b0", pretrained=True)


@pytest.mark.parametrize(("name", "depth"), [("resnet18", 3), ("efficientnet_b0", 2), ("regnet_y_400mf", 4)])
def test_a_shallow_encoder_takes_the_finest_stages(name: str, depth: int, put: Put) -> None:
    reference = randomised(torchvision.models.get_model(name, weights=None))
    put(name, reference.state_dict())
    shallow = encoders.build(name, pretrained=True, depth=depth).eval()
    whole = encoders.build(name, pretrained=True).eval()
    x = torch.randn(1, 3, 65, 47)
    assert all(torch.equal(a, b) for a, b in zip(shallow(x), whole(x)[:depth], strict=True))


def test_another_output_stride_takes_the_same_weights(put: Put) -> None:
    put("resnet18", torchvision.models.resnet18().state_dict())
    fine, coarse = (encoders.build("resnet18", pretrained=True, output_stride=s) for s in (8, 32))
    assert all(torch.equal(a, b) for a, b in zip(fine.parameters(), coarse.parameters(), strict=True))


def test_a_file_older_than_batchnorms_counter(put: Put) -> None:
    state = torchvision.models.resnet18().state_dict()
    put("resnet18", {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")})
    assert torch.equal(encoders.build("resnet18", pretrained=True).conv1.weight, state["conv1.weight"])


# ------------------------------------------------------------------ other inputs than RGB


def test_grey_gives_what_it_gave_as_three_equal_channels(put: Put) -> None:
    put("resnet18", randomised(torchvision.models.resnet18()).state_dict())
    grey, rgb = (encoders.build("resnet18", channels, pretrained=True).eval() for channels in (1, 3))
    x = torch.randn(1, 1, 64, 64)
    for ours, theirs in zip(grey(x), rgb(x.expand(-1, 3, -1, -1)), strict=True):
        assert_close(ours, theirs)
    assert grey.normalisation == Normalisation((pytest.approx(0.449),), (pytest.approx(0.226),))


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_n_channels_take_turns_and_keep_the_size_of_the_response(channels: int, put: Put) -> None:
    state = torchvision.models.resnet18().state_dict()
    put("resnet18", state)
    encoder = encoders.build("resnet18", channels, pretrained=True)
    first, rgb = encoder.conv1.weight, state["conv1.weight"]
    for channel in range(channels):
        torch.testing.assert_close(first[:, channel], rgb[:, channel % 3] * 3 / channels)
    assert encoder.normalisation.mean == tuple(IMAGENET.mean[i % 3] for i in range(channels))
    assert encoder.normalisation.std == tuple(IMAGENET.std[i % 3] for i in range(channels))
    if channels == 6:  # two copies of an image respond as the image
        x = torch.randn(1, 3, 32, 32)
        doubled = nn.functional.conv2d(torch.cat([x, x], 1), first)
        torch.testing.assert_close(doubled, nn.functional.conv2d(x, rgb), rtol=1e-4, atol=1e-4)


def test_weights_for_another_input_than_rgb_are_left_alone() -> None:
    conv = nn.Sequential(nn.Conv2d(1, 4, 3))
    weights = {"0.weight": torch.randn(4, 5, 3, 3)}
    assert not fit_input(conv, weights)
    assert weights["0.weight"].shape == (4, 5, 3, 3)
    own = Normalisation((0.2,), (0.1,))
    assert fit_normalisation(own, 1) == own


@pytest.mark.parametrize("channels", [0, -1])
def test_an_encoder_sees_one_channel_or_more(channels: int) -> None:
    says = rf"in_channels of encoder resnet18 must be a whole number >= 1, not {channels}"
    with pytest.raises(InputError, match=says):
        encoders.build("resnet18", channels)


# ------------------------------------------------------------------ the tables


def test_every_encoder_has_weights_or_is_refused_naming_those_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(encoders.pretrained_names()) <= set(encoders.names())
    monkeypatch.setitem(encoders._ENCODERS, "resnet5", encoders._ENCODERS["resnet18"])
    assert "resnet5" not in encoders.pretrained_names()
    with pytest.raises(InputError, match=r"encoder resnet5 has no ImageNet weights .* with: resnet18, "):
        encoders.build("resnet5", pretrained=True)


def test_torchvisions_table_is_torchvisions() -> None:
    for name in pretrained.TORCHVISION:
        assert name in encoders.names()
        origin = pretrained.source(name)
        assert origin.url.startswith("https://download.pytorch.org/models/")
        assert origin.url.endswith(f"-{origin.sha256}.pth")
        assert re.fullmatch("[0-9a-f]{8}", origin.sha256)
        assert origin.normalisation == IMAGENET


def test_our_table_is_timms() -> None:
    timm = pytest.importorskip("timm")
    tags = {"resnet": "gluon_in1k", "xception": "tf_in1k", "hrnet": "ms_in1k"}
    for name, origin in pretrained.SOURCES.items():
        assert name in encoders.names()
        if name.startswith("mit"):
            continue
        assert origin.whose == "timm"
        assert origin.url.endswith(f"-{origin.sha256}.pth")
        family = re.match("[a-z]+", name)[0]
        config = timm.models.get_pretrained_cfg(f"{name}.{tags[family]}")
        assert origin.normalisation == (config.mean, config.std)
        assert origin.licence.lower() == config.license
        assert config.url in (origin.url, None, "")  # timm no longer names the files of these two families


def test_every_mix_transformer_is_at_hugging_face() -> None:
    for size in ("b0", "b1", "b2", "b3", "b4", "b5"):
        origin = pretrained.source(f"mit_{size}")
        assert origin.url == f"https://huggingface.co/nvidia/mit-{size}/resolve/main/pytorch_model.bin"
        assert origin.file == f"mit-{size}.bin"
        assert "non-commercial" in origin.licence
        assert origin.normalisation == IMAGENET


# ------------------------------------------------------------------ files that are not those


def test_a_file_of_another_network_is_refused(put: Put) -> None:
    path = put("resnet18", torchvision.models.resnet34().state_dict())
    says = rf"{path.name} for encoder resnet18 .*96 too many \['layer1\.2\.conv1"
    with pytest.raises(InputError, match=says):
        encoders.build("resnet18", pretrained=True)


def test_a_missing_key_is_no_small_matter(put: Put) -> None:
    state = torchvision.models.resnet18().state_dict()
    del state["layer4.1.bn2.bias"]
    put("resnet18", state)
    for depth in (5, 3):  # also behind the last map that is wanted
        with pytest.raises(InputError, match=r"1 keys missing \['layer4\.1\.bn2\.bias'\]"):
            encoders.build("resnet18", pretrained=True, depth=depth)


def test_a_wrong_shape_is_refused(put: Put) -> None:
    state = torchvision.models.resnet18().state_dict()
    state["bn1.bias"] = torch.zeros(65)
    put("resnet18", state)
    with pytest.raises(InputError, match=r"1 of another shape \['bn1\.bias is \(65,\) there, \(64,\) here"):
        encoders.build("resnet18", pretrained=True)


def test_a_wrong_hash_is_refused(put: Put) -> None:
    path = put("resnet18", torchvision.models.resnet18().state_dict())
    data = path.read_bytes()
    path.write_bytes(data[:-7])
    with pytest.raises(InputError, match=rf"{path}: has a sha256 .*: damaged or another file; delete it"):
        encoders.build("resnet18", pretrained=True)
