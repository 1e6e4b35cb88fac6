"""If these break, `--recipe paper` no longer trains as the paper did, or a flag is silently overruled."""

import pytest

from zoo.core.config import TrainConfig
from zoo.core.recipes import RECIPES, resolve, resume
from zoo.errors import InputError


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
