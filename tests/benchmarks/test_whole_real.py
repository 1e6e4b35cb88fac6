"""If these break, README's tables of folds and ensembles are of the wrong images, or train what is done."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import infer
import train
from benchmarks import whole_real
from tests.conftest import write_shapes

NAN = float("nan")


def test_a_class_is_averaged_over_the_images_where_it_is_and_a_fold_over_the_classes_it_has() -> None:
    first = {("a", "lung"): 0.8, ("b", "lung"): 0.6, ("a", "tube"): NAN, ("b", "tube"): 0.1}
    second = {("c", "lung"): 0.9, ("c", "tube"): NAN}
    lungs = [whole_real.of_class(dice, "lung") for dice in (first, second)]
    tubes = [whole_real.of_class(dice, "tube") for dice in (first, second)]
    assert whole_real.over_folds(lungs) == "0.767 ± 0.141"  # (0.8 + 0.6 + 0.9) / 3; 0.7 and 0.9
    assert whole_real.over_folds(tubes) == "0.100"  # of one fold there is no deviation
    assert whole_real.over_folds([tubes[1]]) == "none"
    assert whole_real.mean_dice(first, ["lung", "tube"]) == pytest.approx((0.7 + 0.1) / 2)
    assert whole_real.mean_dice(second, ["lung", "tube"]) == 0.9


def test_what_ensembles_gain_is_a_difference_within_a_fold() -> None:
    means = {"x": [0.1, 0.2, 0.3], "y": [0.2, 0.3, 0.4], "mean": [0.3, 0.4, 0.6], "vote": [0.3, 0.2, 0.4]}
    table = whole_real.differences(means)
    assert list(table.columns[0].cells) == ["mean less y", "vote less y", "mean less vote"]
    assert next(iter(table.columns[1].cells)) == "+0.133 ± 0.058"
    assert list(table.columns[3].cells) == ["+0.100", "-0.100", "+0.200"]


def test_observers_with_each_other_and_how_often_a_network_is_nearer(tmp_path: Path) -> None:
    rng, dice = np.random.default_rng(0), {}
    for folder in whole_real.OBSERVERS.values():
        (tmp_path / folder).mkdir()
    for name in ("1.png", "2.png"):
        one, two = rng.integers(0, 2, (2, 8, 9), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "masks" / name), one)
        cv2.imwrite(str(tmp_path / "masks_observer2" / name), two)
        pairs = list(zip(one.ravel(), two.ravel(), strict=True))
        dice[name] = 2 * sum(a and b for a, b in pairs) / sum(int(a) + int(b) for a, b in pairs)
    people = whole_real.between(tmp_path)
    assert people == {(name, "mandible"): pytest.approx(value) for name, value in dice.items()}
    near = {key: value + (0.1 if key[0] == "1.png" else -0.1) for key, value in people.items()}
    table = whole_real.jaws({
        "network": [{"observer 1": near, "observer 2": near}], "observer 2": [{"observer 1": people}],
    })  # fmt: skip
    assert list(table.columns[4].cells) == ["1", ""]
    assert list(table.columns[2].cells)[1] == f"{min(dice.values()):.3f}"


def test_runs_are_begun_resumed_or_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[list[str]] = []
    monkeypatch.setattr(train, "main", lambda words: typed.append(words) or 130 * (len(typed) < 2))
    out = tmp_path / "run"
    out.mkdir()
    with pytest.raises(SystemExit, match="130"):
        whole_real.trained(out, "--arch unet")
    (out / "last.pt").touch()
    assert whole_real.trained(out, "--arch unet") == whole_real.trained(out, "--arch unet") == out / "last.pt"
    assert typed == [["--arch", "unet", "--out", str(out)], ["--resume", str(out)]]


def test_scores_are_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[list[str]] = []

    def scores(words: list[str]) -> int:
        typed.append(words)
        (tmp_path / "scores_images.csv").write_text("image_name,class,dice\na.png,lung,0.5\na.png,tube,\n")
        return 0

    monkeypatch.setattr(infer, "main", scores)
    for _ in range(2):
        dice = whole_real.scored(tmp_path, [Path("a.pt"), Path("b.pt")], "--tta", "flip")
        assert dice["a.png", "lung"] == 0.5
        assert np.isnan(dice["a.png", "tube"])
    assert typed == [["a.pt", "b.pt", "--tta", "flip", "--out", str(tmp_path)]]


def test_what_is_held_out_is_what_train_py_would_validate_on(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", 10)
    (data / "masks_observer2").symlink_to(data / "masks")
    for _ in range(2):  # a second start finds the links
        pool, held_out = whole_real.parted(data, tmp_path / "out")
    both = [{file.name for file in (part / "images").iterdir()} for part in (pool, held_out)]
    assert list(map(len, both)) == [8, 2]
    assert len(both[0] | both[1]) == 10
    assert all((held_out / "masks_observer2" / name).exists() for name in both[1])
