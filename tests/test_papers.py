"""If these break, a note in papers/ says something that the code no longer does.

The tables are plain Markdown with fixed headers.  What a paper published stands here as literals, so that
note and recipe cannot go wrong together.
"""

import ast
import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch

import zoo
from zoo.core.recipes import RECIPES, resolve
from zoo.profile import macs, profile
from zoo.registry import architecture, margin

from .archs.fields import fields

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ROOT / "papers"
NOTES = sorted({zoo.describe(name).note for name in zoo.names()})
SECTIONS = [
    "1. In three sentences",
    "2. The picture",
    "3. Stage table",
    "4. Equations and code",
    "5. Deviation ledger",
    "6. Training as published",
    "7. Results",
    "8. Try it",
    "9. Traps",
    "10. Citation and what came after",
]
STATUS = {"kept", "changed", "unspecified", "left out"}

# (architecture, setting): value and where the paper says so
PUBLISHED = {
    ("unet", "optimizer"): ("sgd", "Sec. 3"),
    ("unet", "momentum"): (0.99, "Sec. 3"),
    ("unet", "batch"): (1, "Sec. 3"),
    ("unet", "accumulate"): (1, "Sec. 3"),
    ("unet", "size"): ((388, 388), "Fig. 1"),
    ("unet", "loss"): ("weighted_ce", "Eq. 1 and 2"),
    ("unet", "augment"): ("shift+rotate+grey+elastic", "Sec. 3.1"),
    ("unet", "amp"): ("off", "Caffe computes in float32"),
    ("unetpp", "optimizer"): ("adamw", "2018 Sec. 4"),
    ("unetpp", "weight_decay"): (0.0, "2018 Sec. 4"),
    ("unetpp", "lr"): (3e-4, "2018 Sec. 4"),
    ("unetpp", "loss"): ("0.5*bce+dice", "2018 Eq. 2"),
    ("unetpp", "size"): ((96, 96), "2018 Table 1"),
    ("unetpp", "amp"): ("off", "Keras computes in float32"),
}


class Note:
    """A note's sections, tables and links."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, path.read_text(encoding="utf-8")
        parts = re.split(r"^## (.+)$", self.text, flags=re.M)
        self.headings = parts[1::2]
        self.sections = dict(zip(self.headings, parts[2::2], strict=True))

    def table(self, section: str, *header: str) -> list[dict[str, str]]:
        """The rows under exactly these column names, in the section of that number."""
        text = next(body for title, body in self.sections.items() if title.startswith(f"{section}. "))
        return table(text, *header)


def table(text: str, *header: str) -> list[dict[str, str]]:
    """The rows of the one Markdown table in `text` with exactly these column names."""
    lines = text.splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith("|") and cells(line) == list(header)]
    assert len(starts) == 1, f"one table with the columns {header} is wanted, found {len(starts)}"
    rows = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(header, cells(line), strict=True)))
    return rows


def cells(line: str) -> list[str]:
    """The cells of a table's line; no cell holds a bar."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def links(text: str) -> list[tuple[str, str]]:
    """(words, target) of every link and picture outside code blocks."""
    return re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S))


def symbols(path: Path) -> set[str]:
    """Functions, classes, Class.method and constants of a Python file, read without running it."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
    return found


def number(text: str) -> int:
    return int(text.replace(",", ""))


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=NOTES)
def note(request: pytest.FixtureRequest) -> Note:
    return Note(ROOT / request.param)


@pytest.fixture
def names(note: Note) -> list[str]:
    """The architectures that a note is about."""
    return [name for name in zoo.names() if ROOT / zoo.describe(name).note == note.path]


def test_every_note_has_the_ten_sections(note: Note) -> None:
    assert note.headings == SECTIONS


def test_head_and_citation_name_the_paper(note: Note, names: list[str]) -> None:
    for name in names:
        about = zoo.describe(name)
        head = " ".join(note.text.split("\n## ")[0].split())
        module = architecture(name).__module__
        assert about.title in head
        assert about.authors in head
        assert about.url in head
        assert f"`{module}`" in head
        bibtex = note.sections[SECTIONS[-1]]
        assert f"{{{about.title}}}" in bibtex
        assert re.search(rf"year\s+= \{{{about.year}}}", bibtex)
        docstring = ast.get_docstring(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text()))
        assert f"{about.note}" in docstring  # and the code names the note


def test_links_resolve(note: Note) -> None:
    for words, target in [*links(note.text), *links((PAPERS / "README.md").read_text())]:
        if target.startswith("https://"):
            continue
        path = note.path.parent / target
        assert path.is_file(), f"{note.path.name}: [{words}]({target})"
        if path.suffix == ".py" and words.startswith("`") and not words.startswith("`zoo."):
            assert words.strip("`") in symbols(path), f"{note.path.name}: no {words} in {target}"


def test_stage_table(note: Note) -> None:
    """Every row by hooks on the network that the section names; the rows cover it whole."""
    section = note.sections["3. Stage table"]
    call, size = re.search(r"`(zoo\.build\([^`]*\))`, input \d+×(\d+)×\2", section).groups()
    with torch.device("meta"):
        stages = profile(eval(call, {"zoo": zoo}), int(size))
    rows = note.table("3", "stage", "module", "output C×H×W", "parameters", "MACs")
    for row in rows:
        stage = stages[row["module"].strip("`")]
        assert row["output C×H×W"] == "×".join(map(str, stage.shape)), row["stage"]
        assert number(row["parameters"]) == stage.parameters, row["stage"]
        assert number(row["MACs"]) == stage.macs, row["stage"]
    *parts, whole = rows
    assert whole["stage"] == "whole network"
    for column in ("parameters", "MACs"):
        assert sum(number(row[column]) for row in parts) == number(whole[column])


def test_equations_name_code(note: Note) -> None:
    for row in note.table("4", "in the paper", "what it is", "code"):
        assert links(row["code"]), row["in the paper"]


def test_ledger_rows_are_held_by_tests(note: Note) -> None:
    for row in note.table("5", "the paper's clause", "status", "what we do, and why", "test"):
        clause, status = row["the paper's clause"], row["status"]
        assert status in STATUS, clause
        assert row["what we do, and why"] or status in ("kept", "left out"), clause
        tests = [words.strip("`") for words, target in links(row["test"]) if "tests/" in target]
        assert all(test.startswith("test_") for test in tests), clause
        assert tests or status == "left out", clause


def test_training_table_is_the_recipe(note: Note, names: list[str]) -> None:
    rows = note.table("6", "setting", "published", "`--recipe paper`", "origin")
    for name in names:
        assert (name, "paper") in RECIPES, f"zoo/core/recipes.py lacks a row ({name!r}, 'paper')"
        recipe = RECIPES[name, "paper"]
        written = {row["setting"].strip("`"): row for row in rows}
        assert set(written) == set(recipe.settings)
        for setting, row in written.items():
            assert ast.literal_eval(row["`--recipe paper`"].strip("`")) == recipe.settings[setting], setting
            assert row["published"], setting
            assert (row["origin"] == "ours") == (setting in recipe.ours), setting


def test_recipes_are_what_was_published(note: Note, names: list[str]) -> None:
    rows = note.table("6", "setting", "published", "`--recipe paper`", "origin")
    origins = {row["setting"].strip("`"): row["origin"] for row in rows}
    for name in names:
        recipe = RECIPES[name, "paper"]
        published = {setting: value for (arch, setting), value in PUBLISHED.items() if arch == name}
        assert set(published) == set(recipe.settings) - set(recipe.ours)
        for setting, (value, source) in published.items():
            assert recipe.settings[setting] == value, setting
            assert origins[setting] == source, setting


def test_measured_rows_are_complete(note: Note) -> None:
    rows = note.table("7", "what", "command", "hardware", "result")
    assert rows, "a note says what we measured"
    assert all(all(row.values()) for row in rows)


def test_commands_work(note: Note) -> None:
    """`python -c` prints what the note says; `train.py` lines have flags and recipes that exist."""
    train = load_script(ROOT / "train.py")
    rows = note.table("8", "switch", "command", "expect")
    assert rows
    for row in rows:
        program, *words = shlex.split(row["command"].strip("`"))
        assert (program, bool(row["expect"])) == ("python", True), row["switch"]
        if words[0] == "-c":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(words[1], {})
            assert re.match(r"prints `(.+?)`", row["expect"])[1] == out.getvalue().strip(), row["switch"]
        else:
            assert words[0] == "train.py", row["switch"]
            config, _ = resolve(train.flags_of(train.parser().parse_args(words[1:])))
            with torch.device("meta"):
                zoo.build(config.arch, **config.options)


def test_pictures_are_drawn_from_the_networks(note: Note) -> None:
    draw = load_script(PAPERS / "draw.py")
    shown = [target for _, target in links(note.sections["2. The picture"]) if target.endswith(".svg")]
    assert shown
    for name in shown:
        text = (PAPERS / name).read_text(encoding="utf-8")
        assert text == draw.PICTURES[name](), f"{name} is stale: run python papers/draw.py"
        ElementTree.fromstring(text)
        assert "prefers-color-scheme: dark" in text
        assert min(float(px) for px in re.findall(r"([\d.]+)px", text)) >= 12


def test_levels_of_unetpp() -> None:
    note = Note(PAPERS / "unetpp.md")
    counted = ("parameters", "MACs at 96×96", "MACs at 512×512")
    rows = note.table("3", "level", *counted, "receptive field")
    assert [row["level"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        level = int(row["level"])
        with torch.device("meta"):
            model = zoo.build("unetpp", 1, 1, level=level)
        got = (sum(p.numel() for p in model.parameters()), macs(model, 96), macs(model, 512))
        assert got == tuple(number(row[column]) for column in counted)
        spans = fields(zoo.build("unetpp", 1, 1, width=1, level=level), 240, 32)[112:128]
        widths = sorted({last - first + 1 for first, last in spans})
        assert row["receptive field"] == " or ".join(map(str, widths))


def test_the_map_lists_every_architecture() -> None:
    text = (PAPERS / "README.md").read_text(encoding="utf-8")
    listed = table(text, "year", "note", "builds as", "code", "tests")
    sizes = table(text, "name", "parameters", "MACs", "smallest output", "pixels lost a side")
    assert [row["builds as"] for row in listed] == [f"`{name}`" for name in zoo.names()]
    for name, row, size in zip(zoo.names(), listed, sizes, strict=True):
        about = zoo.describe(name)
        assert row["year"] == str(about.year)
        assert f"papers/{links(row['note'])[0][1]}" == about.note
        assert size["name"] == f"`{name}`"
        assert (number(size["parameters"]), number(size["MACs"])) == (about.parameters, about.macs)
        limits = (architecture(name).min_size, margin(architecture(name)))
        assert (number(size["smallest output"]), number(size["pixels lost a side"])) == limits
