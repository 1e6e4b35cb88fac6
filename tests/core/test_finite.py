"""If these break, a run that blew up does not say where, or cannot be looked at afterwards."""

import re
from pathlib import Path
from typing import cast

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from tests.conftest import write_shapes
from tests.core.processes import finish, start
from tests.core.test_trainer import config, trainer
from train import main
from zoo import state
from zoo.core import checkpoint
from zoo.core.dataset import open_data
from zoo.core.finite import BAD_STEP, culprit, finite, replay
from zoo.core.loader import Order
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
    assert culprit(nn.ReLU(), lambda: None) == ""


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


@pytest.mark.parametrize(("amp", "word"), [("auto", "bf16"), ("off", "off")])
def test_the_step_keeps_the_precision_it_was_computed_in(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp: str, word: str
) -> None:
    """`auto` is another one on the machine where somebody looks at it."""
    monkeypatch.setattr("zoo.core.device.has_bf16", lambda device: True)
    t = trainer(config(shapes, amp=amp), tmp_path / "run")
    with torch.no_grad():
        next(t.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError):
        t.fit()
    assert state.read(tmp_path / "run" / BAD_STEP)["config"]["amp"] == word


SPOILT = """
import torch
inner = Trainer.step
def spoilt(self, group):
    if rank == "1" and self.progress.step == 2:
        with torch.no_grad():
            %s
    return inner(self, group)
Trainer.step = spoilt
"""
WEIGHT = 'self.model.get_submodule("x.20.h.0").weight.fill_(3e38)'
GRADIENT = 'next(self.model.parameters()).register_hook(lambda grad: grad * float("nan"))'


@pytest.mark.slow
@pytest.mark.parametrize(("what", "first"), [(WEIGHT, r"x\.20\.h\.0 \(Conv2d\)"), (GRADIENT, "the grad")])
def test_of_several_processes_the_one_whose_batch_it_was_is_told_of_once(
    tmp_path: Path, what: str, first: str
) -> None:
    """In one sentence, by the first; the one file there is holds the images that it names."""
    argv = "--arch unetpp --opt width=2 --opt norm=none --size 32 --amp off --batch 4 --workers 0".split()
    data, out = write_shapes(tmp_path / "shapes", 20), tmp_path / "run"
    argv += ["--data", f"folder:{data}", "--out", str(out)]
    ended = finish(start(2, argv, tmp_path / "seen", SPOILT % what))
    assert [status for status, _, _ in ended] == [2, 2], ended
    assert ended[1][2] == ""
    says = rf"train\.py: the .* at step 3 \(.*, images (.*)\); first to be so: {first}.*--debug-nan {out} "
    said = re.match(says, ended[0][2])
    assert said, ended[0][2]
    assert [path.name for path in out.glob("bad*")] == [BAD_STEP]
    kept = [name for batch in state.read(out / BAD_STEP)["group"] for name in batch["names"]]
    assert said[1] == ", ".join(kept)
    order = [[i for _, i in batch] for batch in Order(16, 4, 0)][2]
    source = open_data(f"folder:{data}")[0]
    mine = [source.name(i) for i in (order[1::2] if what == WEIGHT else order[::2] + order[1::2])]
    assert kept == mine


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


def test_statistics_that_the_step_has_just_spoilt_are_not_to_blame() -> None:
    """A BatchNorm in train mode writes down what it was given before anybody looks."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    nn.init.constant_(model[0].weight, 3e38)  # type: ignore[arg-type]
    x = torch.full((2, 1, 4, 4), 100.0)
    model(x)
    assert not finite(model[1].running_mean)
    assert culprit(model, lambda: model(x)) == "0 (Conv2d), from finite inputs"
    model.eval()  # where they are weights like others
    assert culprit(model, lambda: model(x)) == "1.running_mean, a weight that is not finite already"
