"""If these break, an architecture's note names another paper, or another training, than the code has.

What was published stands in tests/published.py as literals, so that note and recipe cannot go wrong together.
"""

import ast
import re

import pytest

import zoo
from tests.published import PUBLISHED
from zoo.core.recipes import RECIPES
from zoo.registry import architecture

from .reader import ABOUT, ROOT, Note, docstring


@pytest.fixture(params=zoo.names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def note(name: str) -> Note:
    return Note(ROOT / ABOUT[name].note)


def test_head_and_citation_name_the_paper(note: Note, name: str) -> None:
    about = ABOUT[name]
    module = architecture(name).__module__
    for words in (about.title, about.authors, about.url, f"`{module}`"):
        assert words in note.head
    bibtex = " ".join(note.section(10).split())
    assert f"{{{about.title}}}" in bibtex
    assert re.search(rf"year += \{{{about.year}}}", bibtex)
    assert about.note in docstring(module)  # and the code names the note


def test_training_table_is_the_recipe(note: Note, name: str) -> None:
    assert (name, "paper") in RECIPES, f"zoo/core/recipes.py lacks a row ({name!r}, 'paper')"
    recipe = RECIPES[name, "paper"]
    rows = note.table(6, "setting", "published", "`--recipe paper`", "origin")
    written = {row["setting"].strip("`"): row for row in rows}
    assert set(written) == set(recipe.settings)
    for setting, row in written.items():
        value = row["`--recipe paper`"]
        if own := re.search(rf"`{name}`: `(.+?)`", value):  # one size of several has its own
            value = own[1]
        value = value.split(";")[0].strip("`")
        assert ast.literal_eval(value) == recipe.settings[setting], setting
        assert row["published"], setting
        assert (row["origin"] == "ours") == (setting in recipe.ours), setting


def test_recipes_are_what_was_published(note: Note, name: str) -> None:
    rows = note.table(6, "setting", "published", "`--recipe paper`", "origin")
    origins = {row["setting"].strip("`"): row["origin"] for row in rows}
    recipe = RECIPES[name, "paper"]
    published = {setting: found for (arch, setting), found in PUBLISHED.items() if arch == name}
    assert set(published) == set(recipe.settings) - set(recipe.ours)
    for setting, (value, source) in published.items():
        assert recipe.settings[setting] == value, setting
        assert origins[setting] == source, setting
