"""An annotation that lands in the wrong class or image is wrong for ever: for who brings a JSON of COCO's.

Every JSON and image is written here.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import infer
from tests.core import trees
from tests.core.test_shapes import slow_fill
from train import main
from zoo.core.coco import open_coco, split_spec
from zoo.core.dataset import Source, open_data
from zoo.core.masks import resize_mask, unpack
from zoo.errors import InputError

SQUARE, TRIANGLE = [(2, 2), (12, 2), (12, 12), (2, 12)], [(8, 8), (20, 8), (8, 18)]
NAMES = ("car", "traffic light", "toothbrush")  # in the order of the categories' ids: 3, 7, 90
CAR, LIGHT, BRUSH = range(3)


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """Four images; the last one has no annotation, the first a crowd."""
    return trees.write_coco(tmp_path)


def opened(spec: str, **options: object) -> tuple[Source, Source]:
    return open_data(f"coco-polygons:{spec}", **options)  # type: ignore[arg-type]


def whole(spec: str, ignore: tuple[int, ...] = ()) -> Source:
    return open_coco(spec, None, ignore)[0]


def change(spec: str, **changes: object) -> dict:
    """The JSON with other lists; returns what it holds now."""
    path = Path(spec.partition("+")[0])
    held = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(held))
    return held


def refused(spec: str, *words: str, **options: object) -> str:
    with pytest.raises(InputError) as e:
        opened(spec, **options)
    for part in words:
        assert part in str(e.value), str(e.value)
    return str(e.value)


def crowd_plane() -> np.ndarray:
    """The runs of `trees.coco_json`, pixel by pixel down the columns."""
    plane = np.zeros(trees.SIZE, bool)
    pixel = 0
    for number, count in enumerate((400, 25, 5, 30, 100)):
        for _ in range(count):
            plane[pixel % trees.SIZE[0], pixel // trees.SIZE[0]] = number % 2 == 1
            pixel += 1
    assert pixel == plane.size
    return plane


# ---------------------------------------------------------------- reading


def test_categories_by_id_are_the_classes_and_overlaps_keep_both(spec: str) -> None:
    source = whole(spec)
    assert (source.labels.task, source.labels.names) == ("multilabel", NAMES)
    assert (len(source), source.channels) == (4, 3)
    assert [source.name(i) for i in range(4)] == [f"train/{i:012d}.jpg" for i in range(4)]
    square, triangle = (slow_fill(np.array(p, float), trees.SIZE) for p in (SQUARE, TRIANGLE))
    assert (square & triangle).any()
    for i in range(4):
        planes = unpack(source.load(i).mask, 3)
        assert (planes[LIGHT] == (square & (i < 3))).all()
        assert (planes[CAR] == (triangle & (i < 3))).all()
        assert (planes[BRUSH] == (crowd_plane() & (i == 0))).all()


def test_any_size_is_the_native_mask_resized(spec: str) -> None:
    source = whole(spec)
    for size in ((10, 15), (33, 7), trees.SIZE):
        sample = source.load(0, size)
        assert sample.image.shape == (*size, 3)
        assert (sample.mask == resize_mask(source.load(0).mask, size)).all()


def test_instances_of_a_class_join_and_run_lengths_come_as_lists_and_strings(spec: str) -> None:
    """The string is the crowd's of `coco_json` in the packing of pycocotools 2.0.11."""
    packed = {"counts": "`<i055o2", "size": [*trees.SIZE]}
    listed = {"counts": [0, 20, 540], "size": [*trees.SIZE]}
    two = [[0, 0, 4, 0, 4, 4, 0, 4], [20, 10, 24, 10, 24, 14, 20, 14]]
    annotations = [
        {"image_id": 12, "category_id": 90, "segmentation": packed},
        {"image_id": 12, "category_id": 90, "segmentation": listed, "iscrowd": 1},
        {"image_id": 12, "category_id": 3, "segmentation": two},
        {"image_id": 12, "category_id": 3, "segmentation": [[0, 0, 2, 0, 2, 9]]},
    ]
    change(spec, annotations=annotations)
    planes = unpack(whole(spec).load(2).mask, 3)
    first_column = np.zeros(trees.SIZE, bool)
    first_column[:, 0] = True
    assert (planes[BRUSH] == (crowd_plane() | first_column)).all()
    boxes = [slow_fill(np.reshape(p, (-1, 2)), trees.SIZE) for p in (*two, [0, 0, 2, 0, 2, 9])]
    assert (planes[CAR] == np.any(boxes, axis=0)).all()


def test_images_without_annotations_and_classes_without_images_are_told(spec: str) -> None:
    assert whole(spec).warnings == ["1 image without any annotation, first train/000000000003.jpg"]
    change(spec, annotations=[])
    bare, absent = whole(spec).warnings
    assert bare.startswith("4 images without any annotation")
    assert absent == "no annotation of car, traffic light, toothbrush"
    assert not whole(spec).load(0).mask.any()


def test_ignored_categories_leave_their_bits_to_others(spec: str) -> None:
    source = whole(spec, ignore=(7,))
    assert source.labels.names == ("car", "toothbrush")
    planes = unpack(source.load(0).mask, 2)
    assert (planes[0] == slow_fill(np.array(TRIANGLE, float), trees.SIZE)).all()
    assert (planes[1] == crowd_plane()).all()
    refused(spec, "ignore 4: no such category", "known: 3 car, 7 traffic light, 90 toothbrush", ignore=(4,))
    refused(spec, "every category is ignored", ignore=(3, 7, 90))


def test_one_pair_is_divided_and_two_are_the_sets_own_split(tmp_path: Path, spec: str) -> None:
    train, val = opened(spec)
    assert (len(train), len(val)) == (3, 1)
    assert len(opened(spec, fold=(1, 4))[1]) == 1
    other = trees.write_coco(tmp_path, "val", 2)
    train, val = opened(f"{spec},{other}")
    assert (len(train), len(val)) == (4, 2)
    assert train.labels == val.labels
    assert val.name(0) == "val/000000000000.jpg"
    assert unpack(val.load(0).mask, 3)[BRUSH].any()
    refused(f"{spec},{other}", "has a split of its own", fold=(0, 2))
    change(other, categories=[{"id": 3, "name": "car"}], annotations=[])
    refused(f"{spec},{other}", "train.json and", "val.json: differ in their categories")


def test_names_and_folders_may_be_anything_but_plus_and_comma(tmp_path: Path) -> None:
    spec = trees.write_coco(tmp_path / "a b.json c")
    assert len(whole(spec)) == 4
    assert split_spec(spec)[0][1] == tmp_path / "a b.json c" / "images"


# ---------------------------------------------------------------- what bad input gets


def test_what_cannot_be_opened(tmp_path: Path, spec: str) -> None:
    path, _, images = spec.partition("+")
    refused(path, "write coco-polygons:JSON+IMAGES, or two")
    refused(f"{spec},{spec},{spec}", "or two of these joined by a comma")
    refused(f"{tmp_path}/absent.json+{images}", "absent.json: no such file")
    refused(f"{path}+{images}/absent", "absent: no such folder; write coco-polygons:JSON+IMAGES")
    refused(spec, "task binary", task="binary")
    for text, words in (
        ('{"images": [', "invalid JSON: Expecting value"),
        ("[]", "has no `images` and `categories` and `annotations`"),
        ('{"images": [], "annotations": 3, "categories": []}', "has no `annotations`"),
        ('{"images": [], "annotations": [], "categories": []}', "`categories` is empty"),
    ):
        Path(path).write_text(text)
        refused(spec, path, words)
    Path(path).write_bytes(b"\xff\x00")
    refused(spec, f"{path}: invalid JSON")


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ([{"id": "3", "name": "car"}], "category 0: wants an `id`, a whole number"),
        ([{"id": 3}], "and a `name`"),
        ([7], "category 0: wants an `id`"),
        ([{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "category 1: 3 b: id or name stands above"),
        ([{"id": 3, "name": "a"}, {"id": 4, "name": "a"}], "category 1: 4 a: id or name stands above"),
    ],
)
def test_categories_that_cannot_be(spec: str, categories: list, words: str) -> None:
    change(spec, categories=categories, annotations=[])
    refused(spec, words)


def test_more_classes_than_bits_are_refused_with_what_to_do(spec: str) -> None:
    change(spec, categories=[{"id": k, "name": f"c{k}"} for k in range(80)], annotations=[])
    refused(spec, "80 categories", "at most 63: leave 17 or more out by --ignore ID")
    assert whole(spec, tuple(range(17))).labels.num_classes == 63


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"category_id": 4}, "annotation 1: category_id 4 is not among `categories`"),
        ({"category_id": [3]}, "category_id [3] is not among"),
        ({"image_id": 99}, "annotation 1: image_id 99 is not among `images`"),
        ({"image_id": None}, "image_id None is not among `images`"),
        ({"segmentation": []}, "annotation 1: has no segmentation, maybe a box alone"),
        ({"segmentation": None}, "has no segmentation"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon of 7 numbers; wants pairs x, y"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 2 points; wants 3 or more"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "a polygon wants to be a list of numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "a polygon wants to be a list of numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, "x"]]}, "a polygon wants to be a list of numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e999]]}, "a polygon wants to be a list of numbers"),
        ({"segmentation": {"counts": [10, 20], "size": [20, 28]}}, "run lengths cover 30 pixels of 560"),
        ({"segmentation": {"counts": [300, 300], "size": [20, 28]}}, "run lengths cover 600 pixels of 560"),
        ({"segmentation": {"counts": [560], "size": [28, 20]}}, "an image of [28, 20], but `images` has it"),
        ({"segmentation": {"counts": [570, -10], "size": [20, 28]}}, "whole numbers from 0 on"),
        ({"segmentation": {"counts": [560.0], "size": [20, 28]}}, "whole numbers from 0 on"),
        ({"segmentation": {"counts": "0 1", "size": [20, 28]}}, "run lengths hold the character ' '"),
        ({"segmentation": {"size": [20, 28]}}, "run lengths want `counts`"),
    ],
)
def test_annotations_that_cannot_be(spec: str, changed: dict, words: str) -> None:
    held = change(spec)
    held["annotations"][1] |= changed
    change(spec, annotations=held["annotations"])
    refused(spec, "1 problem in the data", "train.json: annotation 1: ", words)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"id": 10}, "image 1: id 10 stands above already"),
        ({"id": None}, "image 1: wants to be an object with `id`, `file_name`"),
        ({"file_name": None}, "image 1: has no `file_name`"),
        ({"height": None}, "height None and width 28 want to be whole numbers"),
        ({"width": 0}, "height 20 and width 0 want to be"),
        ({"file_name": "train/000000000000.jpg"}, "file_name train/000000000000.jpg: stands 2 times"),
        ({"file_name": "lost.jpg"}, "images/lost.jpg: cannot be read: No such file"),
        ({"height": 28, "width": 20}, "is 20x28 (height x width), but `images` has it as 28x20"),
    ],
)
def test_images_that_cannot_be(spec: str, changed: dict, words: str) -> None:
    held = change(spec)
    held["images"][1] |= changed
    kept = [a for a in held["annotations"] if a["image_id"] != 11]
    change(spec, images=held["images"], annotations=kept)
    refused(spec, "1 problem in the data", words)


def test_all_that_is_wrong_is_said_at_once(spec: str) -> None:
    path, _, images = spec.partition("+")
    (Path(images) / "train/000000000002.jpg").write_bytes(b"")
    held = change(spec)
    held["annotations"][0]["category_id"] = 1
    held["annotations"][3]["segmentation"] = [[0, 0, 0]]
    change(spec, annotations=held["annotations"])
    refused(
        spec, "3 problems in the data", f"{path}: annotation 0: ", f"{path}: annotation 3: ",
        "000000000002.jpg: is empty",
    )  # fmt: skip


# ---------------------------------------------------------------- training


def test_an_epoch_through_the_door_and_its_masks_as_data_again(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Train, predict the images, and open the predicted bits as a folder: the classes come back."""
    run, images = tmp_path / "run", Path(spec.partition("+")[2]) / "train"
    flags = f"--data coco-polygons:{spec} --opt width=2 --size 32 --epochs 1 --workers 0 --amp off"
    assert main([*flags.split(), "--out", str(run)]) == 0
    said = capsys.readouterr().out
    assert "traffic light" in said
    assert f"--input {images.parent}" in said
    out = tmp_path / "predicted"
    assert infer.main(f"{run / 'best.pt'} --input {images} --out {out} --amp off --device cpu".split()) == 0
    images.rename(out / "images")
    train, val = open_data(f"folder:{out}")
    assert (train.labels.task, train.labels.names) == ("multilabel", NAMES)
    assert (len(train), len(val)) == (3, 1)
    with np.load(out / "masks" / f"{Path(train.name(0)).stem}.npz") as written:
        assert (train.load(0).mask == written["bits"]).all()
