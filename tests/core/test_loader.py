"""If these break, a run's batches depend on the number of workers or on where it was resumed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.core.dataset import open_data
from zoo.core.loader import Batch, Order, TrainLoader, TrainSet, statistics, whole_images
from zoo.core.transforms import Augment


def loader(shapes: Path, workers: int, weighted: bool = False, tile: bool = False) -> TrainLoader:
    """Batches of 3 from the eight training images, augmented."""
    train, _ = open_data(f"folder:{shapes}")
    margin = 4 if tile else 0
    augment = Augment("default", (24, 20), margin, tile)
    return TrainLoader(TrainSet(train, augment, 1, weighted, seed=5), batch=3, workers=workers, seed=5)


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) and a.names == b.names


def test_any_number_of_workers_gives_the_same_batches(shapes: Path) -> None:
    alone, two = loader(shapes, 0), loader(shapes, 2)
    for epoch in (0, 1):
        for a, b in zip(alone.epoch(epoch), two.epoch(epoch), strict=True):
            assert equal(a, b)


def test_an_epoch_taken_up_in_its_middle_goes_on_the_same(shapes: Path) -> None:
    whole = list(loader(shapes, 0).epoch(3))
    rest = list(loader(shapes, 0).epoch(3, start=1))
    assert len(rest) == len(whole) - 1
    assert all(equal(a, b) for a, b in zip(whole[1:], rest, strict=True))


def test_every_image_once_an_epoch_in_another_order_each() -> None:
    order = Order(10, 4, seed=0)
    orders = []
    for order.epoch in (0, 1):
        keys = [key for batch in order for key in batch]
        assert [e for e, _ in keys] == [order.epoch] * 10
        orders.append([i for _, i in keys])
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1]
    assert len(order) == 3


def test_shapes_and_types_of_a_batch(shapes: Path) -> None:
    batch = next(loader(shapes, 0, weighted=True, tile=True).epoch(0))
    assert (batch.image.shape, batch.image.dtype) == ((3, 1, 32, 28), torch.uint8)
    assert (batch.mask.shape, batch.mask.dtype) == ((3, 24, 20), torch.uint8)
    assert batch.weight is not None
    assert (batch.weight.shape, batch.weight.dtype) == ((3, 24, 20), torch.float32)
    assert len(batch.names) == 3


def test_whole_images_come_in_order_at_their_own_size(shapes: Path) -> None:
    _, val = open_data(f"folder:{shapes}")
    for workers in (0, 1):
        samples = list(whole_images(val, workers))
        assert [s.name for s in samples] == [val.name(i) for i in range(len(val))]
        assert all(s.image.shape == s.mask.shape == (48, 40) for s in samples)


def test_statistics_by_formula(shapes: Path) -> None:
    train, _ = open_data(f"folder:{shapes}")
    pixels = np.concatenate([train.load(i).image.ravel() for i in range(len(train))]) / 255
    mean, deviation = statistics(train, 1)
    assert mean[0] == pytest.approx(pixels.mean(), abs=1e-4)
    assert deviation[0] == pytest.approx(pixels.std(), abs=1e-4)
