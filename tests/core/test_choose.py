"""If these break, masks are those of a rounded network without a word, or all images take the slower way."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import infer
from tests.test_infer import BONES, NUCLEUS, picture, save
from zoo.core import choose as module
from zoo.core.choose import AGREE, Choice, choose
from zoo.core.config import Preprocess
from zoo.core.masks import Labels
from zoo.core.predictor import Predictor

FORMATS = {torch.channels_last: "last", torch.contiguous_format: "contiguous"}


class Shift(nn.Module):
    """Foreground from 190.9 of 255 on: for bfloat16 both this and 191 are 0.75, and so it is not above."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.conv.bias.fill_(-190.9 / 255)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def predictor(labels: Labels = NUCLEUS) -> Predictor:
    return Predictor(Shift(), labels, Preprocess(1, (0.0,), (1.0,), (40, 40), False))


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor: torch computes in it everywhere."""
    monkeypatch.setattr(module, "has_bf16", lambda device: True)


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(("odd", "chosen"), [(1, torch.bfloat16), (40, None)])
def test_bf16_is_taken_where_it_gives_the_mask(
    odd: int, chosen: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 or 40 of 1,600 pixels differ: 0.06 or 2.5 %.  Both precisions are as fast, for the clock stands."""
    monkeypatch.setattr(module.time, "perf_counter", lambda: 0.0)
    image = np.full((40, 40), 100, np.uint8)
    image.flat[:odd] = 191
    one = predictor()
    choice = choose(one, image)
    assert choice.agreement == pytest.approx(1 - odd / 1600)
    assert (choice.amp, one.amp) == (chosen, chosen)
    assert (choice.agreement >= AGREE) == (chosen is not None)
    assert one(image).any() == (chosen is None)


@pytest.mark.parametrize(("slow", "name"), [("last", "contiguous"), ("contiguous", "last"), ("none", "last")])
def test_the_faster_memory_format_is_taken(
    slow: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels-last where neither is."""
    clock = [0.0]
    one, whole = predictor(), Predictor.whole

    def timed(self: Predictor, image: np.ndarray) -> Tensor:
        clock[0] += 2 if FORMATS[self.layout] == slow else 1
        return whole(self, image)

    monkeypatch.setattr(Predictor, "whole", timed)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "has_bf16", lambda device: False)
    choice = choose(one, np.zeros((40, 40), np.uint8))
    assert FORMATS[choice.layout] == FORMATS[one.layout] == name
    assert (choice.amp, choice.agreement) == (None, None)


@pytest.mark.usefixtures("bf16")
def test_the_answer_is_that_of_the_choice(tmp_path: Path) -> None:
    """A predictor that was changed forth and back predicts as a new one, and lies in memory as chosen."""
    image = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    path = save(tmp_path / "best.pt")
    one, other = (Predictor.from_checkpoint(path, "cpu", "off") for _ in range(2))
    choice = choose(one, image)
    other.use(choice.layout, choice.amp)
    assert np.array_equal(one(image), other(image))
    kernels = [p for p in one.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=choice.layout) for p in kernels)


def test_it_says_what_it_chose() -> None:
    assert str(Choice(torch.channels_last, None, None)) == "float32"
    assert str(Choice(torch.contiguous_format, torch.bfloat16, 0.99987, (40, 50))) == (
        "bfloat16, contiguous (99.987 % of the first image's pixels at 40x50 are as in float32)"
    )
    assert str(Choice(torch.channels_last, None, 0.5)).startswith("float32 (50.000 % of the first")


@pytest.mark.usefixtures("bf16")
def test_bf16_is_left_where_it_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on small maps, whose conversion costs more than is won."""
    clock, one, whole = [0.0], predictor(), Predictor.whole

    def timed(self: Predictor, image: np.ndarray) -> Tensor:
        clock[0] += 2 if self.amp else 1
        return whole(self, image)

    monkeypatch.setattr(Predictor, "whole", timed)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    choice = choose(one, np.zeros((40, 40), np.uint8))
    assert (choice.amp, choice.agreement) == (None, 1.0)


@pytest.mark.usefixtures("bf16")
def test_infer_chooses_for_many_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """By the first one that can be read; a single network up front, several of them each for itself."""
    folder = tmp_path / "in"
    for i in range(3):
        picture(folder / f"{i}.png", seed=i)
    (folder / "0.png").write_bytes(b"broken")
    a, b = save(tmp_path / "a.pt", BONES), save(tmp_path / "b.pt", BONES, seed=1)
    words = ["--input", str(folder), "--device", "cpu", "--no-overlays", "--out"]
    said = {}
    for many in (16, 3):
        monkeypatch.setattr(infer, "MANY", many)
        for paths in ([a], [a, b]):
            infer.main([*map(str, paths), *words, str(tmp_path / f"{many}{len(paths)}")])
            said[many, len(paths)] = " ".join(capsys.readouterr().out.split())
    assert "on cpu in float32" in said[16, 1]
    assert "on cpu in float32" in said[16, 2]
    share = r"(bfloat16|float32)(, contiguous)? \(\d+\.\d{3} % of the first image's pixels at 36x36 are"
    assert re.search("on cpu in " + share, said[3, 1])
    assert "in a precision that each network chooses" in said[3, 2]
    assert re.search(r"a\.pt: " + share + r".*b\.pt: " + share, said[3, 2])
    infer.main([str(a), *words, str(tmp_path / "off"), "--amp", "off"])
    assert "on cpu in float32" in " ".join(capsys.readouterr().out.split())
