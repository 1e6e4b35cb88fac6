"""If these break, thresholds are kept that are worse than 0.5, or the score they promise is not the masks'.

Every threshold of the grid is tried in turn by a predictor that decides by it.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from tests.core.test_decide import Answer
from tests.test_infer import save
from zoo.archs.unet import UNet
from zoo.core import checkpoint, metrics, thresholds
from zoo.core.config import Preprocess
from zoo.core.dataset import open_data
from zoo.core.decide import Decision
from zoo.core.masks import Labels, pack, palette
from zoo.core.metrics import Scores
from zoo.core.predictor import Predictor
from zoo.core.ranks import ALONE, Ranks
from zoo.core.thresholds import GRID, best, count, share

BONES = Labels("multilabel", ("Radius", "Ulna", "Pisiform"), palette(3))
NUCLEUS = Labels("binary", ("nucleus",), palette(1), (0, 1))


def truth(labels: Labels, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(1)
    if labels.task == "binary":
        return rng.choice(np.array([0, 1, 255], np.uint8), size)
    return pack(rng.random((labels.num_classes, *size)) < 0.3)


@pytest.mark.parametrize("size", [(24, 20), (37, 52)], ids=str)
@pytest.mark.parametrize("labels", [BONES, NUCLEUS], ids=["multilabel", "binary"])
def test_one_pass_counts_what_a_loop_over_the_grid_counts(labels: Labels, size: tuple[int, int]) -> None:
    logits = torch.randn(labels.num_classes, 24, 20) * 2
    logits[-1, 0] = 0.0  # exactly at 0.5, which is not above it
    preprocess = Preprocess(1, (0.0,), (1.0,), (24, 20))
    predictor = Predictor(Answer(logits), labels, preprocess)
    assert_counts(predictor, np.zeros(size, np.uint8), truth(labels, size))


def test_tiles_that_overlap_count_each_pixel_once() -> None:
    model = UNet(1, 1, width=2)
    predictor = Predictor(model, NUCLEUS, Preprocess(1, (0.5,), (0.1,), (36, 36), tile=True))
    image = np.random.default_rng(0).integers(0, 256, (60, 800), dtype=np.uint8)
    assert len(list(predictor.tiles(image))) > 1
    assert_counts(predictor, image, truth(NUCLEUS, image.shape))


def assert_counts(predictor: Predictor, image: np.ndarray, mask: np.ndarray) -> None:
    found, labels = count(predictor, image, mask), predictor.labels
    for j, t in enumerate(GRID):
        predictor.decision = Decision.of(labels, (t,) * labels.num_classes)
        np.testing.assert_array_equal(found[:, j], metrics.count(predictor(image), mask, labels))


def test_the_best_of_the_grid_and_of_equals_the_one_nearest_to_a_half() -> None:
    scores = np.full((len(GRID), 4), 0.3)
    scores[GRID.index(0.2), 0] = 0.4
    scores[GRID.index(0.4) : GRID.index(0.45) + 1, 1] = 0.9
    scores[GRID.index(0.3), 3] = 0.9  # of a class that is nowhere: its false alarms left out of the mean
    scores[:, 2] = np.nan
    assert best(scores, np.array([5, 5, 5, 0])) == [0.2, 0.45, 0.5, 0.5]


@pytest.mark.slow
def test_a_run_keeps_them_and_they_do_not_lower_its_score(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    words = "--arch unetpp --opt width=4 --opt norm=batch --limit-train 8 --limit-val 3 --size 64 --epochs 3 "
    words += "--batch 2 --lr 0.01 --amp off --workers 0 --device cpu"
    assert train.main([*words.split(), "--out", str(out), "--fit-thresholds"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    state = checkpoint.read(out / "best.pt")
    assert len(state.thresholds) == 29
    assert set(state.thresholds) - {0.5}
    predictor = Predictor.from_checkpoint(out / "best.pt", "cpu", "off")
    _, val = open_data("phantom", limit_val=3)
    scores = {}
    for name, given in (("fitted", state.thresholds), ("half", ())):
        predictor.decision, scores[name] = Decision.of(state.labels, given), Scores(state.labels)
        for i in range(len(val)):
            sample = val.load(i)
            mask = predictor(sample.image)
            scores[name].add(sample.name, metrics.count(mask, sample.mask, state.labels))
    fitted, half = (scores[name].dice() for name in ("fitted", "half"))
    assert (np.nan_to_num(fitted) >= np.nan_to_num(half)).all()
    assert f"Dice {metrics.mean(fitted):.4f} on the images" in said
    assert f"{metrics.mean(half):.4f} at 0.5" in said
    assert checkpoint.read(out / "last.pt").thresholds == []


def test_processes_share_the_images_without_doubles(tmp_path: Path) -> None:
    """Else thresholds would depend on how many processes there are."""
    _, val = open_data("phantom", limit_val=3)
    state = checkpoint.read(save(tmp_path / "best.pt", val.labels))

    def counted(ranks: Ranks) -> dict[int, np.ndarray]:
        config, device = SimpleNamespace(workers=0), torch.device("cpu")
        run = SimpleNamespace(device=device, amp=None, val_source=val, config=config, ranks=ranks)
        return dict(share(run, state))

    alone, parts = counted(ALONE), [counted(Ranks(rank, 2)) for rank in (0, 1)]
    assert [sorted(part) for part in parts] == [[0, 2], [1]]
    assert sorted(alone) == [0, 1, 2]
    for part in parts:
        for i, counts in part.items():
            np.testing.assert_array_equal(counts, alone[i])


def test_classes_that_exclude_one_another_have_none(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Said before an hour of training, not after it."""
    words = f"--data folder:{shapes} --opt width=2 --size 32 --out {tmp_path / 'run'} --fit-thresholds"
    assert train.main(words.split()) == 2
    assert "--fit-thresholds: these classes exclude one another" in capsys.readouterr().err
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_network_that_is_sure_keeps_a_half() -> None:
    """Every threshold gives the same masks, so there is no reason to move it."""
    logits = torch.where(torch.rand(1, 24, 20) < 0.4, 9.0, -9.0)
    predictor = Predictor(Answer(logits), NUCLEUS, Preprocess(1, (0.0,), (1.0,), (24, 20)))
    counts = count(predictor, np.zeros((24, 20), np.uint8), (logits[0] > 0).numpy().astype(np.uint8))
    scores = np.stack([metrics.means(metrics.dice(counts[None, :, j])) for j in range(len(GRID))])
    assert scores.min() == 1
    assert best(scores, counts[:, 0, 2]) == [0.5]
    assert thresholds.HALF in GRID
