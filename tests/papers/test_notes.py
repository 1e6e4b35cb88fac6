"""If these break, a note in papers/ says something that the code no longer does; what all of them promise."""

import contextlib
import io
import re
import shlex
from xml.etree import ElementTree

import pytest

import zoo
from zoo import encoders
from zoo.__main__ import main, parser
from zoo.core import flags
from zoo.core.losses import TERMS, parse
from zoo.core.recipes import resolve

from . import tables
from .reader import ARCHITECTURES, ENCODERS, PAPERS, ROOT, SECTIONS, Note, links, load_script, symbols

STATUS = {"kept", "changed", "unspecified", "left out"}


@pytest.fixture(params=sorted({*ARCHITECTURES, *ENCODERS.values()}))
def note(request: pytest.FixtureRequest) -> Note:
    return Note(ROOT / request.param)


def test_every_note_has_the_ten_sections(note: Note) -> None:
    assert note.headings == SECTIONS


def test_nothing_is_left_to_fill_in(note: Note) -> None:
    assert not re.findall(r"\b(PENDING|MEASURED|TODO|TBD|FIXME)\b", note.text)


def test_links_resolve(note: Note) -> None:
    for words, target in links(note.text):
        if target.startswith("https://"):
            continue
        path = note.path.parent / target
        assert path.is_file(), f"{note.path.name}: [{words}]({target})"
        if path.suffix == ".py" and words.startswith("`") and not words.startswith("`zoo."):
            assert words.strip("`") in symbols(path), f"{note.path.name}: no {words} in {target}"


def test_stage_table(note: Note) -> None:
    tables.check_stages(note)


def test_equations_name_code(note: Note) -> None:
    for row in note.table(4, "in the paper", "what it is", "code"):
        found = links(row["code"])
        assert found, row["in the paper"]
        assert all(w.startswith("`") and "../zoo/" in target for w, target in found), row["in the paper"]


def test_every_trap_has_an_effect_and_a_check(note: Note) -> None:
    rows = note.table(9, "trap", "effect", "check")
    assert rows
    assert all(all(row.values()) for row in rows)


def test_ledger_rows_are_held_by_tests(note: Note) -> None:
    for row in note.table(5, "the paper's clause", "status", "what we do, and why", "test"):
        clause, status = row["the paper's clause"], row["status"]
        assert status in STATUS, clause
        assert row["what we do, and why"] or status == "kept", clause
        tests = [words.strip("`") for words, target in links(row["test"]) if "tests/" in target]
        assert all(test.startswith("test_") for test in tests), clause
        assert tests or status == "left out", clause


def test_measured_rows_are_complete(note: Note) -> None:
    rows = note.table(7, "what", "command", "hardware", "result")
    assert rows, "a note says what we measured"
    assert all(all(row.values()) for row in rows)


def test_commands_work(note: Note) -> None:
    """`python -c` prints what the note says, `-m zoo` runs; lines of `train.py` have flags that exist."""
    rows = note.table(8, "switch", "command", "expect")
    assert rows
    for row in rows:
        program, *words = shlex.split(row["command"].strip("`"))
        assert (program, bool(row["expect"])) == ("python", True), row["switch"]
        if words[:2] == ["-m", "zoo"]:
            arguments = parser().parse_args(words[2:])
            if arguments.verb == "trace":  # needs an image; its words are read, and the network is known
                assert not arguments.name or arguments.name in (*zoo.names(), *encoders.names())
            else:
                with contextlib.redirect_stdout(io.StringIO()):
                    assert main(words[2:]) == 0, row["switch"]
        elif words[0] == "-c":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(words[1], {})
            assert re.match(r"prints `(.+?)`", row["expect"])[1] == out.getvalue().strip(), row["switch"]
        else:
            assert words[0] == "train.py", row["switch"]
            config, _ = resolve(flags.flags_of(flags.parser().parse_args(words[1:])))
            if config.data == "phantom" and config.loss:  # the default data: overlapping bones
                assert all("multilabel" in TERMS[term].tasks for term in parse(config.loss)), row["switch"]


# What the papers' tables ablate, or their readers ask for: words that a command of section 8 must have.
ABLATIONS = {
    "unet": ("padded=true", "borders"),
    "unetpp": ("level=", "--ds", ".prune("),
    "pspnet": ("bins=",),
    "deeplabv3plus": ("rates=",),
    "ocr": ("ocr=false",),
    "segformer": ("literal=true", "reductions="),
}


def test_ablations_of_the_paper_have_a_command(note: Note) -> None:
    commands = [row["command"] for row in note.table(8, "switch", "command", "expect")]
    for word in (*ABLATIONS.get(note.path.stem, ()), "python -m zoo "):
        assert any(word in command for command in commands), word


def test_ledger_says_where_the_code_differs_from_its_paper(note: Note) -> None:
    start = r"^\*\*Where the code differs from its paper\.\*\*"
    found = re.findall(start + r"(.+?)\n\n", note.section(5), re.M | re.S)
    assert [len(words) > 150 for words in found] == [True]


def test_pictures_are_drawn_from_the_networks(note: Note) -> None:
    draw = load_script(PAPERS / "draw.py")
    shown = [target for _, target in links(note.section(2)) if target.endswith(".svg")]
    assert shown
    for name in shown:
        text = (PAPERS / name).read_text(encoding="utf-8")
        assert text == draw.PICTURES[name](), f"{name} is stale: run python papers/draw.py"
        ElementTree.fromstring(text)
        assert "prefers-color-scheme: dark" in text
        assert min(float(px) for px in re.findall(r"([\d.]+)px", text)) >= 12
