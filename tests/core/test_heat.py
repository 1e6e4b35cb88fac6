"""If these break, the bright spots of a heat map are not where the network is wrong: for who reads them."""

import math

import numpy as np
import pytest
import torch

import zoo
from zoo.core.config import Preprocess
from zoo.core.dataset import Sample
from zoo.core.heat import loss_map, pixel_loss
from zoo.core.losses import Criterion, make_target
from zoo.core.masks import IGNORE, Labels, pack, palette, resize_mask
from zoo.core.predictor import Predictor

SEVEN = Labels("multilabel", tuple("abcdefg"), palette(7))
ROAD = Labels("multiclass", ("a", "b", "c"), palette(3))
CELL = Labels("binary", ("cell",), palette(1), (0, 1))
RNG = np.random.default_rng(0)


def truth(labels: Labels, size: tuple[int, int]) -> np.ndarray:
    if labels.task == "multilabel":
        return pack(RNG.random((labels.num_classes, *size)) < 0.3)
    mask = RNG.integers(0, max(2, labels.num_classes), size).astype(np.uint8)
    mask[0, :3] = IGNORE
    return mask


def slow_loss(logits: np.ndarray, mask: np.ndarray, labels: Labels) -> np.ndarray:
    """Pixel by pixel: of softmax from probabilities, of each sigmoid -ln 1 / (1 + exp(-z))."""
    loss = np.zeros(mask.shape)
    for y, x in np.ndindex(mask.shape):
        z = logits[:, y, x].astype(float)
        if labels.task == "multiclass":
            p = np.exp(z) / np.exp(z).sum()
            loss[y, x] = math.nan if mask[y, x] == IGNORE else -math.log(p[mask[y, x]])
            continue
        for k, logit in enumerate(z):
            there = mask[y, x] == 1 if labels.task == "binary" else bool(int(mask[y, x]) >> k & 1)
            loss[y, x] += math.log1p(math.exp(-logit if there else logit))
        if labels.task == "binary" and mask[y, x] == IGNORE:
            loss[y, x] = math.nan
    return loss


@pytest.mark.parametrize("labels", [SEVEN, ROAD, CELL], ids=lambda labels: labels.task)
def test_the_loss_of_a_pixel_is_minus_the_log_probability_of_its_labels(labels: Labels) -> None:
    mask = truth(labels, (9, 13))
    logits = torch.randn(labels.num_classes, 9, 13) * 3
    got = pixel_loss(logits, mask, labels)
    want = slow_loss(logits.numpy(), mask, labels)
    assert got.dtype == np.float32
    assert np.isnan(got).sum() == np.isnan(want).sum() == (0 if labels.task == "multilabel" else 3)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("labels", "term"), [(SEVEN, "bce"), (ROAD, "ce"), (CELL, "bce")])
def test_its_mean_is_the_term_of_the_training_loss(labels: Labels, term: str) -> None:
    mask = truth(labels, (9, 13))
    logits = torch.randn(labels.num_classes, 9, 13)
    classes = labels.num_classes if labels.task == "multilabel" else 1
    target = make_target(torch.from_numpy(mask)[None], labels)
    want = Criterion(term, labels)(logits[None], target).item()
    assert np.nanmean(pixel_loss(logits, mask, labels)) / classes == pytest.approx(want, rel=1e-5)


def predictor(labels: Labels, tile: bool) -> Predictor:
    torch.manual_seed(0)
    model = zoo.build("unet", labels.num_classes, 1, width=2) if tile else zoo.build("unetpp", 3, 1, width=2)
    return Predictor(model, labels, Preprocess(1, (0.5,), (0.1,), (36, 36), tile))


def test_a_resized_image_has_its_map_at_the_networks_size() -> None:
    image, mask = RNG.integers(0, 256, (50, 61)).astype(np.uint8), truth(ROAD, (50, 61))
    p = predictor(ROAD, tile=False)
    got = loss_map(p, Sample(image, mask, "x"))
    assert got.shape == (36, 36)
    with torch.no_grad():
        logits = p.whole(image)
    want = slow_loss(logits.numpy(), resize_mask(mask, (36, 36)), ROAD)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_tiles_have_their_map_at_the_images_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """In small tiles as in one large one, for their answers are the same."""
    monkeypatch.setattr("zoo.core.predictor.VALID_TILE", 20)
    image, mask = RNG.integers(0, 256, (70, 61)).astype(np.uint8), truth(SEVEN, (70, 61))
    p = predictor(SEVEN, tile=True)
    tiles = list(p.tiles(image))
    assert len(tiles) == 6
    got = loss_map(p, Sample(image, mask, "x"))
    assert got.shape == mask.shape
    monkeypatch.setattr("zoo.core.predictor.VALID_TILE", 100)
    (y, x, logits), = p.tiles(image)
    assert (y, x) == (0, 0)
    want = slow_loss(logits.detach()[:, :70, :61].numpy(), mask, SEVEN)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
