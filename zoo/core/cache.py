"""Decoded and resized samples, kept in files that are mapped into memory: no later epoch decodes them again.

A file holds one sample at one size.  Its name is a hash over what it was made of, which are the bytes of the
sample's files, the labels, and the size: a source that changes has other names.  So several processes, runs
and data sets share a folder.  A file is there whole or not at all; who reads it maps it and copies nothing.

    layout    "zoosampl", then 32-bit numbers: CRC-32 of all that follows the numbers; rows, columns, channels
              (0: grey) of the image; rows, columns, bytes a pixel of the mask; then the image, and the mask
              from a multiple of 8 on

Nothing is synchronised with the disk: what a power cut leaves of a file is told by its sum, which each
process takes once a file.
"""

import hashlib
import json
import mmap
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from zoo.core.config import TrainConfig
from zoo.core.content import Content, digest_of
from zoo.core.dataset import Sample, Source
from zoo.core.images import plural
from zoo.errors import InputError

VERSION = 2  # counted up whenever decoding, drawing of masks, resizing or the layout changes
MAGIC = b"zoosampl"
HEAD = struct.Struct("<8s7I")
MASKS = {1: np.uint8, 4: np.int32, 8: np.int64}  # by bytes a pixel
SUFFIX, PART, COUNT = ".sample", ".part", "bytes.count"
STALE = 600.0  # seconds after which a part has no writer any more


class Cache:
    """The folder, of at most `limit` bytes (0: no limit), however many processes write into it.

    They count together, in a file that one at a time may change; where there are no such locks, as on Windows
    and on some network drives, several may overstep the limit.  Of a full folder the files that were used
    longest ago go first; none goes that was used since this was made.  `closed`: it is full, nothing more is
    kept.  Raises InputError for a folder that cannot be used.
    """

    def __init__(self, folder: str | Path, limit: float = 0.0):
        self.folder, self.limit = Path(folder).expanduser(), limit
        self.born, self.closed = time.time(), False
        self.sound = set[str]()  # keys of files whose sum was taken
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f"{secrets.token_hex(8)}{PART}"
            probe.write_bytes(b"")
            probe.unlink()
            with self.counter() as file:
                self.room(file, 0)
        except OSError as e:
            raise InputError(f"--cache {folder}: cannot write there ({e.strerror}); choose another") from e

    def read(self, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(image, mask) kept under `key`, in memory that is the file's; None where they are not.

        Who writes into them changes a copy of that page.
        """
        path = self.path(key)
        try:
            with open(path, "rb") as file:
                held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # ValueError: an empty file
            return None
        with suppress(OSError):  # somebody else's, which we may only read
            os.utime(path)
        if len(held) < HEAD.size or held[: len(MAGIC)] != MAGIC:
            return None
        _, crc, h, w, channels, rows, columns, width = HEAD.unpack_from(held)
        shape = (h, w, channels) if channels else (h, w)
        after = _aligned(HEAD.size + h * w * max(channels, 1))
        if width not in MASKS or len(held) != after + rows * columns * width:
            return None
        if key not in self.sound:
            if zlib.crc32(memoryview(held)[HEAD.size :]) != crc:
                return None
            self.sound.add(key)
        image = np.frombuffer(held, np.uint8, h * w * max(channels, 1), HEAD.size).reshape(shape)
        mask = np.frombuffer(held, MASKS[width], rows * columns, after).reshape(rows, columns)
        return image, mask

    def write(self, key: str, image: np.ndarray, mask: np.ndarray) -> None:
        """Keep them under `key`, if there is room; a disk that refuses ends the keeping, not the run."""
        if self.closed:
            return
        channels = image.shape[2] if image.ndim == 3 else 0
        pixels = image.tobytes()
        pixels += bytes(_aligned(HEAD.size + len(pixels)) - HEAD.size - len(pixels))
        planes = mask.tobytes()
        crc = zlib.crc32(planes, zlib.crc32(pixels))
        head = HEAD.pack(MAGIC, crc, *image.shape[:2], channels, *mask.shape, mask.itemsize)
        path = self.path(key)
        part = path.with_name(f"{key}.{secrets.token_hex(8)}{PART}")
        try:
            with self.counter() as count:  # to the end: who counts anew must see whole files alone
                if self.room(count, HEAD.size + len(pixels) + len(planes)):
                    with open(part, "wb") as file:
                        file.writelines((head, pixels, planes))
                    os.replace(part, path)
        except OSError:
            self.closed = True
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def room(self, file: IO[str], size: int) -> bool:
        """Whether `size` bytes more may be written, which then are counted; makes room for them if it must.

        file: the `counter`.  0 has all counted anew.  Raises OSError.
        """
        count = file.read()
        held = int(count) if count.isdigit() and size else self.cleared(size)
        if self.limit and held + size > self.limit:
            held = self.cleared(size)  # what was counted and not written, or is gone, is no longer in it
            self.closed = held + size > self.limit
        file.seek(0)
        file.truncate()
        file.write(str(held if self.closed else held + size))
        file.flush()
        return not self.closed

    def cleared(self, size: int) -> int:
        """Bytes in the folder, once as much was deleted as may be and `size` bytes more need."""
        files = self.files()
        held = sum(n for _, n, _ in files)
        for used, n, path in sorted(files):
            oldest = self.born - STALE if path.endswith(PART) else self.born
            if not self.limit or held + size <= self.limit or used >= oldest:
                break
            with suppress(OSError):
                os.unlink(path)
            held -= n
        return held

    @contextmanager
    def counter(self) -> Iterator[IO[str]]:
        """The file that says how many bytes the folder holds, for us alone."""
        with open(self.folder / COUNT, "a+", encoding="ascii") as file:
            if fcntl is not None:
                with suppress(OSError):  # a drive without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file

    def files(self) -> list[tuple[float, int, str]]:
        """(last used, bytes, path) of what is there, samples and parts."""
        found = []
        with suppress(OSError):
            for entry in os.scandir(self.folder):
                with suppress(OSError):  # somebody else was faster
                    if entry.name.endswith((SUFFIX, PART)):
                        held = entry.stat()
                        found.append((held.st_mtime, held.st_size, entry.path))
        return found

    def __str__(self) -> str:
        """Where it is, and how full."""
        sizes = [n for _, n, _ in self.files()]
        most = f" of {self.limit / 1e9:g}" if self.limit else ""
        return f"{self.folder} holds {plural(len(sizes), 'sample')}, {sum(sizes) / 1e9:.2f}{most} GB"

    def path(self, key: str) -> Path:
        """Where `key` is kept."""
        return self.folder / f"{key}{SUFFIX}"


def _aligned(at: int) -> int:
    return -(-at // 8) * 8


class Cached(Source):
    """`source`, each sample of which is decoded once and then taken from `cache`.

    content: what the source held when it was opened.  kind: what kind of source reads the files.
    ignore: mask values that it leaves out.
    Raises InputError for a source that has no files, and from `load` where a file has changed since then.
    """

    def __init__(self, source: Source, content: Content, cache: Cache, kind: str, ignore: Sequence[int] = ()):
        if not content.files:
            raise InputError(f"--cache: {kind} is drawn, not read; leave it out")
        self.source, self.content, self.cache = source, content, cache
        self.labels, self.channels, self.warnings = source.labels, source.channels, source.warnings
        self.made_by = json.dumps([VERSION, kind, source.labels.to_dict(), source.channels, list(ignore)])

    def __len__(self) -> int:
        return len(self.source)

    def name(self, i: int) -> str:
        return self.source.name(i)

    def group(self, i: int) -> str:
        return self.source.group(i)

    def files(self, i: int) -> tuple[Path, ...]:
        return self.source.files(i)

    def load(self, i: int, size: tuple[int, int] | None = None) -> Sample:
        name = self.source.name(i)
        key = self.key(i, size)
        if found := self.cache.read(key):
            return Sample(*found, name)
        sample = self.source.load(i, size)
        if digest_of(self.source, i) != self.content.samples[name]:
            raise InputError(f"{name}: its files have changed since this run began; start it again")
        self.cache.write(key, sample.image, sample.mask)
        return sample

    def key(self, i: int, size: tuple[int, int] | None) -> str:
        """The name under which sample i is kept at a size."""
        words = [self.made_by, self.content.samples[self.source.name(i)], size]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def cached(
    config: TrainConfig, sources: tuple[Source, Source], contents: Sequence[Content]
) -> tuple[Cached, Cached]:
    """Both sources of a run through the folder that it names.  Raises InputError."""
    cache = Cache(str(config.cache), config.cache_gb * 1e9)
    kind = config.data.partition(":")[0]
    train, val = (Cached(s, c, cache, kind, config.ignore) for s, c in zip(sources, contents, strict=True))
    return train, val
