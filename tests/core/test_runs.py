"""If these break, a csv or COCO file holds other masks than were predicted, for whoever hands one in."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from zoo.core.dataset import open_data
from zoo.core.masks import IGNORE, Labels, mask_dtype, palette, unpack
from zoo.core.runs import CocoFile, CsvMasks, RunLengths
from zoo.core.shapes import plane_to_runs, read_counts, runs_to_plane, write_counts
from zoo.errors import InputError

BONES = Labels("multilabel", ("Radius", "Ulna", "Pisiform"), palette(3))
WIDE = Labels("multilabel", tuple(f"class {k}" for k in range(63)), palette(63))
ROAD = Labels("multiclass", ("sky", "road", "car"), palette(3), (0, 1, 2))
NUCLEUS = Labels("binary", ("nucleus",), palette(1), (0, 1))
every_task = pytest.mark.parametrize(
    "labels", [BONES, WIDE, ROAD, NUCLEUS], ids=["multilabel", "63 classes", "multiclass", "binary"]
)
SIZES = {"a.png": (17, 23), "b.png": (40, 9), "empty.png": (5, 5)}


def masks(labels: Labels) -> dict[str, np.ndarray]:
    """Blobs and noise; the last is empty but for a multi-class one."""
    rng, found = np.random.default_rng(0), {}
    most = (1 << labels.num_classes) - 1 if labels.task == "multilabel" else max(1, labels.num_classes - 1)
    for name, size in SIZES.items():
        mask = rng.integers(0, most, size, endpoint=True).astype(mask_dtype(labels))
        mask[2:, 3:] = mask[2, 3]
        found[name] = mask * 0 if name == "empty.png" else mask
    return found


def planes_by_hand(path: Path, name: str, k: int) -> np.ndarray:
    """Class k of an image of a COCO file by the format's description, a character and pixel at a time."""
    content = json.loads(path.read_text())
    image = next(one for one in content["images"] if one["file_name"] == name)
    pixels: list[int] = []
    for one in content["annotations"]:
        if (one["image_id"], one["category_id"]) == (image["id"], k + 1):
            numbers: list[int] = []
            text = list(one["segmentation"]["counts"])
            while text:
                number, digits = 0, []
                while not digits or digits[-1] >= 32:
                    digits.append(ord(text.pop(0)) - 48)
                for digit in reversed(digits):
                    number = number * 32 + digit % 32
                if digits[-1] & 16:
                    number -= 32 ** len(digits)
                numbers.append(number + (numbers[-2] if len(numbers) > 2 else 0))
            for i, number in enumerate(numbers):
                pixels += [i % 2] * number
    height, width = image["height"], image["width"]
    pixels = pixels or [0] * (height * width)
    return np.array([[pixels[x * height + y] for x in range(width)] for y in range(height)], bool)


def plane(mask: np.ndarray, labels: Labels, k: int) -> np.ndarray:
    if labels.task == "multilabel":
        return unpack(mask, labels.num_classes)[k]
    return mask == (1 if labels.task == "binary" else k)


@every_task
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_csv_read_again_is_the_masks(labels: Labels, order: str, tmp_path: Path) -> None:
    written = RunLengths(tmp_path / "x.csv", labels, order)
    for name, mask in masks(labels).items():
        written.add(name, mask)
    written.close()
    found = CsvMasks(tmp_path / "x.csv", labels, SIZES, order)
    assert list(found.rows) == list(SIZES)
    for name, mask in masks(labels).items():
        assert found.mask(name, mask.shape).dtype == mask.dtype
        assert np.array_equal(found.mask(name, mask.shape), mask)


@every_task
def test_a_coco_file_read_by_hand_is_the_masks(labels: Labels, tmp_path: Path) -> None:
    written = CocoFile(tmp_path / "x.json", labels)
    for name, mask in masks(labels).items():
        written.add(name, mask)
    written.close()
    for name, mask in masks(labels).items():
        for k in range(0, labels.num_classes, 20 if labels is WIDE else 1):
            assert np.array_equal(planes_by_hand(tmp_path / "x.json", name, k), plane(mask, labels, k))


@every_task
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_a_coco_file(labels: Labels, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason='pip install -e ".[test]" to run this')
    written = CocoFile(tmp_path / "x.json", labels)
    for name, mask in masks(labels).items():
        written.add(name, mask)
    written.close()
    theirs = coco.COCO(str(tmp_path / "x.json"))
    assert [theirs.cats[i]["name"] for i in theirs.getCatIds()] == list(labels.names)
    seen = 0
    for number, (name, mask) in enumerate(masks(labels).items(), 1):
        assert theirs.imgs[number]["file_name"] == name
        for k in range(labels.num_classes):
            wanted = plane(mask, labels, k)
            ids = theirs.getAnnIds(imgIds=number, catIds=k + 1)
            assert len(ids) == wanted.any()
            for one in theirs.loadAnns(ids):
                assert np.array_equal(theirs.annToMask(one), wanted)
                assert one["area"] == wanted.sum()
                x, y, w, h = one["bbox"]
                assert wanted.sum() == wanted[y : y + h, x : x + w].sum()
                assert wanted[y].any()
                assert wanted[y + h - 1].any()
                assert wanted[:, x].any()
                assert wanted[:, x + w - 1].any()
                seen += 1
    assert seen


def test_strings_are_those_of_pycocotools_both_ways() -> None:
    theirs = pytest.importorskip("pycocotools.mask", reason='pip install -e ".[test]" to run this')
    rng = np.random.default_rng(0)
    for i in range(200):
        size = tuple(rng.integers(1, 200, 2))
        blobs = cv2.GaussianBlur(rng.random(size, np.float32), (0, 0), 1 + i % 7)
        some = blobs > np.quantile(blobs, rng.random()) if i % 10 else np.full(size, i % 20 == 0)
        counts = theirs.encode(np.asfortranarray(some.astype(np.uint8)))["counts"].decode()
        assert write_counts(plane_to_runs(some)) == counts
        assert np.array_equal(runs_to_plane(np.array(read_counts(counts)), some.shape), some)


def test_train_py_reads_the_coco_file_of_infer_py(tmp_path: Path) -> None:
    """Predictions that were looked through are data."""
    written = CocoFile(tmp_path / "x.json", BONES)
    for name, mask in masks(BONES).items():
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / name), np.full(mask.shape, 90, np.uint8))
        written.add(name, mask)
    written.close()
    for source in open_data(f"coco-polygons:{tmp_path / 'x.json'}+{tmp_path / 'images'}", val_fraction=0.4):
        assert source.labels.names == BONES.names
        for i in range(len(source)):
            sample = source.load(i)
            assert np.array_equal(sample.mask, masks(BONES)[sample.name])


# ---------------------------------------------------------------- what bad input gets


@pytest.mark.parametrize(
    ("labels", "rows", "said"),
    [
        (BONES, [["c.png", "Radius", "1 1"]], "line 2: no image 'c.png' here; nearest: "),
        (BONES, [["a.png", "radius", "1 1"]], "line 2: no class 'radius' here; nearest: Radius"),
        (BONES, [["a.png", "Ulna", ""], ["a.png", "Ulna", "1 2"]], "line 3: a.png has Ulna twice"),
        (BONES, [["a.png", "Ulna", "390 9"]], "line 2: run lengths '390 9': end at 398, the mask has 391"),
        (BONES, [["a.png", "Ulna", "1 x"]], "line 2: run lengths '1 x': want pairs"),
        (BONES, [["a.png", "Ulna"]], "line 2: 2 fields; want image_name, class, rle"),
        (ROAD, [["a.png", "car", "1 5"], ["a.png", "sky", "5 2"]], "line 3: sky overlaps another class"),
    ],
    ids=lambda value: value[10:24] if isinstance(value, str) else "",
)  # fmt: skip
def test_rows_that_cannot_be(labels: Labels, rows: list[list[str]], said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image_name", "class", "rle"], *rows])
    with pytest.raises(InputError) as error:
        CsvMasks(path, labels, SIZES).mask("a.png", SIZES["a.png"])
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_files_that_are_no_csv_of_run_lengths(tmp_path: Path) -> None:
    (tmp_path / "header.csv").write_text("id,rle\n")
    (tmp_path / "nothing.csv").write_text("")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\x00")
    for name, said in (
        ("header.csv", "starts with 'id,rle'; want image_name,class,rle"), ("nothing.csv", "starts with ''"),
        ("image.png", "cannot be read as a csv file"), ("none.csv", "cannot be read as a csv file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            CsvMasks(tmp_path / name, BONES, SIZES)


def test_what_no_row_covers_is_ignored_where_classes_exclude_one_another(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("image_name,class,rle\na.png,car,1 5\n")
    mask = CsvMasks(tmp_path / "x.csv", ROAD, SIZES).mask("a.png", SIZES["a.png"])
    assert mask[0, :6].tolist() == [2, 2, 2, 2, 2, IGNORE]
