"""Masks must be exact in every bit, or labels rot without a word: for whoever trains on overlapping classes.

Each fast form stands beside a slow and obvious one.
"""

import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoo.core.masks import (
    IGNORE,
    Labels,
    bits_dtype,
    cropped,
    join_wide,
    pack,
    palette,
    planes,
    polygons_to_bits,
    resize_mask,
    rle_decode,
    rle_encode,
    split_wide,
    unpack,
    unpack_tensor,
)
from zoo.errors import InputError

COUNTS = (1, 8, 9, 29, 31, 32, 63)  # classes: the ends of bytes, of int32 and of int64
sides = st.integers(1, 23)


def random_planes(seed: int, k: int, h: int, w: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random((k, h, w)) < share


# ---------------------------------------------------------------- bits and planes


@pytest.mark.parametrize("k", COUNTS)
def test_bits_and_planes_are_the_same_mask(k: int) -> None:
    truth = random_planes(k, k, 13, 17)
    bits = pack(truth)
    assert bits.dtype == (np.int32 if k <= 31 else np.int64) == bits_dtype(k)
    for c in range(k):  # class k is bit k, by the slow way
        assert (((bits.astype(object) >> c) % 2 == 1) == truth[c]).all()
    assert (bits >= 0).all()
    assert (unpack(bits, k) == truth).all()
    assert unpack(bits, k).dtype == bool


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 63), sides, sides, st.integers(0, 2**31))
def test_pack_and_unpack_undo_each_other(k: int, h: int, w: int, seed: int) -> None:
    truth = random_planes(seed, k, h, w)
    assert (unpack(pack(truth), k) == truth).all()
    assert (unpack(pack(truth)[::-1, ::-1], k) == truth[:, ::-1, ::-1]).all()  # views too
    assert (pack(truth[:, :, ::-1]) == pack(truth)[:, ::-1]).all()


@pytest.mark.parametrize("k", COUNTS)
def test_tensors_unpack_as_arrays_do(k: int) -> None:
    truth = np.stack([random_planes(seed, k, 5, 7) for seed in range(3)])
    bits = torch.from_numpy(np.stack([pack(t) for t in truth]))
    for batch, want in ((bits, truth), (bits.flip(2), truth[..., ::-1]), (bits[:0], truth[:0])):
        got = unpack_tensor(batch, k)
        assert got.dtype == torch.bool
        assert (got.numpy() == want).all()


def test_more_than_63_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"64 classes.*at most 63"):
        bits_dtype(64)


def test_planes_of_every_task() -> None:
    index = np.array([[0, 1, 2, IGNORE]], np.uint8)
    three = Labels("multiclass", ("a", "b", "c"), palette(3))
    got, valid = planes(index, three)
    assert got[:, 0].astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert valid.tolist() == [[True, True, True, False]]
    got, valid = planes(np.array([[0, 1, IGNORE]], np.uint8), Labels("binary", ("a",), palette(1), (0, 255)))
    assert got.astype(int).tolist() == [[[0, 1, 0]]]
    assert valid.tolist() == [[True, True, False]]
    truth = random_planes(0, 3, 4, 5)
    got, valid = planes(pack(truth), Labels("multilabel", ("a", "b", "c"), palette(3)))
    assert (got == truth).all()
    assert valid.all()


def test_labels_survive_json() -> None:
    for labels in (
        Labels("binary", ("nucleus",), palette(1), (0, 255)),
        Labels("multilabel", ("a b", "c"), ((1, 2, 3), (4, 5, 6))),
    ):
        assert Labels.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


# ---------------------------------------------------------------- resizing


def slow_resize(mask: np.ndarray, h: int, w: int) -> np.ndarray:
    """Pixel by pixel: the old pixel in whose square the new one's centre lies, in whole numbers."""
    out = np.zeros((h, w), mask.dtype)
    for y in range(h):
        for x in range(w):
            out[y, x] = mask[(2 * y + 1) * mask.shape[0] // (2 * h), (2 * x + 1) * mask.shape[1] // (2 * w)]
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 63), sides, sides, sides, sides, st.integers(0, 2**31))
def test_resize_keeps_every_bit(k: int, h: int, w: int, new_h: int, new_w: int, seed: int) -> None:
    bits = pack(random_planes(seed, k, h, w))
    got = resize_mask(bits, (new_h, new_w))
    assert got.dtype == bits.dtype
    assert (got == slow_resize(bits, new_h, new_w)).all()


def test_resize_is_opencvs_centred_nearest_where_that_one_is_exact() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (64, 96)).astype(np.uint8)
    for h, w in ((16, 24), (32, 48), (128, 192)):
        theirs = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
        assert (resize_mask(mask, (h, w)) == theirs).all()


def test_wide_masks_pass_through_opencv_as_two_planes() -> None:
    bits = pack(random_planes(0, 63, 21, 34))
    assert (join_wide(split_wide(bits)) == bits).all()
    turn = cv2.getRotationMatrix2D((16.5, 10), 90, 1)
    for warp in (
        lambda m: cv2.warpAffine(m, turn, (34, 21), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT),
        lambda m: cv2.resize(m, (68, 42), interpolation=cv2.INTER_NEAREST),
        lambda m: cv2.flip(m, 1),
    ):
        by_class = np.stack([warp(plane.astype(np.int32)) for plane in unpack(bits, 63)]) != 0
        assert (unpack(join_wide(warp(split_wide(bits))), 63) == by_class).all()


# ---------------------------------------------------------------- polygons


def distance_to_edges(points: np.ndarray, h: int, w: int) -> np.ndarray:
    """(H, W): from each pixel's centre to the nearest edge."""
    y, x = np.mgrid[:h, :w].astype(float)
    nearest = np.full((h, w), np.inf)
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        d = b - a
        t = np.clip(((x - a[0]) * d[0] + (y - a[1]) * d[1]) / max(float(d @ d), 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - a[0] - t * d[0], y - a[1] - t * d[1]))
    return nearest


def inside(points: np.ndarray, h: int, w: int) -> np.ndarray:
    """(H, W): whether a ray to the right crosses an odd number of edges."""
    y, x = np.mgrid[:h, :w].astype(float)
    odd = np.zeros((h, w), bool)
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[1] != b[1]:
            spans = (a[1] > y) != (b[1] > y)
            odd ^= spans & (x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0])
    return odd


corners = hnp.arrays(float, st.tuples(st.integers(3, 8), st.just(2)), elements=st.floats(-15, 55, width=32))


@settings(max_examples=60, deadline=None)
@given(corners)
def test_a_polygon_fills_what_lies_in_it(points: np.ndarray) -> None:
    got = polygons_to_bits([(0, points)], (40, 40), 1) == 1
    away = distance_to_edges(points, 40, 40) > 1.25  # edges are drawn too, between corners rounded to pixels
    assert (got[away] == inside(points, 40, 40)[away]).all()


@settings(max_examples=60, deadline=None)
@given(corners)
def test_whole_points_fill_as_fillpoly_does(points: np.ndarray) -> None:
    points = np.rint(np.clip(points, 0, 39))
    plain = np.zeros((40, 40), np.uint8)
    cv2.fillPoly(plain, [points.astype(np.int32)], 1)
    assert (polygons_to_bits([(0, points)], (40, 40), 1) == plain).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 39), corners), max_size=4), sides, sides)
def test_at_any_size_it_is_the_mask_resized(polygons: list[tuple[int, np.ndarray]], h: int, w: int) -> None:
    native = polygons_to_bits(polygons, (40, 36), 40)
    got = polygons_to_bits(polygons, (h, w), 40, (w / 36, h / 40))
    assert (got == resize_mask(native, (h, w))).all()


def test_scaled_polygons_of_a_hand_beside_planes_at_full_size() -> None:
    """The plain way, bone by bone: fill at 1024, take every second pixel's centre."""
    from zoo.core.phantom import NAMES, draw

    polygons = [(k, np.rint(points)) for k, points in draw(3, 0, 1024).polygons]
    planes_at_1024 = np.zeros((len(NAMES), 1024, 1024), np.uint8)
    for k, points in polygons:
        cv2.fillPoly(planes_at_1024[k], [points.astype(np.int32)], 1)
    bits = polygons_to_bits(polygons, (256, 256), len(NAMES), (0.25, 0.25))
    assert (unpack(bits, len(NAMES)) == (planes_at_1024[:, 2::4, 2::4] != 0)).all()
    assert (np.bitwise_count(bits) > 1).any()  # the wrist's bones overlap


def test_overlapping_classes_keep_both_bits_and_polygons_of_one_class_join() -> None:
    square = np.array([(2, 2), (8, 2), (8, 8), (2, 8)], float)
    bits = polygons_to_bits([(0, square), (40, square + 3), (0, square + np.array((20, 0)))], (30, 40), 41)
    zero, forty = (bits & 1) != 0, (bits >> 40) != 0
    assert bits.dtype == np.int64
    assert zero[2:9, 2:9].all()
    assert zero[2:9, 22:29].all()
    assert zero.sum() == 2 * 49
    assert forty[5:12, 5:12].all()
    assert (zero & forty).sum() == 16


def test_polygons_outside_or_far_away_are_clipped() -> None:
    box = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    assert (polygons_to_bits([(0, box * 1e12 - 5e11)], (9, 7), 1) == 1).all()
    for away in ((50, 0), (0, 50), (-50, 0), (0, -50), (1e30, 1e30)):
        assert not polygons_to_bits([(0, box + away)], (9, 7), 1).any()
    assert not polygons_to_bits([], (9, 7), 1).any()


# ---------------------------------------------------------------- run lengths


def slow_runs(plane: np.ndarray, order: str) -> str:
    """Pixel by pixel."""
    h, w = plane.shape
    places = [(y, x) for y in range(h) for x in range(w)]
    if order == "F":
        places = [(y, x) for x in range(w) for y in range(h)]
    runs: list[list[int]] = []
    before = False
    for number, place in enumerate(places, 1):
        if plane[place] and before:
            runs[-1][1] += 1
        elif plane[place]:
            runs.append([number, 1])
        before = bool(plane[place])
    return " ".join(f"{start} {length}" for start, length in runs)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(sides, sides)), st.sampled_from("CF"))
def test_run_lengths_come_back(plane: np.ndarray, order: str) -> None:
    text = rle_encode(plane, order)
    assert text == slow_runs(plane, order)
    assert (rle_decode(text, plane.shape, order) == plane).all()


def test_run_lengths_are_the_competitions() -> None:
    plane = np.zeros((3, 4), bool)
    assert rle_encode(plane) == ""
    assert not rle_decode("", (3, 4)).any()
    plane[0, 3] = plane[1, 0] = plane[2, 3] = True  # a run goes on in the next row
    assert rle_encode(plane) == "4 2 12 1"
    assert rle_encode(plane, "F") == "2 1 10 1 12 1"
    assert (rle_decode(" 4 1  5 1 12 1 ", (3, 4)) == plane).all()  # runs that touch


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1", "want pairs"),
        ("1 x", "want pairs.*whole numbers"),
        ("1 2.5", "whole numbers"),
        ("-1 2", "whole numbers"),
        ("0 2", "starts from 1"),
        ("3 0", "lengths from 1"),
        ("5 2 1 2", "runs in order"),
        ("1 3 2 3", "runs in order"),
        ("11 3", "end at 13.*12"),
        ("1 99999999999999999999", "whole numbers"),
    ],
)
def test_malformed_run_lengths_are_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rle_decode(text, (3, 4))


def test_the_order_of_run_lengths_is_c_or_f() -> None:
    with pytest.raises(InputError, match=r"'row'.*along rows.*down columns"):
        rle_encode(np.ones((2, 2), bool), "row")


# ---------------------------------------------------------------- colours


def test_colours_are_distinct_and_none_is_grey() -> None:
    colours = np.array(palette(63))
    apart = np.abs(colours[:, None] - colours[None]).sum(-1)
    assert (apart[~np.eye(63, dtype=bool)] >= 51).all()
    assert (colours.max(1) - colours.min(1) >= 51).all()
    assert palette(63)[:29] == palette(29)
    assert palette(0) == ()


@pytest.mark.parametrize("task", ["multilabel", "multiclass", "binary"])
def test_cropped_planes_cover_their_class_and_nothing_else(task: str) -> None:
    """Put back at their corners they are the mask; a class that is absent has none."""
    k = 1 if task == "binary" else 5
    labels = Labels(task, tuple("abcde"[:k]), palette(k))
    if task == "multilabel":
        truth = random_planes(1, k, 13, 17, 0.02)
        truth[3] = False
        mask = pack(truth)
    else:
        mask = np.full((13, 17), 255, np.uint8)
        mask[2:9, 3:7] = np.random.default_rng(0).integers(0, 2, (7, 4))
        truth, _ = planes(mask, labels)
    found = {}
    for number, plane, (x, y) in cropped(mask, labels):
        assert plane[0].any()
        assert plane[-1].any()
        assert plane[:, 0].any()
        assert plane[:, -1].any()
        found[number] = np.pad(plane, ((y, 13 - y - len(plane)), (x, 17 - x - plane.shape[1]))) > 0
    assert set(found) == {i for i in range(k) if truth[i].any()}
    for number, whole in found.items():
        np.testing.assert_array_equal(whole, truth[number])
