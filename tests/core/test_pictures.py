"""If these break, people judge models by pictures that show something else than the masks."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from zoo.core import pictures
from zoo.core.masks import IGNORE, Labels, pack, palette
from zoo.core.pictures import EXTRA, IGNORED, MISSING, OTHER, RIGHT
from zoo.errors import InputError

BONES = Labels("multilabel", ("a", "b", "c"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
ROAD = Labels("multiclass", ("sky", "road"), ((10, 200, 10), (200, 10, 200)))
SHAPES = Labels("multiclass", ("background", "disc", "square"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
NUCLEUS = Labels("binary", ("nucleus",), ((0, 255, 0),))
BLACK = (0, 0, 0)


def colours(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The pixels of a picture of one row."""
    return [tuple(pixel) for pixel in picture[0].tolist()]


def boxes(*sides: tuple[int, int, int, int], size: tuple[int, int] = (40, 40)) -> np.ndarray:
    """Bits with class k in the k-th box (top, bottom, left, right)."""
    planes = np.zeros((3, *size), bool)
    for plane, (top, bottom, left, right) in zip(planes, sides, strict=False):
        plane[top:bottom, left:right] = True
    return pack(planes)


# ---------------------------------------------------------------- difference


def test_difference_of_sets() -> None:
    #                 same    empty   missing  extra   one right, one missing  ... one extra  swapped
    truth = np.array([[0b001, 0b000, 0b001, 0b000, 0b011, 0b001, 0b001]], np.int32)
    pred_ = np.array([[0b001, 0b000, 0b000, 0b100, 0b001, 0b101, 0b010]], np.int32)
    expected = [RIGHT, BLACK, MISSING, EXTRA, MISSING, EXTRA, OTHER]
    assert colours(pictures.difference(pred_, truth, BONES)) == expected


def test_difference_works_on_64_bit_masks() -> None:
    wide = Labels("multilabel", tuple(map(str, range(63))), palette(63))
    truth = np.array([[1 << 62, 1 << 62, 0]], np.int64)
    pred = np.array([[1 << 62, 1 << 61, 1 << 62]], np.int64)
    assert colours(pictures.difference(pred, truth, wide)) == [RIGHT, OTHER, EXTRA]


def test_difference_with_a_background_without_one_and_binary() -> None:
    truth, pred = np.array([[0, 0, 1, 1, 1, IGNORE]], np.uint8), np.array([[0, 1, 0, 1, 2, 1]], np.uint8)
    assert colours(pictures.difference(pred, truth, SHAPES)) == [BLACK, EXTRA, MISSING, RIGHT, OTHER, IGNORED]
    truth, pred = np.array([[0, 0, 1, 1, IGNORE]], np.uint8), np.array([[0, 1, 0, 1, 1]], np.uint8)
    assert colours(pictures.difference(pred, truth, ROAD)) == [RIGHT, OTHER, OTHER, RIGHT, IGNORED]
    assert colours(pictures.difference(pred, truth, NUCLEUS)) == [BLACK, EXTRA, MISSING, RIGHT, IGNORED]


# ---------------------------------------------------------------- overlay


def test_overlay_blends_the_mean_colour_and_outlines_each_class() -> None:
    image = np.full((40, 40), 100, np.uint8)
    mask = boxes((5, 25, 5, 25), (15, 35, 15, 35))
    picture = pictures.overlay(image, mask, BONES)
    assert tuple(picture[0, 0]) == (100, 100, 100), "untouched where there is no class"
    assert np.abs(picture[10, 10].astype(int) - (178, 50, 50)).max() <= 1, "half the image, half red"
    assert np.abs(picture[20, 20].astype(int) - (114, 114, 50)).max() <= 1, "half (127, 127, 0)"
    assert tuple(picture[5, 10]) == (255, 0, 0), "outline of a"
    assert tuple(picture[15, 20]) == (0, 255, 0), "outline of b, also inside a"
    assert tuple(picture[24, 20]) == (255, 0, 0), "outline of a, also inside b"
    assert (image == 100).all(), "the image itself is left alone"


def test_overlay_of_the_highest_bit() -> None:
    wide = Labels("multilabel", tuple(map(str, range(63))), palette(63))
    mask = np.zeros((9, 9), np.int64)
    mask[2:7, 2:7] = 1 << 62
    changed = (pictures.overlay(np.zeros((9, 9, 3), np.uint8), mask, wide) != 0).any(axis=2)
    assert np.array_equal(changed, mask != 0)


def test_overlay_of_index_masks_leaves_background_and_ignored_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    mask = np.array([[0, 0, 1, 1, 2, IGNORE]] * 4, np.uint8)
    changed = (pictures.overlay(image, mask, SHAPES, alpha=1.0) != image).any(axis=2)
    assert np.array_equal(changed, (mask == 1) | (mask == 2))
    assert (pictures.overlay(image, mask, SHAPES, alpha=1.0)[:, 2] == (255, 0, 0)).all()
    assert (pictures.overlay(image, mask % 2, ROAD, alpha=1.0)[:, 0] == (10, 200, 10)).all(), "sky is painted"
    binary = pictures.overlay(image, np.array([[0, 0, 0, 0, 1, IGNORE]] * 4, np.uint8), NUCLEUS, alpha=1.0)
    assert np.array_equal((binary != image).any(axis=2), np.array([[0, 0, 0, 0, 1, 0]] * 4, bool))


# ---------------------------------------------------------------- panels and sheets


@pytest.mark.parametrize(
    "shape", [(16, 16), (48, 40), (300, 900), (1024, 1024), (5, 700, 3), (64, 64, 3)], ids=str
)
@pytest.mark.parametrize("labels", [BONES, ROAD, SHAPES, NUCLEUS], ids=lambda x: x.task)
def test_panel_is_large_enough_to_read_and_not_larger_than_useful(
    shape: tuple[int, ...], labels: Labels
) -> None:
    image = np.full(shape, 90, np.uint8)
    mask = np.zeros(shape[:2], np.int32 if labels.task == "multilabel" else np.uint8)
    picture = pictures.panel(image, mask, mask, labels, "a title, ümlaut and all")
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    height, width = picture.shape[0] - 2 * pictures.STRIP, (picture.shape[1] - 3 * 4) // 4
    assert max(height, width) <= pictures.LARGEST
    assert min(height, width) >= min(256, 512 * min(shape[:2]) // max(shape[:2]))


def test_panel_shows_errors_at_full_strength() -> None:
    truth = np.zeros((256, 256), np.uint8)
    truth[50:200, 50:150] = 1
    pred = np.zeros_like(truth)
    pred[50:200, 100:200] = 1
    picture = pictures.panel(np.full((256, 256), 80, np.uint8), truth, pred, NUCLEUS)
    last = picture[pictures.STRIP :, 3 * 260 :]
    assert tuple(last[100, 75]) == MISSING
    assert tuple(last[100, 175]) == EXTRA
    assert tuple(last[100, 125]) == (20, 99, 78), "RIGHT over the dim image"
    assert tuple(last[10, 10]) == (40, 40, 40)
    assert picture[: pictures.STRIP, 3 * 260 :].max() > 100, "a caption"


def test_grid_places_pictures_of_any_size() -> None:
    sheet = pictures.grid([np.full((10 + i, 20), 50 * i + 50, np.uint8) for i in range(3)], columns=2)
    assert sheet.shape == (2 * 12 + 4, 2 * 20 + 4, 3)
    assert (sheet[:10, :20] == 50).all()
    assert (sheet[:11, 24:] == 100).all()
    assert (sheet[16:, :20] == 150).all()
    assert (sheet[16:, 24:] == pictures.PAPER).all()
    assert pictures.grid([np.zeros((3, 5, 3), np.uint8)], columns=4).shape == (3, 5, 3)


# ---------------------------------------------------------------- heat and bars


def test_heat_goes_from_black_over_red_and_yellow_to_white() -> None:
    def slow(value: float, most: float) -> tuple[int, int, int]:
        if math.isnan(value):
            return IGNORED
        thirds = 3 * min(max(value / most, 0), 1)
        r, g, b = (round(255 * min(max(thirds - n, 0), 1)) for n in range(3))
        return r, g, b

    values = [math.nan, -1, 0, 0.1, 0.5, 1, 1.5, 2, 2.7, 3, 50]
    loss = np.array([values], np.float32)
    assert colours(pictures.heat(loss, 3.0)) == [slow(v, 3.0) for v in loss[0].tolist()]
    assert colours(pictures.heat(np.array([[0, 1, 2, 3]]), 3.0)) == [
        (0, 0, 0), (255, 0, 0), (255, 255, 0), (255, 255, 255),
    ]  # fmt: skip
    ramp = pictures.heat(np.linspace(0, 3, 200)[None], 3.0)[0].astype(int).sum(1)
    assert (np.diff(ramp) >= 0).all(), "brighter all the way"
    assert pictures.heat(loss)[0, -2:-1].tolist() == [[255, 255, 255]], "ln 20 is the end"


def test_a_panel_shows_the_loss_at_its_end() -> None:
    image, mask = np.full((256, 256), 80, np.uint8), np.zeros((256, 256), np.uint8)
    loss = np.zeros((64, 64), np.float32)
    loss[16:32] = np.log(20)
    plain = pictures.panel(image, mask, mask, NUCLEUS)
    picture = pictures.panel(image, mask, mask, NUCLEUS, loss=loss)
    assert picture.shape == (plain.shape[0], plain.shape[1] + 260, 3)
    assert (picture[:, : plain.shape[1]] == plain).all()
    last = picture[pictures.STRIP :, 4 * 260 :]
    assert (last[64:128] == 255).all()
    assert (last[:64] == 0).all()
    assert (last[128:] == 0).all()


def test_bars_are_as_long_as_their_values() -> None:
    picture = pictures.bars("Dice", ("a", "a long näme", "c", "d"), (0.5, 1.0, 0.0, math.nan))
    green = (picture == RIGHT).all(axis=2)
    middles = [green[pictures.STRIP * row + pictures.STRIP // 2].sum() for row in range(1, 5)]
    assert middles == [pictures.BAR // 2, pictures.BAR, 0, 0]
    assert (picture[0] == 255).all(), "on white"


# ---------------------------------------------------------------- files


def test_png_round_trip_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.png"
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    pictures.write_png(path, picture)
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], picture)
    for grey in (picture[..., 0], picture[..., 0].astype(np.uint16) * 200):
        pictures.write_png(path, grey)
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), grey)
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="taken: cannot make this folder"):
        pictures.write_png(tmp_path / "taken" / "x.png", np.zeros((2, 2), np.uint8))


def test_a_full_disk_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    pictures.write_png(path, np.zeros((2, 2), np.uint8))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        pictures.write_png(path, np.full((2, 2), 9, np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
