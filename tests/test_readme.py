"""If these break, the first page promises a command, a file or a number that is not so."""

import re
from pathlib import Path

import pytest
import torch

import zoo
from tests.core.test_checkpoint import tiny
from zoo.core import checkpoint

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
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `(\w+)` \|.*$", README, re.M)}
    assert list(rows) == zoo.names()
    assert f"{zoo.describe('unet').parameters:,}" in rows["unet"]
    assert f"{zoo.describe('unet').macs / 1e9:.1f} G" in rows["unet"]
    one = zoo.build("unetpp", 1, 1)
    assert f"{sum(p.numel() for p in one.parameters()):,}" in rows["unetpp"]


@pytest.mark.parametrize("supervised", [False, True])
def test_what_train_py_builds_by_default(supervised: bool) -> None:
    with torch.device("meta"):
        model = zoo.build("unetpp", 29, 1, norm="batch", deep_supervision=supervised)
    assert f"{sum(p.numel() for p in model.parameters()):,}" in README


def test_the_code_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "unetpp-phantom").mkdir(parents=True)
    checkpoint.write(tmp_path / "runs" / "unetpp-phantom" / "best.pt", tiny())
    code = README.split("```python\n")[1].split("```")[0]
    exec(code, {})
