"""If these break, a run goes on with other data than it was begun with, or refuses the same."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.core import trees
from zoo.core import content
from zoo.core.content import check, describe, differences
from zoo.core.dataset import Source, open_data
from zoo.core.phantom import Phantoms
from zoo.errors import InputError


def slow_hash(source: Source) -> str:
    """As the module's head says: names of images, and names, sizes and hashes of their files, in order."""
    text = b""
    for i in range(len(source)):
        files = []
        for path in source.files(i):
            held = path.read_bytes()
            files.append([path.name, len(held), hashlib.sha256(held).hexdigest()])
        text += json.dumps([source.name(i), *files]).encode()
    return hashlib.sha256(text).hexdigest()


def test_the_hash_is_of_names_sizes_and_contents(shapes: Path, tmp_path: Path) -> None:
    train, val = open_data(f"folder:{shapes}")
    told = describe(train).summary()
    paths = {path for i in range(len(train)) for path in train.files(i)}
    assert told == {
        "images": 8, "files": 16, "bytes": sum(p.stat().st_size for p in paths), "sha256": slow_hash(train),
    }  # fmt: skip
    assert describe(val).sha256 != told["sha256"]

    shutil.copytree(shapes, tmp_path / "elsewhere")
    assert describe(open_data(f"folder:{tmp_path / 'elsewhere'}")[0]).summary() == told, "wherever it lies"
    mask = train.files(3)[1]
    held = bytearray(mask.read_bytes())
    held[-14] ^= 1  # one bit, of the same number of bytes
    mask.write_bytes(held)
    assert describe(train).sha256 not in (told["sha256"], slow_hash(val))
    mask.unlink()
    assert describe(train).files == 16, "a file that is gone is the training's to report"


def test_every_kind_of_source_tells_its_files(tmp_path: Path) -> None:
    from tests.core.test_handbone import SQUARE, add
    from tests.core.test_public import PALETTE

    for person in ("ID1", "ID2"):
        add(tmp_path / "bones", person, "r", ("Radius", SQUARE))
    trees.write_voc(tmp_path / "voc", PALETTE)
    coco = trees.write_coco(tmp_path / "coco")
    for spec, suffixes in (
        (f"handbone:{tmp_path / 'bones'}", [".png", ".json"]),
        (f"voc:{tmp_path / 'voc'}", [".jpg", ".png"]),
        (f"coco-polygons:{coco}", [".jpg", ".json"]),
    ):
        train, _ = open_data(spec)
        assert [path.suffix for path in train.files(0)] == suffixes
        assert all(path.is_file() for path in train.files(0))
        assert describe(train).sha256 == slow_hash(train)
    assert describe(Phantoms(4, 1)).files == 0
    assert describe(Phantoms(4, 1)).sha256 != describe(Phantoms(4, 2)).sha256


def test_what_differs_is_said(shapes: Path, tmp_path: Path) -> None:
    """A run resumed after somebody mended a mask, added an image, lost three."""
    train, val = map(describe, open_data(f"folder:{shapes}"))
    content.write(tmp_path, (train, val))
    saved = [train.identity(), val.identity()]
    check(saved, (train, val), tmp_path, "folder:x")
    samples = dict(train.samples)
    names = list(samples)
    for name in names[:4]:
        del samples[name]
    samples |= {names[5]: "0", "images/new.png": "1"}
    now = replace(train, samples=samples, sha256="other")
    assert differences(train, now) == [
        f"4 images missing: {', '.join(sorted(names[:4])[:3])}, …",
        "1 image new: images/new.png",
        f"1 image changed: {names[5]}",
    ]
    with pytest.raises(InputError, match=r"folder:x: not the data .* \(training: 4 images missing: .*; put"):
        check(saved, (now, val), tmp_path, "folder:x")
    says = r"\(validation: the task is binary, and was multiclass; validation: the classes differ: a, "
    with pytest.raises(InputError, match=says):
        check(saved, (train, replace(val, task="binary", classes=("a",))), tmp_path, "folder:x")
    again = replace(train, classes=train.classes[::-1], sha256=train.sha256)
    assert differences(train, again) == ["the classes are in another order"]
    assert differences(train, replace(train, sha256="other")) == ["the images are in another order"]


DAMAGED = [None, "{", "[]", '{"training": 1, "validation": 2}', '{"training": {"task": 1}}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_lost_or_damaged_list_does_not_hide_a_change(shapes: Path, tmp_path: Path, text: str) -> None:
    contents = [describe(source) for source in open_data(f"folder:{shapes}")]
    if text is not None:
        (tmp_path / "data.json").write_text(text)
    saved = [c.identity() for c in contents]
    check(saved, contents, tmp_path, "x")
    with pytest.raises(InputError, match=r"\(other files or classes\); put them back"):
        check(saved, contents[::-1], tmp_path, "x")
