"""Masks, images and weights must move together: where they do not, every network learns shifted outlines,
and where a mask loses a bit, one class learns nothing, both without a word of error."""

import colorsys
import math
import time
from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.core.dataset import Sample
from zoo.core.masks import IGNORE
from zoo.core.transforms import (
    DEFAULT,
    FOLD,
    WORDS,
    Augment,
    Geometry,
    balance,
    border_weight,
    elastic_field,
    mirror_pad,
    parse,
)
from zoo.errors import InputError

SPECS = ["none", *WORDS, "default", "shift+rotate+grey+elastic", "+".join(WORDS)]
GEOMETRIC = ["flip", "turn", "rotate", "scale", "shift", "crop", "elastic", "default", "+".join(WORDS)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def where(shape: tuple[int, int]) -> np.ndarray:
    """Each pixel's own number, as an int32 mask: after a transform it tells where each pixel came from."""
    return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)


def random_sample(shape: tuple[int, int], dtype: type, seed: int = 0, channels: int = 1) -> Sample:
    top = {np.uint8: 2**8, np.int32: 2**31, np.int64: 2**63 - 1}[dtype]
    image = rng(seed).integers(0, 256, (*shape, channels), dtype=np.uint8)
    mask = rng(seed + 1).integers(0, top, shape, dtype=dtype)
    weight = rng(seed + 2).random(shape, dtype=np.float32)
    return Sample(image if channels > 1 else image[..., 0], mask, "a", weight)


def mirrored(i: np.ndarray, n: int) -> np.ndarray:
    """The index that i shows in a line of n pixels mirrored about its ends."""
    if n == 1:
        return np.zeros_like(i)
    i = i % (2 * n - 2)
    return np.minimum(i, 2 * n - 2 - i)


# ---- words ------------------------------------------------------------------------------------------------


def test_words() -> None:
    assert parse("none") == set()
    assert parse("default") == set(DEFAULT.split("+"))
    assert parse("elastic+default") == {*DEFAULT.split("+"), "elastic"}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("rotat", "nearest: rotate"),
        ("flip+gray", "nearest: grey"),
        ("none+flip", "'none' stands alone"),
        ("", "''"),
        ("flip+", "unknown word ''"),
    ],
)
def test_unknown_word(spec: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Augment(spec, (8, 8))


# ---- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("tile", "margin", "channels"), [*product((False, True), (0, 13), (1, 3))])
def test_sizes_and_types(spec: str, tile: bool, margin: int, channels: int) -> None:
    """Image (h + 2m, w + 2m), mask and weight (h, w), whatever the source's size, dtypes kept."""
    h, w = 33, 47
    for source in ((90, 60), (20, 100), (7, 1)) if tile else ((h, w),):
        for dtype in (np.uint8, np.int32, np.int64):
            sample = random_sample(source, dtype, channels=channels)
            out = Augment(spec, (h, w), margin, tile)(sample, rng())
            assert out.image.shape == (h + 2 * margin, w + 2 * margin, *(() if channels == 1 else (3,)))
            assert out.mask.shape == (h, w)
            assert out.weight is not None
            assert out.weight.shape == (h, w)
            assert (out.image.dtype, out.mask.dtype, out.weight.dtype) == (np.uint8, dtype, np.float32)
            assert out.name == sample.name


def test_none_changes_nothing() -> None:
    for dtype in (np.uint8, np.int32, np.int64):
        sample = random_sample((21, 34), dtype, channels=3)
        out = Augment("none", (21, 34))(sample, rng())
        np.testing.assert_array_equal(out.image, sample.image)
        np.testing.assert_array_equal(out.mask, sample.mask)
        np.testing.assert_array_equal(out.weight, sample.weight)


@pytest.mark.parametrize("spec", SPECS)
def test_input_is_left_alone(spec: str) -> None:
    """A source may cache its samples: an augmentation must not write into them."""
    sample, same = (random_sample((40, 40), np.int64) for _ in range(2))
    Augment(spec, (40, 40), 5)(sample, rng(3))
    np.testing.assert_array_equal(sample.image, same.image)
    np.testing.assert_array_equal(sample.mask, same.mask)
    np.testing.assert_array_equal(sample.weight, same.weight)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24), st.integers(0, 30),
       st.integers(0, 99))  # fmt: skip
def test_windows(height: int, width: int, h: int, w: int, margin: int, seed: int) -> None:
    """A window without augmentation is a cut of the mirrored image; its mask the middle of that cut."""
    sample = random_sample((height, width), np.int32)
    sample.mask = where((height, width))
    out = Augment("none", (h, w), margin, tile=True)(sample, rng(seed))
    y, x = divmod(out.mask, width)
    assert (y == y[:, :1]).all()
    assert (x == x[:1]).all()
    if height >= h and width >= w:
        assert (np.diff(y[:, 0]) == 1).all()  # inside: nothing mirrored in the mask
        assert (np.diff(x[0]) == 1).all()
    pad = margin + 24
    padded = np.pad(sample.image, pad, mode="reflect")
    top, left = (int(axis[0]) if n >= s else -((s - n + 1) // 2)
                 for axis, n, s in ((y[:, 0], height, h), (x[0], width, w)))  # fmt: skip
    cut = np.s_[top + pad - margin : top + pad + h + margin, left + pad - margin : left + pad + w + margin]
    np.testing.assert_array_equal(out.image, padded[cut])


def test_windows_reach_every_place() -> None:
    sample = random_sample((9, 7), np.int32)
    sample.mask = where((9, 7))
    augment = Augment("none", (5, 6), 0, tile=True)
    generator = rng()
    masks = [augment(sample, generator).mask for _ in range(200)]
    assert {mask.shape for mask in masks} == {(5, 6)}
    assert {int(mask[0, 0]) for mask in masks} == {y * 7 + x for y in range(5) for x in range(2)}


# ---- randomness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS[1:])
def test_same_seed_same_sample(spec: str) -> None:
    """Resume and worker counts rest on it: nothing but the generator decides."""
    sample = random_sample((48, 48), np.int32)
    augment = Augment(spec, (32, 32), 8, tile=True)
    first = [augment(sample, rng(7)) for _ in range(2)]
    cv2.setRNGSeed(5)
    again = augment(sample, rng(7))
    others = [augment(sample, rng(seed)) for seed in range(8, 16)]
    for out in (first[1], again):
        np.testing.assert_array_equal(out.image, first[0].image)
        np.testing.assert_array_equal(out.mask, first[0].mask)
        np.testing.assert_array_equal(out.weight, first[0].weight)
    assert any((out.image != first[0].image).any() for out in others)


# ---- masks ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GEOMETRIC), st.booleans(), st.sampled_from([np.int32, np.int64]), st.integers(0, 999))
def test_masks_are_only_moved(spec: str, tile: bool, dtype: type, seed: int) -> None:
    """All 63 bits of each output pixel are those of one source pixel, the same one in int32 and int64."""
    sample = random_sample((40, 40), dtype, seed)
    augment = Augment(spec, (24, 31) if tile else (40, 40), 6, tile)
    moved = augment(sample, rng(seed)).mask
    numbered = Sample(sample.image, where((40, 40)), "a")
    origin = augment(numbered, rng(seed)).mask
    np.testing.assert_array_equal(moved, sample.mask.ravel()[origin])


@settings(max_examples=60, deadline=None)
@given(st.floats(-math.pi, math.pi), st.floats(0.5, 2), st.booleans(), st.floats(-90, 90), st.floats(-90, 90),
       st.integers(0, 20), st.booleans(), st.sampled_from([np.uint8, np.int32, np.int64]))  # fmt: skip
def test_nearest_by_the_formula(
    angle: float, scale: float, flip: bool, dx: float, dy: float, inset: int, field: bool, dtype: type
) -> None:
    """31 and 63 classes through any linear map, with a field or without, against plain numpy indexing."""
    mask = random_sample((37, 29), dtype).mask
    h, w = 25, 33
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[-cos if flip else cos, -sin, dx], [-sin if flip else sin, cos, dy]])
    y, x = np.mgrid[: h + 2 * inset, : w + 2 * inset]
    at_x, at_y = np.tensordot(matrix, np.stack([x, y, np.ones_like(x)]), 1)
    maps = None
    if field:
        at_x, at_y = at_x + 3 * np.sin(y / 5), at_y + 3 * np.sin(x / 7)
        maps = (at_x.astype(np.float32), at_y.astype(np.float32))
    out = Geometry(matrix, maps).take_mask(mask, (h, w), inset)

    at_x, at_y = (a[inset : inset + h, inset : inset + w] for a in (at_x, at_y))
    expected = mask[mirrored(np.rint(at_y).astype(int), 37), mirrored(np.rint(at_x).astype(int), 29)]
    tie = np.minimum(np.abs(at_x % 1 - 0.5), np.abs(at_y % 1 - 0.5)) < 0.01  # either neighbour is nearest
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[~tie], expected[~tie])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SPECS), st.booleans(), st.integers(0, 999))
def test_no_value_is_invented(spec: str, tile: bool, seed: int) -> None:
    """Between class 1 and ignored lies no class 128."""
    mask = rng(seed).choice(np.array([0, 1, 20, 255], np.uint8), (32, 32))
    sample = Sample(np.zeros((32, 32), np.uint8), mask, "a")
    out = Augment(spec, (32, 32), 0, tile)(sample, rng(seed))
    assert set(np.unique(out.mask)) <= {0, 1, 20, 255}
    assert out.weight is None


@pytest.mark.parametrize(("word", "most"), [("flip", 2), ("turn", 4), ("flip+turn", 8)])
def test_symmetries_are_exact(word: str, most: int) -> None:
    """Flips and turns of a square move whole pixels: nothing is blurred, and every symmetry occurs."""
    sample = random_sample((24, 24), np.int64, channels=3)
    augment = Augment(word, (24, 24))
    seen = set()
    for seed in range(60):
        out = augment(sample, rng(seed))
        (k,) = [k for k in range(8) if (symmetry(sample.mask, k) == out.mask).all()]
        np.testing.assert_array_equal(out.image, symmetry(sample.image, k))
        np.testing.assert_array_equal(out.weight, symmetry(sample.weight, k))
        seen.add(k)
    assert len(seen) == most


def symmetry(array: np.ndarray | None, k: int) -> np.ndarray:
    assert array is not None
    return np.rot90(array if k < 4 else array[:, ::-1], k % 4)


# ---- image, mask and weight together ----------------------------------------------------------------------


def shape_sample(size: int) -> Sample:
    """A shape without any symmetry, drawn in image, mask and weight."""
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (size // 3, size // 2), size // 5, 1, -1)
    cv2.rectangle(mask, (size // 2, size // 8), (size * 7 // 8, size // 3), 1, -1)
    return Sample(mask * 255, mask, "shape", mask.astype(np.float32))


@pytest.mark.parametrize("spec", [word for word in GEOMETRIC if "grey" not in parse(word)])
@pytest.mark.parametrize(("tile", "margin"), [*product((False, True), (0, 21))])
def test_image_and_mask_stay_together(spec: str, tile: bool, margin: int) -> None:
    sample = shape_sample(160)
    size = (96, 112) if tile else (160, 160)
    augment = Augment(spec, size, margin, tile)
    for seed in range(8):
        out = augment(sample, rng(seed))
        assert out.weight is not None
        image = out.image[margin : margin + size[0], margin : margin + size[1]]
        seen, truth = (image >= 128) & (out.mask != IGNORE), out.mask == 1
        assert (seen & truth).sum() >= 0.985 * (seen | truth).sum()
        assert np.abs(seen ^ truth).mean() < 0.005
        assert np.abs(out.weight - image / 255.0).max() <= 0.03  # older OpenCV rounds places to 1/32 pixel


def probe(spec: str, seed: int, size: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """Source x and y of the pixels near the middle: bilinear sampling of a ramp is exact."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    black = np.zeros((size, size), np.uint8)
    augment = Augment(spec, (size, size))
    middle = np.s_[40:61, 40:61]
    outs = [augment(Sample(black, black, "ramp", ramp), rng(seed)).weight for ramp in (x, y)]
    assert outs[0] is not None
    assert outs[1] is not None
    return outs[0][middle].astype(np.float64), outs[1][middle].astype(np.float64)


def test_ranges() -> None:
    """Each word keeps to its documented range, and uses it."""
    angles, scales, shifts = [], [], []
    for seed in range(80):
        x, y = probe("rotate", seed)
        angles.append(math.degrees(math.atan2(y[0, -1] - y[0, 0], x[0, -1] - x[0, 0])))
        x, y = probe("scale", seed)
        scales.append(20 / (x[0, -1] - x[0, 0]))
        x, y = probe("shift", seed)
        shifts.append([(x[10, 10] - 50) / 101, (y[10, 10] - 50) / 101])
    assert -15.1 < min(angles) < -13
    assert 13 < max(angles) < 15.1
    assert 0.799 < min(scales) < 0.83
    assert 1.2 < max(scales) < 1.252
    assert 0.055 < np.abs(shifts).max() < 0.0626


def test_crop_is_a_window_at_half_to_twice_the_scale_anywhere_inside() -> None:
    y, x = np.mgrid[:90, :120].astype(np.float32)
    black = np.zeros((90, 120), np.uint8)
    augment = Augment("crop", (20, 30))
    scales, corners = [], []
    for seed in range(300):
        at_x, at_y = (augment(Sample(black, black, "ramp", r), rng(seed)).weight for r in (x, y))
        assert at_x is not None
        assert at_y is not None
        step = (at_x[10, 20] - at_x[10, 10]) / 10  # source pixels a pixel of the window
        assert (at_y[15, 10] - at_y[5, 10]) / 10 == pytest.approx(step, abs=1e-3)
        edges = (at_x[10, 15] - 15.5 * step, at_x[10, 15] + 14.5 * step,
                 at_y[10, 15] - 10.5 * step, at_y[10, 15] + 9.5 * step)  # fmt: skip
        assert min(edges) >= -0.51
        assert edges[1] <= 119.51
        assert edges[3] <= 89.51
        scales.append(1 / step)
        corners.append((edges[0] / (119 - 30 * step), edges[2] / (89 - 20 * step)))
    assert 0.499 < min(scales) < 0.52
    assert 1.98 < max(scales) < 2.002
    assert (np.min(corners, axis=0) < 0.05).all()
    assert (np.max(corners, axis=0) > 0.95).all()


@pytest.mark.parametrize("spec", ["crop", "crop+elastic"])
def test_what_crop_shows_beyond_the_border_is_ignored(spec: str) -> None:
    """A picture smaller than the window lies in its middle; only where it lies does the mask count."""
    ones = np.ones((24, 24), np.uint8)
    sample = Sample(ones * 200, ones, "small", np.ones((24, 24), np.float32))
    shares = []
    for seed in range(40):
        out = Augment(spec, (60, 60), 5)(sample, rng(seed))
        assert set(np.unique(out.mask)) == {1, IGNORE}
        inside = np.argwhere(out.mask == 1)
        assert np.abs(inside.mean(0) - 29.5).max() < (1 if spec == "crop" else 9)
        shares.append(math.sqrt(len(inside)) / 24)
        assert (out.image == 200).all()  # mirrored, as ever
        bits = Sample(ones, ones.astype(np.int32), "bits")
        assert (Augment(spec, (60, 60), 5)(bits, rng(seed)).mask == 1).all()  # bits have no value for it
    assert min(shares) < 0.6
    assert max(shares) > 1.8


def test_blur_is_gaussian_and_for_half_of_the_samples() -> None:
    """A white point keeps its light and its place, and spreads by up to 1.5 pixels."""
    point = np.zeros((31, 31), np.uint8)
    point[15, 15] = 255
    mask = rng().integers(0, 2**31, (31, 31), dtype=np.int32)
    spread = []
    for seed in range(200):
        out = Augment("blur", (31, 31))(Sample(point, mask, "point"), rng(seed))
        np.testing.assert_array_equal(out.mask, mask)
        light = out.image.astype(float)
        y, x = np.mgrid[:31, :31]
        assert (light * x).sum() == pytest.approx(15 * light.sum())
        assert (light * y).sum() == pytest.approx(15 * light.sum())
        spread.append(math.sqrt((light * (x - 15) ** 2).sum() / light.sum()))
    assert 0.4 < np.mean(np.array(spread) == 0) < 0.75  # below 0.3 pixels nothing reaches a neighbour
    assert 1.3 < max(spread) < 1.55


def test_elastic_displaces_by_the_field() -> None:
    """Each pixel shows the source point that lies (dy, dx) from it."""
    y, x = np.mgrid[40:61, 40:61]
    for seed in range(5):
        dy, dx = (d[40:61, 40:61] for d in elastic_field((101, 101), rng(seed), FOLD * 101))
        at_x, at_y = probe("elastic", seed)
        np.testing.assert_allclose(at_x, x + dx, atol=0.02)
        np.testing.assert_allclose(at_y, y + dy, atol=0.02)


def test_grey_and_noise_leave_masks_alone() -> None:
    sample = random_sample((40, 40), np.int64, channels=3)
    ramp = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
    for seed in range(20):
        out = Augment("grey+noise", (40, 40))(sample, rng(seed))
        np.testing.assert_array_equal(out.mask, sample.mask)
        np.testing.assert_array_equal(out.weight, sample.weight)
        grey = Augment("grey", (64, 64))(Sample(ramp, ramp, "ramp"), rng(seed)).image
        levels = grey.ravel()[::16].astype(int)
        assert (np.diff(levels) >= 0).all()  # brighter stays brighter
        assert (grey.ravel() == levels.repeat(16)).all()
        assert abs(grey.mean() - ramp.mean()) < 60


def photometric(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, float]]:
    """SSD's distortion from its words, a pixel at a time by colorsys, on the same draws; what was drawn."""
    drawn = {"brightness": rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0}
    drawn["contrast"] = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    drawn["saturation"] = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    drawn["hue"] = int(rng.integers(-18, 19)) * 2 / 360 if rng.random() < 0.5 else 0.0
    drawn["late"] = rng.random() < 0.5
    y = (image + drawn["brightness"]).clip(0, 255)
    if not drawn["late"]:
        y = (y * drawn["contrast"]).clip(0, 255)
    for pixel in y.reshape(-1, 3) if image.ndim == 3 else []:
        h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
        pixel[:] = np.array(colorsys.hsv_to_rgb((h + drawn["hue"]) % 1, min(s * drawn["saturation"], 1), v))
        pixel *= 255
    return (y * drawn["contrast"]).clip(0, 255) if drawn["late"] else y, drawn


def test_colour_is_photometric_distortion() -> None:
    """Of colours and of grey, which stays grey; OpenCV's hue and saturation have 8 bits."""
    mask = rng().integers(0, 256, (16, 16), dtype=np.uint8)
    seen = []
    for seed in range(60):
        image = rng(seed + 100).integers(40, 216, (16, 16, 3), dtype=np.uint8)
        for picture in (image, image[..., 0]):
            out = Augment("colour", (16, 16))(Sample(picture, mask, "noise"), rng(seed))
            expected, drawn = photometric(picture, rng(seed))
            assert (out.image.dtype, out.image.shape) == (np.uint8, picture.shape)
            assert np.abs(out.image - expected).max() < 8
            assert np.abs(out.image - expected).mean() < 1.5
            np.testing.assert_array_equal(out.mask, mask)
        seen.append(drawn)
    for word, nothing in (("brightness", 0), ("contrast", 1), ("saturation", 1), ("hue", 0), ("late", 0)):
        assert 0.25 < np.mean([drawn[word] == nothing for drawn in seen]) < 0.75, word


def test_noise_is_normal() -> None:
    image = np.full((256, 256), 128, np.uint8)
    deviations = []
    for seed in range(30):
        out = Augment("noise", (256, 256))(Sample(image, image, "flat"), rng(seed)).image.astype(float) - 128
        deviations.append(out.std())
        assert abs(out.mean()) < 0.25
        neighbours = (out[:, 1:] * out[:, :-1]).mean()
        assert abs(neighbours) < 0.03 * max(out.var(), 1)
    assert 8.5 < max(deviations) < 10.5
    assert min(deviations) < 1


# ---- mirrored borders -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.tuples(*[st.integers(0, 30)] * 4), st.sampled_from([0, 3]))
def test_mirror_pad(h: int, w: int, pads: tuple[int, int, int, int], channels: int) -> None:
    """Small images are mirrored again and again; the outer pixels are never doubled."""
    top, bottom, left, right = pads
    image = rng().integers(0, 256, (h, w, channels) if channels else (h, w), dtype=np.uint8)
    rows, columns = mirrored(np.arange(-top, h + bottom), h), mirrored(np.arange(-left, w + right), w)
    np.testing.assert_array_equal(mirror_pad(image, top, bottom, left, right), image[rows][:, columns])


# ---- elastic field ----------------------------------------------------------------------------------------


def keys(t: float) -> float:
    """Keys' cubic convolution kernel with a = -1/2 (IEEE ASSP 29, 1981, eq. 15)."""
    t = abs(t)
    if t < 1:
        return 3 / 2 * t**3 - 5 / 2 * t**2 + 1
    return -1 / 2 * t**3 + 5 / 2 * t**2 - 4 * t + 2 if t < 2 else 0.0


@pytest.mark.parametrize(("shape", "grid"), [((21, 13), 3), ((9, 30), 4), ((12, 12), 2), ((1, 5), 3)])
def test_elastic_field_by_the_formula(shape: tuple[int, int], grid: int) -> None:
    """Pixel by pixel: the sum over the 4x4 nodes around it, outer nodes repeated beyond the border."""
    nodes = rng(4).normal(0.0, 10.0, (2, grid, grid))
    for field, coarse in zip(elastic_field(shape, rng(4), 10.0, grid), nodes, strict=True):
        expected = np.zeros(shape)
        for i, j in np.ndindex(*shape):
            v, u = (k * (grid - 1) / max(n - 1, 1) for k, n in zip((i, j), shape, strict=True))
            for a, b in product(range(math.floor(v) - 1, math.floor(v) + 3),
                                range(math.floor(u) - 1, math.floor(u) + 3)):  # fmt: skip
                node = coarse[min(max(a, 0), grid - 1), min(max(b, 0), grid - 1)]
                expected[i, j] += keys(v - a) * keys(u - b) * node
        assert field.dtype == np.float32
        np.testing.assert_allclose(field, expected, atol=2e-5)


def test_elastic_deviation() -> None:
    """At the nodes of the 3x3 grid displacements are N(0, 10 px), as in the paper; between them smaller."""
    fields = np.array([elastic_field((41, 61), rng(seed)) for seed in range(400)])  # (400, 2, 41, 61)
    nodes = fields[:, :, ::20, ::30]
    assert nodes.shape[-2:] == (3, 3)
    assert abs(nodes.std() - 10) < 0.3
    assert abs(nodes.mean()) < 0.4
    assert 5 < fields.std() < 10


def test_elastic_does_not_fold() -> None:
    """At the largest deviation that small windows get, neighbours stay in order: no point is seen twice."""
    for seed in range(200):
        dy, dx = elastic_field((64, 64), rng(seed), FOLD * 64)
        assert (1 + np.diff(dy, axis=0)).min() > 0
        assert (1 + np.diff(dx, axis=1)).min() > 0


# ---- border weights ---------------------------------------------------------------------------------------


def components(mask: np.ndarray) -> list[np.ndarray]:
    """Coordinates (n, 2) of each 4-connected part of each class but 0 and 255, by flooding."""
    left = {(int(i), int(j)) for i, j in np.argwhere((mask > 0) & (mask < 255))}
    parts = []
    while left:
        todo = [left.pop()]
        part = []
        while todo:
            i, j = todo.pop()
            part.append((i, j))
            for n in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if n in left and mask[n] == mask[i, j]:
                    left.remove(n)
                    todo.append(n)
        parts.append(np.array(part))
    return parts


def brute_border_weight(mask: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """Eq. 2 with every distance from every pixel to every pixel of every cell."""
    weight = np.zeros(mask.shape)
    classes = sorted(set(mask.ravel().tolist()) - {255})
    total = (mask != 255).sum()
    parts = components(mask)
    for i, j in np.ndindex(*mask.shape):
        if mask[i, j] == 255:
            continue
        weight[i, j] = total / (len(classes) * (mask == mask[i, j]).sum())
        if mask[i, j] == 0 and len(parts) > 1:
            d1, d2, *_ = sorted(math.sqrt(((part - (i, j)) ** 2).sum(1).min()) for part in parts)
            weight[i, j] += w0 * math.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return weight


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([(17, 23), (1, 30), (24, 8)]), st.sampled_from([0.5, 2.0, 5.0]),
       st.sampled_from([1, 3]), st.floats(0.02, 0.6))  # fmt: skip
def test_border_weight_by_the_formula(
    seed: int, shape: tuple[int, int], sigma: float, classes: int, share: float
) -> None:
    generator = rng(seed)
    mask = generator.integers(1, classes + 1, shape, dtype=np.uint8) * (generator.random(shape) < share)
    mask[generator.random(shape) < 0.1] = 255
    out = border_weight(mask, 10.0, sigma)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, brute_border_weight(mask, 10.0, sigma), atol=2e-5, rtol=1e-5)


def test_border_weight_between_two_cells() -> None:
    """The gap of 3 pixels between two cells, by hand: d1 + d2 = 4 all through it."""
    mask = np.zeros((20, 23), np.uint8)
    mask[:, :10] = mask[:, 13:] = 1
    out = border_weight(mask)
    pixels, gap = 20 * 23, 20 * 3
    np.testing.assert_allclose(out[:, 10:13], pixels / (2 * gap) + 10 * math.exp(-16 / 50), rtol=1e-6)
    np.testing.assert_allclose(out[:, :10], pixels / (2 * (pixels - gap)), rtol=1e-6)


@pytest.mark.parametrize("cells", [0, 1])
def test_border_weight_needs_two_cells(cells: int) -> None:
    """Of fewer than two cells there is no second nearest: the classes' weights remain."""
    mask = np.zeros((16, 16), np.uint8)
    mask[2:6, 2:10] = cells
    out = border_weight(mask)
    np.testing.assert_allclose(out[mask == 0], 256 / ((1 + cells) * (256 - 32 * cells)), rtol=1e-6)
    assert math.isclose(out.mean(), 1, rel_tol=1e-6)


def test_border_weight_of_nothing_but_ignored() -> None:
    assert (border_weight(np.full((5, 6), 255, np.uint8)) == 0).all()


def test_border_weight_with_given_class_weights() -> None:
    """The training set's balance instead of one mask's; a class that only the set has does no harm."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 1
    mask[0] = 255
    out = border_weight(mask, class_weights=np.array([0.5, 2.0, 7.0], np.float32))
    assert (out[0] == 0).all()
    assert (out[1:4] == 2).all()
    assert (out[4:] == 0.5).all()


def test_balance() -> None:
    counts = np.array([600, 300, 0, 100])
    weights = balance(counts)
    np.testing.assert_allclose(weights * counts, [1000 / 3, 1000 / 3, 0, 1000 / 3], rtol=1e-6)
    assert (balance(np.zeros(3)) == 0).all()


def test_border_weight_of_real_cells_is_quick(shared_data) -> None:
    """130 cells of a microscope slice in 512x512: 0.3 s, or the first epoch crawls."""
    mask = cv2.imread(str(shared_data / "isbi2012" / "masks" / "00.png"), cv2.IMREAD_UNCHANGED)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        out = border_weight(mask)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) <= 0.3
    assert out[mask == 0].max() > 10
    assert len(np.unique(out[mask == 1])) == 1
