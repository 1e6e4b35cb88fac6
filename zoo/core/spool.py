"""Logits on disk while other networks run, and bands of them at the image's size.

Legend: K classes; (H, W) the image's size; (h, w) a network's output; [top, bottom) rows of the image.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.core.views import Box


@dataclass
class Seen:
    """A view's logits in the file: boxes on a canvas (h, w), and where each one's (h, K, w) begins."""

    canvas: tuple[int, int]
    weight: float
    parts: list[tuple[Box, int]]


class Spool:
    """A temporary file without a name, so that nothing is left of it, however the process ends.

    Its methods raise OSError where the disk is full.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes, self.device = classes, device
        self.file: BinaryIO | None = None
        self.end = 0

    def write(self, logits: Tensor) -> int:
        """Where (K, h, w) begins, kept row by row: (h, K, w) float32."""
        begin = self.end
        if self.file is None:
            self.file = tempfile.TemporaryFile(prefix="zoo-")  # noqa: SIM115
        for rows in logits.split(64, dim=1):
            data = rows.transpose(0, 1).contiguous().cpu().numpy()
            self.file.write(data.data.cast("B"))
            self.end += data.nbytes
        return begin

    def read(self, begin: int, rows: slice, w: int) -> Tensor:
        """Some rows of what was written there: (K, rows, w)."""
        data = np.empty((rows.stop - rows.start, self.classes, w), np.float32)
        assert self.file is not None
        self.file.seek(begin + rows.start * self.classes * w * 4)
        self.file.readinto(data.data.cast("B"))  # type: ignore[attr-defined]
        return torch.from_numpy(data).transpose(0, 1).contiguous()

    def clear(self) -> None:
        """Give the disk's space back and begin anew."""
        if self.file is not None:
            self.file.close()
        self.file, self.end = None, 0

    def enlarged(self, seen: Seen, size: tuple[int, int], top: int, bottom: int) -> Tensor:
        """Rows [top, bottom) of a view's logits at the image's size (H, W): (K, bottom - top, W).

        Tiles are blended, then resized as `F.interpolate` would resize the whole canvas.
        """
        above, under, share = sources(top, bottom, size[0], seen.canvas[0])
        first, last = int(above[0]), int(under[-1]) + 1
        width = seen.canvas[1]
        whole: Tensor | None = None
        for box, where in seen.parts:
            h, w = len(box.rows), len(box.columns)
            low, high = max(first, box.y), min(last, box.y + h)
            if low >= high:
                continue
            rows = slice(low - box.y, high - box.y)
            part = self.read(where, rows, w).to(self.device)
            if len(seen.parts) == 1 and w == width:
                whole = part
                break
            part *= (box.rows[rows, None] * box.columns).to(self.device)
            if whole is None:
                whole = torch.zeros((self.classes, last - first, width), device=self.device)
            whole[:, low - first : high - first, box.x : box.x + w] += part
        assert whole is not None
        if last - first <= bottom - top:  # few rows: widen them, then make more of them
            whole = _widened(whole, size[1])
        if seen.canvas[0] != size[0]:
            blend = share[:, None].to(self.device)
            whole = whole[:, above - first].lerp_(whole[:, under - first], blend)
        return _widened(whole, size[1])


def _widened(rows: Tensor, width: int) -> Tensor:
    """(K, b, w) -> (K, b, width), bilinear."""
    if rows.shape[2] == width:
        return rows
    return F.interpolate(rows[None], (rows.shape[1], width), mode="bilinear", align_corners=False)[0]


def sources(top: int, bottom: int, height: int, canvas: int) -> tuple[Tensor, Tensor, Tensor]:
    """For rows [top, bottom) of `height`, the two rows of a canvas around each, and the lower one's share:
    bilinear, by pixel centres."""
    at = ((torch.arange(top, bottom, dtype=torch.float64) + 0.5) * canvas / height - 0.5).clamp_(min=0)
    above = at.long().clamp_(max=canvas - 1)
    return above, at.ceil().long().clamp_(max=canvas - 1), (at - above).float()
