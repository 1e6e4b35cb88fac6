"""If these break, a run starts from other weights than it says, or its checkpoint builds another network."""

from pathlib import Path

import pytest
import torch

import zoo
from tests.core.test_checkpoint import tiny
from tests.core.test_trainer import config as training
from tests.core.test_trainer import trainer
from zoo import registry, weights
from zoo.core import checkpoint
from zoo.core.config import Preprocess, TrainConfig
from zoo.core.network import freeze, memory_format, network, training_mode
from zoo.core.recipes import resolve
from zoo.encoders import Normalisation
from zoo.errors import InputError

OPTIONS = {"width": 2, "norm": None}  # of `tiny`


def silent(_: str) -> None:
    pass


def config(**flags: object) -> TrainConfig:
    return resolve({"arch": "pspnet", "encoder": "resnet18", **flags})[0]


def test_behind_an_encoder_there_are_three_channels() -> None:
    for channels in (1, 3):
        model, build = network(config(), 4, channels, silent)
        assert (model.in_channels, model.num_classes) == (3, 4)
        alone, _ = network(resolve({"arch": "unetpp", "options": {"width": 2}})[0], 4, channels, silent)
        assert alone.in_channels == channels
    with torch.device("meta"):
        again = registry.build("pspnet", **build)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_the_seed_decides_the_weights() -> None:
    one, other, third = (network(config(seed=s), 2, 3, silent)[0].state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert not torch.equal(one["encoder.conv1.weight"], third["encoder.conv1.weight"])


def test_a_published_name_is_fetched_and_its_options_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--pretrained NAME and --weights NAME are one; align_corners belongs to the weights, so to the build."""
    said: list[str] = []
    fetched: list[str] = []

    def fetch(name: str) -> Path:
        fetched.append(name)
        return tmp_path / "file.pth"

    def load(model: torch.nn.Module, path: object, *, reset_head: bool, say: object) -> weights.Loaded:
        assert path == tmp_path / "file.pth"
        assert reset_head
        model.align_corners = True  # type: ignore[assignment]
        say("file.pth: read")  # type: ignore[operator]
        return weights.Loaded("x", "file.pth: read", (), {"align_corners": True}, None)

    normalisation = Normalisation((0.0,), (1.0,))
    row = weights.Published("pspnet", {"encoder": "resnet18"}, "", "", 0, (), normalisation, "")
    monkeypatch.setattr(weights, "known", lambda: {"a_name": row})
    monkeypatch.setattr(weights, "published", lambda arch, name: row)
    monkeypatch.setattr(weights, "fetch", fetch)
    monkeypatch.setattr(weights, "load", load)
    for flag in ("pretrained", "weights"):
        c = resolve({"arch": "pspnet", "reset_head": True, flag: "a_name"})[0]
        _, build = network(c, 2, 3, said.append)
        assert build["encoder"] == "resnet18"
        assert registry.build("pspnet", **build).align_corners is True
    assert fetched == ["a_name"] * 2
    assert said == ["file.pth: read"] * 2


def test_a_checkpoint_of_ours_gives_its_weights_and_its_normalisation(tmp_path: Path) -> None:
    written = tiny()
    checkpoint.write(tmp_path / "a.pt", written)
    c, _ = resolve({"arch": "unetpp", "weights": str(tmp_path / "a.pt"), "options": OPTIONS})
    said: list[str] = []
    model, _ = network(c, 2, 1, said.append)
    assert all(torch.equal(v, written.model[k]) for k, v in model.state_dict().items())
    assert registry.normalisation(model) == ((0.5,), (0.25,))
    assert "a.pt" in said[0]


def test_other_classes_need_reset_head(tmp_path: Path) -> None:
    written = tiny()
    checkpoint.write(tmp_path / "a.pt", written)
    flags = {"arch": "unetpp", "weights": str(tmp_path / "a.pt"), "options": OPTIONS}
    with pytest.raises(InputError, match=r"2 classes.* 5.*--reset-head"):
        network(resolve(flags)[0], 5, 1, silent)
    model, _ = network(resolve({**flags, "reset_head": True})[0], 5, 1, silent)
    state = model.state_dict()
    other = {k for k, v in state.items() if not torch.equal(v, written.model[k])}
    assert other == {k for k in state if k.startswith("heads.")}


def test_align_corners_of_a_checkpoint_is_the_new_runs(tmp_path: Path) -> None:
    """No key and no shape shows it, so a run that starts from the weights must take it from the file."""
    first = zoo.build("pspnet", 2, encoder="resnet18", align_corners=True)
    written = tiny()
    written.arch, written.model = "pspnet", first.state_dict()
    written.build = {"num_classes": 2, "encoder": "resnet18", "align_corners": True}
    written.preprocess = Preprocess(3, (0.4,) * 3, (0.2,) * 3, (64, 64))
    checkpoint.write(tmp_path / "a.pt", written)
    model, build = network(config(weights=str(tmp_path / "a.pt")), 2, 3, silent)
    assert build["align_corners"] is True
    x = torch.randn(1, 3, 65, 71)
    assert torch.equal(model.eval()(x), first.eval()(x))


# ---------------------------------------------------------------- the memory format
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("arch", "device", "amp", "last"),
    [
        ("pspnet", CPU, None, False), ("deeplabv3plus", CPU, None, True), ("unet_halved", CPU, None, True),
        ("pspnet", CPU, torch.bfloat16, True), ("pspnet", CUDA, None, True),
    ],
)  # fmt: skip
def test_dilated_networks_train_contiguous_in_float32_on_a_cpu(
    arch: str, device: torch.device, amp: torch.dtype | None, last: bool
) -> None:
    """Where channels-last was measured to be slower, and nowhere else: Xception's are depthwise."""
    with torch.device("meta"):
        model = registry.build(arch)
    wanted = torch.channels_last if last else torch.contiguous_format
    assert memory_format(model, device, amp) is wanted


def test_images_lie_in_memory_as_the_weights_do(shapes: Path, tmp_path: Path) -> None:
    for amp, last in (("off", False), ("bf16", True)):
        c = training(shapes, options={}, arch="pspnet", encoder="resnet18", amp=amp)
        t = trainer(c, tmp_path / "run")
        x, _ = t.to_device(next(t.loader.epoch(0)))
        for tensor in (x, t.model.encoder.conv1.weight):
            assert tensor.is_contiguous(memory_format=torch.channels_last) == last


# ---------------------------------------------------------------- parts that stay as they are


def test_a_frozen_encoder_is_the_same_after_training(shapes: Path, tmp_path: Path) -> None:
    """Its weights, and the running statistics of its BatchNorms; the decoder's change."""
    c = training(shapes, options={}, arch="pspnet", encoder="resnet18", freeze_encoder=True, epochs=1)
    t = trainer(c, tmp_path / "run")
    before = {key: tensor.clone() for key, tensor in t.model.state_dict().items()}
    stepped = {id(p) for group in t.optimizer.param_groups for p in group["params"]}
    assert not stepped & {id(p) for p in t.model.encoder.parameters()}
    t.fit()
    for key, tensor in t.model.state_dict().items():
        same = torch.equal(tensor, before[key])
        assert same == key.startswith("encoder."), key


def test_frozen_batch_norms_learn_scales_but_no_statistics(shapes: Path, tmp_path: Path) -> None:
    c = training(shapes, options={"width": 2, "norm": "batch"}, freeze_bn=True, epochs=1)
    t = trainer(c, tmp_path / "run")
    before = {key: tensor.clone() for key, tensor in t.model.state_dict().items()}
    t.fit()
    changed = {key for key, tensor in t.model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert not [key for key in changed if "running" in key or "tracked" in key]
    assert "x.00.h.1.weight" in changed


def test_what_has_no_encoder_cannot_freeze_it() -> None:
    model, c = registry.build("unetpp", 2, 3, **OPTIONS), TrainConfig(freeze_encoder=True)
    with pytest.raises(InputError, match="--freeze-encoder: unetpp has no encoder here; leave it out"):
        freeze(model, c)
    training_mode(model, TrainConfig())
    assert all(m.training for m in model.modules())
