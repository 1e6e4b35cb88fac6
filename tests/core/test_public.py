"""A public set misread trains on shifted classes or on the rims of objects: for who compares with papers.

Every tree is written here, in the layout of the set; nothing is fetched.
"""

import tarfile
import urllib.error
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torchvision.datasets

import infer
from tests.core import trees
from train import main
from zoo.core import checkpoint
from zoo.core.dataset import FETCHED, KINDS, Source, open_data
from zoo.core.images import read_values
from zoo.core.public import SETS, voc_colour
from zoo.errors import InputError
from zoo.weights.classes import CITYSCAPES, VOC

PALETTE = bytes(value for k in range(256) for value in voc_colour(k))

# as the development kit's VOClabelcolormap and the set's web page have them
VOC_COLOURS = {
    "background": (0, 0, 0), "aeroplane": (128, 0, 0), "bicycle": (0, 128, 0), "bird": (128, 128, 0),
    "car": (128, 128, 128), "cat": (64, 0, 0), "person": (192, 128, 128), "train": (128, 192, 0),
    "tvmonitor": (0, 64, 128),
}  # fmt: skip

# cityscapesScripts, helpers/labels.py: the id in the files of each class of the benchmark, in its order
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def write(kind: str, root: Path) -> dict[str, np.ndarray]:
    if kind == "voc":
        return trees.write_voc(root, PALETTE)
    return {"pets": trees.write_pets, "cityscapes": trees.write_cityscapes}[kind](root)


def stem(source: Source, i: int) -> str:
    return Path(source.name(i)).stem.removesuffix("_leftImg8bit")


def refused(spec: str, *words: str, **options: object) -> str:
    with pytest.raises(InputError) as e:
        open_data(spec, **options)  # type: ignore[arg-type]
    for part in words:
        assert part in str(e.value), str(e.value)
    return str(e.value)


# ---------------------------------------------------------------- what the pixels mean


@pytest.mark.parametrize("kind", SETS)
def test_splits_are_the_sets_own_and_every_image_is_its_own(kind: str, tmp_path: Path) -> None:
    masks = write(kind, tmp_path)
    train, val = open_data(f"{kind}:{tmp_path}")
    assert (len(train), len(val), train.channels) == (3, 2, 3)
    assert {stem(s, i) for s in (train, val) for i in range(len(s))} == masks.keys()
    names = [train.name(i) for i in range(len(train))]
    assert names == sorted(names), "whatever order the file system has"
    for source in (train, val):
        for i in range(len(source)):
            image = cv2.imread(str(tmp_path / source.name(i)))[..., ::-1]
            assert (source.load(i).image == image).all()
            assert source.load(i, (10, 12)).mask.shape == (10, 12)


def test_voc_has_21_classes_and_rims_that_do_not_count(tmp_path: Path) -> None:
    masks = trees.write_voc(tmp_path, PALETTE)
    train, val = open_data(f"voc:{tmp_path}")
    assert train.labels == val.labels
    assert (train.labels.task, train.labels.names) == ("multiclass", VOC)
    assert train.labels.index == tuple(range(21))
    assert len(VOC) == 21
    for name, colour in VOC_COLOURS.items():
        assert train.labels.colours[VOC.index(name)] == colour
    for source in (train, val):
        for i in range(len(source)):
            assert (source.load(i).mask == masks[stem(source, i)]).all()
    assert {255, 0, 15, 20} < set(np.unique(train.load(0).mask))
    assert open_data(f"voc:{tmp_path}", ignore=(15,))[0].labels.num_classes == 20


def test_pets_are_pet_against_background_and_the_border_does_not_count(tmp_path: Path) -> None:
    masks = trees.write_pets(tmp_path)
    train, val = open_data(f"pets:{tmp_path}")
    assert (train.labels.task, train.labels.names, train.labels.index) == ("binary", ("pet",), (2, 1))
    both, _ = open_data(f"pets:{tmp_path}", task="multiclass")
    assert (both.labels.names, both.labels.index) == (("background", "pet"), (2, 1))
    for source in (train, val, both):
        for i in range(len(source)):
            trimap = masks[stem(source, i)]
            assert set(np.unique(trimap)) == {1, 2, 3}
            want = np.where(trimap == 1, 1, np.where(trimap == 2, 0, 255))  # pixel by pixel
            assert (source.load(i).mask == want).all()


def test_cityscapes_has_the_19_classes_of_its_benchmark(tmp_path: Path) -> None:
    masks = trees.write_cityscapes(tmp_path)
    train, val = open_data(f"cityscapes:{tmp_path}")
    assert (train.labels.task, train.labels.names) == ("multiclass", CITYSCAPES)
    assert train.labels.index == CITYSCAPES_IDS
    colours = dict(zip(CITYSCAPES, train.labels.colours, strict=True))
    assert [colours[name] for name in ("road", "sky")] == [(128, 64, 128), (70, 130, 180)]
    seen = set()
    for source in (train, val):
        for i in range(len(source)):
            got, ids = source.load(i).mask, masks[stem(source, i)]
            for y, x in np.ndindex(ids.shape):
                known = int(ids[y, x]) in CITYSCAPES_IDS
                assert got[y, x] == (CITYSCAPES_IDS.index(int(ids[y, x])) if known else 255)
            seen |= set(np.unique(ids))
    assert seen == {*range(34), 255}


def test_cityscapes_zip_files_are_unpacked_by_the_library(tmp_path: Path) -> None:
    trees.write_cityscapes(tmp_path / "made")
    for top in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(tmp_path / f"{top}_trainvaltest.zip", "w") as archive:
            for path in sorted((tmp_path / "made" / top).rglob("*.png")):
                archive.write(path, path.relative_to(tmp_path / "made"))
    train, val = open_data(f"cityscapes:{tmp_path}")
    assert (len(train), len(val)) == (3, 2)
    (tmp_path / "broken").mkdir()
    for top in ("leftImg8bit", "gtFine"):
        (tmp_path / "broken" / f"{top}_trainvaltest.zip").write_text("cut off")
    refused(f"cityscapes:{tmp_path / 'broken'}", "not a zip file")


# ---------------------------------------------------------------- what bad input gets


@pytest.mark.parametrize(
    ("kind", "layout"),
    [("voc", "VOCdevkit/VOC2012/"), ("pets", "oxford-iiit-pet/"), ("cityscapes", "leftImg8bit/ and gtFine/")],
)
def test_a_set_that_is_not_there_says_what_it_wants(kind: str, layout: str, tmp_path: Path) -> None:
    refused(f"{kind}:{tmp_path / 'absent'}", f"data {kind}:{tmp_path / 'absent'}: no such folder")
    text = refused(f"{kind}:{tmp_path}", f"data {kind}:{tmp_path}: Dataset not found", layout)
    assert "You can use" not in text, "that is for who calls the library"
    assert ("--download fetches it" in text) == (kind in FETCHED)
    assert list(tmp_path.iterdir()) == [], "nothing was made"


def test_a_missing_split_file_is_named(tmp_path: Path) -> None:
    trees.write_voc(tmp_path / "voc", PALETTE)
    listing = tmp_path / "voc/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listing.unlink()
    refused(f"voc:{tmp_path / 'voc'}", f"{listing}: No such file")
    trees.write_pets(tmp_path / "pets")
    listing = tmp_path / "pets/oxford-iiit-pet/annotations/test.txt"
    listing.write_text("a line of other words\n")
    refused(f"pets:{tmp_path / 'pets'}", "data pets:", "expected 4")
    listing.write_text("")
    refused(f"pets:{tmp_path / 'pets'}", "its part test has no image")
    trees.write_cityscapes(tmp_path / "cs")
    (tmp_path / "cs/leftImg8bit/train/.DS_Store").write_text("")
    refused(f"cityscapes:{tmp_path / 'cs'}", ".DS_Store: Not a directory")


@pytest.mark.parametrize("kind", SETS)
def test_all_that_is_wrong_with_files_is_said_at_once(kind: str, tmp_path: Path) -> None:
    write(kind, tmp_path)
    image, mask = {
        "voc": ("VOCdevkit/VOC2012/JPEGImages/2007_000000.jpg",
                "VOCdevkit/VOC2012/SegmentationClass/2008_000001.png"),
        "pets": ("oxford-iiit-pet/images/Abyssinian_0.jpg",
                 "oxford-iiit-pet/annotations/trimaps/yorkshire_terrier_1.png"),
        "cityscapes": ("leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
                       "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png"),
    }[kind]  # fmt: skip
    (tmp_path / image).write_bytes((tmp_path / image).read_bytes()[:-30])
    (tmp_path / mask).unlink()
    other = next(p for p in sorted((tmp_path / mask).parent.rglob("*.png")))
    values = trees.index_mask([0, 99])
    trees.save_mask(other, values, PALETTE if kind == "voc" else b"")
    refused(
        f"{kind}:{tmp_path}",
        "3 problems",
        f"{tmp_path / image}: is truncated or damaged",
        f"{tmp_path / mask}: cannot be read: No such file",
        f"{other}: mask value",
        "outside the classes",
    )


def test_a_fold_or_a_task_that_cannot_be(tmp_path: Path) -> None:
    write("voc", tmp_path)
    refused(f"voc:{tmp_path}", "fold 0/5", "split of its own", fold=(0, 5))
    refused(f"voc:{tmp_path}", "task binary: wants two classes", task="binary")
    refused(f"voc:{tmp_path}", "task multilabel: index masks", task="multilabel")


# ---------------------------------------------------------------- fetching


def archive(tree: Path, path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for top in sorted(tree.iterdir()):
            tar.add(top, top.name)


def test_download_fetches_what_is_not_there_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.write_voc(tmp_path / "made", PALETTE)
    archive(tmp_path / "made", tmp_path / "voc.tar")
    fetched = []

    def fetch(url: str, root: str, **how: object) -> None:
        fetched.append(url)
        with tarfile.open(tmp_path / "voc.tar") as tar:
            tar.extractall(root, filter="data")

    monkeypatch.setattr(torchvision.datasets.voc, "download_and_extract_archive", fetch)
    root = tmp_path / "new" / "folder"
    for _ in range(2):
        train, val = open_data(f"voc:{root}", download=True)
        assert (len(train), len(val)) == (3, 2)
    assert len(fetched) == 1
    assert fetched[0].endswith("VOCtrainval_11-May-2012.tar")


@pytest.mark.parametrize("kind", FETCHED)
@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("Name or service not known"), RuntimeError("File not found or corrupted."),
        tarfile.ReadError("unexpected end of data"), ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_a_network_that_fails_is_a_sentence(
    kind: str, failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    module = {"voc": torchvision.datasets.voc, "pets": torchvision.datasets.oxford_iiit_pet}[kind]
    monkeypatch.setattr(module, "download_and_extract_archive", fail)
    why = str(getattr(failure, "reason", failure)).rstrip(".")
    spec = f"{kind}:{tmp_path / 'x'}"
    text = refused(spec, f"data {spec}: cannot be fetched", why, download=True)
    assert "try again" in text


def test_only_what_the_library_fetches_can_be_asked_for(tmp_path: Path) -> None:
    for kind in KINDS.keys() - FETCHED:
        refused(f"{kind}:{tmp_path}", f"--download: fetches voc and pets, not {kind}", download=True)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("kind", SETS)
def test_an_epoch_through_both_doors(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(kind, tmp_path / "data")
    flags = f"--data {kind}:{tmp_path / 'data'} --opt width=2 --size 32 --epochs 1 --workers 0 --amp off"
    assert main([*flags.split(), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    names = {"voc": "tvmonitor", "pets": "pet", "cityscapes": "motorcycle"}
    assert names[kind] in said
    place = {"voc": "JPEGImages", "pets": "oxford-iiit-pet/images", "cityscapes": "leftImg8bit/val"}[kind]
    assert place in said, "what to type next has the images"
    best, out = tmp_path / "run" / "best.pt", tmp_path / "out"
    images = next(path for path in (tmp_path / "data").rglob("*.*g") if place in str(path)).parent
    assert infer.main(f"{best} --input {images} --out {out} --amp off --device cpu".split()) == 0
    written = [read_values(path) for path in (out / "masks").rglob("*.png")]
    assert {mask.shape for mask in written} == {trees.SIZE}
    assert set(np.unique(written)) <= {*checkpoint.read(best).labels.index}, "the values of its own files"
