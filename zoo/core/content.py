"""What a source holds, by the bytes of its files: whether two are the same data, and what differs."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from zoo.core.dataset import Source
from zoo.core.files import digest, read_json, write_json
from zoo.core.images import on_all_cores, plural
from zoo.errors import InputError

FILE = "data.json"
SIDES = ("training", "validation")
DIGITS = 32  # hexadecimal, of an image's hash


@dataclass(frozen=True)
class Content:
    """Of one source.

    task, classes: as its labels have them.
    samples: each image's name, in order, and a hash over the names, sizes and SHA-256 of its files.
    images, files, bytes: how many.  sha256: over names and files of all images, in order.
    """

    task: str
    classes: tuple[str, ...]
    samples: dict[str, str]
    files: int
    bytes: int
    sha256: str

    def summary(self) -> dict[str, object]:
        """What a manifest says of it."""
        counts = {"images": len(self.samples), "files": self.files, "bytes": self.bytes}
        return {**counts, "sha256": self.sha256}

    def identity(self) -> dict[str, object]:
        """What a run that goes on must find again; plain types."""
        return {"task": self.task, "classes": list(self.classes), "sha256": self.sha256}


def describe(source: Source) -> Content:
    """Read all files of `source`, each once, on all cores."""
    paths = sorted({path for i in range(len(source)) for path in source.files(i)})
    digests = dict(zip(paths, on_all_cores(digest, paths), strict=True))
    samples, whole = dict[str, str](), hashlib.sha256()
    for i in range(len(source)):
        line = _line(source, i, digests)
        whole.update(line)
        samples[source.name(i)] = _short(line)
    return Content(
        task=source.labels.task,
        classes=source.labels.names,
        samples=samples,
        files=len(paths),
        bytes=sum(size for size, _ in digests.values()),
        sha256=whole.hexdigest(),
    )


def digest_of(source: Source, i: int) -> str:
    """What `describe` says of sample i, by its files as they are now."""
    return _short(_line(source, i, {path: _digest_now(path) for path in source.files(i)}))


def _digest_now(path: Path) -> tuple[int, str]:
    """`digest`, again only where size or time have changed: samples may share a file, COCO's all of one."""
    try:
        held = path.stat()
    except OSError:
        return digest(path)  # which says what is wrong
    return _digest_of(path, held.st_size, held.st_mtime_ns)


@lru_cache(maxsize=64)  # a sample's own files pass through, a shared one stays
def _digest_of(path: Path, size: int, time_ns: int) -> tuple[int, str]:
    return digest(path)


def _line(source: Source, i: int, digests: dict[Path, tuple[int, str]]) -> bytes:
    files = ((path.name, *digests[path]) for path in source.files(i))
    return json.dumps([source.name(i), *files]).encode()


def _short(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:DIGITS]


def differences(saved: Content, now: Content) -> list[str]:
    """What is no longer as it was, in words."""
    said = []
    if saved.task != now.task:
        said.append(f"the task is {now.task}, and was {saved.task}")
    if saved.classes != now.classes:
        names = set(saved.classes) ^ set(now.classes)
        said.append(f"the classes differ: {_some(names)}" if names else "the classes are in another order")
    old, new = saved.samples.keys(), now.samples.keys()
    changed = {name for name in old & new if saved.samples[name] != now.samples[name]}
    for names, how in ((old - new, "missing"), (new - old, "new"), (changed, "changed")):
        if names:
            said.append(f"{plural(len(names), 'image')} {how}: {_some(names)}")
    return said or ["the images are in another order"]


def _some(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


# ---------------------------------------------------------------- in a run's folder


def write(out: Path, contents: Sequence[Content]) -> None:
    """Keep what a run is begun with, as data.json in its folder.  Raises InputError."""
    write_json(out / FILE, dict(zip(SIDES, map(asdict, contents), strict=True)))


def check(saved: list[dict], contents: Sequence[Content], out: Path, data: str) -> None:
    """Raise InputError, saying what changed, if `saved` are not the identities of `contents`.

    out: the run's folder, whose data.json tells more.  data: how the user names the data.
    """
    if saved == [content.identity() for content in contents]:
        return
    said = []
    with suppress(InputError):
        for side, old, new in zip(SIDES, read(out), contents, strict=True):
            if old.identity() != new.identity():
                said += [f"{side}: {words}" for words in differences(old, new)]
    raise InputError(
        f"{data}: not the data this run was started with ({'; '.join(said) or 'other files or classes'}); "
        f"put them back, or start a new run with --weights {out / 'last.pt'}"
    )


def read(out: Path) -> list[Content]:
    """What `write` wrote.  Raises InputError."""
    held = read_json(out / FILE)
    try:
        rows = [dict(held[side]) for side in SIDES]  # type: ignore[index]
        return [Content(**{**row, "classes": tuple(row["classes"])}) for row in rows]
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{out / FILE}: not what a run keeps of its data") from e
