"""Thresholds that give each class its best Dice on validation data, found in one pass over the images.

For each image and class the logits fall between the thresholds of a grid; a histogram over the places between
them, split by the truth, has the counts |P∩T| and |P| at every threshold of the grid at once, exactly.  The
thresholds are chosen on the very images they are scored on, so that score flatters them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo.core import checkpoint, metrics
from zoo.core.decide import HALF
from zoo.core.masks import IGNORE, Labels, class_plane
from zoo.core.predictor import Predictor, plane_of
from zoo.core.run import Lock
from zoo.core.validation import our_share
from zoo.errors import InputError

if TYPE_CHECKING:
    from zoo.core.trainer import Trainer

GRID = tuple(i / 100 for i in range(1, 100))


def check(labels: Labels) -> None:
    """Raise InputError unless masks of these classes are decided by thresholds."""
    if labels.task == "multiclass":
        raise InputError(
            "--fit-thresholds: these classes exclude one another, so the most probable one wins and there is "
            "no threshold; leave it out"
        )


def fit(trainer: Trainer) -> None:
    """Fit the thresholds of a finished run's best.pt and keep them in it; all processes must call it."""
    path, ranks = trainer.out / "best.pt", trainer.ranks
    parts = ranks.gather(ranks.together(lambda: share(trainer, checkpoint.read(path))))
    found = sorted((one for part in parts for one in part), key=lambda one: one[0])
    counts = np.array([of_image for _, of_image in found])  # (n, K, 99, 3)
    scores = np.stack([metrics.means(metrics.dice(counts[:, :, j])) for j in range(len(GRID))])
    thresholds = best(scores, counts[:, :, 0, 2].sum(0))
    if not ranks.chief:
        return
    with Lock(trainer.out):
        checkpoint.write(path, replace(checkpoint.read(path), thresholds=thresholds))
    before = metrics.mean(scores[GRID.index(HALF)])
    after = metrics.mean(scores[GRID.index(t), k] for k, t in enumerate(thresholds))
    trainer.display.note(
        f"thresholds from {min(thresholds):g} to {max(thresholds):g} are kept in {path}: Dice {after:.4f} on "
        f"the images that they were fitted on, {before:.4f} at 0.5"
    )


def share(trainer: Trainer, state: checkpoint.Checkpoint) -> list[tuple[int, np.ndarray]]:
    """(number, `count`) of our part of the validation images, predicted as infer.py will."""
    predictor = Predictor.of(state, trainer.device, trainer.amp)
    samples = our_share(trainer.val_source, trainer.config.workers, trainer.ranks)
    return [(i, count(predictor, sample.image, sample.mask)) for i, sample in samples]


@torch.no_grad()
def count(predictor: Predictor, image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|P∩T|, |P| and |T| of each class at each threshold of GRID, over the valid pixels: int64 (K, 99, 3).

    truth: a mask (H, W) of the image's size, in its memory form.
    """
    labels = predictor.labels
    cuts = torch.tensor([math.log(t / (1 - t)) for t in GRID], device=predictor.device)
    places = np.zeros((labels.num_classes, 2, len(GRID) + 1), np.int64)  # (class, in the truth or not, place)
    valid = truth != IGNORE if labels.task == "binary" else np.ones(truth.shape, bool)
    for y, x, logits, size in predictor.parts(image):
        inside = slice(y, y + size[0]), slice(x, x + size[1])
        for k in range(labels.num_classes):
            place = torch.bucketize(plane_of(logits, k, size).contiguous(), cuts, out_int32=True)
            true = class_plane(truth[inside], labels, k)
            cell = (place.cpu().numpy() + true * np.int32(len(GRID) + 1))[valid[inside]]
            places[k] += np.bincount(cell, minlength=places[k].size).reshape(places[k].shape)
    above = places[:, :, ::-1].cumsum(2)[:, :, ::-1][:, :, 1:]  # pixels above each threshold
    total = np.broadcast_to(places[:, 1].sum(1)[:, None], above[:, 1].shape)
    return np.stack([above[:, 1], above.sum(1), total], axis=2)


def best(scores: np.ndarray, true: np.ndarray) -> list[float]:
    """The threshold of each class with the best of `scores` (99, K), of equals that nearest to 0.5.

    true (K,): pixels that have the class; one that is nowhere keeps 0.5.
    """
    order = sorted(range(len(GRID)), key=lambda j: abs(GRID[j] - HALF))
    ranked = np.nan_to_num(scores[order], nan=-1.0)
    return [GRID[order[j]] if some else HALF for j, some in zip(ranked.argmax(0), true, strict=True)]
