"""A polygon half a pixel off or a run miscounted is a wrong mask in every image: for who trains on COCO."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoo.core.shapes import Shapes, paint_polygon, read_counts, runs_to_plane

corners = hnp.arrays(float, st.tuples(st.integers(3, 8), st.just(2)), elements=st.floats(-15, 40, width=32))


def painted(points: np.ndarray, size: tuple[int, int], k: int = 0) -> np.ndarray:
    bits = np.zeros(size, np.int64)
    paint_polygon(bits, k, points)
    return bits


def slow_fill(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel: whether a ray from the centre to the left crosses an odd number of edges."""
    plane = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(points.tolist(), np.roll(points, -1, axis=0).tolist(), strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                plane[row, column] ^= True
    return plane


# ---------------------------------------------------------------- polygons


@settings(max_examples=80, deadline=None)
@given(corners, st.sampled_from([0, 31, 62]))
def test_a_pixel_belongs_to_a_polygon_if_its_centre_lies_inside(points: np.ndarray, k: int) -> None:
    got = painted(points, (21, 27), k)
    assert ((got >> k & 1).astype(bool) == slow_fill(points, (21, 27))).all()
    assert not (got & ~(1 << k)).any()


def test_a_square_has_as_many_pixels_as_its_area() -> None:
    square = np.array([(10, 10), (20, 10), (20, 20), (10, 20)], float)
    want = np.zeros((40, 40), bool)
    want[10:20, 10:20] = True
    assert (painted(square, (40, 40)) == want).all()
    assert (painted(square[::-1], (40, 40)) == want).all(), "whichever way round"


# The first three masks are those that pycocotools 2.0.11 makes of these polygons: their points lie on fifths
# of a pixel, to which it rounds.
@pytest.mark.parametrize(
    ("polygon", "rows"),
    [
        ([1, 1, 6, 1, 1, 6], ["........", ".####...", ".###....", ".##.....", ".#......"]),
        ([0.4, 0.4, 3.4, 0.4, 3.4, 2.6, 0.4, 2.6], ["###.....", "###.....", "###....."]),
        ([-5, 3, 20, 3, 20, 5, -5, 5], ["........", "........", "........", "########", "########"]),
        ([2, 2, 2, 2, 2, 2], ["........"]),
        ([30, 30, 40, 30, 40, 40], ["........"]),
        ([2.6, 2.6, 3.4, 2.6, 3.4, 3.4, 2.6, 3.4], ["........"]),
    ],
)
def test_polygons_of_known_pixels(polygon: list[float], rows: list[str]) -> None:
    want = np.array([[c == "#" for c in row] for row in rows + ["." * 8] * (8 - len(rows))])
    assert (painted(np.array(polygon, float).reshape(-1, 2), (8, 8)) == want).all()


def test_polygons_join_and_leave_other_bits() -> None:
    bits = np.full((6, 6), 1 << 5, np.int32)
    box = np.array([(0, 0), (2, 0), (2, 2), (0, 2)], float)
    for corner in (0, 1):
        paint_polygon(bits, 2, box + corner)
    assert ((bits >> 5 & 1) == 1).all()
    assert (bits >> 2 & 1).sum() == 4 + 4 - 1


# ---------------------------------------------------------------- run lengths


def test_runs_go_down_the_columns_and_start_without_the_class() -> None:
    plane = runs_to_plane(np.array([1, 2, 4, 3, 2]), (3, 4))
    assert plane.astype(int).tolist() == [[0, 0, 0, 1], [1, 0, 1, 0], [1, 0, 1, 0]]
    assert not runs_to_plane(np.array([12]), (3, 4)).any()
    assert runs_to_plane(np.array([0, 12]), (3, 4)).all()


def test_strings_of_pycocotools_are_read() -> None:
    """Written by pycocotools 2.0.11: a disc; a pixel and a corner far from it."""
    text = r"\c01R1:I4L4M2N2N2O0O2O0O2O0000000O20N100000001N101N101N2N2N3L4L7FQa0"
    y, x = np.mgrid[:40, :60]
    disc = (y - 20) ** 2 + (x - 30) ** 2 <= 15**2
    assert (runs_to_plane(np.array(read_counts(text)), (40, 60)) == disc).all()
    far = np.zeros((100, 90), bool)
    far[50:, 80:] = far[10, 5] = True
    text = "n?1c[7a1oeH00000000000000000"
    assert (runs_to_plane(np.array(read_counts(text)), (100, 90)) == far).all()


def test_strings_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="hold the character '!'"):
        read_counts("01!")
    with pytest.raises(ValueError, match="end inside a number"):
        read_counts("01P")


# ---------------------------------------------------------------- memory


def test_shapes_come_back_by_image() -> None:
    first = [(3, np.array([[1, 2], [3, 4], [5, 6]])), (0, np.array([[7, 8], [9, 10], [11, 12], [13, 14]]))]
    shapes = Shapes([first, [], [(1, np.array([[15, 16], [17, 18], [19, 20]]))]], np.float32)
    assert [k for k, _ in shapes.of(0)] == [3, 0]
    assert [values.tolist() for _, values in shapes.of(0)] == [v.ravel().tolist() for _, v in first]
    assert list(shapes.of(1)) == []
    assert [values.tolist() for _, values in shapes.of(2)] == [[15, 16, 17, 18, 19, 20]]
    assert shapes.values.dtype == np.float32
    assert list(Shapes([[], []], np.int32).of(1)) == []
