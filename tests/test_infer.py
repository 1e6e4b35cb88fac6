"""If these break, the one line that a stranger types after training gives nothing, or wrong files."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import infer
import zoo
from zoo.core import checkpoint, inference
from zoo.core.checkpoint import Checkpoint
from zoo.core.config import Preprocess
from zoo.core.dataset import open_data
from zoo.core.decide import Decision
from zoo.core.ensemble import Ensemble
from zoo.core.masks import Labels, palette, rle_decode, unpack
from zoo.core.predictor import Predictor
from zoo.core.runs import CsvMasks
from zoo.core.views import Tiles, parse_views

BONES = Labels("multilabel", ("finger-1", "Radius", "a/b c"), palette(3))
ROAD = Labels("multiclass", ("sky", "road", "car"), palette(3), (3, 40, 200))
NUCLEUS = Labels("binary", ("nucleus",), palette(1), (5, 9))


def save(
    path: Path, labels: Labels = BONES, arch: str = "unetpp", tile: bool = False, seed: int = 0
) -> Path:
    """A checkpoint of a tiny untrained model, whose masks have something of every class."""
    torch.manual_seed(seed)
    build = {"num_classes": labels.num_classes, "in_channels": 1, "encoder": None, "width": 2}
    model = zoo.build(arch, **build)
    preprocess = Preprocess(1, (0.5,), (0.1,), (36, 36), tile)
    checkpoint.write(path, Checkpoint(arch, build, labels, preprocess, model.state_dict(), {"arch": arch}))
    return path


def picture(path: Path, height: int = 40, width: int = 52, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (width, height)))
    return path


def run(*words: object) -> int:
    """infer.py in this process, on the CPU in float32."""
    return infer.main([*map(str, words), "--device", "cpu", "--amp", "off"])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, one of them in a sub-folder under the name of another."""
    for i, name in enumerate(("a.png", "b.jpg", "deep/er/a.png")):
        picture(tmp_path / "in" / name, 40 + 4 * i, 52, i)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    (tmp_path / "in" / "._a.png").write_bytes(b"what some systems leave behind")
    return tmp_path / "in"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- what is written


def test_multilabel_writes_bits_planes_overlays_and_csv(tmp_path: Path, images: Path) -> None:
    model, out = save(tmp_path / "best.pt"), tmp_path / "out"
    assert run(model, "--input", images, "--out", out, "--csv", tmp_path / "csv" / "x.csv", "--planes") == 0
    names = ["a", "b", "deep/er/a"]
    classes = ["Radius", "a_b c", "finger-1"]
    assert files(out / "masks") == [f"{name}.npz" for name in names]
    assert files(out / "overlays") == [f"{name}.png" for name in names]
    assert files(out / "planes") == [f"{name}/{c}.png" for name in names for c in classes]
    assert files(tmp_path / "csv") == ["x.csv"]

    predict = Predictor.from_checkpoint(model, "cpu", "off")
    with open(tmp_path / "csv" / "x.csv", newline="") as f:
        rows = list(csv.reader(f))
    assert rows[0] == ["image_name", "class", "rle"]
    labels = ["a.png", "b.jpg", "deep/er/a.png"]  # base names, but for the one that is there twice
    assert [row[:2] for row in rows[1:]] == [[label, c] for label in labels for c in BONES.names]
    for i, (name, file) in enumerate(zip(names, labels, strict=True)):
        with np.load(out / "masks" / f"{name}.npz") as held:  # which refuses pickled objects
            bits, held_names = held["bits"], held["names"]
        image = inference.read_image(images / file, 1)
        assert tuple(held_names) == BONES.names
        assert bits.dtype == np.int32
        assert np.array_equal(bits, predict(image))
        assert bits.any()
        for k, plane in enumerate(unpack(bits, 3)):
            file_name = inference.file_names(BONES.names)[k]
            written = cv2.imread(str(out / "planes" / name / f"{file_name}.png"), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(written, plane * np.uint8(255))
            assert np.array_equal(rle_decode(rows[1 + 3 * i + k][2], plane.shape), plane)
        assert cv2.imread(str(out / "overlays" / f"{name}.png")).shape == (*image.shape, 3)


def test_multiclass_and_binary_write_the_datasets_own_values(tmp_path: Path) -> None:
    image = picture(tmp_path / "x.png", 50, 60)
    for labels in (ROAD, NUCLEUS):
        model, out = save(tmp_path / "best.pt", labels), tmp_path / labels.task
        assert run(model, "--input", image, "--out", out, "--csv", out / "x.csv", "--no-overlays") == 0
        assert files(out) == ["masks/x.png", "x.csv"]
        values = cv2.imread(str(out / "masks" / "x.png"), cv2.IMREAD_UNCHANGED)
        mask = Predictor.from_checkpoint(model, "cpu", "off")(inference.read_image(image, 1))
        assert values.dtype == np.uint8
        assert values.shape == (50, 60)
        assert np.array_equal(values, np.array(labels.index)[mask])
        assert len(np.unique(values)) > 1
        rows = (out / "x.csv").read_text().splitlines()[1:]
        assert [row.split(",")[1] for row in rows] == list(labels.names)
        first = mask == (1 if labels.task == "binary" else 0)
        assert np.array_equal(rle_decode(rows[0].split(",")[2], mask.shape), first)


def test_values_beyond_255_make_a_16_bit_file() -> None:
    labels = Labels("multiclass", ("a", "b"), palette(2), (7, 26001))
    values = inference.file_values(np.array([[0, 1]], np.uint8), labels)
    assert values.dtype == np.uint16
    assert values.tolist() == [[7, 26001]]


def test_run_lengths_down_the_columns(tmp_path: Path) -> None:
    image, model = picture(tmp_path / "x.png"), save(tmp_path / "best.pt")
    for order in "CF":
        words = ("--csv", tmp_path / order, "--rle-order", order)
        assert run(model, "--input", image, "--out", tmp_path, *words) == 0
    c, f = ([row.split(",")[2] for row in (tmp_path / x).read_text().splitlines()[1:]] for x in "CF")
    assert c != f
    for by_row, by_column in zip(c, f, strict=True):
        assert np.array_equal(rle_decode(by_row, (40, 52)), rle_decode(by_column, (40, 52), "F"))


def test_coco_and_csv_and_files_hold_the_same_decided_masks(tmp_path: Path, images: Path) -> None:
    """Thresholds and filters that are typed reach everything that is written."""
    model, out = save(tmp_path / "best.pt"), tmp_path / "out"
    words = ["--thresholds", "0.4", "Radius=0.6", "--min-area", "3", "--largest", "finger-1"]
    files = ["--csv", out / "x.csv", "--coco", out / "x.json"]
    assert run(model, "--input", images, "--out", out, *files, *words) == 0
    decision = Decision((0.4, 0.6, 0.4), (3, 3, 3), (True, False, False))
    plain = Predictor.from_checkpoint(model, "cpu", "off")
    predict = Predictor(plain.model, BONES, plain.preprocess, decision=decision)
    from_coco = open_data(f"coco-polygons:{out / 'x.json'}+{images}")
    from_coco = {one.name(i): one.load(i).mask for one in from_coco for i in range(len(one))}
    from_csv = CsvMasks(out / "x.csv", BONES, from_coco)
    for name, label in (("a", "a.png"), ("b", "b.jpg"), ("deep/er/a", "deep/er/a.png")):
        image = inference.read_image(images / label, 1)
        wanted = predict(image)
        assert not np.array_equal(wanted, plain(image))
        with np.load(out / "masks" / f"{name}.npz") as held:
            assert np.array_equal(held["bits"], wanted)
        assert np.array_equal(from_csv.mask(label, wanted.shape), wanted)
        assert np.array_equal(from_coco[label], wanted)


def test_thresholds_of_the_checkpoint_unless_others_are_typed(tmp_path: Path) -> None:
    image, model = picture(tmp_path / "x.png"), save(tmp_path / "best.pt")
    state = checkpoint.read(model)
    checkpoint.write(tmp_path / "fitted.pt", replace(state, thresholds=[0.3, 0.5, 0.7]))
    written = []
    for path, words in ((model, []), (tmp_path / "fitted.pt", []), (tmp_path / "fitted.pt", ["0.5"])):
        words = ["--thresholds", *words] if words else []
        assert run(path, "--input", image, "--out", tmp_path, "--csv", tmp_path / "x.csv", *words) == 0
        written.append((tmp_path / "x.csv").read_text())
    assert written[0] == written[2] != written[1]


def test_unet_by_tiles(tmp_path: Path) -> None:
    image = picture(tmp_path / "x.png", 50, 61)
    assert run(save(tmp_path / "m.pt", ROAD, "unet", True), "--input", image, "--out", tmp_path / "out") == 0
    assert cv2.imread(str(tmp_path / "out" / "masks" / "x.png"), -1).shape == (50, 61)


# ---------------------------------------------------------------- several networks, several views, tiles


def test_several_checkpoints_views_and_tiles(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    models = [save(tmp_path / "a.pt"), save(tmp_path / "b.pt", arch="unet"), save(tmp_path / "c.pt", seed=1)]
    words = ("--weights", 2, 1, 1, "--tta", "flip,scale:0.75",
             "--tile", 20, "--overlap", 0.5, "--blend", "flat")  # fmt: skip
    for rule in ("mean", "vote"):
        out = tmp_path / rule
        rest = ("--ensemble", rule, "--csv", out / "x.csv")
        assert run(*models, "--input", images, "--out", out, *words, *rest) == 0
        said = capsys.readouterr().out
        assert "3 networks × 4 views" in said
        assert "tiles of at most 20x20 and tiles of at most 388x388" in said
        assert files(out / "masks") == ["a.npz", "b.npz", "deep/er/a.npz"]
        assert len((out / "x.csv").read_text().splitlines()) == 1 + 3 * 3
        joined = Ensemble(
            models, weights=(2, 1, 1), rule=rule, views=parse_views("flip,scale:0.75"),
            tiles=Tiles((20, 20), 0.5, "flat"), machine=("cpu", "off"),
        )  # fmt: skip
        for name in ("a.png", "b.jpg", "deep/er/a.png"):
            with np.load((out / "masks" / name).with_suffix(".npz")) as held:
                assert np.array_equal(held["bits"], joined(inference.read_image(images / name, 1)))


def test_what_cannot_be_joined_ends_with_2_before_anything_is_written(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b = save(tmp_path / "a.pt"), save(tmp_path / "b.pt", ROAD)
    out = tmp_path / "out"
    cases = [
        ((a, b), "b.pt: cannot join"),
        ((a, a, "--weights", 1), "--weights: want 2"),
        ((a, "--weights", 1, 2), "--weights: want 1"),
        ((a, "--tta", "flop"), "nearest: flip"),
        ((a, "--tile", 8), "--tile 8: too small for"),
        ((a, "--tile", 32, "--overlap", 1), "--overlap 1: must be from 0"),
        ((a, "--overlap", 0.5), "--overlap: needs --tile SIZE as well"),
        ((a, "--blend", "flat"), "--blend: needs --tile SIZE as well"),
        ((a, tmp_path / "none.pt"), "none.pt"),
    ]
    for words, message in cases:
        assert run(*words, "--input", images, "--out", out) == 2
        assert message in one_line(capsys)
    assert not out.exists()


# ---------------------------------------------------------------- names


def test_names_that_would_meet_stay_apart(tmp_path: Path) -> None:
    for name in ("x.png", "x.jpg", "s/x.png", "t/y.PNG", "masks/m.png"):
        picture(tmp_path / name)
    items = inference.find_images(tmp_path, tmp_path / "elsewhere")
    assert [(i.name, i.label) for i in items] == [
        ("masks/m", "m.png"), ("s/x", "s/x.png"), ("t/y", "y.PNG"), ("x.jpg", "x.jpg"), ("x.png", "x.png"),
    ]  # fmt: skip
    names = inference.file_names(["a", "A", "b/c", "b:c", "..", "é-1"])
    assert names == ["a_0", "A_1", "b_c_2", "b_c_3", "_", "é-1"]


def test_a_second_run_does_not_take_its_own_results_for_input(tmp_path: Path, images: Path) -> None:
    model = save(tmp_path / "best.pt", ROAD)
    for _ in range(2):
        assert run(model, "--input", images, "--out", images) == 0
    assert files(images / "overlays") == ["a.png", "b.png", "deep/er/a.png"]
    assert inference.find_images(images / "overlays", images), "but it may be told to"


def test_a_data_sets_own_masks_are_safe(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = picture(tmp_path / "data" / "images" / "x.png").parent
    truth = picture(tmp_path / "data" / "masks" / "x.png")
    before = truth.read_bytes()
    assert run(save(tmp_path / "m.pt", ROAD), "--input", image, "--out", tmp_path / "data") == 2
    assert "masks would be lost" in capsys.readouterr().err
    assert truth.read_bytes() == before


# ---------------------------------------------------------------- what bad input gets


def one_line(capsys: pytest.CaptureFixture) -> str:
    """The only line on standard error."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_broken_images_are_reported_and_do_not_stop_the_others(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    (images / "a0_empty.png").write_bytes(b"")
    (images / "a1_torn.png").write_bytes((images / "a.png").read_bytes()[:200])
    model, out = save(tmp_path / "best.pt"), tmp_path / "out"
    assert run(model, "--input", images, "--out", out, "--csv", out / "x.csv") == 1
    said = capsys.readouterr()
    failed = [line for line in said.err.splitlines() if line]
    assert len(failed) == 2
    assert all(line.startswith("failed: ") for line in failed)
    assert "a0_empty.png" in failed[0]
    assert "a1_torn.png" in failed[1]
    assert "3 of 5 images written" in said.out
    assert files(out / "masks") == ["a.npz", "b.npz", "deep/er/a.npz"]
    assert len((out / "x.csv").read_text().splitlines()) == 1 + 3 * 3


def test_usage_mistakes_end_with_2_before_anything_is_written(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    model, out = save(tmp_path / "best.pt"), tmp_path / "out"
    (tmp_path / "no_images").mkdir()
    (tmp_path / "file").write_text("")
    cases = [
        ((tmp_path / "none.pt", "--input", images, "--out", out), "none.pt"),
        ((images / "a.png", "--input", images, "--out", out), "a.png"),
        ((model, "--input", tmp_path / "nowhere", "--out", out), "nowhere: no such file or folder"),
        ((model, "--input", tmp_path / "no_images", "--out", out), "no images here"),
        ((model, "--input", images, "--out", tmp_path / "file"), "cannot make this folder"),
        ((model, "--input", images, "--out", out, "--csv", images), "is a folder; give a file name"),
        ((model, "--input", images, "--out", out, "--coco", images), "is a folder; give a file name"),
        ((model, "--out", out), "give images as --input, or data to be scored as --eval"),
        ((model, "--input", images, "--out", out, "--largest", "radius"), "no class 'radius' here"),
    ]
    for words, message in cases:
        assert run(*words) == 2
        line = one_line(capsys)
        assert line.startswith("infer.py: ")
        assert message in line
    assert not files(out) if out.exists() else True
    assert infer.main([str(model), "--input", str(images), "--out", str(out), "--device", "cudda"]) == 2
    assert "nearest: cuda" in one_line(capsys)
    enough = [model, "--input", images, "--out", out]
    for words in ([], enough[:1], [*enough, "--frob"], [*enough, "--rle-order", "Z"]):
        with pytest.raises(SystemExit) as stop:
            infer.main([*map(str, words)])
        assert stop.value.code == 2


def test_a_full_disk_stops_the_run_and_says_so(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    model, out = save(tmp_path / "best.pt"), tmp_path / "out"
    monkeypatch.setattr(os, "fsync", full)
    assert run(model, "--input", images, "--out", out, "--csv", out / "x.csv") == 1
    said = capsys.readouterr()
    assert "a.npz: cannot save (No space left on device)" in said.err
    assert "0 of 3 images written" in said.out
    assert files(out) == ["x.csv"]


def test_images_of_any_depth_channels_turn_and_size(tmp_path: Path) -> None:
    """What cameras and hospitals write: each mask has the size of the image as it is looked at."""
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    grey = picture(tmp_path / "grey.png", 40, 52)
    values = cv2.imread(str(grey), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(folder / "plain.png"), values)
    cv2.imwrite(str(folder / "deep.png"), values.astype(np.uint16) * 256 + 255)
    cv2.imwrite(str(folder / "deep.tif"), values.astype(np.uint16) * 256)
    alpha = rng.integers(0, 256, values.shape, dtype=np.uint8)
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([values] * 3 + [alpha]))
    cv2.imwrite(str(folder / "colour.png"), rng.integers(0, 256, (33, 90, 3), dtype=np.uint8))
    cv2.imwrite(str(folder / "tiny.png"), values[:1, :1])
    _, data = cv2.imencode(".jpg", values)
    quarter = bytes.fromhex("ffe10022457869660000 49492a0008000000 0100 1201 0300 01000000 06000000 00000000")
    (folder / "turned.jpg").write_bytes(data.tobytes()[:2] + quarter + data.tobytes()[2:])

    one, other = save(tmp_path / "a.pt"), save(tmp_path / "b.pt", seed=1)
    for models in ([one], [one, other]):
        out = tmp_path / f"out{len(models)}"
        assert run(*models, "--input", folder, "--out", out) == 0
        masks = {}
        for path in (out / "masks").iterdir():
            with np.load(path) as held:
                masks[path.stem] = held["bits"]
        assert {name: mask.shape for name, mask in masks.items()} == {
            "plain": (40, 52), "deep.png": (40, 52), "deep.tif": (40, 52), "alpha": (40, 52),
            "colour": (33, 90), "tiny": (1, 1), "turned": (52, 40),
        }  # fmt: skip
        assert masks["plain"].any()
        for name in ("deep.png", "deep.tif", "alpha"):
            assert np.array_equal(masks[name], masks["plain"]), name


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Several networks: the disk fills at the second image's mask, which must not be there in part."""
    saved = []

    def fills(descriptor: int) -> None:
        saved.append(descriptor)
        if len(saved) > 2:  # the first image's mask and overlay
            raise OSError(28, "No space left on device")

    models, out = [save(tmp_path / "a.pt"), save(tmp_path / "b.pt", seed=1)], tmp_path / "out"
    monkeypatch.setattr(os, "fsync", fills)
    assert run(*models, "--input", images, "--out", out, "--csv", out / "x.csv") == 1
    said = capsys.readouterr()
    assert "b.npz: cannot save (No space left on device)" in said.err
    assert "1 of 3 images written" in said.out
    assert files(out) == ["masks/a.npz", "overlays/a.png", "x.csv"]
    assert len((out / "x.csv").read_text().splitlines()) == 1 + 3


def test_a_folder_that_cannot_be_written_is_a_line(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refused(self: Path, *words: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    models = [save(tmp_path / "a.pt"), save(tmp_path / "b.pt", seed=1)]
    monkeypatch.setattr(Path, "mkdir", refused)
    assert run(*models, "--input", images, "--out", tmp_path / "out") == 2
    assert "out: cannot make this folder (Permission denied); choose another --out" in one_line(capsys)


def test_interrupted_keeps_what_was_done(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    read = inference.read_image

    def second_is_interrupted(path: Path, channels: int | None = None) -> np.ndarray:
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        return read(path, channels)

    monkeypatch.setattr(inference, "read_image", second_is_interrupted)
    model, out = save(tmp_path / "best.pt"), tmp_path / "out"
    (out / "x.csv").parent.mkdir()
    (out / "x.csv").write_text("an older one")
    assert run(model, "--input", images, "--out", out, "--csv", out / "x.csv") == 130
    assert "1 of 3 images written" in capsys.readouterr().out
    assert len((out / "x.csv").read_text().splitlines()) == 1 + 3
    assert files(out) == ["masks/a.npz", "overlays/a.png", "x.csv"]


def test_out_of_memory_is_a_line(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def huge(self: Predictor, image: np.ndarray) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(Predictor, "__call__", huge)
    assert run(save(tmp_path / "best.pt"), "--input", images, "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err.count("not enough memory") == 3


def test_several_networks_are_scored_as_one_is(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    """Against its own masks an ensemble scores 1 on each image; a truth that is missing is named."""
    models = save(tmp_path / "a.pt"), save(tmp_path / "b.pt")
    assert run(*models, "--input", images, "--out", tmp_path / "first") == 0
    words = (*models, "--input", images, "--eval", tmp_path / "first" / "masks", "--out", tmp_path / "again")
    assert run(*words) == 0
    with open(tmp_path / "again" / "scores_images.csv") as f:
        rows = list(csv.DictReader(f))
    assert len({row["image_name"] for row in rows}) == 3
    assert {row["dice"] for row in rows} <= {"1.0", "1.000000", ""}
    assert "mean" in capsys.readouterr().out


# ---------------------------------------------------------------- the door itself


def test_as_a_command(tmp_path: Path) -> None:
    """In a process of its own, where nothing but the command line is given."""
    image, model = picture(tmp_path / "x.png"), save(tmp_path / "best.pt")
    words = [infer.__file__, str(model), "--input", str(image), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 images written" in done.stdout
    assert done.stderr == ""


def test_the_option_list() -> None:
    """Options are a promise: add here what is added there."""
    options = {word for action in infer.parser()._actions for word in action.option_strings}
    assert options == {
        "-h", "--help", "--input", "--out", "--csv", "--rle-order", "--planes", "--no-overlays",
        "--device", "--amp", "--coco", "--eval", "--thresholds", "--min-area", "--largest",
        "--ensemble", "--weights", "--tta", "--tile", "--overlap", "--blend",
    }  # fmt: skip
