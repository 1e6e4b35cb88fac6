"""A folder of pictures must train as what it is, or say file by file what is wrong: for whoever brings data.

Small folders are written here; the real ones are opened where they are there.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from zoo.core.dataset import Source, open_data
from zoo.core.masks import pack
from zoo.errors import InputError

RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def write(root: Path, masks: dict[str, np.ndarray], suffix: str = ".png") -> Path:
    """Masks by stem, and noise of the same size as their images."""
    for stem, mask in masks.items():
        save(root / "images" / f"{stem}.png", RNG.integers(0, 256, mask.shape[:2]).astype(np.uint8))
        save(root / "masks" / f"{stem}{suffix}", mask)
    return root


def index_masks(values: tuple[int, ...], count: int = 4) -> dict[str, np.ndarray]:
    """Masks that hold each of the values."""
    return {f"m{i}": np.resize(np.roll(np.array(values, np.uint8), i), (6, 8)) for i in range(count)}


def opened(root: Path, **options: object) -> tuple[Source, Source]:
    return open_data(f"folder:{root}", **options)  # type: ignore[arg-type]


def classes(root: Path, text: str) -> Path:
    (root / "classes.txt").write_text(text)
    return root


# ---------------------------------------------------------------- reading the task from the data


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 1, 255)])
def test_two_values_are_background_and_foreground(tmp_path: Path, values: tuple[int, ...]) -> None:
    train, val = opened(write(tmp_path, index_masks(values)))
    foreground = 255 if values == (0, 255) else 1
    assert (train.labels.task, train.labels.names) == ("binary", ("foreground",))
    assert (train.labels.index, train.labels.num_classes) == ((0, foreground), 1)
    assert (len(train), len(val), train.channels) == (3, 1, 1)
    sample = val.load(0)
    raw = cv2.imread(str(tmp_path / "masks" / Path(sample.name).name), 0)
    want = np.where(raw == foreground, 1, np.where(raw == 0, 0, 255))
    assert (sample.mask == want).all()
    assert sample.mask.dtype == np.uint8


def test_more_values_are_classes(tmp_path: Path) -> None:
    train, val = opened(write(tmp_path, index_masks((2, 5, 9, 255))))
    assert train.labels.task == "multiclass"
    assert train.labels.names == ("class 2", "class 5", "class 9")
    assert train.labels.index == (2, 5, 9)
    assert len(set(train.labels.colours)) == 3
    sample = train.load(0)
    raw = cv2.imread(str(tmp_path / "masks" / Path(sample.name).name), 0)
    assert (np.array([2, 5, 9, 255])[np.minimum(sample.mask, 3)] == raw).all()
    assert val.labels == train.labels


def test_classes_txt_names_values_and_ignores_some(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 3, 7, 11)))
    classes(root, "3 sign symbol #c08080\n0 sky\n7 car\n11 void #000000 ignore\n")
    train, _ = opened(root)
    assert train.labels.names == ("sky", "sign symbol", "car")
    assert train.labels.colours[1] == (192, 128, 128)
    assert set(np.unique(train.load(0).mask)) == {0, 1, 2, 255}
    assert train.warnings == []
    train, _ = opened(root, ignore=(7,))
    assert train.labels.names == ("sky", "sign symbol")
    assert train.labels.task == "multiclass"


def test_ignored_on_the_command_line_as_in_the_file(tmp_path: Path) -> None:
    train, _ = opened(write(tmp_path, index_masks((0, 1, 2, 7))), ignore=(7,))
    assert train.labels.names == ("class 0", "class 1", "class 2")
    assert set(np.unique(train.load(0).mask)) == {0, 1, 2, 255}
    train, _ = opened(tmp_path, ignore=(7, 9))
    assert train.warnings == ["ignore 9: no mask holds this value"]


def test_background_by_name_makes_it_binary_and_task_overrides(tmp_path: Path) -> None:
    root = classes(write(tmp_path, index_masks((0, 1))), "0 Background\n1 jaw bone\n")
    assert opened(root)[0].labels.names == ("jaw bone",)
    assert opened(root, task="multiclass")[0].labels.names == ("Background", "jaw bone")
    classes(root, "0 membrane\n1 cell\n")
    assert opened(root)[0].labels.task == "multiclass"
    assert opened(root, task="binary")[0].labels.names == ("cell",)


def test_a_class_that_no_mask_holds_is_a_warning(tmp_path: Path) -> None:
    root = classes(write(tmp_path, index_masks((0, 1, 2))), "0 a\n1 b\n2 c\n3 d\n")
    train, val = opened(root)
    assert train.warnings == ["no mask holds d"]
    assert val.warnings == []
    assert train.labels.num_classes == 4


def test_masks_may_be_grey_pictures_stored_as_rgb_or_16_bit(tmp_path: Path) -> None:
    masks = {k: np.repeat(m[..., None], 3, axis=2) for k, m in index_masks((0, 1, 2)).items()}
    assert opened(write(tmp_path / "a", masks))[0].load(0).mask.shape == (6, 8)
    deep = {k: m.astype(np.uint16) * 1000 for k, m in index_masks((0, 1, 2)).items()}
    train, _ = opened(write(tmp_path / "b", deep))
    assert train.labels.index == (0, 1000, 2000)
    assert set(np.unique(train.load(0).mask)) == {0, 1, 2}


def test_masks_of_bits_are_multilabel(tmp_path: Path) -> None:
    truth = RNG.random((4, 3, 6, 8)) < 0.5
    for i in range(4):
        save(tmp_path / "images" / f"m{i}.png", RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8))
        (tmp_path / "masks").mkdir(exist_ok=True)
        np.savez_compressed(tmp_path / "masks" / f"m{i}.npz", bits=pack(truth[i]), names=["a", "b c", "d"])
    train, val = opened(tmp_path)
    assert (train.labels.task, train.labels.names) == ("multilabel", ("a", "b c", "d"))
    assert train.channels == 3
    for source in (train, val):
        for i in range(len(source)):
            sample = source.load(i)
            assert (sample.mask == pack(truth[int(Path(sample.name).stem[1])])).all()
            assert sample.mask.dtype == np.int32
    assert train.load(0, (3, 4)).mask.shape == (3, 4)

    (tmp_path / "classes.txt").write_text("0 x\n1 y\n")
    with pytest.raises(InputError, match=r"m0\.npz: mask value 2 outside the classes \(known: 0, 1;"):
        opened(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(InputError, match="task multiclass: pixels here may carry several"):
        opened(tmp_path, task="multiclass")
    with pytest.raises(InputError, match="masks of bits have no value to ignore"):
        opened(tmp_path, ignore=(1,))
    np.savez(tmp_path / "masks" / "m0.npz", bits=pack(truth[0]), names=["a", "b", "e"])
    np.savez(tmp_path / "masks" / "m1.npz", mask=pack(truth[0]))
    (tmp_path / "masks" / "m2.npz").write_bytes(b"PK\3\4 cut")
    np.savez(tmp_path / "masks" / "m3.npz", bits=np.zeros((6, 8), np.float32))
    with pytest.raises(InputError) as e:
        opened(tmp_path)
    for words in ("m1.npz: cannot be read as an .npz mask with the key `bits`", "m2.npz: cannot be read",
                  "m3.npz: bits float32 (6, 8): want whole numbers"):
        assert words in str(e.value)
    for i in (1, 2, 3):
        np.savez(tmp_path / "masks" / f"m{i}.npz", bits=pack(truth[i]), names=["a", "b c", "d"])
    with pytest.raises(InputError, match=r"\.npz masks differ in names: a, b, e here, a, b c, d there"):
        opened(tmp_path)


# ---------------------------------------------------------------- layout


def test_train_and_val_folders_are_the_split(tmp_path: Path) -> None:
    write(tmp_path / "train", index_masks((0, 1, 2), 5))
    write(tmp_path / "val", index_masks((0, 1), 2))
    classes(tmp_path / "train", "0 a\n1 b\n2 c\n")
    train, val = opened(tmp_path)
    assert (len(train), len(val)) == (5, 2)
    assert train.labels == val.labels
    assert train.labels.names == ("a", "b", "c")
    assert train.name(0) == "train/images/m0.png"
    assert val.name(1) == "val/images/m1.png"
    with pytest.raises(InputError, match=r"fold 0/5: .* has a split of its own"):
        opened(tmp_path, fold=(0, 5))


def test_one_colour_image_makes_all_three_channels(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 1)))
    save(root / "images" / "m1.png", RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    train, val = opened(root)
    assert train.channels == val.channels == 3
    assert train.load(0).image.shape == (6, 8, 3)


def test_loading_at_a_size(tmp_path: Path) -> None:
    mask = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((8, 8), np.uint8))
    root = write(tmp_path, {f"m{i}": mask for i in range(2)})
    sample = opened(root)[0].load(0, (4, 6))
    assert sample.image.shape == sample.mask.shape == (4, 6)
    assert (sample.mask == np.kron([[0, 1], [2, 3]], np.ones((2, 3)))).all()


def test_files_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 1)))
    for name in (".DS_Store", "Thumbs.db", "notes.txt", ".hidden.png"):
        (root / "images" / name).write_text("x")
    assert sum(len(s) for s in opened(root)) == 4


# ---------------------------------------------------------------- what bad input gets


def refused(root: Path, *words: str, **options: object) -> str:
    with pytest.raises(InputError) as e:
        opened(root, **options)
    for part in words:
        assert part in str(e.value), str(e.value)
    return str(e.value)


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "absent", f"folder:{tmp_path / 'absent'}: no such folder")
    refused(tmp_path, "holds neither images/ and masks/, nor train/ and val/")
    write(tmp_path / "train", index_masks((0, 1)))
    refused(tmp_path, f"no such folder: {tmp_path / 'val' / 'images'}")


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    refused(tmp_path, f"{tmp_path / 'images'}: no images (.png, .jpg")
    save(tmp_path / "images" / "a.png", np.zeros((3, 3), np.uint8))
    refused(tmp_path, f"{tmp_path / 'masks'}: no masks (.png")


def test_image_without_mask_and_mask_without_image(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 1)))
    (root / "masks" / "m1.png").unlink()
    (root / "images" / "m3.png").unlink()
    refused(
        root,
        "2 problems",
        f"{root / 'images' / 'm1.png'}: image without mask; want {root / 'masks' / 'm1.png'}",
        f"{root / 'masks' / 'm3.png'}: mask without image; want {root / 'images' / 'm3.png'}",
    )


def test_two_files_of_one_stem(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 1)))
    save(root / "images" / "m0.bmp", np.zeros((6, 8), np.uint8))
    refused(root, f"{root / 'images' / 'm0.png'}: has the same stem as m0.bmp")


def test_sizes_that_differ(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 1)))
    save(root / "masks" / "m2.png", np.zeros((6, 9), np.uint8))
    refused(root, f"{root / 'masks' / 'm2.png'}: is 6x9, but its image m2.png is 6x8")


def test_unreadable_and_truncated_files(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 1), 5))
    for name in ("images/m0.png", "masks/m1.png"):
        (root / name).write_bytes((root / name).read_bytes()[:-9])
    (root / "images" / "m2.png").write_text("no picture")
    (root / "masks" / "m3.png").write_bytes(b"")
    refused(
        root,
        "4 problems",
        f"{root / 'images/m0.png'}: is truncated or damaged",
        f"{root / 'masks/m1.png'}: is truncated or damaged",
        f"{root / 'images/m2.png'}: is not an image",
        f"{root / 'masks/m3.png'}: is empty",
    )


def test_mask_values_outside_the_classes(tmp_path: Path) -> None:
    root = classes(write(tmp_path, index_masks((0, 1, 2))), "0 a\n1 b\n2 c\n9 void ignore\n")
    save(root / "masks" / "m1.png", np.resize(np.array([0, 4, 9, 255, 77], np.uint8), (6, 8)))
    where = f"{root / 'masks' / 'm1.png'}: mask value 4, 77 outside the classes"
    refused(root, "1 problem", f"{where} (known: 0, 1, 2; ignored: 9, 255)")


def test_colour_coded_masks(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 1)))
    save(root / "masks" / "m1.png", RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    refused(root, f"{root / 'masks' / 'm1.png'}: a colour picture", "8-bit grey PNG of class numbers")


def test_jpeg_masks_say_why_their_values_are_wrong(tmp_path: Path) -> None:
    soft = {k: cv2.GaussianBlur(RNG.integers(0, 256, (60, 80)).astype(np.uint8), (5, 5), 0) for k in "abc"}
    root = write(tmp_path, soft, ".jpg")
    refused(root, "different values in the masks", "JPEG changes values, write masks as PNG")
    classes(root, "0 background\n255 cell\n")
    refused(root, "a.jpg: mask value", "JPEG changes values")
    refused(write(tmp_path / "png", soft), "different values in the masks", "list all in classes.txt")


def test_a_binary_mask_whose_foreground_is_not_the_listed_one(tmp_path: Path) -> None:
    root = classes(write(tmp_path, index_masks((0, 255))), "0 background\n1 cell\n")
    refused(root, "no mask holds the foreground, 1 cell; values in the masks: 0, 255")


def test_fewer_than_two_classes(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((3,)))
    refused(root, "wants two classes or more", "3 class 3")
    refused(write(tmp_path / "b", index_masks((0, 255))), "wants two classes", ignore=(255,))


def test_bits_on_one_side_only(tmp_path: Path) -> None:
    write(tmp_path / "train", index_masks((0, 1)))
    write(tmp_path / "val", index_masks((0, 1), 1))
    np.savez(tmp_path / "val/masks/m0.npz", bits=np.zeros((6, 8), np.int32))
    refused(tmp_path, "masks are .npz on one side of the split, pictures on the other")


def test_ten_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    root = write(tmp_path, index_masks((0, 1), 15))
    for i in range(13):
        (root / "images" / f"m{i}.png").write_bytes(b"")
    text = refused(root, "13 problems in the data:", "and 3 more")
    assert text.count("is empty") == 10


# ---------------------------------------------------------------- real folders


@pytest.mark.parametrize(
    ("name", "task", "names", "sizes", "channels"),
    [
        ("dsb2018", "binary", ("nucleus",), (128, 32), 1),
        ("isbi2012", "multiclass", ("membrane", "cell"), (19, 5), 1),
    ],
)
def test_real_folders(
    shared_data: Path, name: str, task: str, names: tuple[str, ...], sizes: tuple[int, int], channels: int
) -> None:
    train, val = opened(shared_data / name)
    assert (train.labels.task, train.labels.names) == (task, names)
    assert (len(train), len(val)) == sizes
    assert train.channels == channels
    assert train.warnings == []
    sample = val.load(0, (64, 96))
    assert sample.image.shape == sample.mask.shape == (64, 96)
    assert set(np.unique(sample.mask)) <= {0, 1}


@pytest.mark.slow
def test_camvid_has_eleven_classes_and_void(shared_data: Path) -> None:
    train, val = opened(shared_data / "camvid")
    assert (train.labels.task, train.labels.num_classes, train.channels) == ("multiclass", 11, 3)
    assert (len(train), len(val)) == (367, 101)
    assert train.labels.names[6] == "sign symbol"
    assert train.labels.colours[0] == (128, 128, 128)
    seen = set()
    for i in range(0, 101, 10):
        seen |= set(np.unique(val.load(i).mask))
    assert seen == {*range(11), 255}
