"""If these break, a run that blew up does not say where, or cannot be looked at afterwards."""

import re
from pathlib import Path
from typing import cast

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from tests.conftest import write_shapes
from tests.core.test_trainer import config, trainer
from train import main
from zoo.core import checkpoint
from zoo.core.finite import BAD_STEP, culprit, finite, replay
from zoo.errors import InputError


class Breaks(nn.Module):
    """Divides by zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.zeros_like(x)


def test_the_first_module_is_named_the_inner_one() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), Breaks()), nn.Conv2d(2, 1, 1))
    run = lambda: model(torch.ones(1, 1, 2, 2))  # noqa: E731
    assert culprit(model, run) == "1.1 (Breaks), from finite inputs"
    assert not any(m._forward_hooks for m in model.modules()), "no hook stays"
    bad = torch.full((1, 1, 2, 2), float("nan"))
    assert culprit(model, lambda: model(bad)) == "0 (Conv2d), from inputs that were not finite"
    with torch.no_grad():
        model[2].bias.fill_(float("inf"))
    assert culprit(model, run) == "2.bias, a weight that is not finite already"


def test_nothing_is_wrong_with_whole_numbers_or_nests() -> None:
    assert finite({"a": [torch.ones(2), (torch.tensor([3]), None)], "b": "x"})
    assert not finite([torch.ones(2), {"a": torch.tensor([1.0, float("-inf")])}])


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose third step overflows in one convolution, and what it said."""
    root = tmp_path_factory.mktemp("broken")
    t = trainer(config(write_shapes(root / "shapes", 10)), root / "run")
    step = t.step

    def spoilt(group: list) -> float:
        if t.progress.step == 2:
            with torch.no_grad():
                cast(nn.Conv2d, t.model.get_submodule("x.20.h.0")).weight.fill_(3e38)
        return step(group)

    t.step = spoilt  # type: ignore[method-assign]
    with pytest.raises(InputError) as e:
        t.fit()
    return root / "run", str(e.value)


def test_the_run_says_which_and_keeps_the_step(broken: tuple[Path, str]) -> None:
    out, said = broken
    assert re.match(r"the loss is (nan|inf) at step 3 \(learning rate .*, images .*png, .*png\); ", said)
    assert "first to be so: x.20.h.0 (Conv2d), from finite inputs. " in said
    assert f"python train.py --debug-nan {out} replays it" in said
    assert checkpoint.read(out / "last.pt").training["progress"]["step"] == 0, "saved before, still whole"


def test_debug_nan_shows_each_module_up_to_the_first(
    broken: tuple[Path, str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["--debug-nan", str(broken[0])]) == 0
    shown = capsys.readouterr().out
    assert "step 3, batch 1: " in shown
    rows = [line.split("│") for line in shown.splitlines() if "Conv2d" in line]
    assert [row[1].strip() for row in rows[-2:]] == ["x.10.h.2", "x.20.h.0"], "and none behind it"
    assert "inf" in rows[-1][4]
    assert re.search(r"^loss (nan|inf)$", shown, re.M)
    assert re.search(r"^gradients that are not finite: [1-9]\d*, first on the way back heads\.4", shown, re.M)


def test_what_is_no_such_step_is_said(tmp_path: Path, broken: tuple[Path, str]) -> None:
    for path, words in (
        (tmp_path, f"{tmp_path / BAD_STEP}: "),
        (broken[0] / "last.pt", "not a step that train.py kept because it was not finite"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            replay(path, Console(quiet=True))


def test_a_full_disk_does_not_hide_the_reason(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = trainer(config(shapes), tmp_path / "run")
    with torch.no_grad():
        next(t.model.parameters()).fill_(float("nan"))

    def full(path: Path, _: object) -> None:
        raise InputError(f"{path}: cannot save (No space left on device)")

    monkeypatch.setattr("zoo.core.finite.write_bytes", full)
    says = r"x.00.h.0.weight, a weight that is not finite already. \(.*No space left"
    with pytest.raises(InputError, match=says):
        t.fit()
