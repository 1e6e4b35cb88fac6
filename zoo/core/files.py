"""JSON files that people bring, read so that what is wrong with one is said in a sentence."""

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
