"""What `train.py --search` says: which settings a search varies, and between what.

    lr=1e-4..1e-2            a range: uniform, in the logarithm for rates and decay; whole for whole numbers
    loss=bce,bce+dice        a list, of any setting
    lr                       a range or list of ours, around what the run would have without a search
    opt.width=16,32          a list of an architecture's own option (`--opt`)

Without words DEFAULT is searched.  The optimizer is not in it: AdamW and SGD share no range of rates.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args, get_type_hints

from zoo.core.config import CHOICES, RANGES, TrainConfig, flag_name
from zoo.core.losses import Criterion, default_loss
from zoo.core.masks import Labels
from zoo.core.mix import Mix
from zoo.core.recipes import resolve
from zoo.core.transforms import parse as parse_augment
from zoo.errors import InputError, nearest
from zoo.options import Plain, as_typed, plain, size

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

SEARCHED = (  # all but what says which images are scored, for how long is trained, and on what machine
    "arch", "encoder", "pretrained", "size", "augment", "mix", "batch", "accumulate", "optimizer", "lr",
    "head_lr", "momentum", "weight_decay", "decay_on", "schedule", "warmup", "clip", "ema", "freeze_encoder",
    "freeze_bn", "loss",
)  # fmt: skip
DEFAULT = ("lr", "weight_decay", "loss", "augment")
LOGARITHMIC = ("lr", "head_lr", "weight_decay")
OPTION = "opt."
AROUND = 10.0  # the rate's own range: from a tenth of the run's to ten times that
DECAY = "1e-6..1e-1"
LOSSES = {
    "multilabel": ("bce+dice", "bce", "dice", "focal+dice"),
    "binary": ("bce+dice", "bce", "dice", "focal+dice"),
    "multiclass": ("ce+dice", "ce", "focal+dice"),
}
AUGMENTS = ("default", "flip", "none")
TYPES = get_type_hints(TrainConfig)
DIGITS = 3  # of a number from a range: one that can be typed again

Value = float | str  # a number of a range, or a word of a list, as typed


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool
    whole: bool

    def suggest(self, trial: Trial | FrozenTrial, name: str) -> Value:
        """The trial's own, drawn now if it has none yet."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high))
        drawn = trial.suggest_float(name, self.low, self.high, log=self.log)
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    def of(self, value: object) -> Value | None:
        """A setting's value as one of ours; None where it is outside."""
        return value if isinstance(value, int | float) and self.low <= value <= self.high else None

    def __str__(self) -> str:
        low, high = (int(v) if self.whole else v for v in (self.low, self.high))
        return f"{low}..{high}"


@dataclass(frozen=True)
class Choice:
    """One of some words, and the settings that they stand for."""

    words: tuple[str, ...]
    values: tuple[Plain, ...]

    def suggest(self, trial: Trial | FrozenTrial, name: str) -> Value:
        """As `Range.suggest`."""
        return trial.suggest_categorical(name, self.words)

    def of(self, value: object) -> Value | None:
        """As `Range.of`."""
        return self.words[self.values.index(value)] if value in self.values else None

    def __str__(self) -> str:
        return ",".join(self.words)


Space = dict[str, Range | Choice]


def parse(words: Sequence[str], base: TrainConfig, labels: Labels) -> Space:
    """The space that `words` describe, DEFAULT for none.  base: the run without a search.

    Raises InputError for what is no setting, cannot be searched, or has no sense as range or list.
    """
    space: Space = {}
    for word in words or DEFAULT:
        typed, equals, values = word.partition("=")
        name = typed if typed.startswith(OPTION) else typed.replace("-", "_")
        if name in space:
            raise InputError(f"--search {word}: {typed} is there twice; give it once")
        check_name(word, name)
        if not equals:
            values = own(word, name, base, labels)
        space[name] = dimension(word, name, values)
    return space


def check_name(word: str, name: str) -> None:
    """Raise InputError unless `name` is a setting that can be searched."""
    if name.startswith(OPTION) or name in SEARCHED:
        return
    if name in TYPES and name != "options":
        can = ", ".join(map(flag_name, SEARCHED))
        what = "says what is trained on, how long or where, and must be the same for all trials"
        raise InputError(f"--search {word}: {flag_name(name)} {what}; can be searched: {can}")
    near = nearest(flag_name(name), [*map(flag_name, SEARCHED), f"{OPTION}NAME"])
    raise InputError(f"--search {word}: no setting of that name; {near}")


def own(word: str, name: str, base: TrainConfig, labels: Labels) -> str:
    """The range or list that a setting has where none is given."""
    if name == "lr":
        return f"{base.lr / AROUND:g}..{base.lr * AROUND:g}"
    if name == "weight_decay":
        return DECAY
    lists = {"loss": (base.loss or default_loss(labels.task), *LOSSES[labels.task])}
    lists |= {"augment": (base.augment, *AUGMENTS), **CHOICES}
    if TYPES.get(name) is bool:
        lists[name] = ("false", "true")
    if name not in lists:
        raise InputError(f"--search {word}: has no values of its own; write {word}=LOW..HIGH or {word}=A,B")
    return ",".join(dict.fromkeys(lists[name]))


def dimension(word: str, name: str, values: str) -> Range | Choice:
    """`LOW..HIGH` or `A,B` for the setting `name`.  Raises InputError."""
    kind = TYPES.get(name)
    if ".." in values:
        low, high = (number(word, text, kind) for text in values.split("..", 1))
        log = name in LOGARITHMIC
        if not low < high:
            raise InputError(f"--search {word}: starts at {low:g} and ends at {high:g}; want LOW..HIGH")
        if log and low <= 0:
            raise InputError(f"--search {word}: is searched in the logarithm; start above 0, say at 1e-6")
        for end in (low, high):
            check_range(word, name, end)
        return Range(low, high, log, kind is int)
    parts = tuple(values.split(","))
    if len(parts) < 2 or "" in parts or len(set(parts)) < len(parts):
        raise InputError(f"--search {word}: want different values, {name}=A,B, or a range, {name}=LOW..HIGH")
    settings = tuple(setting(word, name, part) for part in parts)
    for value in settings:
        check_range(word, name, value)
    return Choice(parts, settings)


def number(word: str, text: str, kind: object) -> float:
    """An end of a range."""
    if kind not in (int, float):
        raise InputError(f"--search {word}: not a number, so it has no range; list its values: A,B")
    try:
        return int(text) if kind is int else float(text)
    except ValueError as e:
        raise InputError(f"--search {word}: {text!r} is no {'whole ' * (kind is int)}number") from e


def setting(word: str, name: str, text: str) -> Plain:
    """A value of a list as the setting's own type."""
    kind = TYPES.get(name)
    if name.startswith(OPTION) or name == "pretrained":
        return plain(text)
    if kind in (int, float):
        return number(word, text, kind)
    if name == "size":
        try:
            return size(text)
        except argparse.ArgumentTypeError as e:
            raise InputError(f"--search {word}: {e}") from e
    if kind is bool:
        if text not in ("true", "false"):
            raise InputError(f"--search {word}: {text!r} is neither true nor false")
        return text == "true"
    return None if text == "none" and type(None) in get_args(kind) else text


def check_range(word: str, name: str, value: object) -> None:
    """Raise InputError for what TrainConfig would refuse by itself."""
    holds, what = RANGES.get(name, (lambda _: True, ""))
    if not holds(value):
        raise InputError(f"--search {word}: {value} cannot be; must be {what}")


def applied(flags: Mapping[str, object], space: Space, values: Mapping[str, Value]) -> dict[str, object]:
    """`flags` (TrainConfig fields) with what a trial has in their place."""
    found = dict(flags)
    for name, value in values.items():
        dim = space[name]
        held: object = dim.values[dim.words.index(str(value))] if isinstance(dim, Choice) else value
        if name.startswith(OPTION):
            options = found.get("options", {})
            assert isinstance(options, dict)
            found["options"] = {**options, name.removeprefix(OPTION): held}
        else:
            found[name] = held
    return found


def check(space: Space, flags: Mapping[str, object], labels: Labels) -> None:
    """Raise InputError for a value of a list that cannot be, other settings being as in `flags`."""
    for name, dim in space.items():
        for word in dim.words if isinstance(dim, Choice) else ():
            try:
                config, _ = resolve(applied(flags, space, {name: word}))
                parse_augment(config.augment)
                Mix(config.mix).check(config.batch, 1)
                if config.loss:
                    Criterion(config.loss, labels)
            except InputError as e:
                raise InputError(f"--search {name}={dim}: {word}: {e}") from e


def given(space: Space, base: TrainConfig, labels: Labels) -> dict[str, Value] | None:
    """The settings of `base` as a trial's; None where the space does not have them."""
    values: dict[str, Value] = {}
    for name, dim in space.items():
        if name.startswith(OPTION):
            held: object = base.options.get(name.removeprefix(OPTION))
        else:
            held = getattr(base, name)
        if name == "loss":
            held = held or default_loss(labels.task)
        value = dim.of(held)
        if value is None:
            return None
        values[name] = value
    return values


def typed(space: Space) -> list[str]:
    """The words that `parse` makes the same space of, whatever the run."""
    return [f"{name}={dim}" for name, dim in space.items()]


def said(values: Mapping[str, Value]) -> str:
    """A trial's settings in a line."""
    return as_typed(dict(values))
