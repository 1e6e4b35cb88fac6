"""A damaged picture must be named before training, not turn up as grey stripes in it: for who copies data."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from zoo.core.images import (
    DARK,
    examine,
    is_grey,
    on_all_cores,
    read_image,
    read_values,
    refuse_all,
    resize_image,
)
from zoo.errors import InputError


@pytest.fixture
def picture() -> np.ndarray:
    """(40, 60, 3) RGB, smooth enough for JPEG."""
    y, x = np.mgrid[:40, :60]
    return np.stack([4 * x, 6 * y, 255 - 2 * (x + y)], axis=-1).astype(np.uint8)


def save(path: Path, rgb_or_grey: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    flipped = rgb_or_grey if rgb_or_grey.ndim == 2 else rgb_or_grey[..., ::-1]
    assert cv2.imwrite(str(path), flipped)
    return path


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".jpg"])
def test_colours_come_as_rgb_and_grey_as_one(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    off = 12 if suffix == ".jpg" else 0
    colour = save(tmp_path / f"colour{suffix}", picture)
    assert np.abs(read_image(colour).astype(int) - picture).max() <= off
    assert np.abs(read_image(colour, 3).astype(int) - picture).max() <= off
    assert read_image(colour, 1).shape == (40, 60)
    grey = save(tmp_path / f"grey{suffix}", picture[..., 0])
    assert read_image(grey).shape == (40, 60)
    assert np.abs(read_image(grey, 3).astype(int) - picture[..., :1]).max() <= off
    as_rgb = save(tmp_path / f"as_rgb{suffix}", np.repeat(picture[..., :1], 3, axis=2))
    assert np.abs(read_image(as_rgb, 1).astype(int) - picture[..., 0]).max() <= off


def test_16_bits_keep_the_upper_byte_and_alpha_goes(tmp_path: Path, picture: np.ndarray) -> None:
    deep = save(tmp_path / "deep.png", picture[..., 0].astype(np.uint16) * 256 + 77)
    assert (read_image(deep) == picture[..., 0]).all()
    rgba = np.dstack([picture[..., ::-1], np.full((40, 60), 9, np.uint8)])
    assert cv2.imwrite(str(tmp_path / "alpha.png"), rgba)
    assert (read_image(tmp_path / "alpha.png") == picture).all()


def test_the_exif_orientation_of_a_photograph_is_applied(tmp_path: Path, picture: np.ndarray) -> None:
    jpeg = cv2.imencode(".jpg", picture[..., 0], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # turn a quarter right
    head = b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big")
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + head + tag + jpeg[2:])
    turned = read_image(tmp_path / "turned.jpg")
    assert turned.shape == (60, 40)
    assert np.abs(turned.astype(int) - np.rot90(picture[..., 0], -1)).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.5, 0.9, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, picture: np.ndarray, suffix: str, share: float) -> None:
    whole = save(tmp_path / f"whole{suffix}", picture).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: int(share * len(whole)) if share > 0 else -1])
    for read in (read_image, read_values, examine):
        with pytest.raises(InputError, match=rf"cut\{suffix}: is truncated or damaged"):
            read(cut)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InputError, match=r"empty\.png: is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"text\.png: is not an image that can be read"):
        read_image(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"absent\.png: cannot be read: No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)


def test_values_of_an_index_mask(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255], [7, 7, 2]], np.uint8)
    assert (read_values(save(tmp_path / "grey.png", values)) == values).all()
    assert (read_values(save(tmp_path / "rgb.png", np.repeat(values[..., None], 3, axis=2))) == values).all()
    deep = values.astype(np.uint16) * 100
    assert (read_values(save(tmp_path / "deep.png", deep)) == deep).all()


@pytest.mark.parametrize(("count", "bits"), [(2, 1), (3, 2), (16, 4), (17, 8), (256, 8)])
@pytest.mark.parametrize("more", [{}, {"transparency": 0}], ids=["plain", "transparent"])
def test_a_palette_of_colours_says_which_class_a_pixel_is(
    tmp_path: Path, count: int, bits: int, more: dict
) -> None:
    """As PASCAL VOC's masks are: the values are places in the palette, however its colours look."""
    values = np.resize(np.arange(count, dtype=np.uint8), (13, 21))
    values[-1] = count - 1
    picture = Image.fromarray(values)
    colours = np.random.default_rng(0).integers(0, 256, (count, 3)).astype(np.uint8)
    colours[count // 2] = 90  # one is grey, as VOC's car
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "mask.png", **more)
    data = (tmp_path / "mask.png").read_bytes()
    assert (data[24], data[25]) == (bits, 3)
    for crop in (values, np.full((3, 5), count // 2, np.uint8)):
        cropped = Image.fromarray(crop)
        cropped.putpalette(colours.tobytes())
        cropped.save(tmp_path / "mask.png", **more)
        assert (read_values(tmp_path / "mask.png") == crop).all()
    for length in (26, 40, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.png").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.png: is truncated or damaged"):
            read_values(tmp_path / "cut.png")


def test_a_palette_of_greys_is_a_grey_picture(tmp_path: Path) -> None:
    """Programs that shrink files write grey masks so: what counts is the grey."""
    picture = Image.fromarray(np.array([[0, 1, 0]], np.uint8))
    picture.putpalette(bytes([0, 0, 0, 255, 255, 255]))
    picture.save(tmp_path / "mask.png")
    assert (tmp_path / "mask.png").read_bytes()[25] == 3
    assert read_values(tmp_path / "mask.png").tolist() == [[0, 255, 0]]


def test_colour_coded_masks_are_refused_with_what_to_do(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"colour\.png: a colour picture.*one class number.*8-bit grey PNG"):
        read_values(save(tmp_path / "colour.png", picture))
    with pytest.raises(InputError, match=r"float\.tif: a mask of float32"):
        read_values(save(tmp_path / "float.tif", np.zeros((4, 4), np.float32)))


def test_one_coloured_pixel_makes_an_image_coloured() -> None:
    image = np.full((33, 50, 3), 90, np.uint8)
    assert is_grey(image)
    assert is_grey(image[..., 0])
    for channel in range(3):
        spotted = image.copy()
        spotted[17, 18, channel] = 91
        assert not is_grey(spotted)


# ---------------------------------------------------------------- resizing


def test_shrinking_averages_and_growing_interpolates() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 36)).astype(np.uint8)
    means = image.reshape(6, 4, 9, 4).mean((1, 3))
    assert np.abs(resize_image(image, (6, 9)) - means).max() <= 0.5
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None], 24, axis=0)
    assert np.abs(np.diff(resize_image(ramp, (24, 48)).astype(int)[:, 1:-1], axis=1) - 5).max() <= 1
    assert resize_image(image, (24, 36)) is image
    assert resize_image(np.dstack([image] * 3), (7, 90)).shape == (7, 90, 3)


def test_each_axis_goes_its_own_way() -> None:
    """Shrunk across and grown down: the mean across, first."""
    image = np.random.default_rng(0).integers(0, 256, (5, 40)).astype(np.uint8)
    narrow = resize_image(image, (5, 10))
    assert (resize_image(image, (20, 10)) == resize_image(narrow, (20, 10))).all()


# ---------------------------------------------------------------- checking in bulk


def test_facts_of_an_image(tmp_path: Path, picture: np.ndarray) -> None:
    colour = examine(save(tmp_path / "a.png", picture))
    assert (colour.size, colour.grey, colour.dark) == ((40, 60), False, False)
    twelve_bits = examine(save(tmp_path / "b.png", np.full((9, 8), 4095, np.uint16)))
    assert (twelve_bits.size, twelve_bits.grey, twelve_bits.dark) == ((9, 8), True, True)
    assert DARK >= 4095 >> 8


def test_work_keeps_its_order_and_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    squares = on_all_cores(lambda i: i * i, range(20), lambda done, of: told.append((done, of)))
    assert squares == [i * i for i in range(20)]
    assert told == [(i, 20) for i in range(1, 21)]
    assert on_all_cores(str, []) == []


def test_an_interruption_does_not_wait_for_all_the_work() -> None:
    done: list[int] = []

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    def work(i: int) -> None:
        threading.Event().wait(0.005)
        done.append(i)

    with pytest.raises(KeyboardInterrupt):
        on_all_cores(work, range(1000), interrupt)
    assert len(done) < 900


def test_problems_are_told_together_ten_at_most() -> None:
    refuse_all("here", [])
    with pytest.raises(InputError, match="here: 1 problem in the data:\n  first"):
        refuse_all("here", ["first"])
    with pytest.raises(InputError) as e:
        refuse_all("here", [f"problem {i}" for i in range(14)])
    lines = str(e.value).splitlines()
    assert lines[0] == "here: 14 problems in the data:"
    assert lines[1:11] == [f"  problem {i}" for i in range(10)]
    assert lines[11:] == ["  and 4 more; all of them: python -m zoo inspect"]
