"""If these break, tables of classes, areas and overlaps tell people something else than their masks hold."""

import cv2
import numpy as np
import pytest

from zoo.core.dataset import Sample
from zoo.core.inspection.measure import INTENSITIES, SHAPES, intensities, measure, shapes, shared
from zoo.core.masks import Labels, pack, palette


def named(task: str, k: int) -> Labels:
    return Labels(task, tuple(f"class {i}" for i in range(k)), palette(k))


@pytest.mark.parametrize("k", [2, 31, 32, 40, 63])
def test_areas_and_overlaps_are_those_of_planes(k: int) -> None:
    planes = np.random.default_rng(k).random((k, 23, 31)) < 0.2
    planes[1] = False
    planes[k - 1] = planes[0] if k > 2 else False
    m = measure(Sample(np.zeros((23, 31), np.uint8), pack(planes), "x"), named("multilabel", k))
    assert m.areas.tolist() == [int(plane.sum()) for plane in planes]
    slow = {(a, b): int((planes[a] & planes[b]).sum()) for a in range(k) for b in range(a + 1, k)}
    assert m.shared == {pair: pixels for pair, pixels in slow.items() if pixels}
    assert (m.size, m.valid) == ((23, 31), 23 * 31)


def test_ignored_pixels_count_for_nothing() -> None:
    mask = np.array([[0, 1, 1, 255], [2, 2, 2, 255]], np.uint8)
    m = measure(Sample(np.zeros((2, 4), np.uint8), mask, "x"), named("multiclass", 4))
    assert (m.areas.tolist(), m.valid, m.shared) == ([1, 2, 3, 0], 6, {})
    one = measure(Sample(np.zeros((2, 4), np.uint8), np.where(mask == 2, 0, mask), "x"), named("binary", 1))
    assert (one.areas.tolist(), one.valid) == ([2], 6)
    np.testing.assert_array_equal(m.shapes[1, [1, 2]], [2 / 4, 0.5 / 2])


def slow_moments(plane: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Centroid, and the covariance of a plane whose pixels are squares."""
    y, x = np.nonzero(plane)
    around = np.stack([x - x.mean(), y - y.mean()])
    return x.mean() + 0.5, y.mean() + 0.5, around @ around.T / len(x) + np.eye(2) / 12


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_place_length_and_angle_of_a_bar(degrees: int) -> None:
    """By the eigenvectors of its pixels' covariance."""
    plane = np.zeros((80, 100), np.uint8)
    corners = cv2.boxPoints(((45.0, 38.0), (50.0, 12.0), degrees))
    cv2.fillConvexPoly(plane, corners.astype(np.int32), 1)
    grey = np.random.default_rng(0).integers(0, 255, plane.shape).astype(np.uint8)
    row = dict(zip(SHAPES, shapes(grey, plane, named("binary", 1))[0], strict=True))
    x, y, covariance = slow_moments(plane)
    (thin, wide), axes = np.linalg.eigh(covariance)
    angle = np.arctan2(axes[1, 1], axes[0, 1])
    assert row["x"] == pytest.approx(x / 100)
    assert row["y"] == pytest.approx(y / 80)
    assert row["area"] == pytest.approx(np.log10(plane.sum() / 8000))
    assert row["elongation"] == pytest.approx(np.log10(wide / thin) / 2)
    straight = 1 - np.sqrt(thin / wide)
    assert (row["cos"], row["sin"]) == pytest.approx(
        (straight * np.cos(2 * angle), straight * np.sin(2 * angle)), abs=1e-9
    )
    assert row["pieces"] == 1
    assert 0.9 < row["solidity"] <= 1  # hulls are drawn with their edges
    assert row["grey"] == pytest.approx(grey[plane > 0].mean())
    assert row["grey deviation"] == pytest.approx(grey[plane > 0].std())


def test_pieces_and_hull_tell_a_broken_mask() -> None:
    """A speck beside a bone is a second piece, and most of their hull is neither."""
    plane = np.zeros((60, 60), np.uint8)
    plane[10:20, 10:20] = plane[50:52, 50:52] = 1
    row = dict(zip(SHAPES, shapes(plane, plane, named("binary", 1))[0], strict=True))
    assert row["pieces"] == 2
    assert row["solidity"] < 0.3
    assert np.isnan(shapes(plane, plane * 0, named("binary", 1))).all()


def test_a_single_pixel_has_a_shape_without_a_warning() -> None:
    bits = np.zeros((5, 9), np.int64)
    bits[0, 8] = 1 << 62
    found = shapes(np.zeros((5, 9), np.uint8), bits, named("multilabel", 63))
    assert np.isnan(found[:62]).all()
    assert found[62, :7].tolist() == pytest.approx([np.log10(1 / 45), 8.5 / 9, 0.1, 0, 0, 0, 1])


def test_intensities_are_those_of_the_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    row = dict(zip(INTENSITIES, intensities(image, grey), strict=True))
    assert row["brightness"] == pytest.approx(grey.mean())
    assert row["contrast"] == pytest.approx(grey.std())
    ordered = np.sort(grey.ravel())
    assert row["darkest"] == ordered[19]  # 20 of 2000 pixels are at most that
    assert row["brightest"] == ordered[1979]
    assert row["colour"] == pytest.approx((image.max(2).astype(float) - image.min(2)).mean())
    padded = np.pad(grey.astype(int), 1, mode="reflect")
    sides = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    assert row["sharpness"] == pytest.approx((sides - 4 * grey.astype(int)).std())
    assert intensities(grey, grey)[-1] == 0


def test_bits_that_do_not_overlap_share_nothing() -> None:
    assert shared(np.array([[1, 2], [0, 1 << 40]]), named("multilabel", 41)) == {}
