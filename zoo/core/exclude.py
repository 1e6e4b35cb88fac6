"""Images that do not train: a text file, a name a line with the reason behind a `#`.

    train/DCM/ID007/image1_R.png  # ring on a proximal phalanx

The split is drawn from all images and the listed ones then leave its training side alone.  Validation stays
as it was, so that scores with and without the list are of the same images: one that counted only the images
somebody chose would rise without the network being better, most of all where the list was made by score.
An image whose mask is wrong, and that should not be scored either, is mended, or taken out of the data.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from zoo.core.files import write_bytes
from zoo.errors import InputError, nearest

_REASON = re.compile(r"(?:^|\s+)#(?:\s.*|$)")  # a # inside a name has no white space around it


def read(path: Path) -> tuple[str, ...]:
    """The names in the file, each once and sorted, without reasons, comments and blank lines.

    Raises InputError where it cannot be read, or names nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise InputError(f"--exclude {path}: cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise InputError(f"--exclude {path}: is not UTF-8 text ({e})") from e
    names = {name for line in lines if (name := _REASON.sub("", line).strip())}
    if not names:
        raise InputError(f"--exclude {path}: names no image; want a line an image, `NAME  # reason`")
    return tuple(sorted(names))


def write(path: Path, rows: Iterable[tuple[str, str]], head: str = "") -> None:
    """(name, reason) a line, below `head` as a comment.  Raises InputError."""
    lines = [f"# {line}" for line in head.splitlines()]
    lines += [f"{name}  # {' '.join(reason.split())}" for name, reason in rows]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def matched(entries: Sequence[str], names: Sequence[str]) -> set[int]:
    """Positions in `names` (paths inside the data set) of the entries: such paths, or file names alone.

    Raises one InputError for every entry that is none of them, or the file name of several.
    """
    by_path = {name: i for i, name in enumerate(names)}
    by_file = defaultdict[str, list[int]](list)
    for i, name in enumerate(names):
        by_file[PurePosixPath(name).name].append(i)
    places, problems = set[int](), list[str]()
    for entry in entries:
        at = [by_path[entry]] if entry in by_path else by_file.get(entry, [])
        if len(at) == 1:
            places.add(at[0])
        elif at:
            paths = ", ".join(names[i] for i in at[:3])
            problems.append(f"{entry}: the name of {len(at)} images; write one of {paths}")
        else:
            known = by_path if "/" in entry else by_file
            near = nearest(entry, known)
            said = near if near.startswith("nearest") else f"names look like {next(iter(known), 'nothing')}"
            problems.append(f"{entry}: no such image in the data; {said}")
    if problems:
        raise InputError("\n  ".join(["--exclude: wrong entries:", *problems]))
    return places
