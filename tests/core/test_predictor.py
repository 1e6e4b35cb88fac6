"""If these break, masks come out wrong or prediction runs out of memory, for everybody who uses infer.py.

The plain way to decide (resize all logits, then threshold or argmax) and one forward pass over the whole
mirrored image are the references.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.core.largest import Largest
from zoo.archs.unet import UNet
from zoo.archs.unetpp import UNetPP
from zoo.core import predictor
from zoo.core.config import Preprocess
from zoo.core.masks import Labels, unpack
from zoo.core.predictor import Predictor, Sizes, harden, tiling
from zoo.core.transforms import mirror_pad
from zoo.errors import InputError

UNET = Sizes(4, 16)
ANY = Sizes(1, 1)


def labels(task: str, classes: int) -> Labels:
    index = {"multilabel": (), "multiclass": tuple(range(classes)), "binary": (1,)}[task]
    return Labels(task, tuple(f"c{k}" for k in range(classes)), ((1, 2, 3),) * classes, index)


def grey(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def plain(logits: Tensor, size: tuple[int, int], task: str) -> np.ndarray:
    """Bool planes (K, H, W), or the class of each pixel: all K planes at once."""
    resized = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    return (resized.argmax(0) if task == "multiclass" else resized > 0).numpy()


class Fixed(nn.Module):
    """Answers with the same logits whatever comes."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.answer = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.answer[None].expand(len(x), -1, -1, -1)


# ---------------------------------------------------------------- class by class


@pytest.mark.parametrize("size", [(24, 20), (61, 47), (192, 160), (13, 9), (1, 1)], ids=str)
@pytest.mark.parametrize(
    ("task", "classes"),
    [("multilabel", 1), ("multilabel", 29), ("multilabel", 31), ("multilabel", 63), ("multiclass", 2),
     ("multiclass", 11), ("multiclass", 254), ("binary", 1)],
)  # fmt: skip
def test_class_by_class_equals_all_at_once(task: str, classes: int, size: tuple[int, int]) -> None:
    logits = torch.randn(classes, 24, 20)
    logits[:: 3] -= 10  # absent classes are skipped
    mask = harden(logits, labels(task, classes), size).numpy()
    expected = plain(logits, size, task)
    if task == "multilabel":
        assert mask.dtype == (np.int32 if classes <= 31 else np.int64)
        assert np.array_equal(unpack(mask, classes), expected)
    else:
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, expected if task == "multiclass" else expected[0])


def test_ties_go_to_the_lower_class_and_zero_is_not_set() -> None:
    logits = torch.zeros(5, 8, 8)
    assert not harden(logits, labels("multilabel", 5), (16, 16)).any()
    assert not harden(logits, labels("multiclass", 5), (16, 16)).any()
    logits[2] = logits[4] = 1
    assert (harden(logits, labels("multiclass", 5), (16, 16)) == 2).all()


@pytest.mark.parametrize(("task", "classes"), [("multilabel", 29), ("multiclass", 29), ("binary", 1)])
def test_no_tensor_is_larger_than_the_mask_or_the_logits(task: str, classes: int) -> None:
    size = (600, 500)
    predict = Predictor(
        Fixed(torch.randn(classes, 64, 64)), labels(task, classes), Preprocess(1, (0.5,), (0.5,), (64, 64))
    )
    with Largest() as largest:
        mask = predict(grey(*size))
    assert mask.shape == size
    assert largest.numel == 600 * 500, "a tensor of more than one value a pixel of the image"


# ---------------------------------------------------------------- the whole image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(64, 48), (101, 203), (20, 30), (50, 60, 3), (1, 1), (1, 1, 3)], ids=str)
def test_mask_has_the_images_own_size(shape: tuple[int, ...], channels: int) -> None:
    model = UNetPP(3, channels, width=2)
    predict = Predictor(
        model, labels("multilabel", 3), Preprocess(channels, (0.5,) * channels, (0.2,) * channels, (32, 48))
    )
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mask = predict(image)
    assert mask.shape == shape[:2]
    assert mask.dtype == np.int32
    assert np.array_equal(mask, predict(image))


def test_at_the_models_size_nothing_is_resized() -> None:
    model, image = UNetPP(4, 1, width=4).eval(), grey(48, 64)
    preprocess = Preprocess(1, (0.4,), (0.3,), (48, 64))
    with torch.no_grad():
        expected = model(preprocess.to_tensor(image)[None])[0].argmax(0)
    assert np.array_equal(Predictor(model, labels("multiclass", 4), preprocess)(image), expected)


def test_a_model_with_a_margin_also_takes_the_whole_image_resized() -> None:
    model, image = UNet(2, 1, width=2).eval(), grey(52, 36)
    preprocess = Preprocess(1, (0.5,), (0.25,), (52, 36), tile=False)
    with torch.no_grad():
        expected = model(preprocess.to_tensor(mirror_pad(image, 92, 92, 92, 92))[None])[0].argmax(0)
    assert np.array_equal(Predictor(model, labels("multiclass", 2), preprocess)(image), expected)


def test_the_model_can_be_trained_on_afterwards() -> None:
    model = UNetPP(1, 1, width=2)
    Predictor(model, labels("binary", 1), Preprocess(1, (0.5,), (0.25,), (32, 32)))(grey(32, 32))
    model.train()(torch.randn(1, 1, 32, 32)).logits.sum().backward()


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("sizes", [UNET, ANY, Sizes(32, 1), Sizes(16, 16), Sizes(20, 16)], ids=str)
@pytest.mark.parametrize("margin", [0, 92])
def test_tiles_cover_the_axis_on_the_grid(sizes: Sizes, margin: int) -> None:
    for wanted in (1, 4, 20, 64, 388):
        for length in [*range(1, 90), 387, 388, 389, 512, 772, 773, 1000, 2048]:
            tile, offsets = tiling(length, wanted, sizes, margin)
            assert (tile - sizes.smallest) % sizes.step == 0
            assert tile >= sizes.smallest
            assert offsets[0] == 0
            assert all(offset % sizes.step == 0 for offset in offsets)
            assert all(0 < b - a <= tile for a, b in pairwise(offsets)), "a gap"
            assert offsets[-1] < length <= offsets[-1] + tile
            assert offsets[-1] + tile - length < max(sizes.step, sizes.least(1)), "more mirror than needed"


def test_tile_sizes() -> None:
    assert tiling(388, 388, UNET, 92) == (388, [0])
    assert tiling(772, 388, UNET, 92) == (388, [0, 384])
    assert tiling(512, 388, UNET, 92) == (260, [0, 256]), "two tiles need not be larger than this"
    assert tiling(512, 52, UNET, 92) == (260, [0, 256]), "small tiles would compute the margin over and over"
    assert tiling(100, 388, UNET, 92) == (100, [0])
    assert tiling(1000, 256, ANY, 0) == (256, [0, 256, 512, 744]), "the last is shifted back"
    assert tiling(100, 256, Sizes(32, 1), 0) == (100, [0])
    assert tiling(10, 256, Sizes(32, 1), 0) == (32, [0])


@pytest.mark.parametrize("task", ["multilabel", "multiclass", "binary"])
def test_overlap_tiles_equal_one_pass_over_the_mirrored_image(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "VALID_TILE", 52)
    classes = 1 if task == "binary" else 3
    model, image = UNet(classes, 1, width=4).eval(), grey(140, 75)
    preprocess = Preprocess(1, (0.5,), (0.25,), (52, 52), tile=True)
    predict = Predictor(model, labels(task, classes), preprocess)
    height, width = UNET.least(140), UNET.least(75)
    padded = mirror_pad(image, 92, 92 + height - 140, 92, 92 + width - 75)
    with torch.no_grad():
        whole = model(preprocess.to_tensor(padded)[None])[0, :, :140, :75]

    (h, rows), (w, columns) = tiling(140, 52, UNET, 92), tiling(75, 52, UNET, 92)
    assert (h, rows, w, columns) == (52, [0, 48, 96], 52, [0, 32])
    wide = mirror_pad(image, 92, 92 + 52, 92, 92 + 52)
    for y in rows:
        for x in columns:
            tile = predict.logits(wide[y : y + h + 184, x : x + w + 184])[:, : 140 - y, : 75 - x]
            assert torch.allclose(tile, whole[:, y : y + h, x : x + w], rtol=0, atol=1e-5 * whole.abs().max())

    mask = predict(image)
    certain = (whole.abs() > 1e-5).numpy()
    if task == "multilabel":
        assert np.array_equal(unpack(mask, classes) & certain, (whole > 0).numpy() & certain)
    elif task == "multiclass":
        top = whole.topk(2, dim=0).values
        clear = (top[0] - top[1] > 1e-5).numpy()
        assert np.array_equal(mask[clear], whole.argmax(0).numpy()[clear])
    else:
        assert np.array_equal(mask[certain[0]], (whole[0] > 0).numpy()[certain[0]])
    assert len(np.unique(mask)) > 1


def test_off_the_grid_a_pooling_network_answers_differently() -> None:
    """Why offsets are multiples of the size step: the naive ones, a tile apart, are wrong by far."""
    model, image = UNet(1, 1, width=4).eval(), grey(256, 256)
    x = Preprocess(1, (0.5,), (0.25,), (52, 52)).to_tensor(image)[None]
    with torch.no_grad():
        whole = model(x[..., :252, :252])
        on, off = model(x[..., 16:252, 16:252]), model(x[..., 4:240, 4:240])
    scale = whole.abs().max()
    assert (on - whole[..., 16:, 16:]).abs().max() < 1e-5 * scale
    assert (off - whole[..., 4:56, 4:56]).abs().max() > 0.01 * scale


@pytest.mark.parametrize("shape", [(5, 7), (30, 200), (33, 65, 3), (1, 1)], ids=str)
def test_tiles_without_a_margin(shape: tuple[int, ...]) -> None:
    model = UNetPP(2, 1, width=2)
    predict = Predictor(model, labels("multiclass", 2), Preprocess(1, (0.5,), (0.25,), (32, 32), tile=True))
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert predict(image).shape == shape[:2]


# ---------------------------------------------------------------- precision and mistakes


def test_bf16_is_used_and_close() -> None:
    seen = []
    model = UNetPP(2, 1, width=4).eval()
    next(m for m in model.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(
        lambda module, args, out: seen.append(out.dtype)
    )
    preprocess, image = Preprocess(1, (0.5,), (0.25,), (32, 32)), grey(32, 32)
    full = Predictor(model, labels("multilabel", 2), preprocess).logits(image)
    half = Predictor(model, labels("multilabel", 2), preprocess, amp=torch.bfloat16).logits(image)
    assert seen == [torch.float32, torch.bfloat16]
    assert half.dtype == torch.float32
    assert (full - half).abs().max() < 0.05 * full.abs().max()


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.float32), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8),
     np.zeros((0, 8), np.uint8), np.zeros(8, np.uint8)],
    ids=["float", "channels first", "alpha", "empty", "a line"],
)  # fmt: skip
def test_other_arrays_are_refused_with_what_they_are(image: np.ndarray) -> None:
    predict = Predictor(UNetPP(1, 1, width=2), labels("binary", 1), Preprocess(1, (0.5,), (0.25,), (32, 32)))
    with pytest.raises(InputError, match=rf"image is {image.dtype} .*give uint8 \(H, W\)"):
        predict(image)


def test_output_that_is_not_finite_or_of_another_class_count_is_refused() -> None:
    preprocess = Preprocess(1, (0.5,), (0.25,), (8, 8))
    for value in (float("nan"), float("inf")):
        predict = Predictor(Fixed(torch.full((2, 8, 8), value)), labels("multilabel", 2), preprocess)
        with pytest.raises(InputError, match=r"not finite: try --amp off"):
            predict(grey(8, 8))
    with pytest.raises(InputError, match="2 maps for 3 classes"):
        Predictor(Fixed(torch.zeros(2, 8, 8)), labels("multilabel", 3), preprocess)(grey(8, 8))
