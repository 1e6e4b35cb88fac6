"""Public weight files: fetched once into torch's cache, checked, resumed where an earlier call was cut off.

Bytes go to `<name>.partial` beside the file, which is renamed when it is whole and its hash is right.  Two
processes that fetch one file write the same bytes to the same places, so neither needs to wait for the other.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch

from zoo.errors import InputError

BLOCK = 1 << 16  # bytes between two writes: what an interruption can lose
TIMEOUT = 30.0  # seconds of silence
Progress = Callable[[int, int | None], None]  # (bytes that are there, bytes of the whole file if known)


class _Wanted(NamedTuple):
    """One file: where from, where to, and how to know it."""

    url: str
    path: Path
    sha256: str
    size: int | None

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    def by_hand(self) -> str:
        """What remains to a machine without network."""
        known = f" (its sha256 begins with {self.sha256})" if self.sha256 else ""
        return f"or save {self.url} as {self.path} by hand{known}"

    def problem(self, path: Path) -> str:
        """What is wrong with the whole file at `path`, "" if nothing is."""
        if self.size is not None and (size := path.stat().st_size) != self.size:
            return f"measures {size} bytes, expected {self.size}"
        digest = _sha256(path) if self.sha256 else ""
        if not digest.startswith(self.sha256):
            return f"has a sha256 that begins with {digest[: len(self.sha256)]}, expected {self.sha256}"
        return ""


class _Cut(Exception):
    """The connection ended early, for the reason in words."""


def cache() -> Path:
    """Where torch keeps downloaded weights: `$TORCH_HOME/hub/checkpoints`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(
    url: str,
    *,
    name: str = "",
    sha256: str = "",
    size: int | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The file at `url`, downloaded unless it is already in `folder` (default: torch's cache).

    name: of the file; by default the last part of the URL.
    sha256: all of the hash or how it begins, in hex; size: bytes.  Whichever is given is checked, also of a
        file that was there before: that one is named, never deleted.
    progress: called as bytes come; by default a bar on standard error where that is a terminal.

    Raises InputError when the file cannot be had; what has come of it is kept for the next call.
    """
    name = name or Path(unquote(urlsplit(url).path)).name
    wanted = _Wanted(url, (folder or cache()) / name, sha256.lower(), size)
    if wanted.path.exists():
        return _check_old(wanted)
    try:
        if not _is_whole(wanted):
            _download(wanted, progress)
        if problem := wanted.problem(wanted.partial):
            wanted.partial.unlink()
            raise InputError(f"{url}: what came {problem}; it was removed: try again, {wanted.by_hand()}")
        os.replace(wanted.partial, wanted.path)
    except OSError as e:
        if isinstance(e, FileNotFoundError) and wanted.path.exists():  # another process was faster
            return _check_old(wanted)
        raise InputError(
            f"{wanted.path}: cannot save there ({e.strerror}): free space or set TORCH_HOME to another folder"
        ) from e
    return wanted.path


def _check_old(wanted: _Wanted) -> Path:
    """The file that is there already, if it is the right one."""
    if problem := wanted.problem(wanted.path):
        raise InputError(
            f"{wanted.path}: {problem}: damaged or another file; delete it to have it downloaded, "
            f"{wanted.by_hand()}"
        )
    return wanted.path


def _is_whole(wanted: _Wanted) -> bool:
    """Has another call received all bytes, but not lived to rename the file?"""
    return bool(wanted.sha256) and wanted.partial.exists() and not wanted.problem(wanted.partial)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(wanted: _Wanted, progress: Progress | None) -> None:
    """Bring the partial file to its whole length, or raise InputError that says what to do."""
    wanted.partial.parent.mkdir(parents=True, exist_ok=True)
    wanted.partial.touch()
    have = wanted.partial.stat().st_size
    try:
        response, start = _open(wanted.url, have)
    except (OSError, HTTPException, ValueError) as e:
        if not have:
            wanted.partial.unlink(missing_ok=True)
        reason = f"HTTP {e.code} {e.reason}" if isinstance(e, HTTPError) else getattr(e, "reason", e)
        what = f"{wanted.url}: cannot be downloaded ({reason})"
        raise InputError(f"{what}: try again, {wanted.by_hand()}") from e
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else wanted.size
    at, reason = start, ""
    with response, open(wanted.partial, "r+b") as f, _shown(progress, wanted.path.name) as report:
        f.seek(start)  # nothing is cut off here: another process may be writing the same bytes further on
        try:
            while block := _read(response):
                f.write(block)
                at += len(block)
                report(at, total)
        except _Cut as e:
            reason = f" ({e})"
        if not reason and (total is None or at >= total):
            f.truncate(at)
            f.flush()
            os.fsync(f.fileno())
            return
    raise InputError(
        f"{wanted.url}: ended at byte {at}{f' of {total}' if total else ''}{reason}; these are kept in "
        f"{wanted.partial} and the next call goes on from there: try again, {wanted.by_hand()}"
    )


def _open(url: str, have: int) -> tuple[HTTPResponse, int]:
    """The response with the bytes from `have` on, and its first byte: 0 where the server cannot resume."""
    headers = {"User-Agent": "zoo", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as e:
        e.close()
        if have and e.code == 416:  # nothing lies behind `have`: those bytes are no part of this file
            return _open(url, 0)
        raise
    if response.status != 206:
        return response, 0
    if response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return response, have
    response.close()  # another part than the one asked for
    return _open(url, 0)


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(BLOCK)
    except (OSError, HTTPException) as e:  # reset, silent for TIMEOUT, or cut inside a chunk
        raise _Cut(str(e) or type(e).__name__) from e


@contextmanager
def _shown(progress: Progress | None, name: str) -> Iterator[Progress]:
    """`progress`, or a bar on standard error if that is a terminal, or nothing."""
    if progress or not sys.stderr.isatty():
        yield progress or (lambda at, total: None)
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn())
    with rich.Progress(*columns, rich.TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda at, total: bar.update(task, completed=at, total=total)
