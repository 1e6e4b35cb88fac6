"""If these break, papers/README.md leaves a note out, or compares by numbers that are not so."""

import importlib
import re

import pytest

import zoo
from tests.archs.test_fields import FIELDS, STRIDES
from zoo import encoders
from zoo.registry import architecture, margin

from .counting import channels, cost, count, network
from .reader import ABOUT, ARCHITECTURES, ENCODERS, PAPERS, links, number, table

MAP = (PAPERS / "README.md").read_text(encoding="utf-8")
ROWS = table(MAP, "year", "note", "what was new", "builds as", "code", "tests")


def test_links_resolve() -> None:
    for words, target in links(MAP):
        assert target.startswith("https://") or (PAPERS / target).is_file(), f"[{words}]({target})"


def test_the_time_line_lists_every_note_once() -> None:
    years = [int(row["year"]) for row in ROWS]
    assert years == sorted(years)
    listed = [f"papers/{links(row['note'])[0][1]}" for row in ROWS]
    assert sorted(listed) == sorted({*ARCHITECTURES, *ENCODERS.values()})
    assert all(row["what was new"] for row in ROWS)
    for row, note in zip(ROWS, listed, strict=True):
        names = [word for word in row["builds as"].split("`") if word in {*zoo.names(), *encoders.names()}]
        code = links(row["code"])[0][1].removeprefix("../").removesuffix(".py").replace("/", ".")
        if note not in ARCHITECTURES:
            variants = list(importlib.import_module(code).VARIANTS)
            assert [names[0], names[-1]] == [variants[0], variants[-1]]
        else:
            assert names == [name for name, about in ABOUT.items() if about.note == note]
            for name in names:
                assert (row["year"], code) == (str(ABOUT[name].year), architecture(name).__module__)


def test_every_architecture_has_a_row() -> None:
    assert list(compared()) == zoo.names()


@pytest.mark.parametrize("name", zoo.names())
def test_sizes_of_architectures(name: str) -> None:
    row, about, model = compared()[name], zoo.describe(name), network(name)
    assert (number(row["parameters"]), number(row["MACs at 512"])) == (about.parameters, about.macs)
    assert number(row["smallest output"]) == model.min_size
    assert number(row["pixels lost a side"]) == margin(model)


@pytest.mark.parametrize("name", zoo.names())
def test_what_each_sees_and_how_finely(name: str) -> None:
    """As tests/archs/test_fields.py measures it."""
    row, ((_, coarsest), (_, logits)) = compared()[name], STRIDES[name]
    assert row["receptive field"] == FIELDS[name]
    assert (row["output stride"], row["logits' stride"]) == (str(coarsest), str(logits))


def test_memory_and_time_are_measured_for_each() -> None:
    """Their size is the machine's; that more pixels take more, and that U-Net is the measure, is not."""
    for name, row in compared().items():
        memory = [number(row[f"MiB at {size}"]) for size in (512, 1024, 2048)]
        assert memory == sorted(set(memory)), name
        assert re.fullmatch(r"\d+\.\d\d", row["time × `unet`"]), name
    assert compared()["unet"]["time × `unet`"] == "1.00"


def test_every_encoder_has_a_row() -> None:
    assert [row["encoder"] for row in encoder_rows()] == [f"`{name}`" for name in encoders.names()]


@pytest.mark.parametrize("name", encoders.names())
def test_sizes_of_encoders(name: str) -> None:
    (row,) = (row for row in encoder_rows() if row["encoder"] == f"`{name}`")
    assert number(row["parameters"]) == count(name)
    assert number(row["MACs at 224"]) == cost(224, name)
    assert row["channels"] == ", ".join(map(str, channels(name)))


def compared() -> dict[str, dict[str, str]]:
    columns = ["name", "parameters", "MACs at 512", "receptive field", "output stride", "logits' stride"]
    columns += ["MiB at 512", "MiB at 1024", "MiB at 2048", "time × `unet`"]
    rows = table(MAP, *columns, "smallest output", "pixels lost a side")
    return {row["name"].strip("`"): row for row in rows}


def encoder_rows() -> list[dict[str, str]]:
    return table(MAP, "encoder", "parameters", "MACs at 224", "channels")
