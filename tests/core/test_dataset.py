"""The split decides what a score means: a person on both sides makes it a lie; a lost seed, unrepeatable."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.core.dataset import Sample, Source, Subset, open_data, split
from zoo.core.masks import Labels, palette
from zoo.errors import InputError

groupings = st.lists(st.integers(0, 9).map(lambda g: f"ID{g:03d}"), min_size=2, max_size=40).filter(
    lambda groups: len(set(groups)) > 1
)


class Numbers(Source):
    """Sample i is an image of the value i."""

    labels = Labels("multiclass", ("a", "b"), palette(2))
    channels = 1

    def __len__(self) -> int:
        return 20

    def name(self, i: int) -> str:
        return f"{i}.png"

    def group(self, i: int) -> str:
        return f"{i // 2}"

    def load(self, i: int, size: tuple[int, int] | None = None) -> Sample:
        image = np.full(size or (2, 2), i, np.uint8)
        return Sample(image, image % 2, self.name(i))


def tree(root: Path, count: int = 20) -> str:
    for i in range(count):
        for kind in ("images", "masks"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / kind / f"{i:02d}.png"), np.resize(np.arange(2, dtype=np.uint8), (4, 4)))
    return f"folder:{root}"


def names(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


# ---------------------------------------------------------------- splitting


@settings(max_examples=80, deadline=None)
@given(groupings, st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_keeps_groups_whole(groups: list[str], fraction: float, seed: int) -> None:
    train, val = split(groups, fraction, None, seed)
    assert sorted(train + val) == list(range(len(groups)))
    assert train
    assert val
    assert not {groups[i] for i in train} & {groups[i] for i in val}
    assert split(groups, fraction, None, seed) == (train, val)
    largest = max(groups.count(g) for g in groups)
    assert abs(len(val) - fraction * len(groups)) <= largest


@settings(max_examples=80, deadline=None)
@given(groupings, st.integers(2, 5), st.integers(0, 5))
def test_folds_cover_everything_once_and_are_balanced(groups: list[str], n: int, seed: int) -> None:
    n = min(n, len(set(groups)))
    vals = [split(groups, 0.2, (i, n), seed)[1] for i in range(n)]
    assert sorted(i for val in vals for i in val) == list(range(len(groups)))
    owner = [{groups[i] for i in val} for val in vals]
    assert sum(len(o) for o in owner) == len(set(groups))
    largest = max(groups.count(g) for g in groups)
    assert max(map(len, vals)) - min(map(len, vals)) <= largest
    assert vals[0] == split(groups, 0.2, (0, n), seed + 1)[1]  # the same parts for every seed


def test_two_hands_a_person_in_five_folds() -> None:
    groups = [f"ID{i // 2:03d}" for i in range(800)]
    for i in range(5):
        train, val = split(groups, 0.2, (i, 5))
        assert (len(train), len(val)) == (640, 160)


def test_the_share_is_met_where_groups_are_single() -> None:
    for count, want in ((10, 2), (24, 5), (2, 1), (3, 1), (160, 32)):
        assert len(split([f"{i}" for i in range(count)], 0.2)[1]) == want


def test_another_seed_splits_otherwise() -> None:
    groups = [f"{i}" for i in range(50)]
    assert split(groups, 0.2, None, 0) != split(groups, 0.2, None, 1)


@pytest.mark.parametrize("fold", [(5, 5), (-1, 5), (0, 1), (0, 0), (0, 9)])
def test_folds_that_do_not_exist_are_refused(fold: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"fold {fold[0]}/{fold[1]}: want I/N, counted from 0.*from 2 to 8"):
        split([f"{i}" for i in range(8)], 0.2, fold)


def test_what_belongs_to_one_person_cannot_be_split() -> None:
    with pytest.raises(InputError, match="cannot split 2 images: all belong to ID001"):
        split(["ID001", "ID001"], 0.2)


# ---------------------------------------------------------------- sources


def test_a_subset_is_a_source() -> None:
    subset = Subset(Numbers(), [7, 3])
    assert names(subset) == ["7.png", "3.png"]
    assert [subset.group(i) for i in range(2)] == ["3", "1"]
    assert subset.load(1, (1, 4)).image.tolist() == [[3, 3, 3, 3]]
    assert (subset.labels, subset.channels, list(subset.warnings)) == (Numbers.labels, 1, [])
    assert names(Subset(subset, [1])) == ["3.png"]


def test_phantoms_are_the_default(tmp_path: Path) -> None:
    train, val = open_data("phantom", seed=3, limit_train=5, limit_val=2)
    assert (len(train), len(val), train.labels.num_classes) == (5, 2, 29)
    assert len(open_data("phantom")[1]) == 64
    assert not set(names(train)) & set(names(val))
    assert names(train) == names(open_data("phantom", seed=3, limit_train=5)[0])


def test_limits_keep_the_first_of_a_seeded_order(tmp_path: Path) -> None:
    spec = tree(tmp_path)
    train, val = open_data(spec, seed=1)
    few, one = open_data(spec, seed=1, limit_train=4, limit_val=1)
    more, _ = open_data(spec, seed=1, limit_train=9)
    assert (len(train), len(val), len(few), len(one), len(more)) == (16, 4, 4, 1, 9)
    assert set(names(few)) < set(names(more)) < set(names(train))
    assert set(names(one)) < set(names(val))
    assert names(few) == names(open_data(spec, seed=1, limit_train=4)[0])
    assert len(open_data(spec, limit_train=99)[0]) == 16


def test_folds_of_a_folder(tmp_path: Path) -> None:
    spec = tree(tmp_path)
    parts = [names(open_data(spec, fold=(i, 4), seed=i)[1]) for i in range(4)]
    assert sorted(name for part in parts for name in part) == [f"images/{i:02d}.png" for i in range(20)]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    open_data(tree(tmp_path, 6), progress=lambda done, of: told.append((done, of)))
    assert told == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("fantom", {}, "unknown data 'fantom'; nearest: phantom"),
        ("folders:x", {}, r"unknown data 'folders:x'; nearest: folder:PATH"),
        ("phantom:3", {}, "data 'phantom:3': phantoms are drawn, not read"),
        ("folder", {}, "data 'folder': names nothing to open; write folder:PATH"),
        ("handbone:", {}, "names nothing to open; write handbone:PATH"),
        ("handbone:/absent", {}, "data handbone:/absent: no such folder"),
        ("phantom", {"task": "binary"}, "task binary: phantoms are multilabel"),
        ("phantom", {"task": "multi"}, "unknown task 'multi'; nearest: multi"),
        ("phantom", {"ignore": (3,)}, "ignore 3: phantoms have no value to ignore"),
        ("phantom", {"fold": (0, 5)}, "fold 0/5: phantoms are drawn anew"),
        ("phantom", {"val_fraction": 1.0}, "val_fraction 1.0: want a share between 0 and 1"),
        ("phantom", {"limit_train": 0}, "limit_train 0: want at least 1"),
        ("phantom", {"limit_val": -1}, "limit_val -1: want at least 1"),
    ],
)
def test_what_cannot_be_opened_is_refused(spec: str, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_data(spec, **options)


def test_a_bare_path_is_told_how_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"a folder is opened by folder:{tmp_path}"):
        open_data(str(tmp_path))
    (tmp_path / "train" / "DCM").mkdir(parents=True)
    with pytest.raises(InputError, match=f"a folder is opened by handbone:{tmp_path}"):
        open_data(str(tmp_path))
