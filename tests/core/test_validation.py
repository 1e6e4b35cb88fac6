"""If these break, the score depends on how many processes there are, or counts an image twice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.core import validation
from zoo.core.config import Preprocess
from zoo.core.dataset import Source, open_data
from zoo.core.metrics import Scores, count
from zoo.core.predictor import Predictor
from zoo.core.ranks import ALONE, Ranks
from zoo.core.validation import SAMPLES, Found, gathered, score


class Bright(nn.Module):
    """Finds class 1 where it is bright."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean(1, keepdim=True) - 0.5
        return torch.cat([-bright, bright, torch.full_like(bright, -9)], 1)


@pytest.fixture
def source(shapes: Path) -> Source:
    return open_data(f"folder:{shapes}")[0]


def found(source: Source, ranks: Ranks) -> list[Found]:
    preprocess = Preprocess(3, (0.0,) * 3, (1.0,) * 3, (32, 32), False)
    return list(score(Predictor(Bright(), source.labels, preprocess), source, 0, ranks))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_shares_are_the_whole_without_doubles(
    source: Source, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight images among processes that do not divide them, one of which may have none."""
    shares = [found(source, Ranks(rank, size)) for rank in range(size)]
    monkeypatch.setattr(Ranks, "gather", lambda self, value: shares)
    scores, panels = gathered(shares[0], source.labels, ALONE)
    assert scores.names == [source.name(i) for i in range(len(source))]
    assert len(panels) == SAMPLES
    slow = Scores(source.labels)
    preprocess = Preprocess(3, (0.0,) * 3, (1.0,) * 3, (32, 32), False)
    predict = Predictor(Bright(), source.labels, preprocess)
    for i in range(len(source)):
        sample = source.load(i)
        slow.add(sample.name, count(predict(sample.image), sample.mask, source.labels))
    np.testing.assert_array_equal(scores.counts, slow.counts)


def test_only_the_first_images_are_drawn(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "SAMPLES", 2)
    assert [one.panel is not None for one in found(source, Ranks(1, 2))] == [True, False, False, False]
