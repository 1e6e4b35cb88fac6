"""If these break, members of an ensemble look at other pixels than they answer for, or tiles leave seams."""

import numpy as np
import pytest
import torch

from zoo.core.predictor import Sizes
from zoo.core.views import Box, Tiles, View, parse_views
from zoo.errors import InputError

ANY = Sizes(1, 1)
ALL = parse_views("flip,rot90")


def test_words_become_every_combination_and_the_plain_view_comes_first() -> None:
    assert parse_views("") == (View(),)
    assert parse_views("flip") == (View(), View(True))
    assert [v.turns for v in parse_views("rot90")] == [0, 1, 2, 3]
    views = parse_views("flip, scale:0.75+1.25,rot90")
    assert views[0] == View()
    assert len(views) == len(set(views)) == 2 * 4 * 3
    assert {v.scale for v in views} == {1.0, 0.75, 1.25}
    assert parse_views("scale:1") == (View(),), "the plain view is there already"


@pytest.mark.parametrize(
    ("spec", "said"),
    [("flop", "nearest: flip"), ("flip,flip", "twice"), ("scale", "wants sizes"),
     ("rot90:2", "takes no value"), ("scale:0", "from 0.25 to 4"), ("scale:1.5+x", "scale:x"),
     ("scale:nan", "from 0.25"), ("scale:", "from 0.25"), ("flip,", "not known")],
)  # fmt: skip
def test_wrong_words_get_a_sentence(spec: str, said: str) -> None:
    with pytest.raises(InputError, match="--tta") as e:
        parse_views(spec)
    assert said in str(e.value)


@pytest.mark.parametrize("view", ALL, ids=str)
def test_what_is_restored_lies_where_it_was(view: View) -> None:
    image = np.arange(35, dtype=np.uint8).reshape(5, 7)
    seen = torch.from_numpy(view.show(image).copy())[None]
    assert torch.equal(view.restore(seen)[0], torch.from_numpy(image))
    coloured = np.stack([image, image + 50, image + 100], axis=-1)
    assert np.array_equal(view.show(coloured)[..., 1], view.show(image) + 50)


@pytest.mark.parametrize("view", ALL, ids=str)
def test_a_box_goes_back_with_its_pixels_and_weights(view: View) -> None:
    image = np.arange(35, dtype=np.uint8).reshape(5, 7)
    seen = view.show(image)
    y, x, h, w = 1, 2, 3, 2
    part = view.restore(torch.from_numpy(seen[y : y + h, x : x + w].copy())[None])[0]
    rows, columns = torch.arange(h) + 1.0, torch.arange(w) + 10.0
    box = Box(y, x, rows, columns).restored(view, seen.shape)
    assert np.array_equal(part, image[box.y : box.y + len(box.rows), box.x : box.x + len(box.columns)])
    weights = view.restore((rows[:, None] * columns)[None])[0]
    assert torch.equal(box.rows[:, None] * box.columns, weights)


@pytest.mark.parametrize("blend", ["gaussian", "flat"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("sizes", "margin"), [(ANY, 0), (Sizes(17, 1), 0), (Sizes(16, 16), 0), (Sizes(4, 16), 92)]
)
def test_weights_add_up_to_one_at_every_pixel(sizes: Sizes, margin: int, overlap: float, blend: str) -> None:
    for size in ((1, 1), (20, 31), (32, 33), (100, 450), (401, 64)):
        tiles = Tiles((32, 48), overlap, blend)
        (h, w), windows = tiles.lay(size, sizes, margin)
        total = torch.zeros(size)
        for one in windows:
            down, across = one.inside
            box = one.box
            assert (one.y + down.start, one.x + across.start) == (box.y, box.x)
            assert (down.stop - down.start, across.stop - across.start) == (len(box.rows), len(box.columns))
            assert 0 <= down.start < down.stop <= h
            assert 0 <= across.start < across.stop <= w
            total[box.y : box.y + len(box.rows), box.x : box.x + len(box.columns)] += (
                box.rows[:, None] * box.columns
            )
        assert torch.allclose(total, torch.ones(size), rtol=0, atol=1e-5)


def test_overlapping_tiles_stand_where_one_would_put_them() -> None:
    (h, w), windows = Tiles((1024, 1024), 0.25).lay((2048, 1024), ANY, 0)
    assert (h, w) == (1024, 1024)
    offsets = [(one.y, one.x) for one in windows]
    assert offsets == [(-128, 0), (640, 0), (1152, 0)], "mirrored by half the overlap"
    exact = Tiles((388, 388), 0.25).lay((772, 388), Sizes(4, 16), 92)[1]
    assert [one.y for one in exact] == [0, 384], "U-Net's own"


def test_a_gaussian_weighs_a_tiles_middle_more_than_its_border() -> None:
    windows = Tiles((64, 64), 0.5).lay((96, 64), ANY, 0)[1]
    flat = Tiles((64, 64), 0.5, "flat").lay((96, 64), ANY, 0)[1]
    assert [o.y for o in windows] == [-16, 16, 48]
    weight = torch.exp(-0.5 * (((torch.arange(64) + 0.5) / 64 - 0.5) * 8) ** 2).double()
    at = 40  # under the tiles at -16 (row 56 of it) and 16 (row 24)
    expected = (weight[24] / (weight[24] + weight[56])).item()
    assert windows[1].box.rows[at - 16].item() == pytest.approx(expected)
    assert flat[1].box.rows[at - 16].item() == 0.5
