"""Scoring a network on validation data, the images shared out among the processes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from zoo.core import pictures
from zoo.core.dataset import Sample, Source
from zoo.core.loader import whole_images
from zoo.core.masks import Labels
from zoo.core.metrics import Scores, count
from zoo.core.predictor import Predictor
from zoo.core.ranks import Ranks
from zoo.errors import InputError

SAMPLES = 4  # images drawn after each epoch, in the run folder and in logs


class Found(NamedTuple):
    """Image `i` of the source: its `metrics.count`, and a panel to look at if it is one of the first."""

    i: int
    name: str
    counts: np.ndarray
    panel: np.ndarray | None


def our_share(source: Source, workers: int, ranks: Ranks) -> Iterator[tuple[int, Sample]]:
    """(number, sample) of every n-th image of `source`: no image twice, whatever their number.

    Raises InputError for one that cannot be read any more: an epoch that scored fewer images could not be
    compared with the others, by which the best is chosen.
    """
    ours = range(ranks.rank, len(source), ranks.size)
    try:
        yield from zip(ours, whole_images(source, workers, ours), strict=True)
    except InputError as e:
        why = "validation leaves none out, for its scores are to be compared"
        raise InputError(f"{e}; {why}: put it back") from e


def score(predictor: Predictor, source: Source, workers: int, ranks: Ranks) -> Iterator[Found]:
    """Our share of `source`."""
    for i, sample in our_share(source, workers, ranks):
        mask, panel = predictor(sample.image), None
        if i < SAMPLES:
            panel = pictures.panel(sample.image, sample.mask, mask, source.labels, sample.name)
        yield Found(i, sample.name, count(mask, sample.mask, source.labels), panel)


def gathered(found: list[Found], labels: Labels, ranks: Ranks) -> tuple[Scores, list[np.ndarray]]:
    """The scores of all images in the source's order, and the panels; the same in every process."""
    scores, panels = Scores(labels), []
    for one in sorted((one for share in ranks.gather(found) for one in share), key=lambda one: one.i):
        scores.add(one.name, one.counts)
        if one.panel is not None:
            panels.append(one.panel)
    return scores, panels
