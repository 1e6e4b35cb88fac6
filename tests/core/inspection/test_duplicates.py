"""If these break, a picture that trains also validates unseen, or different ones are called the same."""

import cv2
import numpy as np
import pytest

from zoo.core.inspection import duplicates
from zoo.core.inspection.duplicates import BITS, NEAR, Duplicate, distances, find, perceptual
from zoo.core.phantom import draw


def test_distances_are_counts_of_bits_that_differ() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((5, BITS)) < 0.5, rng.random((7, BITS)) < 0.5
    slow = [[sum(x != y for x, y in zip(p, q, strict=True)) for q in b] for p in a]
    assert distances(a, b).tolist() == slow


def found(images: list[np.ndarray], near: int = NEAR) -> list[Duplicate]:
    hashes = np.array([perceptual(image) for image in images])
    mirrored = np.array([perceptual(np.ascontiguousarray(image[:, ::-1])) for image in images])
    return find([image.tobytes() for image in images], hashes, mirrored, near)


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_copies_are_found_and_other_hands_are_not(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images are compared at once: the same pixels, a small bright JPEG, a mirror image."""
    monkeypatch.setattr(duplicates, "BLOCK", block)
    hands = [draw(3, i, 128).image for i in range(6)]
    small = cv2.resize(hands[2], None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0)
    copy = cv2.convertScaleAbs(jpeg, alpha=1.1, beta=5)
    images = [*hands, hands[4].copy(), copy, np.ascontiguousarray(hands[1][:, ::-1])]
    pairs = {(d.a, d.b): d for d in found(images)}
    assert set(pairs) == {(4, 6), (2, 7), (1, 8)}
    assert pairs[4, 6] == Duplicate(4, 6, "same pixels", 0)
    assert pairs[2, 7].how == "nearly the same"
    assert 0 < pairs[2, 7].bits <= NEAR
    assert pairs[1, 8] == Duplicate(1, 8, "mirrored", 0)
    assert found(images)[0].how == "same pixels"


def test_the_threshold_is_the_last_that_is_reported() -> None:
    hashes = np.zeros((2, BITS), bool)
    hashes[:, :128] = True
    hashes[1, :NEAR] = False
    other = np.tile(np.arange(BITS) % 2 == 0, (2, 1))
    assert find([b"a", b"b"], hashes, other) == [Duplicate(0, 1, "nearly the same", NEAR)]
    assert find([b"a", b"b"], hashes, other, NEAR - 1) == []


def test_empty_pictures_are_alike_only_by_their_pixels() -> None:
    """Black plates of two sizes are no duplicates of each other, nor of a hand."""
    images = [np.full((30, 40), 7, np.uint8), np.full((50, 50), 200, np.uint8), draw(0, 0, 64).image]
    assert found(images) == []
    assert found([*images, images[0]]) == [Duplicate(0, 3, "same pixels", 0)]
