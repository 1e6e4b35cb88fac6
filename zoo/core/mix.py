"""MixUp and CutMix for masks: two samples of a batch become two others, on the device.

mixup:A    Zhang et al. 2018, section 2: x = λ x_i + (1 - λ) x_j, and so the target, with λ from Beta(A, A).
           The target is never built: its losses follow from those of the two masks, see `losses.Mixed`.
cutmix:A   Yun et al. 2019, eq. 1 and 2: a box of the other image's pixels, and of its mask's, whose sides are
           √(1 - λ) of the image's, about a centre drawn anywhere, cut off at the border.

Places 2j and 2j + 1 of the batch are a pair and mix both ways, with one λ and one box.  An odd last sample,
and one whose partner could not be read, stay as they are.  What is drawn follows from the pair's first sample
and the epoch (`Batch.seeds`), so that any number of workers and processes gives the same batches.

N batch, C channels, (h, w) the mask's size, the image's larger by a margin where the network crops.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from zoo.core import pictures
from zoo.core.config import Preprocess
from zoo.core.loader import Batch
from zoo.core.losses import Target, make_target
from zoo.core.masks import IGNORE, Labels, pack
from zoo.errors import InputError, nearest

WORDS = ("mixup", "cutmix")
STREAM = 2  # of a sample's random numbers


class Drawn(NamedTuple):
    """What happens to both samples of a pair.

    share: λ of MixUp, how much of a sample is its own; 1 for CutMix.
    rows, columns: the box of CutMix, in the mask; empty for MixUp.
    """

    share: float
    rows: slice
    columns: slice


class Mix:
    """What `--mix` says, such as mixup:0.4 or mixup:0.4+cutmix:1; of several each pair draws one.

    Raises InputError for a spec that cannot be read.
    """

    def __init__(self, spec: str):
        self.spec = spec
        self.alphas = parse(spec)

    def __bool__(self) -> bool:
        """Whether anything is mixed."""
        return bool(self.alphas)

    def check(self, batch: int, processes: int) -> None:
        """Raise InputError where a batch has nobody to mix, or leaves a process without an image for ever."""
        if self and batch < 2:
            raise InputError(f"--mix {self.spec}: has no pairs in --batch {batch}; give it 2 or more")
        if -(-batch // (2 if self else 1)) < processes:
            what = "pairs" if self else "images"
            raise InputError(f"--batch {batch}: fewer {what} than processes, which are {processes}")

    def draw(self, seed: int, size: tuple[int, int]) -> Drawn:
        """For the pair whose first sample has `seed`, and masks of `size` (h, w)."""
        rng = np.random.default_rng((seed, STREAM))
        word = list(self.alphas)[rng.integers(len(self.alphas))]
        share = float(rng.beta(self.alphas[word], self.alphas[word]))
        if word == "mixup":
            return Drawn(share, slice(0), slice(0))
        side = math.sqrt(1 - share)  # of the image's
        centre = rng.uniform(size=2)
        ends = [[round(n * (c + s * side / 2)) for s in (-1, 1)] for n, c in zip(size, centre, strict=True)]
        rows, columns = (slice(max(a, 0), min(b, n)) for (a, b), n in zip(ends, size, strict=True))
        return Drawn(1.0, rows, columns)

    def __call__(
        self, x: Tensor, mask: Tensor, weight: Tensor | None, batch: Batch, labels: Labels
    ) -> tuple[Tensor, Target]:
        """The mixed images, float (N, C, H, W), and their target.

        x, mask, weight: of `batch`, on the device, the images normalised; they stay as they are.
        """
        drawn = {
            i: self.draw(batch.seeds[min(i, j)], (mask.shape[1], mask.shape[2]))
            for i, j in enumerate(batch.partners)
            if i != j and self
        }
        if not drawn:
            return x, make_target(mask, labels, weight)
        others = torch.tensor(batch.partners, device=x.device)
        x, mask = x.clone(), mask.clone()
        x2, mask2 = x[others], mask[others]
        weight, weight2 = (None, None) if weight is None else (weight.clone(), weight[others])
        top, left = ((a - b) // 2 for a, b in zip(x.shape[2:], mask.shape[1:], strict=True))
        for i, (_, rows, columns) in drawn.items():
            mask[i, rows, columns] = mask2[i, rows, columns]
            if weight is not None and weight2 is not None:
                weight[i, rows, columns] = weight2[i, rows, columns]
            window = (i, slice(None), moved(rows, top), moved(columns, left))
            x[window] = x2[window]
        shares = [drawn[i].share if i in drawn else 1.0 for i in range(len(x))]
        if min(shares) == 1:
            return x, make_target(mask, labels, weight)
        share = torch.tensor(shares, device=x.device)
        x = torch.lerp(x2, x, share[:, None, None, None].to(x))
        mask2 = torch.where((share == 1)[:, None, None], mask, mask2)  # a mask mixes with itself
        if labels.task != "multilabel":  # what counts must count in both
            ignored = (mask == IGNORE) | (mask2 == IGNORE)
            mask, mask2 = (m.masked_fill(ignored, IGNORE) for m in (mask, mask2))
        target = make_target(mask, labels, weight)
        target.partner, target.share = make_target(mask2, labels, weight2), share
        return x, target


def moved(window: slice, by: int) -> slice:
    """`window` in an image whose border is `by` pixels wider."""
    return slice(window.start + by, window.stop + by) if window.stop else window


def parse(spec: str) -> dict[str, float]:
    """`mixup:0.4+cutmix:1` as {"mixup": 0.4, "cutmix": 1.0}, `none` as {}; raises InputError."""
    alphas: dict[str, float] = {}
    for part in spec.split("+") if spec != "none" else []:
        word, _, number = part.partition(":")
        if word not in WORDS:
            raise InputError(f"--mix {spec}: {word!r} is not known; {nearest(word, WORDS)}, or none")
        if word in alphas:
            raise InputError(f"--mix {spec}: {word} stands in it twice; give it one number")
        try:
            alphas[word] = float(number)
        except ValueError:
            alphas[word] = math.nan
        if not 0.01 <= alphas[word] <= 100:  # beyond, each image is one of the two, or half of both
            what = "needs a number from 0.01 to 100 behind a colon"
            raise InputError(f"--mix {spec}: {word} {what}, as in {word}:0.4")
    return alphas


def picture(x: Tensor, target: Target, preprocess: Preprocess, labels: Labels, most: int = 6) -> np.ndarray:
    """The first samples of a mixed batch as an RGB contact sheet: each image, and its mask drawn over it.

    x: (N, C, H, W) as the network gets it.  A mask of MixUp is seen through by its share.
    """
    h, w = target.mask.shape[-2:]
    top, left = (x.shape[2] - h) // 2, (x.shape[3] - w) // 2
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocess.mean, preprocess.std))
    cells = []
    for i in range(min(len(x), most)):
        image = x[i, :, top : top + h, left : left + w].float().cpu()
        image = ((image * std + mean) * 255).clamp(0, 255).byte().permute(1, 2, 0)  # (h, w, C)
        grey_or_rgb = image.squeeze(2).contiguous().numpy()
        both = [memory_form(t, i, labels) for t in (target, target.partner) if t is not None]
        shown, *masks = pictures.readable(grey_or_rgb, *both)
        own, *other = (pictures.overlay(shown, mask, labels) for mask in masks)
        if other and target.share is not None:
            share = float(target.share[i])
            own = cv2.addWeighted(own, share, other[0], 1 - share, 0)
        cells += [shown, own]
    return pictures.grid(cells, columns=4)


def memory_form(target: Target, i: int, labels: Labels) -> np.ndarray:
    """The mask of sample `i` as the loader gave it, but for a binary one's ignored pixels, which become 0."""
    if target.planes is None:
        return target.mask[i].byte().cpu().numpy()
    planes = target.planes[i].cpu().numpy()
    return pack(planes) if labels.task == "multilabel" else planes[0].view(np.uint8)
