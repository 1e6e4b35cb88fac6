"""Files read so that faults are said in a sentence, written whole or not at all, and hashes of contents."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from zoo.errors import InputError


def read_json(path: Path) -> object:
    """What the JSON file holds.  Raises InputError where it is missing, or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: invalid JSON: {e}") from e


def digest(path: Path) -> tuple[int, str]:
    """Bytes in the file and their SHA-256; (0, "unreadable") where it cannot be read."""
    whole, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                whole.update(chunk)
                size += len(chunk)
    except OSError:
        return 0, "unreadable"
    return size, whole.hexdigest()


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` so that `path` holds all of it or what it held before.  Raises InputError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        with suppress(OSError):  # a folder that cannot be written to cannot be tidied either
            temporary.unlink(missing_ok=True)
        kept = "the file that was there is intact" if os.path.exists(path) else "nothing was written"
        what = f"{path}: cannot save ({e.strerror}); {kept}"
        raise InputError(f"{what}: free space or choose another folder") from e


def write_json(path: Path, value: object) -> None:
    """`write_bytes` of `value` as JSON.  Raises InputError."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Whole or not at all.  Raises InputError."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, text.getvalue().encode())
