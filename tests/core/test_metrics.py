"""If these fail, the scores in tables and checkpoints are not what their names say.

Counts are held against sets of pixels, scores against the textbook formulas one image at a time.
"""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.core import metrics
from zoo.core.masks import IGNORE, Labels, pack
from zoo.core.metrics import Scores, count
from zoo.errors import InputError


def labels(task: str, classes: int) -> Labels:
    return Labels(task, tuple(f"class {k}" for k in range(classes)), ((0, 0, 0),) * classes)


def masks(task: str, classes: int, shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth that overlap; some of the truth ignored where the task knows that."""
    rng = np.random.default_rng(seed)
    if task == "multilabel":
        pred, truth = (pack(rng.random((classes, *shape)) < 0.4) for _ in range(2))
        return pred, truth
    pred, truth = rng.integers(0, max(2, classes), (2, *shape)).astype(np.uint8)
    truth[rng.random(shape) < 0.2] = IGNORE
    return pred, truth


def pixels(mask: np.ndarray, task: str, k: int) -> set[tuple[int, int]]:
    """The pixels of class k, one by one."""
    member = {
        "multilabel": lambda v: v >> k & 1 == 1,
        "multiclass": lambda v: v == k,
        "binary": lambda v: v == 1,
    }[task]
    return {(y, x) for y, row in enumerate(mask.tolist()) for x, v in enumerate(row) if member(v)}


# ---------------------------------------------------------------------- counts


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([("multilabel", 1), ("multilabel", 29), ("multilabel", 31), ("multilabel", 63),
                     ("multiclass", 2), ("multiclass", 12), ("multiclass", 200), ("binary", 1)]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_count_equals_sets_of_pixels(kind: tuple[str, int], shape: tuple[int, int], seed: int) -> None:
    task, classes = kind
    pred, truth = masks(task, classes, shape, seed)
    counts = count(pred, truth, labels(task, classes))
    assert counts.dtype == np.int64
    assert counts.shape == (classes, 3)
    ignored = set() if task == "multilabel" else {(int(y), int(x)) for y, x in np.argwhere(truth == IGNORE)}
    for k in range(classes):
        p, t = pixels(pred, task, k) - ignored, pixels(truth, task, k)
        assert counts[k].tolist() == [len(p & t), len(p), len(t)]


@pytest.mark.parametrize("kind", [("multilabel", 29), ("multilabel", 40), ("multiclass", 5), ("binary", 1)])
def test_count_takes_views_and_strips(kind: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    task, classes = kind
    pred, truth = masks(task, classes, (30, 21), 0)
    expected = count(pred, truth, labels(task, classes))
    assert np.array_equal(count(pred[:, ::-1], truth[:, ::-1], labels(task, classes)), expected)
    assert np.array_equal(count(pred.T, truth.T, labels(task, classes)), expected)
    monkeypatch.setattr(metrics, "EXACT", 100)  # as if the mask were larger than one histogram may hold
    assert np.array_equal(count(pred, truth, labels(task, classes)), expected)


def test_count_is_exact_beyond_what_float32_can_hold() -> None:
    ones = np.ones((4097, 4097), np.uint8)
    assert count(ones, ones, labels("binary", 1)).tolist() == [[4097**2] * 3]


def test_what_masks_of_two_sizes_get() -> None:
    with pytest.raises(InputError, match=r"\(4, 5\) pixels cannot be scored by a truth of \(4, 6\)"):
        count(np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8), labels("binary", 1))


# ---------------------------------------------------------------------- scores


def scored(counts: list[list[list[int]]]) -> Scores:
    """Scores of these |P∩T|, |P|, |T|, by image and class."""
    scores = Scores(labels("multilabel", len(counts[0])))
    for i, one in enumerate(counts):
        scores.add(f"image {i}", np.array(one, np.int64))
    return scores


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(
            st.lists(
                st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=k, max_size=k
            ),  # |P∩T|, |P∖T|, |T∖P|
            min_size=1, max_size=5,
        )
    )
)  # fmt: skip
def test_scores_equal_their_formulas(parts: list[list[tuple[int, int, int]]]) -> None:
    counts = [[[i, i + p, i + t] for i, p, t in image] for image in parts]
    scores = scored(counts)
    for k in range(len(counts[0])):
        column = [image[k] for image in counts]
        some = [c for c in column if c[1] + c[2] > 0]
        both, p, t = (sum(c[j] for c in column) for j in range(3))
        expected = {
            "dice": mean([2 * i / (p + t) for i, p, t in some]),
            "iou": mean([i / (p + t - i) for i, p, t in some]),
            "pooled_dice": 2 * both / (p + t) if some else math.nan,
            "pooled_iou": both / (p + t - both) if some else math.nan,
            "competition": mean([(2 * i + 1e-4) / (p + t + 1e-4) for i, p, t in column]),
        }
        for name, value in expected.items():
            assert getattr(scores, name)()[k] == pytest.approx(value, nan_ok=True)
        assert scores.empty()[k] == len(column) - len(some)
    assert scores.score == pytest.approx(mean([v for v in scores.dice() if not math.isnan(v)]), nan_ok=True)


def test_predicting_nothing_scores_nothing() -> None:
    """29 classes, one present, nothing predicted: the most used library calls that 0.966."""
    truth = np.zeros((64, 64), np.int32)
    truth[8:40, 8:40] = 1 << 5
    scores = Scores(labels("multilabel", 29))
    scores.add("hand", count(np.zeros_like(truth), truth, scores.labels))
    assert scores.score == 0
    assert scores.to_dict()["dice"] == scores.to_dict()["iou"] == scores.to_dict()["pooled_dice"] == 0
    assert scores.empty().sum() == 28
    assert np.isnan(scores.dice()).sum() == 28
    assert scores.competition().mean() == pytest.approx(28 / 29, abs=1e-6)  # by its definition


def test_a_false_alarm_on_an_absent_class_costs_all_of_that_pair() -> None:
    scores = scored([[[50, 50, 50]], [[0, 1, 0]], [[0, 0, 0]]])
    assert scores.score == 0.5
    assert scores.pooled_dice()[0] == pytest.approx(100 / 101)
    assert scores.empty().tolist() == [1]


def test_competition_takes_the_mean_over_images_before_that_over_classes() -> None:
    scores = scored([[[10, 10, 10], [0, 0, 0]], [[0, 10, 10], [5, 5, 5]]])
    assert scores.competition() == pytest.approx([(1 + 1e-4 / 20.0001) / 2, 1.0])
    assert scores.to_dict()["competition"] == pytest.approx(0.75, abs=1e-5)


def test_merged_scores_are_those_of_the_whole_set_in_any_order() -> None:
    rng = np.random.default_rng(0)
    p, t = rng.integers(1, 1000, (2, 101, 3))
    counts = np.stack([np.minimum(p, t) // 2, p, t], -1).tolist()
    whole, odd, even = scored(counts), scored(counts[1::2]), scored(counts[::2])
    odd.merge(even)
    assert odd.counts.shape == whole.counts.shape == (101, 3, 3)
    assert odd.to_dict() == whole.to_dict()  # to the last bit


def test_dictionary_is_plain_and_without_nan() -> None:
    scores = scored([[[1, 2, 3], [0, 0, 0]]])
    report = scores.to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["images"] == 1
    assert report["empty"] == 1
    assert report["dice"] == pytest.approx(0.4)
    names = ("dice", "iou", "pooled_dice", "pooled_iou", "competition", "empty")
    first, second = ([report["classes"][f"class {k}"][name] for name in names] for k in range(2))
    assert first == pytest.approx([0.4, 0.25, 0.4, 0.25, 0.400012, 0], abs=1e-6)
    assert second == [None, None, None, None, 1.0, 1]


def test_no_images_have_no_score() -> None:
    scores = Scores(labels("binary", 1))
    assert math.isnan(scores.score)
    assert scores.to_dict()["dice"] is None
    assert scores.counts.shape == (0, 1, 3)
