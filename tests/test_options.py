"""If these break, an option typed at the terminal reaches a network as another value, or as a stack trace."""

import argparse

import pytest

from zoo.archs.pspnet import PSPNet
from zoo.archs.unet_halved import UNetHalved
from zoo.errors import InputError
from zoo.options import as_annotated, as_typed, check_options, fold, option, plain, size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("-1", -1), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("False", False), ("none", None),
        ("batch", "batch"), ("", ""),
    ],
)  # fmt: skip
def test_plain_reads_what_a_text_looks_like(text: str, value: object) -> None:
    found = plain(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("width=8", ("width", 8)), ("bins=1,2", ("bins", (1, 2))), ("bins=1,", ("bins", (1,))),
        ("a=b=c", ("a", "b=c")),
    ],
)  # fmt: skip
def test_option_is_a_key_and_a_value(text: str, pair: tuple) -> None:
    assert option(text) == pair


def test_a_word_without_a_value_is_refused_with_the_form() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"'width': write key=value"):
        option("width")


def test_options_are_typed_as_they_are_read() -> None:
    options = {"bins": (1, 2, 3), "norm": None, "aux": False}
    typed = as_typed(options)
    assert typed == "bins=1,2,3 norm=None aux=False"
    assert dict(map(option, typed.split())) == options


def test_size_is_one_side_or_height_and_width() -> None:
    assert size("64") == (64, 64)
    assert size("64x96") == (64, 96)
    for text in ("64x", "x64", "64x96x3", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="such as 256 or 256x384"):
            size(text)


def test_a_fold_is_a_part_of_so_many() -> None:
    assert fold("2/10") == (2, 10)
    for text in ("1", "1/", "/5", "1/2/3", "a/b", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="such as 0/5"):
            fold(text)


def test_one_number_stands_for_several_only_where_several_are_wanted() -> None:
    given = {"bins": 1, "dropout": 0.5, "aux": True}
    assert as_annotated(PSPNet, given) == {"bins": (1,), "dropout": 0.5, "aux": True}
    assert as_annotated(UNetHalved, {"decoder_channels": None}) == {"decoder_channels": None}
    assert as_annotated(UNetHalved, {"decoder_channels": 8}) == {"decoder_channels": (8,)}


def test_check_names_the_nearest_option_and_the_type() -> None:
    check_options("x", PSPNet, ("bins", "aux"), {"bins": (1, 2), "aux": False})
    with pytest.raises(InputError, match=r"^x has no option 'bin'; nearest: bins; see y$"):
        check_options("x", PSPNet, ("bins", "aux"), {"bin": 1}, see="y")
    with pytest.raises(InputError, match=r"option aux of x must be bool, not 1"):
        check_options("x", PSPNet, ("bins", "aux"), {"aux": 1})
