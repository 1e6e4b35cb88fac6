"""If these break, specks stay in masks or whole bones go, or a class is decided by another one's threshold.

Components are checked by a flood fill, a pixel at a time.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.core import checkpoint
from zoo.core.checkpoint import Checkpoint
from zoo.core.config import Preprocess
from zoo.core.decide import Decision, keep
from zoo.core.masks import Labels, palette, unpack
from zoo.core.predictor import Predictor, runner_up
from zoo.errors import InputError

BONES = Labels("multilabel", ("Radius", "Ulna", "a=b"), palette(3))
ROAD = Labels("multiclass", ("sky", "road", "car"), palette(3), (0, 1, 2))
NUCLEUS = Labels("binary", ("nucleus",), palette(1), (0, 1))


def components(plane: np.ndarray) -> list[set[tuple[int, int]]]:
    """Pixels (y, x) of each component, uppermost first, by a flood fill over eight neighbours."""
    left = {(int(y), int(x)) for y, x in np.argwhere(plane)}
    found = []
    while left:
        stack, one = [min(left)], set()
        while stack:
            y, x = stack.pop()
            if (y, x) in left:
                left.remove((y, x))
                one.add((y, x))
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        found.append(one)
    return found


def slow_keep(plane: np.ndarray, min_area: int, largest: bool) -> np.ndarray:
    kept = components(plane)
    if largest and kept:
        kept = [max(kept, key=len)]
    out = np.zeros(plane.shape, bool)
    for one in kept:
        for pixel in one if len(one) >= min_area else ():
            out[pixel] = True
    return out


@pytest.mark.parametrize(("min_area", "largest"), [(0, False), (3, False), (9, False), (0, True), (6, True)])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.25, 0.4, 1.0])
def test_components_by_a_flood_fill(min_area: int, largest: bool, density: float) -> None:
    for seed in range(8):
        plane = np.random.default_rng(seed).random((23, 17)) < density
        assert np.array_equal(keep(plane, min_area, largest), slow_keep(plane, min_area, largest))


def test_of_two_as_large_the_upper_one_stays() -> None:
    plane = np.zeros((9, 9), bool)
    plane[6:8, 0:2] = plane[2:4, 6:8] = True
    assert np.argwhere(keep(plane, 0, True)).min(0).tolist() == [2, 6]


def test_each_class_has_its_own_threshold_and_filter() -> None:
    decision = Decision((0.2, 0.5, 0.9), (0, 4, 0), (True, False, False))
    probability = torch.rand(3, 20, 30)
    for k, threshold in enumerate(decision.thresholds):
        wanted = slow_keep((probability[k] > threshold).numpy(), decision.min_area[k], decision.largest[k])
        assert np.array_equal(decision.plane(k, probability[k]).numpy(), wanted)


class Answer(nn.Module):
    """The same logits (K, h, w) whatever comes."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.answer = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.answer[None]


def predicted(logits: Tensor, labels: Labels, decision: Decision, size: tuple[int, int]) -> np.ndarray:
    preprocess = Preprocess(1, (0.0,), (1.0,), (logits.shape[1], logits.shape[2]))
    predictor = Predictor(Answer(logits), labels, preprocess, decision=decision)
    return predictor(np.zeros(size, np.uint8))


@pytest.mark.parametrize("size", [(24, 20), (50, 31)], ids=str)
@pytest.mark.parametrize("labels", [BONES, NUCLEUS], ids=["multilabel", "binary"])
def test_a_predictor_decides_as_its_decision_says(labels: Labels, size: tuple[int, int]) -> None:
    count = labels.num_classes
    decision = Decision((0.3, 0.5, 0.8)[:count], (5, 0, 3)[:count], (False, True, False)[:count])
    logits = torch.randn(count, 24, 20)
    mask = predicted(logits, labels, decision, size)
    resized = nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    planes = unpack(mask, count) if count > 1 else mask[None] == 1
    for k in range(count):
        assert np.array_equal(planes[k], decision.plane(k, resized[k].sigmoid()).numpy())
        assert planes[k].any()


def test_what_a_filter_takes_from_a_multiclass_mask_becomes_the_next_best() -> None:
    logits = torch.randn(3, 24, 20)
    decision = Decision.of(ROAD).asked(ROAD, min_area=["5"], largest=["road"])
    mask = predicted(logits, ROAD, decision, (24, 20))
    order = logits.argsort(0, descending=True).numpy()
    wanted = order[0].copy()
    for k, largest in enumerate((False, True, False)):
        plane = order[0] == k
        gone = plane & ~slow_keep(plane, 5, largest)
        assert gone.any()
        wanted[gone] = order[1][gone]
    assert np.array_equal(mask, wanted)
    assert np.array_equal(runner_up(logits, torch.from_numpy(order[0])).numpy(), order[1])


def test_filters_see_the_image_not_the_tile() -> None:
    """A bone that several tiles share is one component, and no less than its area."""
    logits = torch.full((1, 12, 12), -1.0)
    logits[:, 5:7] = 1.0  # a bar across every tile
    preprocess = Preprocess(1, (0.0,), (1.0,), (12, 12), tile=True)
    decision = Decision.of(NUCLEUS).asked(NUCLEUS, min_area=["30"])
    predictor = Predictor(Answer(logits), NUCLEUS, preprocess, decision=decision)
    mask = predictor(np.zeros((12, 36), np.uint8))
    assert mask.sum() == 2 * 36
    assert mask[5:7].all()


def test_words() -> None:
    decision = Decision.of(BONES).asked(BONES, ["0.4", "a=b=0.7"], ["9", "Ulna=20"], ["a=b"])
    assert decision == Decision((0.4, 0.4, 0.7), (9, 20, 9), (False, False, True))
    assert Decision.of(BONES, (0.1, 0.2, 0.3)).asked(BONES, largest=[]) == Decision(
        (0.1, 0.2, 0.3), (0, 0, 0), (True, True, True)
    )


@pytest.mark.parametrize(
    ("labels", "words", "said"),
    [
        (BONES, {"thresholds": ["radius=0.4"]}, "--thresholds: no class 'radius' here; nearest: Radius"),
        (BONES, {"thresholds": ["1.0"]}, "--thresholds 1.0: must be a probability between 0 and 1"),
        (BONES, {"thresholds": ["nan"]}, "--thresholds nan: must be"),
        (BONES, {"thresholds": ["half"]}, "--thresholds half: want a number, or CLASS=NUMBER"),
        (ROAD, {"thresholds": ["0.4"]}, "--thresholds: a multi-class mask takes the most probable class"),
        (BONES, {"min_area": ["2.5"]}, "--min-area 2.5: want a whole number, or CLASS=NUMBER"),
        (BONES, {"min_area": ["Ulna=-1"]}, "--min-area -1: must be 0 or more pixels"),
        (BONES, {"largest": ["Una"]}, "--largest: no class 'Una' here; nearest: Ulna"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_words_that_cannot_be_meant(labels: Labels, words: dict, said: str) -> None:
    with pytest.raises(InputError) as error:
        Decision.of(labels).asked(labels, **words)
    assert str(error.value).startswith(said)


def test_checkpoints_with_and_without_thresholds_open(tmp_path: Path) -> None:
    """Those from before there were any decide at 0.5."""
    import zoo

    build = {"num_classes": 3, "in_channels": 1, "encoder": None, "width": 2}
    state = zoo.build("unetpp", **build).state_dict()
    preprocess = Preprocess(1, (0.5,), (0.1,), (36, 36))
    path, fitted = tmp_path / "best.pt", [0.25, 0.5, 0.75]
    for thresholds in ([], fitted):
        checkpoint.write(path, Checkpoint("unetpp", build, BONES, preprocess, state, {}, {}, thresholds))
        decision = Predictor.from_checkpoint(path, "cpu", "off").decision
        assert decision.thresholds == tuple(thresholds or (0.5, 0.5, 0.5))
        assert isinstance(zoo.load(path), nn.Module)
    payload = torch.load(path, weights_only=True)
    del payload["thresholds"]
    torch.save(payload, path)
    assert Predictor.from_checkpoint(path, "cpu", "off").decision == Decision.of(BONES)
    for wrong in ([0.5], [0.5, 0.5, 2.0], ["a", "b", "c"]):
        torch.save({**payload, "thresholds": wrong}, path)
        with pytest.raises(InputError, match="missing or damaged"):
            checkpoint.read(path)
