"""If these break, a note has a number that the network has not, or a table that nobody checks."""

import pkgutil
import re

import pytest
from torch import nn

from zoo.layers import conv_bn_relu

from . import fcn8s, tables
from .claims import CLAIMS, phrases
from .counting import written
from .reader import ARCHITECTURES, ENCODERS, PAPERS, ROOT, Note
from .reader import tables as read

NOTES = sorted({*ARCHITECTURES, *ENCODERS.values()})
# What must not stand in a note unless something says where it is from: 1,234 and 12.3 million.
LOUD = re.compile(r"(?<![\d,=])\d{1,3}(?:,\d{3})+(?!,?\d)|\d[\d.]* (?:million|billion|M|G|GMACs)\b")


@pytest.fixture(params=NOTES)
def note(request: pytest.FixtureRequest) -> Note:
    return Note(ROOT / request.param)


def test_every_table_is_of_a_known_kind_and_right(note: Note) -> None:
    """And every computed column is compared: another digit in it is refused."""
    for section in note.sections.values():
        for rows in read(section):
            tables.check(rows)
            for column in tables.compared(rows):
                places = [n for n, row in enumerate(rows) if any(map(str.isdigit, row[column]))]
                other = [dict(row) for row in rows]
                other[places[-1]][column] = changed(rows[places[-1]][column])
                with pytest.raises(AssertionError):
                    tables.check(other)


def test_a_table_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(AssertionError, match="no kind of table has the columns"):
        tables.check([{"encoder": "`resnet18`", "parameters": "11,176,512", "seconds": "3"}])


def test_every_number_in_the_text_is_the_networks_or_published(note: Note) -> None:
    """And none could be changed without being noticed."""
    said = " ".join(tables.unchecked(re.sub(r"```.*?```", "", note.text, flags=re.S)).split())
    known = phrases(note.path.stem)
    assert problems(said, known) == []
    for m in LOUD.finditer(said):
        assert problems(said[: m.start()] + changed(m[0]) + said[m.end() :], known), m[0]


def problems(said: str, known: list[str]) -> list[str]:
    """What the text of a note should say and does not, and the numbers in it that nobody knows."""
    found, left = [f"it does not say: {phrase}" for phrase in known if phrase not in said], said
    for phrase in sorted(known, key=len, reverse=True):
        left = left.replace(phrase, "…")
    for m in LOUD.finditer(left):
        found.append(f"add it to claims.py or published.py: {left[max(0, m.start() - 40) : m.end() + 20]}")
    return found


def changed(cell: str) -> str:
    """With another last digit."""
    place = max(n for n, letter in enumerate(cell) if letter.isdigit())
    return f"{cell[:place]}{(int(cell[place]) + 1) % 10}{cell[place + 1 :]}"


def test_every_note_has_claims() -> None:
    assert sorted(CLAIMS) == [path.removeprefix("papers/").removesuffix(".md") for path in NOTES]


# (note, what is changed in the code, its new value): one a note, each of which leaves shapes that run.
CHANGES = [
    ("unet", "zoo.archs.unet.two_convs", lambda i, w, padded: nn.Sequential(nn.Conv2d(i, w, 5, bias=False))),
    ("unet_halved", "zoo.archs.unet_halved.halved", lambda channels, strides: (380, 256, 160, 112, 56)),
    ("fcn", "zoo.archs.fcn.conv_bn_relu", lambda c, width: conv_bn_relu(c, width, 5)),
    ("pspnet", "zoo.archs.pspnet.WIDTH", 510),
    ("unetpp", "zoo.archs.unetpp.two_convs", lambda i, w, norm: nn.Conv2d(i, w, 3, padding=1)),
    ("deeplabv3plus", "zoo.archs.deeplabv3plus.LOW_LEVEL", 32),
    ("ocr", "zoo.archs.hrnet_ocr.KEY", 128),
    ("segformer", "zoo.encoders.mit.EXPANSION", 3),
    ("hrnet", "zoo.encoders.hrnet.UNITS", 3),
    ("resnet", "zoo.encoders.resnet.VARIANTS:resnet50:layers", (3, 4, 6, 4)),
    ("xception", "zoo.encoders.xception.VARIANTS:xception65:middle", 15),
    ("efficientnet", "zoo.encoders.efficientnet.VARIANTS:efficientnet_b0:depth_coefficient", 1.1),
    ("regnet", "zoo.encoders.regnet.VARIANTS:regnet_y_400mf:d", 17),
]


@pytest.mark.parametrize(("name", "what", "value"), CHANGES, ids=[name for name, *_ in CHANGES])
def test_a_network_that_is_changed_without_its_note_fails_here(
    name: str, what: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = Note(PAPERS / f"{name}.md")
    tables.check_stages(note)
    path, *keys = what.split(":")
    if keys:
        monkeypatch.setitem(pkgutil.resolve_name(path)[keys[0]], keys[1], value)
    else:
        monkeypatch.setattr(path, value)
    with pytest.raises(AssertionError):
        tables.check_stages(note, written.__wrapped__)


def test_every_note_has_been_tried_so() -> None:
    assert sorted(name for name, *_ in CHANGES) == sorted(CLAIMS)


def test_fcn8s() -> None:
    """The paper's own network, built once more: every shape in the note's second table."""
    rows = Note(PAPERS / "fcn.md").table(3, "stage", "output C×H×W")
    said = re.findall(r"\d+×\d+×\d+", " ".join(row["output C×H×W"] for row in rows))
    assert said == fcn8s.shapes()
