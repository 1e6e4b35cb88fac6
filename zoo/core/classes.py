"""classes.txt: a line a class, `index name [#colour] [ignore]`, and the Labels that follow from it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.core.masks import IGNORE, TASKS, Labels, palette
from zoo.errors import InputError, nearest

FILE = "classes.txt"
MOST = 65535  # what a 16-bit mask holds
_LINE = re.compile(r"(\d+)\s+(\S.*?)(?:\s+#([0-9a-fA-F]{6}))?(?:\s+(ignore))?")

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Class:
    """One line: the value in the file, the name (may hold spaces), its colour if one is given."""

    index: int
    name: str
    colour: Colour | None = None
    ignore: bool = False


def read_classes(path: Path) -> list[Class]:
    """The classes of a classes.txt, by index.  Blank lines and lines that start with # say nothing."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {e}") from e
    classes: list[Class] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise InputError(f"{path}, line {number}: {line.strip()!r}: want `index name [#rrggbb] [ignore]`")
        index, name, colour, ignore = match.groups()
        new = Class(int(index), name, _colour(colour), bool(ignore))
        if new.index > MOST:
            raise InputError(f"{path}, line {number}: index {index}: a pixel of a mask holds at most {MOST}")
        for old in classes:
            if new.index == old.index or new.name == old.name:
                raise InputError(f"{path}, line {number}: {line.strip()!r}: {old.index} {old.name} is above")
        classes.append(new)
    if not classes:
        raise InputError(f"{path}: holds no class; want lines `index name [#rrggbb] [ignore]`")
    return sorted(classes, key=lambda c: c.index)


def _colour(digits: str | None) -> Colour | None:
    return None if digits is None else (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16))


def colours(classes: Sequence[Class]) -> tuple[Colour, ...]:
    """Each class's own colour, or the palette's at its place; black for a background without one."""
    return tuple(
        c.colour or ((0, 0, 0) if _is_background(c) else default)
        for c, default in zip(classes, palette(len(classes)), strict=True)
    )


def _is_background(c: Class) -> bool:
    return c.name.lower() == "background"


def index_labels(classes: Sequence[Class], task: str | None) -> Labels:
    """Labels of index masks with these classes (none of them ignored).

    Two classes of which the first is named background are binary, everything else is multiclass; `task`
    says otherwise where that is possible.
    """
    if task is None:
        task = "binary" if len(classes) == 2 and _is_background(classes[0]) else "multiclass"
    index = tuple(c.index for c in classes)
    if task == "multilabel":
        raise InputError(
            "task multilabel: index masks hold one class a pixel; several need polygons (handbone:PATH) "
            "or .npz masks of bits"
        )
    if task == "binary" and len(classes) != 2:
        listed = ", ".join(f"{c.index} {c.name}" for c in classes)
        raise InputError(f"task binary: wants two classes, background first; there are: {listed}")
    if len(classes) > IGNORE:
        raise InputError(f"{len(classes)} classes: a pixel in memory tells {IGNORE} apart; ignore some")
    if task == "binary":
        return Labels(task, (classes[1].name,), colours(classes)[1:], index)
    return Labels(task, tuple(c.name for c in classes), colours(classes), index)


def bit_labels(classes: Sequence[Class], task: str | None) -> Labels:
    """Labels of masks whose pixels may carry several classes."""
    if task not in (None, "multilabel"):
        raise InputError(f"task {task}: pixels here may carry several classes; that is multilabel")
    return Labels("multilabel", tuple(c.name for c in classes), colours(classes))


def check_task(task: str | None) -> None:
    """Refuse a task that does not exist."""
    if task is not None and task not in TASKS:
        raise InputError(f"unknown task {task!r}; {nearest(task, TASKS)}")


def without_ignored(classes: Sequence[Class], ignore: Sequence[int]) -> tuple[list[Class], set[int]]:
    """(the classes that count, the values that do not): `ignore` lines, the values in `ignore`, and 255."""
    ignored = {c.index for c in classes if c.ignore} | set(ignore)
    kept = [c for c in classes if c.index not in ignored]
    if all(c.index != IGNORE for c in kept):
        ignored.add(IGNORE)
    return kept, ignored
