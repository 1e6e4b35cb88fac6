"""Keywords of a network as one types them: `width=16`, `bins=1,2,3,6`; and whether a class takes them."""

import argparse
from collections.abc import Collection, Mapping
from types import NoneType, UnionType
from typing import cast, get_args, get_origin, get_type_hints

from zoo.errors import InputError, nearest

# what an option can be, on a command line and in JSON (where a tuple is a list)
Plain = None | bool | int | float | str | tuple["Plain", ...]


def option(text: str) -> tuple[str, Plain]:
    """`width=16` or `bins=1,2,3,6`: a value as `plain` reads it, or several of them."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write key=value")
    return key, tuple(plain(v) for v in value.split(",") if v) if "," in value else plain(value)


def plain(text: str) -> Plain:
    """A number, true, false or none where the text reads as one."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def as_typed(options: Mapping[str, Plain]) -> str:
    """Options as `--opt` takes them, `width=16 bins=1,2,3,6`."""
    values = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in options.items()}
    return " ".join(f"{k}={v}" for k, v in values.items())


def size(text: str) -> tuple[int, int]:
    """`256` or `256x384` (height x width)."""
    h, x, w = text.partition("x")
    try:
        return int(h), int(w if x else h)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r}: write S or HxW, such as 256 or 256x384") from e


def fold(text: str) -> tuple[int, int]:
    """`0/5`: part 0 of 5."""
    i, _, n = text.partition("/")
    try:
        return int(i), int(n)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r}: write I/N, such as 0/5") from e


def keywords(cls: type) -> dict[str, object]:
    """The arguments of a class with their annotations."""
    hints: dict[str, object] = get_type_hints(cls.__init__)  # type: ignore[misc]  # of the class itself
    return hints


def as_annotated(cls: type, options: Mapping[str, Plain]) -> dict[str, Plain]:
    """`options` with (1,) for a 1 where `cls` takes several numbers, so that `--opt bins=1` can be typed."""
    hints = keywords(cls)

    def several(word: str) -> bool:
        hint = hints.get(word)
        parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        return any(get_origin(part) is tuple for part in parts)

    return {
        word: (value,) if type(value) in (int, float) and several(word) else value
        for word, value in options.items()
    }


def check_options(
    who: str, cls: type, known: Collection[str], options: Mapping[str, object], see: str = ""
) -> None:
    """Raise InputError unless each of `options` is one of `known`, and of the type that `cls` annotates.

    who: what the message calls the network.  see: where the message sends its reader.
    """
    hints = keywords(cls)
    for word, value in options.items():
        if word not in known:
            raise InputError(f"{who} has no option {word!r}; {nearest(word, known)}{see and f'; see {see}'}")
        if not fits(value, hints[word]):
            wanted = getattr(hints[word], "__name__", str(hints[word]))
            raise InputError(f"option {word} of {who} must be {wanted}, not {value!r}")


def fits(value: object, hint: object) -> bool:
    """Is `value` of the type that an annotation names?  True is no number; a whole number is a float."""
    if isinstance(hint, UnionType):
        return any(fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, NoneType if hint is None else cast(type, hint))
