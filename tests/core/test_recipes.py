"""If these break, `--recipe paper` no longer trains as the paper did, or a flag is silently overruled."""

import math

import pytest

from zoo import registry
from zoo.core.config import TrainConfig
from zoo.core.dataset import KINDS
from zoo.core.recipes import DATA_DEFAULTS, RECIPES, resolve, resume
from zoo.errors import InputError


def test_every_kind_of_data_brings_a_size() -> None:
    assert DATA_DEFAULTS.keys() == KINDS.keys()
    assert resolve({"data": "cityscapes:x"})[0].size == (512, 1024)


@pytest.mark.parametrize("key", sorted(RECIPES))
def test_every_row_makes_a_valid_configuration_and_cites_a_source(key: tuple[str, str]) -> None:
    arch, name = key
    config, origins = resolve({"arch": arch, "recipe": name})
    row = RECIPES[key]
    assert row.source
    assert set(row.ours) <= set(row.settings)
    for field, value in row.settings.items():
        assert getattr(config, field) == value
        assert name in origins[field]


def test_unet_paper_row_against_the_paper() -> None:
    """Ronneberger et al. 2015, Sec. 3: SGD, momentum 0.99, batch of one; Fig. 1: 388 out of 572."""
    config, _ = resolve({"arch": "unet", "recipe": "paper"})
    assert (config.optimizer, config.momentum, config.batch, config.size) == ("sgd", 0.99, 1, (388, 388))
    assert config.loss == "weighted_ce"
    assert set(config.augment.split("+")) == {"shift", "rotate", "grey", "elastic"}  # Sec. 3.1
    assert config.options == {}  # the network itself as published


def test_unetpp_paper_row_against_the_paper() -> None:
    """Zhou et al. 2018, Sec. 3: Adam, 3e-4; binary cross-entropy halved, plus Dice; no normalisation."""
    config, _ = resolve({"arch": "unetpp", "recipe": "paper"})
    assert (config.optimizer, config.weight_decay, config.lr) == ("adamw", 0.0, 3e-4)
    assert config.loss == "0.5*bce+dice"
    assert config.options == {}


def test_deeplab_trains_as_long_as_its_authors() -> None:
    """30,000 steps of 16 images out of 10,582 (DeepLabV3, Sec. 4.1)."""
    assert resolve({"arch": "deeplabv3plus", "recipe": "paper"})[0].epochs == math.ceil(30_000 * 16 / 10_582)


@pytest.mark.parametrize("arch", ["fcn", "pspnet", "deeplabv3plus", "unet_halved", "unetpp", "unet"])
def test_the_encoder_that_is_built_stands_in_the_configuration(arch: str) -> None:
    own = {"unet": None, "unetpp": None}.get(arch, registry.default_encoder(arch))
    config, origins = resolve({"arch": arch})
    assert (config.encoder, origins["encoder"]) == (own, "default")
    if arch != "unet":
        config, origins = resolve({"arch": arch, "encoder": "resnet18"})
        assert (config.encoder, origins["encoder"]) == ("resnet18", "flag")


def test_a_published_network_brings_its_encoder_and_options() -> None:
    name = "fcn_resnet101_coco"
    for flag in ("pretrained", "weights"):
        config, origins = resolve({"arch": "fcn", flag: name})
        assert config.encoder == "resnet101"
        assert config.options == {"aux": True}
        assert origins["encoder"] == origins["options"] == "weights"
    config, _ = resolve({"arch": "fcn", "pretrained": name, "options": {"aux": False}})
    assert config.options == {"aux": False}  # a flag's wins
    with pytest.raises(InputError, match="fcn_resnet101_coco are weights of fcn, not of pspnet"):
        resolve({"arch": "pspnet", "pretrained": name})


def test_weights_take_the_place_of_a_recipes_imagenet_weights() -> None:
    assert resolve({"arch": "pspnet", "recipe": "paper"})[0].pretrained is True
    assert resolve({"arch": "pspnet", "recipe": "paper", "weights": "x.pt"})[0].pretrained is False
    assert resolve({"arch": "pspnet", "recipe": "paper", "pretrained": False})[0].pretrained is False


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"arch": "unet", "encoder": "resnet18"}, "unet has no choice of encoder"),
        ({"arch": "pspnet", "encoder": "resnet5"}, "nearest: resnet50"),
        ({"arch": "deeplabv3plus", "options": {"output_stride": 12}}, "output stride 12 is not possible"),
        ({"arch": "unetpp", "pretrained": True}, "--pretrained: unetpp has no encoder"),
        ({"arch": "unetpp", "head_lr": 2.0}, "unetpp has no encoder; choose an --encoder, or leave"),
        ({"arch": "unet", "head_lr": 2.0}, "--head-lr: unet has no encoder; choose an --arch of .*pspnet"),
        ({"arch": "unet", "pretrained": True}, "--pretrained: unet has no encoder; choose an --arch of"),
        (
            {"arch": "fcn", "pretrained": "fcn_resnet50_coco", "encoder": "resnet18"},
            "--encoder resnet18: fcn_resnet50_coco are weights of fcn with resnet50",
        ),
        ({"arch": "fcn", "weights": "fcn_resnet50_coco", "encoder": "resnet18"}, "--encoder resnet18"),
        ({"arch": "pspnet", "options": {"bins": True}}, "option bins of pspnet must be"),
        ({"arch": "pspnet", "options": {"bins": 0.5}}, r"option bins of pspnet must be .*not \(0.5,\)"),
        ({"arch": "pspnet", "reset_head": True}, "--reset-head: a fresh head is all there is"),
        ({"arch": "pspnet", "pretrained": True, "weights": "x.pt"}, "one of them"),
        ({"arch": "pspnet", "pretrained": "pspnet_voc"}, "unknown weights 'pspnet_voc'"),
        ({"arch": "deeplabv3plus", "size": (16, 64)}, "--size 16x64: too small for deeplabv3plus"),
    ],
)
def test_what_cannot_be_is_said_before_any_file_is_read(flags: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resolve({"data": "folder:/nowhere", **flags})


def test_naming_the_encoder_that_the_weights_have_is_no_contradiction() -> None:
    flags = {"arch": "fcn", "pretrained": "fcn_resnet101_coco", "encoder": "resnet101"}
    assert resolve(flags)[0].encoder == "resnet101"


@pytest.mark.parametrize(
    ("arch", "option", "value", "became"),
    [
        ("pspnet", "bins", 1, (1,)), ("pspnet", "bins", (1, 2), (1, 2)),
        ("deeplabv3plus", "rates", 6, (6,)), ("deeplabv3plus", "rates", None, None),  # tuple or None
        ("pspnet", "dropout", 0.5, 0.5),
    ],
)
def test_one_number_is_several_where_the_architecture_takes_several(
    arch: str, option: str, value: object, became: object
) -> None:
    """`--opt bins=1` reads as a number: the command line cannot know that PSPNet takes several."""
    config, _ = resolve({"arch": arch, "encoder": "resnet18", "options": {option: value}})
    assert config.options[option] == became
    assert resume(config, {"options": {option: value}}, "r") == config


def test_flags_win_and_options_merge() -> None:
    config, origins = resolve({"arch": "unetpp", "lr": 0.5, "options": {"deep_supervision": True}})
    assert config.lr == 0.5
    assert origins["lr"] == "flag"
    assert config.options["deep_supervision"] is True
    assert set(RECIPES["unetpp", "default"].settings["options"]) < set(config.options)  # type: ignore[call-overload]


def test_a_size_that_unet_cannot_put_out_is_rounded_up_and_said() -> None:
    config, origins = resolve({"arch": "unet", "size": (100, 200)})
    assert config.size == (100, 212)
    assert "rounded up" in origins["size"]


def test_a_padded_unet_puts_out_any_size_and_resumes_at_it() -> None:
    config, origins = resolve({"arch": "unet", "options": {"padded": True}, "size": (33, 47)})
    assert (config.size, origins["size"]) == ((33, 47), "flag")
    assert resume(config, {"size": (33, 47)}, "r") == config
    with pytest.raises(InputError, match="was started with"):
        resume(config, {"size": (36, 52)}, "r")


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"--recipe papr: unetpp .*default, paper"):
        resolve({"arch": "unetpp", "recipe": "papr"})
    with pytest.raises(InputError, match="unetpp"):
        resolve({"arch": "unetp"})


def test_resuming_allows_only_what_keeps_the_run_the_same() -> None:
    saved = TrainConfig(arch="unetpp", data="phantom", options={"width": 4})
    assert resume(saved, {"epochs": 99, "workers": 0}, "r").epochs == 99
    assert resume(saved, {"arch": "unetpp", "options": {"width": 4}}, "r") == saved
    for flags in ({"arch": "unet"}, {"data": "folder:x"}, {"options": {"width": 8}}, {"lr": 1.0}):
        with pytest.raises(InputError, match="was started with"):
            resume(saved, flags, "r")
    with pytest.raises(InputError, match=r"--fold 1/5: not what the run in r was started with \(none\)"):
        resume(saved, {"fold": (1, 5)}, "r")
