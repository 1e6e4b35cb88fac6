"""If these break, left hands are ranked as odd right ones, and poses are told apart that are none."""

import numpy as np
import pytest

from zoo.core import phantom
from zoo.core.dataset import Sample
from zoo.core.inspection import clusters
from zoo.core.inspection.clusters import MIRROR, aligned, descriptors, poses, sides, silhouette
from zoo.core.inspection.measure import Measured, measure
from zoo.core.phantom import LABELS, Phantoms


@pytest.fixture(scope="module")
def hands() -> list[Measured]:
    source = Phantoms(24, 5, 128)
    return [measure(source.load(i), LABELS) for i in range(len(source))]


def test_left_and_right_by_name_and_by_shape_alone(hands: list[Measured]) -> None:
    """Phantoms alternate: right, left."""
    left = np.arange(24) % 2 == 1
    described = descriptors(hands)
    by_name = sides([m.name for m in hands], described)
    assert (by_name.by, by_name.left.tolist()) == ("file names", left.tolist())
    by_shape = sides(["x.png"] * 24, described)
    assert (by_shape.by, by_shape.left.tolist()) == ("shapes", left.tolist())
    assert (by_shape.name(0), by_shape.name(1)) == ("A", "B")
    few = ["a_L.png" if i == 3 else "b_R.png" if i == 8 else "c.png" for i in range(24)]
    some = sides(few, described)
    assert (some.name(0), some.name(1), some.left.tolist()) == ("R", "L", left.tolist())


def test_hands_of_one_side_have_no_sides(hands: list[Measured]) -> None:
    found = sides(["x.png"] * 12, descriptors(hands[::2]))
    assert (found.by, found.name(0), found.left.any()) == ("", "", False)


def test_an_uneven_mix_of_sides(hands: list[Measured]) -> None:
    """Two left hands among twelve."""
    some = [*hands[::2], hands[1], hands[3]]
    assert sides(["x.png"] * 14, descriptors(some)).left.tolist() == [False] * 12 + [True] * 2


def test_a_mirrored_image_has_the_mirrored_descriptor(hands: list[Measured]) -> None:
    sample = Phantoms(24, 5, 128).load(0)
    flipped = (np.ascontiguousarray(array[:, ::-1]) for array in (sample.image, sample.mask))
    both = [hands[0], measure(Sample(*flipped, "x"), LABELS)]
    one, other = descriptors(both)
    np.testing.assert_allclose(other, one * MIRROR, atol=1e-9)


def turned(described: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Clockwise, y pointing down: places by the angle, axes by twice the angle."""
    c, s = np.cos(np.radians(degrees))[:, None], np.sin(np.radians(degrees))[:, None]
    c2, s2 = c**2 - s**2, 2 * c * s
    x, y, a, b = np.moveaxis(described, 2, 0)
    return np.stack([c * x - s * y, s * x + c * y, c2 * a - s2 * b, s2 * a + c2 * b], axis=2)


def test_turns_are_measured_and_taken_away() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 6, 4))
    degrees = np.array([-20.0, 5, 20, -5, 40, -40])
    points, turn = aligned(turned(np.repeat(one, 6, axis=0), degrees))
    np.testing.assert_allclose(turn, degrees, atol=1e-6)
    np.testing.assert_allclose(points, np.repeat(one, 6, axis=0), atol=1e-6)


def test_two_poses_are_found_whatever_the_side_and_the_turn() -> None:
    rng = np.random.default_rng(1)
    pose = np.arange(30) % 3 == 0
    base = rng.normal(size=(2, 8, 4))
    described = base[pose.astype(int)] + rng.normal(size=(30, 8, 4)) * 0.05
    described[..., :2] -= described[..., :2].mean(axis=1, keepdims=True)
    left = rng.random(30) < 0.5
    mixed = turned(described, rng.uniform(-15, 15, 30))
    mixed = np.where(left[:, None, None], mixed * MIRROR, mixed)
    found = poses(mixed, left)
    assert found.of.tolist() == pose.astype(int).tolist(), "the larger is 0"
    assert found.silhouette > clusters.CLEAR
    assert set(poses(mixed, left, 4).of) == {0, 1, 2, 3}


def test_bent_wrists_gather() -> None:
    """Phantoms' wrists are straight, or bent to either side by 10 degrees and more."""
    drawn = [phantom.draw(11, i, 96) for i in range(60)]
    images = [measure(Sample(hand.image, hand.bits, ""), LABELS) for hand in drawn]
    bent = np.array([hand.pose == "bent" for hand in drawn])
    found = poses(descriptors(images), np.arange(60) % 2 == 1)
    told = sum(max(bent[found.of == k].sum(), (~bent)[found.of == k].sum()) for k in set(found.of)) / 60
    assert told > (~bent).mean() + 0.1, "saying straight of all of them"


def test_nothing_to_tell_apart_is_one_cluster() -> None:
    few = np.random.default_rng(0).normal(size=(5, 3, 4))
    for described in (np.zeros((20, 0, 4)), np.ones((20, 3, 4)), few):
        found = poses(described, np.zeros(len(described), bool))
        assert not found.of.any()
        assert np.isnan(found.silhouette)


def test_silhouette_by_its_definition() -> None:
    rng = np.random.default_rng(2)
    points, of = rng.normal(size=(12, 3)), np.array([0] * 5 + [1] * 6 + [2])
    others = [[j for j in range(12) if of[j] == k] for k in range(3)]
    scores = []
    for i in range(12):
        apart = [[np.linalg.norm(points[i] - points[j]) for j in of_k if j != i] for of_k in others]
        if not apart[of[i]]:
            scores.append(0.0)
            continue
        a = np.mean(apart[of[i]])
        b = min(np.mean(apart[k]) for k in range(3) if k != of[i])
        scores.append((b - a) / max(a, b))
    assert silhouette(points, of) == pytest.approx(np.mean(scores))
    assert silhouette(points, np.zeros(12, int)) == 0
