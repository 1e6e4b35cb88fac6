"""If these break, contact sheets cannot be read, or cost a decoding for each card."""

from pathlib import Path

import cv2
import numpy as np

from zoo.core.dataset import Sample
from zoo.core.inspection import sheets
from zoo.core.inspection.sheets import CARD, CROP, Sheet, above, light, part, short, whole, write
from zoo.core.masks import Labels, pack
from zoo.core.pictures import STRIP, TEXT

LABELS = Labels("multilabel", ("a", "b"), ((0, 0, 255), (0, 255, 0)))


def sample(name: str = "x/images/a.png") -> Sample:
    planes = np.zeros((2, 60, 90), bool)
    planes[0, 40:50, 60:80] = planes[1, 5:55, 5:85] = True
    return Sample(np.full((60, 90), 100, np.uint8), pack(planes), name)


def test_every_image_is_loaded_once_whatever_is_drawn_of_it(tmp_path: Path) -> None:
    loaded = []

    def load(i: int) -> Sample:
        loaded.append(i)
        return sample()

    cards = [(i, whole(LABELS)) for i in (2, 0, 2)]
    files = write(tmp_path, [
        Sheet("one.png", [("head", TEXT)], cards), Sheet("in/two.png", [], [(2, part(LABELS, 0))], 6),
        Sheet("none.png", [], []),
    ], load)  # fmt: skip
    assert loaded == [0, 2]
    assert files == [tmp_path / "one.png", tmp_path / "in" / "two.png"]
    assert cv2.imread(str(files[0])).shape == (2 * STRIP + CARD, 3 * CARD + 2 * 4, 3)
    assert cv2.imread(str(files[1])).shape[1] == CROP


def test_a_class_is_shown_alone_and_with_what_lies_around_it() -> None:
    picture = part(LABELS, 0)(sample())[:CROP]
    tinted = picture[..., 2] > picture[..., 1]
    assert not (picture[..., 1] > picture[..., 2]).any(), "the other class's green"
    y, x = np.nonzero(tinted)
    assert x.min() > 0
    assert x.max() < CROP - 1
    width, height = int(np.ptp(x)), int(np.ptp(y))
    assert width / CROP > 0.3
    assert 1.5 * height < width < 2.5 * height, "20 pixels by 10"


def test_long_names_take_more_lines_rather_than_smaller_letters() -> None:
    empty = np.zeros((0, 200, 3), np.uint8)
    lines = [len(above(empty, [("n" * length, TEXT)], together=False)) // STRIP for length in (5, 40, 80)]
    assert lines[0] == 1
    assert lines[0] < lines[1] < lines[2]
    names = [(f"class {k}", TEXT) for k in range(12)]
    assert len(above(np.zeros((0, 300, 3), np.uint8), names)) > 2 * STRIP


def test_pieces_are_the_text_and_fit() -> None:
    text = "word " + "x" * 70
    pieces = sheets._pieces(text, 120)
    assert "".join(pieces) == text.replace(" ", "")
    assert all(sheets._width([piece]) <= 120 for piece in pieces)


def test_dark_colours_are_lightened_for_dark_paper() -> None:
    assert light((0, 0, 255)) == (127, 127, 255)
    assert light((255, 255, 0)) == (255, 255, 0)


def test_names_keep_the_person_but_not_what_all_have() -> None:
    names = ("train/DCM/ID1/a.png", "images/a.png", "a.png")
    assert [short(name) for name in names] == ["ID1/a.png", "a.png", "a.png"]
