"""If these break, a run trains on stale samples, on halves of them, or fills a disk."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.core.test_trainer import assert_same_run, config, trainer
from zoo.core.cache import COUNT, HEAD, MAGIC, Cache, Cached
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


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "tail", "grown", "mask"])
def test_a_damaged_file_is_written_again(source: Source, tmp_path: Path, damage: str) -> None:
    """tail: after a power cut a file can have its length, and zeros where it was not on the disk yet."""
    through(source, tmp_path).load(0, SIZE)
    cached = through(source, tmp_path)
    (file,) = samples(tmp_path)
    whole = file.read_bytes()
    assert whole.startswith(MAGIC)
    wrong = whole[: HEAD.size - 4] + b"\2\0\0\0" + whole[HEAD.size :]
    zeros = bytes(len(whole))
    tail = whole[:-400] + zeros[-400:]
    broken = {"cut": whole[:-1], "empty": b"", "zeros": zeros, "tail": tail, "mask": wrong}
    broken["grown"] = whole + b"x"
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
    assert sorted(os.listdir(tmp_path)) == [COUNT, "shapes"]


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
    one = HEAD.size + 4 + SIZE[0] * SIZE[1] * 4
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
    assert sorted(os.listdir(tmp_path)) == [samples(tmp_path)[0].name, COUNT, "y.2.part"]


def write_many(folder: Path, seed: int, limit: float, start: Barrier) -> None:
    """A process of the next test."""
    cache, image = Cache(folder, limit), np.full((*SIZE, 3), seed, np.uint8)
    start.wait()
    for i in range(50):
        cache.write(f"{seed if i % 5 else 'all'}-{i}", image, image[..., 0])


@pytest.mark.parametrize("most", [60, 1000])
def test_several_processes_keep_to_the_limit(tmp_path: Path, most: int) -> None:
    """Each would be within it alone; a tenth of their samples are the same.  What they write can be read."""
    one = HEAD.size + 4 + SIZE[0] * SIZE[1] * 4
    fork = get_context("fork")
    start = fork.Barrier(4)
    processes = [fork.Process(target=write_many, args=(tmp_path, n, most * one, start)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = samples(tmp_path)
    assert len(found) == min(most, 4 * 40 + 10)
    assert sum(path.stat().st_size for path in found) <= most * one
    reader = Cache(tmp_path)
    assert all(reader.read(path.stem) for path in found)


def test_what_was_deleted_by_hand_is_room_again(tmp_path: Path) -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    cache = Cache(tmp_path, limit=3 * (HEAD.size + 4 + image.nbytes + image[..., 0].nbytes))
    for key in "abc":
        cache.write(key, image, image[..., 0])
    cache.path("b").unlink()
    (tmp_path / COUNT).write_text("")  # a process that was killed as it wrote it
    cache.write("d", image, image[..., 0])
    cache.path("a").unlink()
    cache.write("e", image, image[..., 0])
    assert [path.stem for path in samples(tmp_path)] == ["c", "d", "e"]
    assert not cache.closed
