"""A damaged JSON must be said in a sentence, and a changed byte must change the hash: for who keeps data."""

import hashlib
from pathlib import Path

import pytest

from zoo.core.files import digest, read_json
from zoo.errors import InputError


def test_json_of_any_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, want in (('{"a": [1, null]}', {"a": [1, None]}), ("3", 3), ('\ufeff"é"', "é")):
        path.write_text(text, encoding="utf-8")
        assert read_json(path) == want


@pytest.mark.parametrize("data", [b"", b'{"a": ', b"\xff\x00", b"[" * 200_000], ids=len)
def test_what_is_no_json_is_a_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.json: invalid JSON: "):
        read_json(tmp_path / "x.json")


def test_what_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: cannot be read: No such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_the_digest_is_of_all_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than are read at once
    path = tmp_path / "x"
    path.write_bytes(data)
    assert digest(path) == (len(data), hashlib.sha256(data).hexdigest())
    path.write_bytes(data[:-1] + b"\x00")
    assert digest(path)[1] != hashlib.sha256(data).hexdigest()
    assert digest(tmp_path / "absent") == (0, "unreadable")
