"""If these break, a typo is answered with nothing to go by."""

from zoo.errors import InputError, nearest


def test_the_most_alike_words_come_first_else_all() -> None:
    assert nearest("resnet5", ["resnet50", "fcn", "resnet101"]) == "nearest: resnet50, resnet101"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("zzz", []) == "known: none"


def test_wrong_input_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)
