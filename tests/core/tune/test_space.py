"""If these break, a search varies what it should not, or a mistake in its words costs a night of training."""

from dataclasses import replace

import pytest

from zoo.core.config import TrainConfig
from zoo.core.masks import Labels, palette
from zoo.core.tune import space
from zoo.core.tune.space import Choice, Range
from zoo.errors import InputError

BASE = TrainConfig(options={"width": 2})
BONES = Labels("multilabel", ("Radius", "Ulna"), palette(2))
ROAD = Labels("multiclass", ("sky", "road", "car"), palette(3), (0, 1, 2))


def test_the_words_are_read_as_typed() -> None:
    words = "lr=1e-4..1e-2 momentum=0.5..0.99 batch=4..16 loss=bce,bce+dice weight-decay=0,1e-4 size=64,64x96"
    words += " freeze_bn=false,true encoder=none,resnet18 opt.width=16,32 pretrained=true,false"
    found = space.parse(words.split(), BASE, BONES)
    assert found == {
        "lr": Range(1e-4, 1e-2, log=True, whole=False),
        "momentum": Range(0.5, 0.99, log=False, whole=False),
        "batch": Range(4, 16, log=False, whole=True),
        "loss": Choice(("bce", "bce+dice"), ("bce", "bce+dice")),
        "weight_decay": Choice(("0", "1e-4"), (0.0, 1e-4)),
        "size": Choice(("64", "64x96"), ((64, 64), (64, 96))),
        "freeze_bn": Choice(("false", "true"), (False, True)),
        "encoder": Choice(("none", "resnet18"), (None, "resnet18")),
        "opt.width": Choice(("16", "32"), (16, 32)),
        "pretrained": Choice(("true", "false"), (True, False)),
    }
    assert space.parse(space.typed(found), TrainConfig(lr=5.0), ROAD) == found, "study.json holds the words"


@pytest.mark.parametrize("labels", [BONES, ROAD], ids=["multilabel", "multiclass"])
def test_what_is_searched_without_words_has_the_run_itself(labels: Labels) -> None:
    """Else nobody learns whether the search found anything better than what was there."""
    found = space.parse([], BASE, labels)
    assert list(found) == ["lr", "weight_decay", "loss", "augment"]
    assert found["lr"] == Range(1e-4, 1e-2, log=True, whole=False)
    loss = "ce+dice" if labels is ROAD else "bce+dice"
    assert space.given(found, BASE, labels) == {
        "lr": 1e-3, "weight_decay": 1e-4, "loss": loss, "augment": "default",
    }  # fmt: skip
    space.check(found, {"options": {"width": 2}}, labels)
    own = replace(BASE, loss="focal", augment="turn+flip", lr=0.2)
    assert space.given(space.parse([], own, labels), own, labels) is not None


def test_a_run_outside_the_space_is_no_trial() -> None:
    for words in (["lr=0.1..1"], ["augment=flip,none"], ["opt.level=1,2"], ["lr=0.1,0.2"]):
        assert space.given(space.parse(words, BASE, BONES), BASE, BONES) is None


def test_names_alone_take_their_own_lists() -> None:
    found = space.parse(["optimizer", "schedule", "freeze-bn"], BASE, BONES)
    assert {name: str(dim) for name, dim in found.items()} == {
        "optimizer": "adamw,sgd", "schedule": "constant,cosine,poly,linear,step", "freeze_bn": "false,true",
    }  # fmt: skip


def test_a_trial_changes_what_is_searched_and_nothing_else() -> None:
    found = space.parse(["lr=1e-4..1e-2", "opt.level=1,2", "size=64,96"], BASE, BONES)
    flags = {"options": {"width": 2}, "lr": 1.0, "fold": (0, 5)}
    values = {"lr": 0.002, "opt.level": "2", "size": "96"}
    assert space.applied(flags, found, values) == {
        "options": {"width": 2, "level": 2}, "lr": 0.002, "fold": (0, 5), "size": (96, 96),
    }  # fmt: skip
    assert flags == {"options": {"width": 2}, "lr": 1.0, "fold": (0, 5)}
    assert space.said(values) == "lr=0.002 opt.level=2 size=96"


def test_a_drawn_number_can_be_typed_again_and_stays_inside() -> None:
    class Drawn:
        def __init__(self, value: float) -> None:
            self.value = value

        def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
            return self.value

    rates = Range(1e-4, 0.012345, log=True, whole=False)
    assert rates.suggest(Drawn(0.0031622776), "lr") == 0.00316  # type: ignore[arg-type]
    assert rates.suggest(Drawn(0.0123449), "lr") == 0.0123  # type: ignore[arg-type]
    assert Range(0.12345, 1, False, False).suggest(Drawn(0.12346), "x") == 0.12345  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lrr=1..2", "no setting of that name; nearest: lr"),
        ("data=a,b", "must be the same for all trials; can be searched: arch"),
        ("epochs=1..2", "must be the same for all trials"),
        ("options=a,b", "no setting of that name"),
        ("lr=1e-2..1e-4", "starts at 0.01 and ends at 0.0001"),
        ("lr=0..1", "start above 0"),
        ("lr=a..b", "'a' is no number"),
        ("batch=1.5..2", "'1.5' is no whole number"),
        ("batch=0..2", "must be at least 1"),
        ("momentum=0.5,1", "1.0 cannot be; must be from 0 to below 1"),
        ("loss=a..b", "not a number, so it has no range"),
        ("loss=bce", "want different values"),
        ("loss=bce,bce", "want different values"),
        ("loss=", "want different values"),
        ("freeze_bn=yes,no", "neither true nor false"),
        ("size=big,64", "'big': write S or HxW"),
        ("momentum", "write momentum=LOW..HIGH"),
        ("lr lr", "twice"),
    ],
)
def test_a_mistake_is_said(word: str, expected: str) -> None:
    with pytest.raises(InputError, match=rf"^--search {word.split()[-1]}.*{expected}"):
        space.parse(word.split(), BASE, BONES)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("loss=bce,dise", "dise.*dice"),
        ("loss=ce,bce", "ce does not fit multilabel"),
        ("augment=flip,flop", "flop"),
        ("optimizer=sgd,adam", "adam: not known"),
        ("mix=none,mixup:0.4,cutmixx:1", "cutmixx.*cutmix"),
        ("arch=unetpp,unett", "unett"),
        ("opt.widht=1,2", "widht"),
        ("opt.width=2,a", "must be int"),
        ("encoder=none,resnet3", "resnet34"),
        ("head_lr=1,10", "no encoder"),
    ],
)
def test_a_value_that_cannot_be_is_said_before_any_training(word: str, expected: str) -> None:
    found = space.parse([word], BASE, BONES)
    with pytest.raises(InputError, match=rf"^--search .*{expected}"):
        space.check(found, {"options": {"width": 2}}, BONES)


def test_every_setting_that_is_searched_is_one() -> None:
    assert set(space.SEARCHED) < set(TrainConfig().to_dict())
