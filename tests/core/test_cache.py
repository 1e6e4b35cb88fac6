"""If these break, a run trains on stale samples, on halves of them, or fills a disk."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.core.test_trainer import assert_same_run, config, trainer
from zoo.core.cache import HEAD, MAGIC, Cache, Cached
from zoo.core.content import describe
from zoo.core.dataset import Source, open_data
from zoo.core.phantom import Phantoms
from zoo.errors import InputError

SIZE = (20, 32)


@pytest.fixture
def source(shapes: Path) -> Source:
    return open_data(f"folder:{shapes}")[0]


def through(source: Source, folder: Path, gb: float = 0.0, kind: str = "folder") -> Cached:
    return Cached(source, describe(source), Cache(folder, gb * 1e9), kind)


def samples(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sample"))


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize("size", [None, SIZE])
def test_a_kept_sample_is_the_sample(source: Source, tmp_path: Path, size: tuple[int, int] | None) -> None:
    cached = through(source, tmp_path)
    for _ in range(2):
        for i in range(len(source)):
            ours, plain = cached.load(i, size), source.load(i, size)
            assert ours.name == plain.name
            for a, b in ((ours.image, plain.image), (ours.mask, plain.mask)):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                np.testing.assert_array_equal(a, b)
    assert len(samples(tmp_path)) == len(source)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_every_form_of_image_and_mask(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    """Grey and RGB; index masks, 31 and 63 classes as bits."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shape, np.uint8)
    mask = rng.integers(0, np.iinfo(dtype).max, (3, 11), dtype, endpoint=True)
    cache = Cache(tmp_path)
    cache.write("a", image, mask)
    found = cache.read("a")
    assert found
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], mask)
    assert found[1].dtype == dtype
    assert all(not a.flags.owndata for a in found), "mapped, not copied"
    found[0][:] = 0
    again = cache.read("a")
    assert again
    np.testing.assert_array_equal(again[0], image, err_msg="who changes a sample changes no file")


def test_a_second_epoch_decodes_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = through(source, tmp_path)
    for i in range(len(source)):
        cached.load(i, SIZE)
    monkeypatch.setattr(type(source), "load", lambda *_: pytest.fail("decoded again"))
    for i in range(len(source)):
        cached.load(i, SIZE)
    through(source, tmp_path).load(0, SIZE)


def test_a_run_with_a_cache_is_the_run(shapes: Path, tmp_path: Path) -> None:
    """The same losses and weights, from a cold cache, a warm one, and none, with workers or without."""
    c = config(shapes, epochs=2, augment="default")
    trainer(c, tmp_path / "plain").fit()
    for run, workers in (("cold", 1), ("warm", 0)):
        trainer(replace(c, cache=str(tmp_path / "cache"), workers=workers), tmp_path / run).fit()
        assert_same_run(tmp_path / "plain", tmp_path / run)
    assert len(samples(tmp_path / "cache")) == 8 + 2


# ---------------------------------------------------------------- what it is made of


def test_other_settings_have_other_files(source: Source, tmp_path: Path) -> None:
    cached = through(source, tmp_path)
    keys = {cached.key(0, SIZE), cached.key(0, None), cached.key(1, SIZE), cached.key(0, SIZE[::-1])}
    for other in (
        through(source, tmp_path, kind="voc"),
        Cached(source, describe(source), cached.cache, "folder", ignore=(3,)),
    ):
        keys.add(other.key(0, SIZE))
    source.labels = replace(source.labels, index=(0, 7, 9))
    keys.add(through(source, tmp_path).key(0, SIZE))
    assert len(keys) == 7
    assert through(source, tmp_path / "elsewhere").key(0, SIZE) in keys


def test_a_changed_file_is_read_anew_and_not_in_the_middle_of_a_run(source: Source, tmp_path: Path) -> None:
    running = through(source, tmp_path)
    before = running.load(0, SIZE).image
    path = source.files(0)[0]
    changed = 255 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), changed)
    np.testing.assert_array_equal(running.load(0, SIZE).image, before)
    with pytest.raises(InputError, match=rf"^{source.name(0)}: its files have changed since this run began"):
        running.load(0, None)
    new = through(source, tmp_path).load(0, SIZE).image
    np.testing.assert_array_equal(new, source.load(0, SIZE).image)
    assert not np.array_equal(new, before)


def test_what_is_drawn_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--cache: phantom is drawn, not read; leave it out"):
        through(Phantoms(2, 0), tmp_path, kind="phantom")


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "grown", "mask"])
def test_a_damaged_file_is_written_again(source: Source, tmp_path: Path, damage: str) -> None:
    cached = through(source, tmp_path)
    cached.load(0, SIZE)
    (file,) = samples(tmp_path)
    whole = file.read_bytes()
    assert whole.startswith(MAGIC)
    wrong = whole[: HEAD.size - 4] + b"\2\0\0\0" + whole[HEAD.size :]
    zeros = bytes(len(whole))
    broken = {"cut": whole[:-1], "empty": b"", "zeros": zeros, "grown": whole + b"x", "mask": wrong}
    file.write_bytes(broken[damage])
    np.testing.assert_array_equal(cached.load(0, SIZE).mask, source.load(0, SIZE).mask)
    assert file.read_bytes() == whole


def test_a_full_disk_ends_the_keeping_not_the_run(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = through(source, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    for i in range(3):
        np.testing.assert_array_equal(cached.load(i, SIZE).image, source.load(i, SIZE).image)
    assert cached.cache.closed
    assert os.listdir(tmp_path) == ["shapes"]


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^--cache .*file: cannot write there \(.*\); choose another$"):
        Cache(tmp_path / "file")


def test_several_writers_of_the_same_samples(source: Source, tmp_path: Path) -> None:
    """No reader ever sees half of a file."""
    content, whole = describe(source), [source.load(i, SIZE) for i in range(len(source))]

    def work(seed: int) -> None:
        cached = Cached(source, content, Cache(tmp_path), "folder")
        for i in np.random.default_rng(seed).integers(0, len(source), 60).tolist():
            np.testing.assert_array_equal(cached.load(i, SIZE).mask, whole[i].mask)
            if seed % 2:
                cached.cache.path(cached.key(i, SIZE)).unlink(missing_ok=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not list(tmp_path.glob("*.part"))


# ---------------------------------------------------------------- its size


def test_the_oldest_go_first_and_none_that_is_in_use(source: Source, tmp_path: Path) -> None:
    one = HEAD.size + SIZE[0] * SIZE[1] * 4
    old, newer = Cache(tmp_path), Cache(tmp_path)
    image, mask = np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.uint8)
    for n, key in enumerate("abc"):
        old.write(key, image, mask)
        os.utime(old.path(key), (time.time() - 100 + n,) * 2)
    newer = Cache(tmp_path, limit=4 * one)
    assert newer.read("a")  # now in use, and no longer the oldest
    newer.write("d", image, mask)
    assert [p.stem for p in samples(tmp_path)] == ["a", "b", "c", "d"]
    newer.write("e", image, mask)
    assert [p.stem for p in samples(tmp_path)] == ["a", "c", "d", "e"]
    newer.write("f", image, mask)
    newer.write("g", image, mask)  # all that is there is in use
    assert [p.stem for p in samples(tmp_path)] == ["a", "d", "e", "f"]
    assert newer.closed
    assert str(newer) == f"{tmp_path} holds 4 samples, 0.00 of {4 * one / 1e9:g} GB"


def test_parts_of_killed_writers_are_cleared_away(tmp_path: Path) -> None:
    Cache(tmp_path).write("a", np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    for name, age in (("x.1.part", 3600), ("y.2.part", 1)):
        (tmp_path / name).write_bytes(bytes(1000))
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    Cache(tmp_path, limit=1500)
    assert sorted(os.listdir(tmp_path)) == [samples(tmp_path)[0].name, "y.2.part"]
