"""From an image to its mask, at the image's own size.

Two ways, chosen by the checkpoint's `Preprocess`: the whole image resized to the model's size and its
logits resized back, or overlapping tiles at the image's own scale (U-Net paper, Fig. 2).  Either way one
class is looked at after another, so that K x H x W floats of the image's size never exist.

K classes; (H, W) the image's size; (h, w) the model's output; m: `model.margin`, lost at each side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core import checkpoint
from zoo.core.config import Preprocess, channels_first
from zoo.core.decide import Decision
from zoo.core.device import resolve_amp, resolve_device
from zoo.core.images import resize_image
from zoo.core.masks import Labels, mask_dtype
from zoo.core.transforms import mirror_pad
from zoo.errors import InputError
from zoo.fold import fold

CPU = torch.device("cpu")
VALID_TILE = 388  # Fig. 1's output


class Predictor:
    """`predictor(image)` is the mask of a uint8 image (H, W) or (H, W, 3), in the memory form of its task.

    model: the architecture contract's (`margin`, `min_size`, `size_step`; a module without them counts as
        one that takes any size).  It is moved to `device` and put in eval mode.
    amp: the dtype of autocast, None for float32 throughout.
    decision: thresholds and filters; by default 0.5 and none.
    ready: the model is on `device`, in whatever memory format it should have.
    """

    layout = torch.channels_last  # of images

    def __init__(
        self,
        model: nn.Module,
        labels: Labels,
        preprocess: Preprocess,
        device: torch.device = CPU,
        amp: torch.dtype | None = None,
        ready: bool = False,
        decision: Decision | None = None,
    ):
        self.model = model.eval()
        if not ready:
            self.model.to(device)
            self.use(torch.channels_last, amp)  # measured 1.2 to 3 times as fast on a CPU
        self.labels, self.preprocess = labels, preprocess
        self.decision = decision or Decision.of(labels)
        self.device, self.amp = device, amp
        self.margin: int = getattr(model, "margin", 0)
        self.sizes = Sizes(getattr(model, "min_size", 1), getattr(model, "size_step", 1))

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto", amp: str = "auto") -> Predictor:
        """The predictor of a checkpoint that train.py wrote: BatchNorms folded, thresholds as fitted, if they
        were.  Raises InputError."""
        where = resolve_device(device)
        precision = resolve_amp(amp, where)
        return cls.of(checkpoint.read(path), where, precision)

    @classmethod
    def of(cls, state: checkpoint.Checkpoint, device: torch.device, amp: torch.dtype | None) -> Predictor:
        """The predictor of a checkpoint that was read."""
        model, decision = fold(checkpoint.model_of(state)), Decision.of(state.labels, state.thresholds)
        return cls(model, state.labels, state.preprocess, device, amp, decision=decision)

    def use(self, layout: torch.memory_format, amp: torch.dtype | None) -> None:
        """Predict in this memory format and precision from now on."""
        self.model.to(memory_format=layout)
        self.layout, self.amp = layout, amp

    @torch.no_grad()  # not inference_mode: the trainer goes on training this very model
    def __call__(self, image: np.ndarray) -> np.ndarray:
        check_image(image)
        mask, second = np.empty(image.shape[:2], mask_dtype(self.labels)), None
        if self.labels.task == "multiclass" and self.decision.filters:
            second = np.empty(mask.shape, np.uint8)
        for y, x, logits, size in self.parts(image):
            part = harden(logits, self.labels, size, self.decision)
            inside = slice(y, y + size[0]), slice(x, x + size[1])
            mask[inside] = part.cpu().numpy()
            if second is not None:
                second[inside] = runner_up(logits, part).cpu().numpy()
        return self.decision.filtered(mask, self.labels, second)

    def parts(self, image: np.ndarray) -> Iterator[tuple[int, int, Tensor, tuple[int, int]]]:
        """(top, left, logits (K, h, w), size they are to be resized to), each pixel of the image once.

        The whole image is one part; of overlapping tiles the later one has the pixels.
        """
        (H, W), (h, w), m = image.shape[:2], self.preprocess.size, self.margin
        if not self.preprocess.tile:
            yield 0, 0, self.whole(image), (H, W)
            return
        rows, columns = (tiling(n, t, self.sizes, m)[1] for n, t in ((H, h), (W, w)))
        bottom, right = dict(pairwise([*rows, H])), dict(pairwise([*columns, W]))
        for y, x, logits in self.tiles(image):
            size = bottom[y] - y, right[x] - x
            yield y, x, logits[:, : size[0], : size[1]], size

    def whole(self, image: np.ndarray) -> Tensor:
        """The logits (K, h, w) of the image resized to the model's size."""
        m = self.margin
        window = resize_image(image, self.preprocess.size)
        return self.logits(mirror_pad(window, m, m, m, m) if m else window)

    def logits(self, window: np.ndarray) -> Tensor:
        """The model's float32 answer (K, h, w), on the device, to a uint8 window (h + 2m, w + 2m)."""
        pixels = channels_first(window, self.preprocess.channels).to(self.device)
        x = self.preprocess.normalise(pixels)[None].contiguous(memory_format=self.layout)
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            logits: Tensor = self.model(x)[0]
        if logits.shape[0] != self.labels.num_classes:
            raise InputError(f"the model gives {logits.shape[0]} maps for {self.labels.num_classes} classes")
        logits = logits.float().contiguous()
        if not torch.isfinite(logits).all():
            raise InputError("the model's output is not finite: try --amp off, or an earlier checkpoint")
        return logits

    def tiles(self, image: np.ndarray) -> Iterator[tuple[int, int, Tensor]]:
        """(top, left, logits (K, h, w)) of tiles that cover the image at its own scale; the last in a row or
        column may reach beyond it.

        The overlap-tile strategy: contiguous outputs, each from an input wider by the margin, mirrored
        beyond the border.

        One tile a forward pass: the paper's choice too (large tiles rather than large batches).  A batch
        of tiles was no faster on a CPU, and would multiply the memory.
        """
        (H, W), m = image.shape[:2], self.margin
        h, rows = tiling(H, self.preprocess.size[0], self.sizes, m)
        w, columns = tiling(W, self.preprocess.size[1], self.sizes, m)
        padded = mirror_pad(image, m, m + rows[-1] + h - H, m, m + columns[-1] + w - W)
        for y in rows:
            for x in columns:
                yield y, x, self.logits(padded[y : y + h + 2 * m, x : x + w + 2 * m])


@dataclass(frozen=True)
class Sizes:
    """The output sizes that a model can have: smallest + n * step."""

    smallest: int
    step: int

    @property
    def overlap(self) -> int:
        """By how much neighbouring tiles must overlap so that their offsets are multiples of the step."""
        return self.smallest % self.step

    def least(self, length: float) -> int:
        """The smallest legal size that is at least `length`, and more than the overlap."""
        length = max(length, self.smallest, self.overlap + 1)
        return self.smallest + -int((self.smallest - length) // self.step) * self.step


def tiling(length: int, tile: int, sizes: Sizes, margin: int) -> tuple[int, list[int]]:
    """The tile's size and the offsets of the tiles that cover one axis of an image.

    A max-pooling network answers differently when its input shifts by less than its pooling grid, so
    offsets are multiples of the size step: U-Net's 388 px tiles stand 384 px apart, and overlap by 4 px
    on which they agree.  Tiled and whole-image answers are then equal.

    With a margin the answer does not depend on the tile's size, so that is free: at least the paper's
    (a small one recomputes most of its input), then as small as the same number of tiles allows.
    Without one a tile keeps its size, for its border is worse than its middle; the last is shifted back
    into the image, and only an image smaller than a tile makes the tile smaller.
    """
    overlap = sizes.overlap
    tile = sizes.least(max(tile, VALID_TILE) if margin else tile)
    count = max(1, -((overlap - length) // (tile - overlap)))
    if margin or count == 1:
        tile = sizes.least((length - overlap) / count + overlap)
    last = max(0, -((tile - length) // sizes.step) * sizes.step)
    return tile, [min(i * (tile - overlap), last) for i in range(count)]


def harden(
    logits: Tensor, labels: Labels, size: tuple[int, int], decision: Decision | None = None
) -> Tensor:
    """Logits (K, h, w) resized to `size` (bilinear) and decided, in the memory form of the task.

    multilabel, binary: set where the logit is above that of the threshold, 0 for 0.5.  multiclass: the
    largest, the first among equals.  Filters are left to `Decision.filtered`, for they need the whole mask.
    Equal to resizing all planes at once and then deciding, at the memory of one or two of them.
    """
    decision = decision or Decision.of(labels)
    dtype = torch.from_numpy(np.empty(0, mask_dtype(labels))).dtype
    mask = torch.zeros(size, dtype=dtype, device=logits.device)
    if labels.task == "multiclass":
        best = plane_of(logits, 0, size)
        for k in range(1, len(logits)):
            new = plane_of(logits, k, size)
            mask.masked_fill_(new > best, k)
            best = torch.maximum(best, new)
    else:
        peaks = logits.amax((1, 2)).tolist()
        for k, peak in enumerate(peaks):
            if peak > decision.cut(k):  # else no weighted mean of its values is
                mask.add_(plane_of(logits, k, size) > decision.cut(k), alpha=1 << k)
    return mask


def plane_of(logits: Tensor, k: int, size: tuple[int, int]) -> Tensor:
    """Class k of logits (K, h, w), resized to `size`."""
    if logits.shape[1:] == size:
        return logits[k]
    return F.interpolate(logits[None, k : k + 1], size, mode="bilinear", align_corners=False)[0, 0]


def runner_up(logits: Tensor, mask: Tensor) -> Tensor:
    """The best class (H, W) beside that in `mask`, to which multi-class logits (K, h, w) were hardened."""
    size = (mask.shape[0], mask.shape[1])
    best = torch.full(size, -torch.inf, device=logits.device)
    second = mask.clone()  # of a single class there is no other
    for k in range(len(logits)):
        new = plane_of(logits, k, size).masked_fill(mask == k, -torch.inf)
        second.masked_fill_(new > best, k)
        best = torch.maximum(best, new)
    return second


def check_image(image: np.ndarray) -> None:
    """Raises InputError for anything but uint8 (H, W) or (H, W, 3) with at least a pixel."""
    right_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not right_shape or not image.size:
        raise InputError(f"image is {image.dtype} {image.shape}: give uint8 (H, W) or (H, W, 3), RGB")
