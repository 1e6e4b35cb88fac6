"""Overlapping polygons in, bits out, and a mistake in any of the files named: for who trains on bones."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from zoo.core import phantom
from zoo.core.dataset import open_data
from zoo.core.handbone import open_handbone, read_polygons
from zoo.core.masks import resize_mask, unpack
from zoo.errors import InputError

SQUARE = [[2, 2], [8, 2], [8, 8], [2, 8]]


def add(root: Path, person: str, name: str, *polygons: tuple[str, list]) -> Path:
    """A 20x30 image of noise with these polygons; the JSON file's path."""
    image = root / "train/DCM" / person / f"{name}.png"
    text = root / "train/outputs_json" / person / f"{name}.json"
    for path in (image, text):
        path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8))
    annotations = [
        {"id": "x", "type": "poly_seg", "attributes": {}, "points": points, "label": label}
        for label, points in polygons
    ]
    text.write_text(json.dumps({"annotations": annotations, "filename": image.name, "metadata": {}}))
    return text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three persons, five images, every bone in the first."""
    add(tmp_path, "ID001", "r", *((bone, SQUARE) for bone in phantom.NAMES))
    add(tmp_path, "ID001", "l", ("Radius", SQUARE), ("Ulna", [[5, 5], [25, 5], [25, 15]]))
    add(tmp_path, "ID002", "r", ("Radius", SQUARE), ("Radius", [[20, 2], [25, 2], [25, 9]]))
    add(tmp_path, "ID002", "l", ("finger-1", SQUARE))
    add(tmp_path, "ID003", "r", ("Pisiform", SQUARE))
    return tmp_path


def refused(root: Path, *words: str, ignore: tuple[int, ...] = (), task: str | None = None) -> str:
    with pytest.raises(InputError) as e:
        open_handbone(root, task, ignore)
    for part in words:
        assert part in str(e.value), str(e.value)
    return str(e.value)


# ---------------------------------------------------------------- reading


def test_bones_are_the_default_classes(root: Path) -> None:
    source = open_handbone(root, None, ())
    assert source.labels.task == "multilabel"
    assert source.labels.names == phantom.NAMES
    assert (len(source), source.channels, source.warnings) == (5, 1, [])
    assert [source.group(i) for i in range(5)] == ["ID001", "ID001", "ID002", "ID002", "ID003"]
    assert source.name(0) == "train/DCM/ID001/l.png"


def test_overlaps_keep_both_bones_and_polygons_of_a_bone_join(root: Path) -> None:
    source = open_handbone(root, None, ())
    radius, ulna = 27, 28
    both = unpack(source.load(0).mask, 29)
    assert both[radius, 2:9, 2:9].all()
    assert both[radius].sum() == 49
    assert both[[radius, ulna], 5, 5].all()
    assert both[[radius, ulna], 3, 3].tolist() == [True, False]
    assert both[[radius, ulna], 6, 20].tolist() == [False, True]
    joined = unpack(source.load(3).mask, 29)[radius]
    assert joined[2:9, 2:9].all()
    assert joined[3, 24]


def test_any_size_is_the_native_mask_resized(root: Path) -> None:
    source = open_handbone(root, None, ())
    for i in range(len(source)):
        native = source.load(i)
        for size in ((10, 15), (7, 41), (20, 30)):
            sample = source.load(i, size)
            assert sample.image.shape == sample.mask.shape == size
            assert (sample.mask == resize_mask(native.mask, size)).all()


def test_classes_txt_names_other_classes(root: Path) -> None:
    text = "0 finger-1\n1 Radius #ff0000\n2 Ulna\n3 Pisiform ignore\n"
    (root / "train" / "classes.txt").write_text(text)
    (root / "train/outputs_json/ID001/r.json").write_text('{"annotations": []}')
    source = open_handbone(root, None, ())
    assert source.labels.names == ("finger-1", "Radius", "Ulna")
    assert source.labels.colours[1] == (255, 0, 0)
    assert source.warnings == ["1 image without any polygon, first r.json"]
    assert not source.load(4).mask.any()  # the ignored Pisiform
    assert open_handbone(root, None, (2,)).labels.names == ("finger-1", "Radius")


def test_phantoms_written_and_read_are_the_same_masks(tmp_path: Path) -> None:
    phantom.write(tmp_path, 4, 192, 5)
    source = open_handbone(tmp_path, None, ())
    assert source.warnings == []
    for i in range(4):
        sample = source.load(i)
        drawn = [phantom.draw(5, j, 192) for j in range(4)]
        assert [p for p in drawn if (p.image == sample.image).all() and (p.bits == sample.mask).all()]
    assert len({source.group(i) for i in range(4)}) == 2


# ---------------------------------------------------------------- what bad input gets


def test_missing_folders_and_no_images(tmp_path: Path) -> None:
    refused(tmp_path, f"{tmp_path / 'train/DCM'}: no such folder", "PATH/train/outputs_json/PERSON/NAME.json")
    (tmp_path / "train/DCM").mkdir(parents=True)
    refused(tmp_path, f"{tmp_path / 'train/outputs_json'}: no such folder")
    (tmp_path / "train/outputs_json").mkdir()
    refused(tmp_path, f"{tmp_path / 'train/DCM'}: no images PERSON/NAME (.png")


def test_image_without_polygons_and_polygons_without_image(root: Path) -> None:
    (root / "train/outputs_json/ID001/r.json").unlink()
    (root / "train/DCM/ID002/l.png").unlink()
    images, texts = root / "train/DCM", root / "train/outputs_json"
    refused(
        root,
        "2 problems",
        f"{images / 'ID001/r.png'}: image without mask; want {texts / 'ID001/r.json'}",
        f"{texts / 'ID002/l.json'}: mask without image; want {images / 'ID002/l.png'}",
    )


def test_files_outside_a_persons_folder(root: Path) -> None:
    cv2.imwrite(str(root / "train/DCM/stray.png"), np.zeros((4, 4), np.uint8))
    refused(root, f"{root / 'train/DCM/stray.png'}: lies outside a person's folder")


def test_truncated_image(root: Path) -> None:
    path = root / "train/DCM/ID001/r.png"
    path.write_bytes(path.read_bytes()[:-20])
    refused(root, f"{path}: is truncated or damaged")


def test_invalid_json(root: Path) -> None:
    path = add(root, "ID001", "r")
    path.write_text('{"annotations": [')
    refused(root, f"{path}: invalid JSON: Expecting value: line 1 column 18")
    path.write_bytes(b"\xff\x00")
    refused(root, f"{path}: invalid JSON")
    for text in ("[]", "{}", '{"annotations": 3}'):
        path.write_text(text)
        refused(root, f"{path}: wants an object with a list `annotations`")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"label": "Radius", "points": [[1, 2], [3, 4]]}, "Radius: a polygon of 2 points; wants 3"),
        ({"label": "Radius", "points": []}, "Radius: a polygon of 0 points"),
        ({"label": "Radius"}, "Radius: has no list `points`"),
        ({"points": SQUARE}, "annotation 0: wants an object with a `label`"),
        (7, "annotation 0: wants an object"),
        ({"label": "Radius", "points": [[1, 2], [3, 4], [5]]}, "Radius: points want to be pairs"),
        ({"label": "Radius", "points": [1, 2, 3]}, "Radius: points want to be pairs"),
        ({"label": "Radius", "points": [[1, 2], [3, 4], [5, "x"]]}, "Radius: points want to be pairs"),
        ({"label": "Radius", "points": [[1, 2], [3, 4], [5, None]]}, "Radius: points want to be pairs"),
        ({"label": "Radius", "points": [[1, 2], [3, 4], [5, math.inf]]}, "Radius: points want to be pairs"),
    ],
)
def test_malformed_polygons(root: Path, annotation: object, words: str) -> None:
    path = add(root, "ID001", "r")
    path.write_text(json.dumps({"annotations": [annotation]}))
    refused(root, str(path), words)


def test_unknown_labels_are_told_once_with_the_known_ones(root: Path) -> None:
    first = add(root, "ID001", "l", ("Radus", SQUARE))
    add(root, "ID002", "l", ("Radus", SQUARE), ("Radus", SQUARE))
    text = refused(root, "1 problem", f"{first} and 1 more file: unknown label 'Radus'; known: finger-1")
    assert "Pisiform, Radius, Ulna" in text


def test_polygons_outside_the_image_are_clipped_counted_and_told(root: Path) -> None:
    corner, away = [[-5, -5], [10, -5], [10, 10], [-5, 10]], [[99, 9], [120, 9], [99, 50]]
    add(root, "ID003", "r", ("Pisiform", corner), ("Ulna", away))
    source = open_handbone(root, None, ())
    assert source.warnings == [
        "2 polygons partly or wholly outside their image, clipped there: r.json Pisiform, r.json Ulna"
    ]
    mask = unpack(source.load(4).mask, 29)
    assert mask[26, :11, :11].all()
    assert mask[26].sum() == 121
    assert not mask[28].any()


def test_a_bone_without_polygons_and_dark_images_are_warnings(root: Path) -> None:
    add(root, "ID001", "r", ("Radius", SQUARE))
    cv2.imwrite(str(root / "train/DCM/ID001/r.png"), np.full((20, 30), 4000, np.uint16))
    absent, dark = open_handbone(root, None, ()).warnings[::-1]
    assert absent.startswith("no polygon of finger-2, finger-3")
    assert dark.startswith("1 image nearly black")
    assert "train/DCM/ID001/r.png: 12-bit data" in dark


def test_what_the_layout_cannot_be(root: Path) -> None:
    refused(root, "task binary: pixels here may carry several classes", task="binary")
    refused(root, "ignore 29, 40: no such class; the last is 28", ignore=(40, 29))
    refused(root, "every class is ignored", ignore=tuple(range(29)))


def test_all_problems_of_a_file_are_told(root: Path) -> None:
    path = add(root, "ID001", "r", ("Radius", [[1, 2]]), ("Ulna", []))
    with pytest.raises(InputError, match=r"(?s)annotation 0: Radius.*annotation 1: Ulna"):
        read_polygons(path)
    refused(root, "2 problems", "annotation 0: Radius", "annotation 1: Ulna")


# ---------------------------------------------------------------- real data


def test_chest_x_rays(shared_data: Path) -> None:
    train, val = open_data(f"handbone:{shared_data / 'chest'}")
    assert len(train) + len(val) == 44
    assert train.labels.num_classes == 13
    assert train.labels.names[4] == "Ground Glass Opacities"
    assert train.channels == 1
    assert not {train.group(i) for i in range(len(train))} & {val.group(i) for i in range(len(val))}
    labelled = several = 0
    classes = set()
    for source in (train, val):
        for i in range(len(source)):
            classes_here = unpack(source.load(i).mask, 13)
            classes |= set(np.flatnonzero(classes_here.any((1, 2))))
            count = classes_here.sum(0)
            labelled, several = labelled + (count > 0).sum(), several + (count > 1).sum()
    assert classes == set(range(13))
    assert several / labelled == pytest.approx(0.47, abs=0.01)
