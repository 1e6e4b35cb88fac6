"""From probabilities to masks: a threshold for each class, and which connected components are kept.

Legend: K classes, (H, W) the mask's size.  Pixels of a component touch by their sides or corners.

A multi-label or binary pixel has a class where its probability is above the class's threshold; what a filter
takes away is then of no class.  A multi-class pixel has the most probable class, so there is no threshold,
and what a filter takes away from a class becomes the next best class there.  (Not the background: data may
have none.  A region so gained is not filtered again.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from zoo.core.masks import Labels, class_plane, mask_dtype
from zoo.errors import InputError, nearest

HALF = 0.5
EVEN = 1e-7  # a difference that float32 cannot tell from none
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Decision:
    """What becomes of probabilities, a value a class each.

    thresholds: probabilities, between 0 and 1.  min_area: pixels of the image; smaller components go.
    largest: only the largest component stays, of several the uppermost.
    """

    thresholds: tuple[float, ...]
    min_area: tuple[int, ...]
    largest: tuple[bool, ...]

    @classmethod
    def of(cls, labels: Labels, thresholds: Sequence[float] = ()) -> Decision:
        """`thresholds`, or 0.5 for every class; no filters.  Raises InputError for what cannot be one."""
        count = labels.num_classes
        if labels.task == "multiclass" and len(thresholds):
            raise InputError("thresholds: a multi-class mask takes the most probable class and has none")
        if len(thresholds) not in (0, count):
            raise InputError(f"thresholds: {len(thresholds)} for {count} classes; give one a class")
        for t in thresholds:
            if not 0 < t < 1:
                raise InputError(f"thresholds {t}: must be a probability between 0 and 1, both excluded")
        return cls(tuple(map(float, thresholds)) or (HALF,) * count, (0,) * count, (False,) * count)

    def asked(
        self,
        labels: Labels,
        thresholds: Sequence[str] = (),
        min_area: Sequence[str] = (),
        largest: Sequence[str] | None = None,
    ) -> Decision:
        """This decision with what was typed: `0.4`, `Radius=0.4`; for `largest` names, [] for every class.

        Raises InputError naming the flag.
        """
        decision = self
        if thresholds:
            try:
                given = by_class("--thresholds", thresholds, labels, self.thresholds, float)
                decision = replace(decision, thresholds=Decision.of(labels, given).thresholds)
            except InputError as e:
                raise InputError("--" + str(e).removeprefix("--")) from e
        areas = by_class("--min-area", min_area, labels, self.min_area, int)
        if min(areas) < 0:
            raise InputError(f"--min-area {min(areas)}: must be 0 or more pixels")
        kept = self.largest
        if largest is not None:
            named = {place("--largest", name, labels) for name in largest}
            kept = tuple(not named or k in named for k in range(len(kept)))
        return replace(decision, min_area=areas, largest=kept)

    @property
    def filters(self) -> tuple[int, ...]:
        """Classes of which components may be taken away."""
        wanted = zip(self.min_area, self.largest, strict=True)
        return tuple(k for k, (area, one) in enumerate(wanted) if one or area > 1)

    def cut(self, k: int) -> float:
        """The logit of class k's threshold, above which the probability is above it; 0 for 0.5."""
        return math.log(self.thresholds[k] / (1 - self.thresholds[k]))

    def plane(self, k: int, probability: Tensor) -> Tensor:
        """Where (bool (H, W)) class k is, by its probability (H, W) over the whole image; not multi-class."""
        plane = probability > self.thresholds[k]
        if k not in self.filters:
            return plane
        return torch.from_numpy(self.kept(k, plane.cpu().numpy())).to(plane.device)

    def kept(self, k: int, plane: np.ndarray) -> np.ndarray:
        """What the filters leave of class k's plane, bool (H, W)."""
        return keep(plane, self.min_area[k], self.largest[k])

    def filtered(self, mask: np.ndarray, labels: Labels, second: np.ndarray | None = None) -> np.ndarray:
        """The whole `mask` (H, W) in its memory form without the components that the filters take away.

        second: the next best class of each pixel, uint8 (H, W); for multi-class alone.
        """
        if not self.filters:
            return mask
        clean = mask.copy()
        for k in self.filters:
            plane = class_plane(mask, labels, k)
            gone = plane & ~self.kept(k, plane)
            if labels.task == "multilabel":
                clean[gone] &= ~mask.dtype.type(1 << k)
            elif labels.task == "binary":
                clean[gone] = 0
            else:
                assert second is not None
                clean[gone] = second[gone]
        return clean


def keep(plane: np.ndarray, min_area: int = 0, largest: bool = False) -> np.ndarray:
    """`plane` (bool (H, W)) without components of fewer than `min_area` pixels, or with its largest alone."""
    count, components, stats, _ = cv2.connectedComponentsWithStats(plane.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    stays = areas >= min_area
    stays[0] = False  # what is not in the plane
    if largest and count > 1:
        rows = stats[1:, cv2.CC_STAT_TOP]
        best = 1 + int(np.lexsort((np.arange(count - 1), rows, -areas[1:]))[0])
        stays[:best] = stays[best + 1 :] = False
    return np.asarray(stays[components])


def by_class(
    flag: str, words: Sequence[str], labels: Labels, now: Sequence[Number], kind: type[Number]
) -> tuple[Number, ...]:
    """A value a class from words `VALUE`, for all classes, and `CLASS=VALUE`, in order; else those of `now`.

    Raises InputError.
    """
    values = list(now)
    for word in words:
        name, equals, text = word.rpartition("=")
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise InputError(f"{flag} {word}: want {what}, or CLASS={what.split()[-1].upper()}") from None
        for k in [place(flag, name, labels)] if equals else range(len(values)):
            values[k] = value
    return tuple(values)


def place(flag: str, name: str, labels: Labels) -> int:
    """The number of the class called `name`.  Raises InputError with the nearest names."""
    if name not in labels.names:
        raise InputError(f"{flag}: no class {name!r} here; {nearest(name, labels.names)}")
    return labels.names.index(name)


# ---------------------------------------------------------------- of several networks


def decide(probability: Tensor, labels: Labels, thresholds: Sequence[float] | None = None) -> Tensor:
    """Probabilities (K, h, w) as a mask (h, w) in the memory form of the task.

    multilabel, binary: set where it is above the class's threshold (None: 0.5).  multiclass: the largest,
    the first among equals.
    """
    dtype = torch.from_numpy(np.empty(0, mask_dtype(labels))).dtype
    if labels.task == "multiclass":
        return probability.argmax(0).to(dtype)
    mask = torch.zeros(probability.shape[1:], dtype=dtype, device=probability.device)
    for k, threshold in enumerate(thresholds or [0.5] * len(probability)):
        mask.add_(probability[k] > threshold, alpha=1 << k)
    return mask


def clear(probability: Tensor, labels: Labels, thresholds: Sequence[float] | None = None) -> bool:
    """Whether no pixel (K, h, w) is so even that float32 cannot tell: there two networks may contradict one
    another with certainties that it rounds to 1."""
    if labels.task == "multiclass":
        return not ((probability >= probability.amax(0) - EVEN).sum(0) > 1).any()
    limits = probability.new_tensor(thresholds or [0.5] * len(probability))[:, None, None]
    return bool((probability - limits).abs_().amin() > EVEN)


def votes(probability: Tensor, labels: Labels, thresholds: Sequence[float] | None = None) -> Tensor:
    """What one model decides, as planes (K, h, w) of 0 and 1."""
    decided = decide(probability, labels, thresholds)
    classes = torch.arange(len(probability), device=decided.device)[:, None, None]
    if labels.task == "multiclass":
        return (decided == classes).float()
    return (decided >> classes & 1).float()
