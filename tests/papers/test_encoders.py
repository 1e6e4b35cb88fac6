"""If these break, the note of an encoder family names another paper, or other names, than the code has."""

import importlib
import re

import pytest

from zoo import encoders

from . import tables
from .reader import ENCODERS, ROOT, Note, docstring
from .reader import tables as read

NOT_FAMILIES = {"__init__", "encoder", "layouts", "pretrained"}


@pytest.fixture(params=ENCODERS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def note(family: str) -> Note:
    return Note(ROOT / ENCODERS[family])


def variants(family: str) -> dict[str, dict[str, object]]:
    """The paper's table: names and keywords."""
    return importlib.import_module(f"zoo.encoders.{family}").VARIANTS


def test_every_family_has_a_note() -> None:
    assert {path.stem for path in (ROOT / "zoo/encoders").glob("*.py")} - NOT_FAMILIES == set(ENCODERS)


def test_head_and_citation_name_the_paper(note: Note, family: str) -> None:
    """Each work of the citation that the head names has its authors and an address there."""
    bibtex = " ".join(note.section(10).split())
    works = re.findall(r"author += {(.+?)}, title += {(.+?)}, |title += {(.+?)}, author += {(.+?)}, ", bibtex)
    cited = [(title or other, authors or others) for others, other, title, authors in works]
    named = [(title, authors) for title, authors in cited if title in note.head]
    assert named, "the head has the title of the paper as the citation writes it"
    for title, authors in named:
        for author in authors.split(" and "):
            if author != "others":
                assert author.split(",")[0] in note.head, f"{title}: {author}"
    assert "https://arxiv.org/abs/" in note.head
    assert f"`zoo.encoders.{family}`" in note.head
    assert ENCODERS[family] in docstring(f"zoo.encoders.{family}")  # and the code names the note


def test_every_variant_is_named(note: Note, family: str) -> None:
    assert set(variants(family)) <= set(encoders.names())
    for name in variants(family):
        assert f"`{name}`" in note.text, name


def test_a_table_counts_every_variant(note: Note, family: str) -> None:
    """What is in its cells, test_numbers.py compares."""
    (rows,) = (rows for rows in read(note.section(3)) if {"encoder", "parameters"} <= set(rows[0]))
    kind = tables.KINDS[tuple(rows[0])]
    assert kind.rows() == [f"`{name}`" for name in variants(family)]
    assert {"parameters", "MACs at 224×224"} <= set(kind.computed)


def test_training_says_where_it_was_published(note: Note) -> None:
    rows = note.table(6, "setting", "published", "source")
    assert rows
    assert all(all(row.values()) for row in rows)
