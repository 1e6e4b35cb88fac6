"""From a source to batches: the same ones for any number of workers, from any point of any epoch on.

Order and augmentation are functions of (seed, epoch, sample): nothing is drawn from a worker's own state, and
so several processes that share each batch see what one would.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.core.config import channels_first
from zoo.core.dataset import Sample, Source, Subset
from zoo.core.masks import IGNORE, mask_dtype
from zoo.core.ranks import ALONE, Ranks
from zoo.core.transforms import Augment, balance, border_weight
from zoo.errors import InputError

Key = tuple[int, int]  # (epoch, index)
Item = tuple[Tensor, Tensor, Tensor | None, str, int]  # image, mask, weight, name, seed


class Batch(NamedTuple):
    """image: uint8 (N, C, H, W).  mask: bits (int32, int64) or index (uint8), (N, h, w).

    weight: float32 (N, h, w), only for a loss that asks for it.
    seeds: of what is drawn for each sample beside its augmentation, see `zoo.dropout` and `zoo.core.mix`.
    partners: the sample that each mixes with, which may be itself.
    bad: what is wrong with samples that should be here and could not be read.
    Without names it is a ghost: one black image that does not count, where no sample is left for a process.
    """

    image: Tensor
    mask: Tensor
    weight: Tensor | None
    names: list[str]
    seeds: list[int]
    partners: list[int]
    bad: list[str]


class TrainSet(Dataset):
    """Samples of `source`, augmented by (seed, epoch, index), as tensors of `channels`."""

    def __init__(self, source: Source, augment: Augment, channels: int, weighted: bool, seed: int):
        self.source, self.augment, self.channels = source, augment, channels
        self.weighted, self.seed = weighted, seed
        self.class_weights = balance(pixels_of_classes(source)) if weighted else None

    def __getitem__(self, key: Key) -> Item | InputError:
        try:
            return self.load(*key)
        except InputError as e:  # a file lost or broken since it was checked: said in the training process
            return e

    def load(self, epoch: int, index: int) -> Item:
        """Sample `index` as `epoch` sees it."""
        sample = self.source.load(index, None if self.augment.tile else self.augment.size)
        if self.weighted:
            weight_map = border_weight(sample.mask, class_weights=self.class_weights)
            sample = replace(sample, weight=weight_map)
        sample = self.augment(sample, np.random.default_rng((self.seed, epoch, index)))
        seed = np.random.SeedSequence((self.seed, epoch, index, 1)).generate_state(1, np.uint64)[0] >> 1
        weight = None if sample.weight is None else torch.from_numpy(np.ascontiguousarray(sample.weight))
        mask = torch.from_numpy(np.ascontiguousarray(sample.mask))
        return channels_first(sample.image, self.channels), mask, weight, sample.name, int(seed)

    def ghost(self) -> Item:
        """A black image without a name."""
        m, (h, w) = self.augment.margin, self.augment.size
        image = np.zeros((self.channels, h + 2 * m, w + 2 * m), np.uint8)
        mask = torch.from_numpy(np.zeros((h, w), mask_dtype(self.source.labels)))
        return torch.from_numpy(image), mask, torch.zeros(h, w) if self.weighted else None, "", 0

    def collate(self, samples: list[Item | InputError]) -> Batch:
        """Stack the samples that could be read."""
        bad = [str(s) for s in samples if isinstance(s, InputError)]
        found = {place: s for place, s in enumerate(samples) if not isinstance(s, InputError)}
        items, order = list(found.values()), {place: i for i, place in enumerate(found)}
        partners = [order.get(place ^ 1, i) for place, i in order.items()] or [0]  # of 0 and 1, 2 and 3, …
        images, masks, weights, names, seeds = zip(*items or [self.ghost()], strict=True)
        weight = None if weights[0] is None else torch.stack(weights)
        named = list(names) if items else []
        return Batch(torch.stack(images), torch.stack(masks), weight, named, list(seeds), partners, bad)


class Order(Sampler[list[Key]]):
    """The batches of one epoch: a permutation drawn from (seed, epoch), from batch `start` on.

    Of each batch process r of n takes samples r, r + n, r + 2n, …: of the last one maybe none.
    pairs: it takes pairs of neighbours so, which stay together.
    """

    def __init__(self, length: int, batch: int, seed: int, ranks: Ranks = ALONE, pairs: bool = False):
        self.length, self.batch, self.seed, self.ranks = length, batch, seed, ranks
        self.together = 2 if pairs else 1
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Batches in a whole epoch; the last may be smaller."""
        return -(-self.length // self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        for first in range(self.start * self.batch, self.length, self.batch):
            batch = order[first : min(first + self.batch, self.length)]
            ours = range(self.ranks.rank * self.together, len(batch), self.ranks.size * self.together)
            yield [(self.epoch, int(i)) for at in ours for i in batch[at : at + self.together]]


class TrainLoader:
    """Our share of the batches of any epoch, from any batch on; `workers` stay alive between epochs.

    batch: samples of all `ranks` together.  pairs: neighbours come to the same of them.
    """

    def __init__(
        self, dataset: TrainSet, batch: int, workers: int, seed: int,
        ranks: Ranks = ALONE, pairs: bool = False,
    ):  # fmt: skip
        may_fork()
        self.order = Order(len(dataset.source), batch, seed, ranks, pairs)
        self.loader = DataLoader(
            dataset,
            batch_sampler=self.order,
            collate_fn=dataset.collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=quiet_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: an iterator draws, and the run's must not notice
        )

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Our share of the batches of `epoch` from number `start` on."""
        self.order.epoch, self.order.start = epoch, start
        return iter(self.loader)


class _Whole(Dataset):
    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample | InputError:
        try:
            return self.source.load(index)
        except InputError as e:
            return e


def _one(samples: list[Sample | InputError]) -> Sample | InputError:
    return samples[0]


def whole_images(source: Source, workers: int, indices: Sequence[int] | None = None) -> Iterator[Sample]:
    """The samples of `source` in order, each at its own size, loaded ahead by `workers` processes.

    indices: only these.  Raises InputError for a file gone bad.
    """
    may_fork()
    loader = DataLoader(
        _Whole(source if indices is None else Subset(source, indices)),
        collate_fn=_one,
        num_workers=workers,
        worker_init_fn=quiet_worker,
        generator=torch.Generator(),
    )
    for loaded in loader:
        if isinstance(loaded, InputError):
            raise loaded
        yield loaded


def quiet_worker(_: int) -> None:
    """Ctrl-C and SIGTERM to a whole group of processes are the training process's to handle.

    A group of its own, for SIGTERM must not be ignored: it is how a worker is ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)


def dead_worker(e: RuntimeError) -> str:
    """Words for people where torch says that a worker is gone, which it may at any instant; else ""."""
    if "DataLoader worker (pid" not in str(e):
        return ""
    return f"a process that loads data died ({str(e).splitlines()[0]}); try fewer --workers"


def may_fork() -> None:
    """Before a worker is forked: OpenCV's threads would not live on in it, and it would wait for them."""
    cv2.setNumThreads(0)


def spread(source: Source, most: int) -> Iterator[Sample]:
    """At most `most` samples at their own size, evenly spread over `source`."""
    for i in np.unique(np.linspace(0, len(source) - 1, most).astype(int)):
        yield source.load(int(i))


def pixels_of_classes(source: Source) -> np.ndarray:
    """Pixels of each value of the index masks of `source`, (256,), ignored ones as 0."""
    counts = sum(np.bincount(s.mask.ravel(), minlength=256) for s in spread(source, len(source)))
    counts = np.asarray(counts)
    counts[IGNORE] = 0
    return counts


def statistics(source: Source, channels: int, most: int = 32) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation a channel of values 0..1, over at most `most` samples."""
    sums = np.zeros((2, channels))
    count = 0
    for sample in spread(source, most):
        x = channels_first(sample.image, channels).numpy().reshape(channels, -1) / 255.0
        sums += x.sum(1), (x**2).sum(1)
        count += x.shape[1]
    mean = sums[0] / count
    deviation = np.sqrt(np.maximum(sums[1] / count - mean**2, 0))
    return tuple(mean.round(4).tolist()), tuple(np.maximum(deviation, 1e-3).round(4).tolist())
