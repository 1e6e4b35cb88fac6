"""If these break, `infer.py --eval` prints another score than training did, or than its own files have."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import infer
import train
from tests.conftest import write_shapes
from tests.test_infer import BONES, NUCLEUS, ROAD, one_line, picture, run, save
from zoo.core import evaluate, metrics
from zoo.core.config import TrainConfig
from zoo.core.dataset import open_data, open_scored
from zoo.core.evaluate import Evaluation
from zoo.core.masks import Labels, unpack
from zoo.core.metrics import Scores
from zoo.core.predictor import Predictor
from zoo.core.runs import CsvMasks


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def figures(path: Path, column: str = "dice") -> list[float | None]:
    """A column of scores.csv, the mean at the end."""
    return [float(row[column]) if row[column] else None for row in table(path)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, data): one epoch on discs and squares, by a network without BatchNorm."""
    data = write_shapes(tmp_path_factory.mktemp("data") / "shapes", 10)
    out = tmp_path_factory.mktemp("run") / "run"
    words = f"--data folder:{data} --opt width=4 --size 32 --batch 2 --epochs 1 --lr 0.01 --amp off "
    assert train.main([*words.split(), *"--fold 1/3 --workers 0 --device cpu --out".split(), str(out)]) == 0
    return out / "best.pt", data


def test_the_score_is_the_trainers_and_that_of_the_csv_decoded_again(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best, data = trained
    assert run(best, "--eval", f"folder:{data}", "--out", tmp_path, "--csv", tmp_path / "x.csv") == 0
    said = capsys.readouterr().out
    logged = json.loads((best.parent / "metrics.jsonl").read_text())["val"]
    for column in ("dice", "iou", "pooled_dice", "pooled_iou", "competition"):
        wanted = [*(row[column] for row in logged["classes"].values()), logged[column]]
        assert figures(tmp_path / "scores.csv", column) == wanted
    assert 0 < logged["dice"] < 1

    _, val = open_data(f"folder:{data}", fold=(1, 3))
    decoded = CsvMasks(tmp_path / "x.csv", val.labels, [Path(val.name(i)).name for i in range(len(val))])
    scores = Scores(val.labels)
    for i in range(len(val)):
        sample = val.load(i)
        mask = decoded.mask(Path(sample.name).name, sample.mask.shape)
        scores.add(sample.name, metrics.count(mask, sample.mask, val.labels))
    assert [metrics.plain(v) for v in (*scores.dice(), scores.score)] == figures(tmp_path / "scores.csv")
    assert f"{scores.score:.4f}" in said
    rows = table(tmp_path / "scores_images.csv")
    assert len(rows) == len(val) * 3
    for row in rows:
        both, predicted, true = (int(row[key]) for key in ("both", "predicted", "true"))
        assert row["dice"] == ("" if predicted + true == 0 else repr(2 * both / (predicted + true)))


def test_a_folder_of_masks_and_a_csv_are_truth_as_well(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Of all ten images, the same scores by all three doors; and against itself a prediction has Dice 1."""
    best, data = trained
    words = ("--input", data / "images", "--no-overlays")
    files = ("--out", tmp_path / "a", "--csv", tmp_path / "x.csv")
    assert run(best, *words, *files, "--eval", data / "masks") == 0
    other = write_shapes(tmp_path / "again" / "shapes", 10)
    assert run(best, "--eval", f"folder:{other}", "--out", tmp_path / "b") == 0
    assert len(table(tmp_path / "a" / "scores_images.csv")) == 30
    assert (tmp_path / "a" / "scores.csv").read_text() == (tmp_path / "b" / "scores.csv").read_text()
    for truth in (tmp_path / "x.csv", tmp_path / "a" / "masks"):
        assert run(best, *words, "--out", tmp_path / "c", "--eval", truth) == 0
        assert figures(tmp_path / "c" / "scores.csv")[-1] == 1.0


@pytest.mark.parametrize("labels", [BONES, NUCLEUS, ROAD], ids=lambda x: x.task)
def test_what_infer_wrote_is_truth_for_every_task(labels: Labels, tmp_path: Path) -> None:
    model = save(tmp_path / "best.pt", labels)
    for i in range(2):
        picture(tmp_path / "in" / str(i) / "x.png", seed=i)
    words = (model, "--input", tmp_path / "in", "--no-overlays")
    assert run(*words, "--out", tmp_path / "a", "--csv", tmp_path / "x.csv", "--rle-order", "C") == 0
    for truth in (tmp_path / "a" / "masks", tmp_path / "x.csv"):
        assert run(*words, "--out", tmp_path / "b", "--eval", truth) == 0
        assert figures(tmp_path / "b" / "scores.csv")[-1] == 1.0
        assert len(table(tmp_path / "b" / "scores_images.csv")) == 2 * labels.num_classes


def test_the_worst_images_come_first_and_the_worst_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "WORST", 3)
    rng, evaluation = np.random.default_rng(0), Evaluation(BONES)
    dice = {}
    for i in range(9):
        truth = rng.integers(0, 8, (20, 30)).astype(np.int32)
        mask = np.where(rng.random(truth.shape) < (i * 4 % 9) / 9, truth, 0).astype(np.int32)
        evaluation.add(f"s/{i}.png", np.zeros((20, 30), np.uint8), mask, truth)
        pairs = zip(unpack(mask, 3), unpack(truth, 3), strict=True)
        dice[f"{i}"] = np.mean([2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in pairs])
    evaluation.write(tmp_path)
    worst = sorted(dice, key=lambda name: dice[name])[:3]
    found = sorted(path.name for path in (tmp_path / "worst").iterdir())
    assert found == [f"{i:02d}_s_{name}.png" for i, name in enumerate(worst, 1)]
    assert cv2.imread(str(tmp_path / "worst" / found[0])) is not None
    column = [float(cell) for cell in list(evaluation.table().columns[1].cells)[:-1]]
    assert column == sorted(column)
    evaluation.worst = evaluation.worst[:1]
    evaluation.write(tmp_path)
    assert len(list((tmp_path / "worst").iterdir())) == 1, "those of an earlier run would mislead"


def test_of_its_own_data_a_run_is_scored_on_what_it_did_not_see(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(data=f"folder:{shapes}", fold=(1, 5))
    _, val = open_data(config.data, fold=(1, 5))
    monkeypatch.chdir(shapes.parent)
    for spec in (config.data, f"folder:{shapes.name}", f"folder:./{shapes.name}/"):
        found = open_scored(spec, config)
        assert [found.name(i) for i in range(len(found))] == [val.name(i) for i in range(len(val))]
    assert len(open_scored(config.data, TrainConfig(data="folder:elsewhere", fold=(1, 5)))) == 10


def test_images_that_a_network_has_seen_are_counted_aloud(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Folds together on their own data, or a copy of it: a score that is too good to be true says so."""
    best, data = trained
    own, copied = f"folder:{data}", write_shapes(tmp_path / "copy", 10)
    assert run(best, "--eval", own, "--out", tmp_path / "a") == 0
    assert "warning" not in capsys.readouterr().err
    assert run(best, "--eval", f"folder:{copied}", "--out", tmp_path / "b") == 0
    train_source, _ = open_data(own, fold=(1, 3))
    count = f"was trained on {len(train_source)} of the 10 images that are scored"
    assert one_line(capsys).startswith(f"warning: {best} {count}")
    name = train_source.name(0)
    image = cv2.imread(str(copied / name), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(copied / name), 255 - image)  # another image of that name is not one it has seen
    assert run(best, "--eval", f"folder:{copied}", "--out", tmp_path / "c") == 0
    assert f"was trained on {len(train_source) - 1} of the 10" in capsys.readouterr().err


def test_truth_that_does_not_fit(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best, data = trained
    images = data / "images"
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "00.png").write_bytes((data / "masks" / "00.png").read_bytes())
    (tmp_path / "x.csv").write_text("image_name,class,rle\n00.png,Disc,1 5\n")
    (tmp_path / "y.csv").write_text("image_name,class,rle\nnone.png,disc,1 5\n")
    (tmp_path / "z.csv").write_text("image_name,class,rle\n00.png,disc,1 5\n")
    bones = save(tmp_path / "bones.pt")
    cases = [
        ((best, "--eval", data), "a folder is opened by folder:"),
        ((best, "--eval", data / "masks", "--input", tmp_path / "nowhere"), "nowhere: no such file"),
        ((best, "--eval", f"folder:{data}", "--input", images), "has images of its own; leave --input out"),
        ((best, "--eval", tmp_path / "none", "--input", images), "none: no such file or folder"),
        ((best, "--eval", tmp_path / "few", "--input", images), "no mask (.png) for 9 images: 01.png, 02"),
        ((best, "--eval", tmp_path / "x.csv", "--input", images), "no class 'Disc' here; nearest: disc"),
        ((best, "--eval", tmp_path / "y.csv", "--input", images), "no image 'none.png' here"),
        ((best, "--eval", tmp_path / "z.csv", "--input", images), "no row for 9 images"),
        ((bones, "--eval", f"folder:{data}"), "is multiclass, but the checkpoint multilabel"),
        ((save(tmp_path / "road.pt", ROAD), "--eval", f"folder:{data}"),
         "has 3 classes, the checkpoint 3; number 0 is 'background' here, 'sky' there"),
    ]  # fmt: skip
    for words, message in cases:
        assert run(*words, "--out", tmp_path / "out") == 2
        assert message in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_one_mask_that_does_not_fit_fails_alone(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best, data = trained
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (data / "masks").iterdir():
        values = cv2.imread(str(path), -1)
        values = values[:-1] if path.stem == "03" else values + 9 * (path.stem == "04")
        cv2.imwrite(str(masks / path.name), values.astype(np.uint8))
    assert run(best, "--input", data / "images", "--eval", masks, "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "03.png: is 47x40 but its image 48x40" in said.err
    assert "04.png: holds values that are none of the checkpoint's classes" in said.err
    assert "8 of 10 images written" in said.out
    assert len(table(tmp_path / "out" / "scores_images.csv")) == 8 * 3


def test_an_ignored_value_stays_ignored(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.array([[3, 40, 200, 255, 7]], np.uint8))
    assert evaluate.read_mask(tmp_path / "x.png", ROAD, (7,), (1, 5)).tolist() == [[0, 1, 2, 255, 255]]


def test_drawn_data_has_no_files(tmp_path: Path) -> None:
    """Phantoms are truth, too."""
    labels = open_data("phantom")[0].labels
    model = save(tmp_path / "best.pt", labels)
    state = infer.checkpoint.read(model)
    state.config["limit_val"] = 2
    infer.checkpoint.write(model, state)
    assert run(model, "--eval", "phantom", "--out", tmp_path / "out", "--no-overlays") == 0
    predictor, scores = Predictor.from_checkpoint(model, "cpu", "off"), Scores(labels)
    _, val = open_data("phantom", limit_val=2)
    for i in range(2):
        sample = val.load(i)
        scores.add(sample.name, metrics.count(predictor(sample.image), sample.mask, labels))
    assert figures(tmp_path / "out" / "scores.csv")[-1] == scores.score
