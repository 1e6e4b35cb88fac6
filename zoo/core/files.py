"""Files that people bring: JSON, read so that faults are said in a sentence, and hashes of contents."""

import hashlib
import json
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
