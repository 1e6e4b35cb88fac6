"""If these break, pictures of a network's maps are of another network, or a slip ends in a stack trace."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import zoo
from tests import small
from tests.core.test_checkpoint import tiny
from tests.encoders.hrnets import few_blocks
from zoo import encoders, registry, trace
from zoo.__main__ import main
from zoo.core import checkpoint
from zoo.core.images import read_image
from zoo.encoders import pretrained
from zoo.errors import InputError
from zoo.show import Asked
from zoo.trace import TILE, Opened


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A bright disc on a gradient, 48×40."""
    picture = np.tile(np.linspace(0, 80, 40, dtype=np.uint8), (48, 1))
    cv2.circle(picture, (22, 20), 9, 220, -1)
    cv2.imwrite(str(tmp_path / "disc.png"), picture)
    return tmp_path / "disc.png"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", [*small.NAMES, "resnet18", "mit_b0"])
def test_a_picture_for_every_stage_of_every_architecture(
    name: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_blocks(monkeypatch)
    options = small.options(name, width=4) if name in small.NAMES else {}
    encoder = f"--encoder {options.pop('encoder')}" if "encoder" in options else ""
    words = " ".join(f"--opt {k}={v}" for k, v in options.items())
    out = tmp_path / "maps"
    assert main(f"trace {name} {encoder} {words} --image {image} --out {out} --size 48x64".split()) == 0
    written = files(out)
    assert f"{len(written) - 1} stages" in capsys.readouterr().out
    assert written[-1] == "index.png"
    assert [int(file[:2]) for file in written[:-1]] == list(range(1, len(written)))
    for file in written:
        assert read_image(out / file).shape[2] == 3


def test_the_triangle_of_unetpp_lies_as_in_its_figure(image: Path, tmp_path: Path) -> None:
    """index.png: row i has the nodes X^{i,j}, from left to right."""
    model = zoo.build("unetpp", 2, 1, width=4).eval()
    seen, _ = trace.look(model, torch.rand(1, 1, 64, 64))
    strides = {one.path: one.stride for one in seen}
    assert strides["heads.4"] == 1
    for i in range(5):
        row = [path for path, stride in strides.items() if stride == 2**i and path.startswith("x.")]
        assert row == [f"x.{i}{j}" for j in range(5 - i)]
    picture = trace.index(seen, np.zeros((64, 64), np.uint8))
    assert picture.shape[1] == 6 * (TILE + 4) - 4  # X^{0,0} to X^{0,4} and the head


def test_a_row_of_too_many_stages_goes_on_below_and_leaves_no_gap_in_others() -> None:
    fine = trace.Seen("a", (1, 64, 64), torch.rand(1, 64, 64).numpy(), (0,), 0, 1)
    coarse = trace.Seen("b", (1, 32, 32), torch.rand(1, 32, 32).numpy(), (0,), 0, 2)
    image = np.zeros((64, 64), np.uint8)
    high, _, _ = trace.index([fine, coarse], image).shape
    assert trace.index([fine] * 10 + [coarse], image).shape == (high, 10 * (TILE + 4) - 4, 3)
    assert trace.index([fine] * 11 + [coarse], image).shape[0] == (high + 4) * 4 // 3 - 4


def test_strides_of_unpadded_and_of_pooled_maps() -> None:
    """No map of U-Net has the input's size divided by its stride, and PSPNet's levels have none."""
    seen, _ = trace.look(zoo.build("unet", width=1).eval(), torch.rand(1, 1, 188, 188))
    strides = {one.path: one.stride for one in seen}
    assert strides == {
        "enc1": 1, "enc2": 2, "enc3": 4, "enc4": 8, "pool": 16, "bottom": 16, "up4": 8, "dec4": 8,
        "up3": 4, "dec3": 4, "up2": 2, "dec2": 2, "up1": 1, "dec1": 1, "head": 1,
    }  # fmt: skip
    model = zoo.build("pspnet", encoder="resnet18").eval()
    strides = {one.path: one.stride for one in trace.look(model, torch.rand(1, 3, 33, 47))[0]}
    assert [strides[f"ppm.branches.{i}"] for i in range(4)] == [0, 0, 0, 0]
    assert (strides["encoder.layer4"], strides["logits"]) == (8, 1)


def test_maps_are_the_modules_own_and_those_that_vary_most_come_first() -> None:
    model = zoo.build("unetpp", 2, 1, width=8).eval()
    x, found = torch.rand(1, 1, 32, 48), {}
    handle = model.get_submodule("x.11").register_forward_hook(lambda m, a, y: found.update(y=y[0]))
    seen, logits = trace.look(model, x, most=5)
    handle.remove()
    (node,) = (one for one in seen if one.path == "x.11")
    assert node.shape == (16, 16, 24)
    spread = found["y"].flatten(1).std(1)
    assert list(node.channels) == spread.argsort(descending=True)[:5].tolist()
    assert np.array_equal(node.maps, found["y"][list(node.channels)].numpy())
    assert node.flat == int((spread == 0).sum())
    assert torch.equal(logits, model(x))
    assert not any(module._forward_hooks for module in model.modules())


def test_logits_are_a_stage_unless_the_last_module_gives_them() -> None:
    x = torch.rand(1, 3, 33, 47)
    last = {
        name: trace.look(zoo.build(name, 2, 3, **options).eval(), x)[0][-1].path
        for name, options in (("unetpp", {"width": 2}), ("fcn", {"encoder": "resnet18"}))
    }
    assert last == {"unetpp": "heads.4", "fcn": "logits"}


def test_an_encoder_ends_with_its_maps() -> None:
    seen, _ = trace.look(encoders.build("resnet18").eval(), torch.rand(1, 3, 64, 96))
    ends = [(one.path, one.shape, one.stride) for one in seen if one.path.startswith("output.")]
    shapes = [(64, 32, 48), (64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    assert ends == [(f"output.{i}", s, 2 ** (i + 1)) for i, s in enumerate(shapes)]


def test_single_pixels_become_one_square() -> None:
    one = trace._seen("p", torch.arange(10.0)[:, None, None], 32, 0)
    assert one.shape == (10, 1, 1)
    assert one.maps.shape == (1, 3, 4)
    assert one.maps.flatten().tolist() == [*range(10), 9, 9]


def test_a_tile_shows_where_a_map_differs_not_by_how_much() -> None:
    values = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    picture = trace.tile(values)
    assert picture.shape == (round(TILE * 20 / 30), TILE, 3)
    assert np.array_equal(picture, trace.tile(values * 1e6 - 3e5))
    assert (picture.min(), picture.max()) == (0, 255)
    assert (trace.tile(np.zeros((4, 4), np.float32)) == 127).all()
    spike = np.zeros((50, 50), np.float32)
    spike[3, 4] = 1.0  # so rare that both percentiles are 0
    assert trace.tile(spike).max() == 255


def test_a_fresh_network_gets_the_images_statistics_and_a_trained_one_keeps_its_own() -> None:
    """Without them a deep fresh network in eval grows from block to block: nothing could be seen."""
    torch.manual_seed(0)
    model = zoo.build("unet_halved", encoder="resnet18").eval()
    x = torch.randn(1, 3, 64, 64)
    trained = model.get_submodule("encoder.bn1")
    trained.running_mean.fill_(0.5)
    last, deviations = model.get_submodule("decoder.4.conv2.1"), []
    last.register_forward_hook(lambda m, a, y: deviations.append(y[0].flatten(1).std(1)))
    model(x)
    trace.settle(model, x)
    model(x)
    assert (trained.running_mean == 0.5).all()
    assert not any(m.training for m in model.modules())
    assert last.momentum == 0.1
    before, _, after = ((d - 1).abs().max() for d in deviations)
    assert after < 0.1 < 0.5 < before, "this image's maps have unit variance"


# ---------------------------------------------------------------- what it is asked for


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    checkpoint.write(tmp_path / "best.pt", tiny())
    return tmp_path / "best.pt"


def test_a_checkpoint_says_the_network_its_size_and_its_normalisation(trained: Path, image: Path) -> None:
    found = trace.opened(Asked(""), str(trained))
    saved = checkpoint.read(trained)
    assert found.name == saved.arch
    assert all(torch.equal(v, saved.model[k]) for k, v in found.model.state_dict().items())
    window, x = trace.prepared(found, read_image(image), None)
    assert window.shape == saved.preprocess.size
    expected = (torch.from_numpy(window) / 255 - saved.preprocess.mean[0]) / saved.preprocess.std[0]
    torch.testing.assert_close(x[0, 0], expected)
    assert trace.prepared(found, read_image(image), (33, 47))[0].shape == (33, 47)


def test_a_checkpoints_mask_ends_the_index(trained: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    assert main(f"trace --weights {trained} --image {image} --out {out}".split()) == 0
    seen, _ = trace.look(zoo.load(trained), torch.rand(1, 1, 64, 64))
    without = trace.index(seen, np.zeros((64, 64), np.uint8))
    with_mask = read_image(out / "index.png")
    assert with_mask.shape == without.shape
    place = with_mask[48 : 48 + TILE, TILE + 4 : 2 * TILE + 4]
    assert place.std() > 0, "beside the image stands its mask"
    assert without[48 : 48 + TILE, TILE + 4 : 2 * TILE + 4].std() == 0


def test_other_files_of_weights_fill_the_network_that_is_named(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = zoo.build("unetpp", 2, 1, width=2)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    said: list[str] = []
    what = Asked("unetpp", None, 2, 1, {"width": 2})
    found = trace.opened(what, str(tmp_path / "bare.pt"), say=said.append)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in found.model.state_dict().items())
    assert len(said) == 1


def test_random_weights_follow_from_the_seed() -> None:
    one, same, other = (
        trace.opened(Asked("unet", options={"width": 2}), seed=seed).model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["enc1.0.weight"], other["enc1.0.weight"])


@pytest.mark.parametrize("name", ["fcn", "resnet18"])
def test_pretrained_reaches_the_encoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pretrained, "load", lambda encoder, name: asked.append(name))
    trace.opened(Asked(name, "resnet18" if name == "fcn" else None), pretrained=True)
    assert asked == ["resnet18"]


def test_a_published_name_brings_its_own_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr(zoo, "build", lambda name, *a, **how: asked.update(how, name=name) or nn.Identity())
    trace.opened(Asked("segformer_b0"), "segformer_b0_ade20k")
    assert asked == {"name": "segformer_b0", "pretrained": "segformer_b0_ade20k"}


def test_the_unpadded_network_sees_a_mirrored_border(image: Path) -> None:
    model = zoo.build("unet", width=1).eval()
    window, x = trace.prepared(Opened("unet", model), read_image(image), None)
    assert window.shape == (52, 52)  # 48×40 rounded up to 4 + 16 k
    assert x.shape == (1, 1, 52 + 184, 52 + 184)
    inner = x[0, 0, 92:-92, 92:-92]
    torch.testing.assert_close(x[0, 0, 91, 92:-92], inner[1])
    assert inner.mean().abs() < 1e-4, "no checkpoint: the image's own mean and deviation"
    assert registry.check_size(model, (52, 52)) is None


def test_a_large_image_is_looked_at_smaller_unless_a_size_is_given(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((600, 1200), np.uint8))
    found = Opened("unetpp", zoo.build("unetpp", 1, 1, width=1).eval())
    large = read_image(tmp_path / "large.png")
    assert trace.prepared(found, large, None)[0].shape == (256, 512)
    assert trace.prepared(found, large, (600, 1200))[0].shape == (600, 1200)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("unetp --image IMAGE", "unknown network 'unetp'"),
        ("unetpp --image nowhere.png", "nowhere.png: cannot be read: No such file"),
        ("unetpp --image TEXT", "is not an image that can be read"),
        ("unetpp --image IMAGE --size 9", "size 9 is too small for UNetPP; its smallest is 17"),
        ("unetpp --image IMAGE --opt widht=4", "unetpp has no option 'widht'; nearest: width"),
        ("unetpp --image IMAGE --channels 4", "takes 4 channels, an image has 1 or 3: --channels 1 or 3"),
        ("unetpp --image IMAGE --weights nowhere.pt", "nowhere.pt"),
        ("unetpp --image IMAGE --weights TEXT", "x.txt: refused, for it holds more than tensors"),
        ("unet --image IMAGE --weights BEST", "holds unetpp, not unet; leave the name out"),
        ("--image IMAGE --weights BEST --opt level=2", "says how its network is built; leave that out"),
        ("--image IMAGE", "no --weights: only a checkpoint of train.py says what network it is of"),
        ("fcn --image IMAGE --weights x --pretrained", "leave the other out"),
        ("unet --image IMAGE --pretrained", "has no ImageNet weights"),
        ("resnet18 --image IMAGE --size 16", "is too small for a network without statistics"),
        ("unet --opt width=1 --image IMAGE --out FULL", "exists already and is not overwritten"),
        ("unet --opt width=1 --image IMAGE --out IMAGE", "exists already and is not overwritten"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    words: str, says: str, image: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.txt").write_text("not an image")
    places = {"IMAGE": image, "TEXT": tmp_path / "full" / "x.txt", "BEST": trained, "FULL": tmp_path / "full"}
    given = [str(places.get(word, word)) for word in words.split()]
    out = [] if "--out" in given else ["--out", str(tmp_path / "maps")]
    before = files(tmp_path)
    assert main(["trace", *given, *out]) == 2
    err = capsys.readouterr().err
    assert err.startswith("zoo: ")
    assert says in err
    assert err.count("\n") == 1
    assert files(tmp_path) == before


def test_maps_that_are_no_numbers_are_said(image: Path) -> None:
    model = zoo.build("unetpp", 1, 1, width=2).eval()
    nn.init.constant_(model.get_submodule("x.10.h.0").weight, float("nan"))
    with pytest.raises(InputError, match=r"x\.10 puts out what is no number"):
        trace.look(model, torch.rand(1, 1, 32, 32))
