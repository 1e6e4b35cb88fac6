"""If these break, a run is not what its configuration says, or a wrong flag ends in a stack trace."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from zoo.core.config import Preprocess, TrainConfig, channels_first, rate, spelled
from zoo.errors import InputError


def test_json_round_trip() -> None:
    options = {"width": 4, "norm": None, "bins": (1, 2, 3, 6)}
    config = TrainConfig(size=(3, 5), fold=(0, 4), ignore=(11,), options=options)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_key_of_another_version_is_named() -> None:
    with pytest.raises(InputError, match="'colour'"):
        TrainConfig.from_dict({"colour": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "adam"), ("schedule", "cosin"), ("amp", "bf8"), ("val_fraction", 1.0),
        ("fold", (5, 5)), ("fold", (0, 1)),
        ("limit_train", 0), ("size", (0, 8)), ("epochs", 0), ("batch", 0), ("accumulate", 0),
        ("lr", 0.0), ("lr", math.inf), ("momentum", 1.0), ("weight_decay", -1.0), ("warmup", -1.0),
        ("clip", -0.1), ("patience", -1), ("workers", -1), ("seed", -1),
        ("head_lr", 0.0), ("decay_on", "wieghts"),
    ],
)
def test_a_value_that_cannot_be_names_its_flag(field: str, value: object) -> None:
    with pytest.raises(InputError, match="--" + field.replace("_", "-")):
        TrainConfig(**{field: value})
    with pytest.raises(InputError, match="--fold 5/5: must be I/N"):
        TrainConfig(fold=(5, 5))


def test_rates_by_formula() -> None:
    warm = [rate(s, 110, 10, "constant") for s in range(12)]
    assert warm == pytest.approx([(s + 1) / 10 for s in range(10)] + [1, 1])
    for s in range(10, 110):
        t = (s - 10) / 100
        assert rate(s, 110, 10, "cosine") == pytest.approx(0.5 * (1 + math.cos(math.pi * t)))
        assert rate(s, 110, 10, "poly") == pytest.approx((1 - t) ** 0.9)
        assert rate(s, 110, 10, "linear") == pytest.approx(1 - t)
        assert rate(s, 110, 10, "step") == pytest.approx(1 if t < 2 / 3 else 0.1 if t < 8 / 9 else 0.01)


def test_every_schedule_ends_above_zero_and_never_jumps_up_after_warmup() -> None:
    for schedule in ("cosine", "poly", "linear", "step", "constant"):
        rates = [rate(s, 50, 5, schedule) for s in range(50)]
        assert rates[-1] > 0
        assert all(a >= b for a, b in pairwise(rates[4:]))


def test_normalised_values_by_formula() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    x = Preprocess(3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), (5, 7)).to_tensor(image)
    expected = (image / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(x.numpy(), np.moveaxis(expected, 2, 0), rtol=1e-5, atol=1e-6)
    assert x.dtype == torch.float32


def test_what_people_are_told_of_the_input() -> None:
    said = Preprocess(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (5, 7), tile=True).describe()
    assert said == (
        "channels 3, mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225; tiles at the image's own scale"
    )
    assert Preprocess(1, (0.5,), (0.25,), (5, 7)).describe().endswith("deviation 0.25; resized")


def test_settings_are_shown_as_they_are_typed() -> None:
    """A list of 80 names would push the rest of the table off the screen."""
    shown = {
        "size": ((256, 512), "256x512"), "fold": ((0, 5), "0/5"), "ignore": ((0, 255), "0 255"),
        "exclude": (("a.png", "b.png", "c.png"), "a.png and 2 more"), "options": ({"width": 16}, "width=16"),
        "encoder": (None, "none"), "lr": (0.001, "0.001"),
    }  # fmt: skip
    for field, (value, text) in shown.items():
        assert spelled(field, value) == text
    assert {spelled(field, empty) for field, empty in (("exclude", ()), ("options", {}))} == {"none"}


def test_channels_are_repeated_or_mixed() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert torch.equal(channels_first(grey, 3)[2], torch.from_numpy(grey))
    colour = np.full((2, 3, 3), (10, 20, 30), np.uint8)
    luma = round(0.299 * 10 + 0.587 * 20 + 0.114 * 30)
    assert channels_first(colour, 1).tolist() == [[[luma] * 3] * 2]
