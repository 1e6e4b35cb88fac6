"""If these break, the first page promises a command, a file or a number that is not so."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.core.test_checkpoint import tiny
from tests.papers.reader import table
from zoo import encoders, weights
from zoo.core import checkpoint, flags
from zoo.core.recipes import resolve
from zoo.encoders import pretrained
from zoo.registry import architecture
from zoo.weights import layouts

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_two_commands_do_all_the_setting_up() -> None:
    assert "pip install -e . && python train.py --arch unetpp --ds\n" in README
    assert 'pip install -e ".[test]" && pytest\n' in README


def test_every_file_it_names_is_there() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", README)
    named = re.findall(r"\b(?:zoo|benchmarks|papers|assets)/[\w/]+\.\w+", README)
    for path in {*linked, *named}:
        assert (ROOT / path).exists(), path


def test_the_table_of_architectures() -> None:
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `(\w+)` \|.*\.md\) \|$", README, re.M)}
    assert list(rows) == zoo.names()
    for name, row in rows.items():
        about = zoo.describe(name)
        assert f"| {about.parameters:,} |" in row
        assert f"| {about.macs / 1e9:.1f} G" in row


def test_the_number_of_encoders() -> None:
    assert f"{len(encoders.names())} in all" in " ".join(README.split())
    assert all(zoo.describe(name).encoders for name in zoo.names() if name != "unet")


def test_its_commands_have_words_that_exist() -> None:
    """Those with an encoder or weights: `resolve` builds the network (the others are run elsewhere)."""
    lines = re.findall(r"^python train\.py (.*--(?:encoder|weights).*)$", README, re.M)
    assert len(lines) == 3
    for line in lines:
        config, _ = resolve(flags.flags_of(flags.parser().parse_args(shlex.split(line))))
        assert config.weights is None or config.weights in weights.known()


def test_the_files_it_says_load_are_those_that_do() -> None:
    rows = table(README, "file of", "loads into", "what of it")
    encoders_alone = [row for row in rows if row["loads into"] == "what has that encoder, or the encoder"]
    families = {"mit": "`mit_b*.pth`", "hrnet": "`hrnet_w*`"}
    assert len(encoders_alone) == len(families)
    for layout in layouts.LAYOUTS:
        if layout.network in families:
            assert any(families[layout.network] in row["file of"] for row in encoders_alone), layout.title
            continue
        names = [n for n in zoo.names() if architecture(n).__module__.endswith(f".{layout.network}")]
        said = [row["what of it"] for row in rows[1:] if f"`{names[0]}`" in row["loads into"]]
        whole = not layout.covers or "regions" in layout.covers
        assert any(text.startswith("all") == whole for text in said), layout.title
    told = {name for name in zoo.names() for row in rows[1:] if f"`{name}`" in row["loads into"]}
    assert {architecture(name).__module__.rpartition(".")[2] for name in told} == {
        layout.network for layout in layouts.LAYOUTS
    } - set(families)


@pytest.mark.parametrize("supervised", [False, True])
def test_what_train_py_builds_by_default(supervised: bool) -> None:
    with torch.device("meta"):
        model = zoo.build("unetpp", 29, 1, norm="batch", deep_supervision=supervised)
    assert f"{sum(p.numel() for p in model.parameters()):,}" in README


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The blocks of Python, with a folder to run them in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "unetpp-phantom").mkdir(parents=True)
    checkpoint.write(tmp_path / "runs" / "unetpp-phantom" / "best.pt", tiny())
    return [block.split("```")[0] for block in README.split("```python\n")[1:]]


def test_the_code_runs_as_written(code: list[str]) -> None:
    exec(code[0], {})


def test_the_encoder_gets_its_weights(code: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pretrained, "load", lambda encoder, name: asked.append(name))
    with torch.device("meta"):
        exec(code[1], {"zoo": zoo})
    assert asked == ["efficientnet_b7"]


@pytest.mark.slow
def test_the_export_runs_as_written(code: list[str], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason='pip install -e ".[export]" to run this')
    exec(code[2], {"torch": torch, "zoo": zoo})
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    x = np.zeros((1, 1, 33, 47), np.float32)
    assert session.run(None, {session.get_inputs()[0].name: x})[0].shape == (1, 29, 33, 47)
