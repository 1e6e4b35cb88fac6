"""If these break, papers/README.md leaves a note out, or compares by numbers that are not so."""

import importlib

import pytest
import torch

import zoo
from zoo import encoders
from zoo.profile import macs
from zoo.registry import architecture, margin

from .reader import ABOUT, ARCHITECTURES, ENCODERS, PAPERS, links, number, table

MAP = (PAPERS / "README.md").read_text(encoding="utf-8")
ROWS = table(MAP, "year", "note", "builds as", "code", "tests")


def test_links_resolve() -> None:
    for words, target in links(MAP):
        assert target.startswith("https://") or (PAPERS / target).is_file(), f"[{words}]({target})"


def test_the_time_line_lists_every_note_once() -> None:
    years = [int(row["year"]) for row in ROWS]
    assert years == sorted(years)
    listed = [f"papers/{links(row['note'])[0][1]}" for row in ROWS]
    assert sorted(listed) == sorted({*ARCHITECTURES, *ENCODERS.values()})
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


def test_sizes_of_architectures() -> None:
    rows = table(MAP, "name", "parameters", "MACs", "smallest output", "pixels lost a side")
    assert [row["name"] for row in rows] == [f"`{name}`" for name in zoo.names()]
    for name, row in zip(zoo.names(), rows, strict=True):
        about = ABOUT[name]
        assert (number(row["parameters"]), number(row["MACs"])) == (about.parameters, about.macs)
        with torch.device("meta"):
            model = zoo.build(name)
        limits = (model.min_size, margin(model))
        assert (number(row["smallest output"]), number(row["pixels lost a side"])) == limits


def test_every_encoder_has_a_row() -> None:
    assert [row["encoder"] for row in encoder_rows()] == [f"`{name}`" for name in encoders.names()]


@pytest.mark.parametrize("name", encoders.names())
def test_sizes_of_encoders(name: str) -> None:
    (row,) = (row for row in encoder_rows() if row["encoder"] == f"`{name}`")
    with torch.device("meta"):
        encoder = encoders.build(name)
    assert number(row["parameters"]) == sum(p.numel() for p in encoder.parameters())
    assert number(row["MACs at 224"]) == macs(encoder, 224)
    assert row["channels"] == ", ".join(map(str, encoder.channels))


def encoder_rows() -> list[dict[str, str]]:
    return table(MAP, "encoder", "parameters", "MACs at 224", "channels")
