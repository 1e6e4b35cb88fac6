"""Many networks, many views of an image, one mask: a mean of probabilities, or a vote, in little memory.

The plain way holds the probabilities of every model, classes × height × width each.  Here one model is in
memory at a time, and what it says of an image goes to a temporary file as it comes out, at the model's own
size: 29 maps of 512×512 are 29 MiB, those of 2048×2048 were 464.  Once all models have seen a group of
images, as many as the file may hold, each image is put together from the file in bands of a few rows: blend
a view's tiles, enlarge to the image, take the sigmoid or softmax, add.  So

- a model is loaded once a group, not once an image;
- neither the number of models nor that of views is to be found in the memory, only in the file;
- the sum is that of the plain way (float32, the last digit apart): logits are not rounded on their way, for
  half precision would move a mean by 1e-4 and, on soft borders, one pixel in ten thousand.

An accumulator of 8 or 16 bits in memory was the other way: it grows with classes × image, and rounds.
An image whose views do not fit into the file by themselves goes through it in parts, from above.

Legend: K classes; (H, W) the image's size; [top, bottom) rows of it.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from zoo.core.checkpoint import check_labels
from zoo.core.choose import Choice, choose
from zoo.core.config import Preprocess
from zoo.core.decide import Decision, clear, decide, votes
from zoo.core.images import plural, resize_image
from zoo.core.masks import mask_dtype
from zoo.core.pipeline import Answer, ahead
from zoo.core.predictor import VALID_TILE, Predictor, Sizes, check_image
from zoo.core.spool import Seen, Spool, sources
from zoo.core.transforms import mirror_pad
from zoo.core.views import Box, Tiles, View, Window, touching
from zoo.errors import InputError

SPOOL = 4 << 30  # bytes in the temporary file at most, and half of what the disk has free
BAND = 1 << 21   # values in a band of rows: of each, two or three are held
RULES = ("mean", "vote")
T = TypeVar("T")


@dataclass(frozen=True)
class Member:
    """What is known of a checkpoint while it is not in memory.  tiles: None for the whole image, resized."""

    path: Path
    preprocess: Preprocess
    sizes: Sizes
    margin: int
    tiles: Tiles | None


@dataclass(frozen=True)
class Shown:
    """A view of an image of one size to one network: the canvas (h, w), and a window for each box on it."""

    view: View
    canvas: tuple[int, int]
    tile: tuple[int, int]
    windows: list[Window]
    boxes: list[Box]

    def reach(self, rows: tuple[int, int], height: int) -> list[int]:
        """The boxes that rows [top, bottom) of an image of that height are made of."""
        first, last, _ = sources(*rows, height, self.canvas[0])
        return touching(self.boxes, int(first[0]), int(last[-1]) + 1)


class Ensemble:
    """`ensemble(image)` is a mask as `Predictor`'s; `run` is the way for many images.

    weights: one a checkpoint, in any unit; each one's views share it.  rule: `mean` or `vote`.
    tiles: for all checkpoints in place of what each was trained for.
    decision: thresholds (`vote`: each model's) and filters, by default the weighted mean of those that the
        checkpoints were fitted with, and no filters.  thresholds: in their place, one a class.
    spool: bytes that the temporary file may hold, None for SPOOL; one image of whole views may exceed it.
    choosing: each network chooses memory format and precision by the first image that it sees (`choices`).
    Raises InputError for checkpoints that cannot be read or joined, and tiles that one of them cannot take.
    """

    predictor: Predictor  # of the model in memory

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        weights: Sequence[float] | None = None,
        rule: str = "mean",
        views: Sequence[View] = (View(),),
        tiles: Tiles | None = None,
        thresholds: Sequence[float] | None = None,
        machine: tuple[str, str] = ("auto", "auto"),
        spool: int | None = None,
        choosing: bool = False,
    ):
        self.choosing, self.choices = choosing, dict[int, Choice]()
        self.rule, self.views = rule, views
        self.machine = machine
        self.most = room() if spool is None else spool
        self.members, fitted = list[Member](), list[tuple[float, ...]]()
        self.current = -1
        self.paths = [Path(path) for path in paths]
        for m, path in enumerate(self.paths):  # all of them, so that none is found wanting half-way
            self.load(m)
            if m == 0:
                self.labels = self.predictor.labels
                self.device, self.amp = self.predictor.device, self.predictor.amp
            check_labels(self.labels, self.paths[0], self.predictor.labels, path)
            self.members.append(_member(path, self.predictor, tiles))
            fitted.append(self.predictor.decision.thresholds)
        given = torch.tensor(weights or [1.0] * len(self.paths), dtype=torch.float64)
        if len(given) != len(self.paths) or not (given > 0).all() or not given.isfinite().all():
            raise InputError(f"--weights: want {len(self.paths)}, one above 0 for each checkpoint")
        self.weights: list[float] = (given / given.sum() / len(views)).tolist()
        if thresholds is None and self.labels.task != "multiclass":
            mean = given / given.sum() @ torch.tensor(fitted, dtype=torch.float64)
            thresholds = [round(t, 9) for t in mean.tolist()]
        self.decision = Decision.of(self.labels, thresholds or ())
        kinds = {member.preprocess.channels for member in self.members}
        self.channels = kinds.pop() if len(kinds) == 1 else 3
        self.spool = Spool(self.labels.num_classes, self.device)

    def describe(self) -> str:
        """For people."""
        ways = []
        for member in self.members:
            h, w = member.preprocess.size
            if member.tiles:  # as the architecture can have them
                least = VALID_TILE if member.margin else 1
                h, w = (member.sizes.least(max(side, least)) for side in member.tiles.size)
            ways.append(f"{'tiles of at most' if member.tiles else 'resized to'} {h}x{w}")
        rule = {"mean": "their mean", "vote": "by vote"}[self.rule]
        networks = f"{plural(len(self.members), 'network')} × {plural(len(self.views), 'view')}"
        return f"{networks}, {rule}, {' and '.join(dict.fromkeys(ways))}"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The mask of a uint8 image (H, W) or (H, W, 3).  Raises InputError."""
        (answer,) = self.run([image], lambda image: image)
        if answer.fault:
            raise answer.fault
        assert answer.mask is not None
        return answer.mask

    @torch.no_grad()
    def probabilities(self, image: np.ndarray) -> Iterator[tuple[int, Tensor]]:
        """Bands of the image from above: the first row's number, and what `decide` decides on: (K, b, W), the
        mean probability of each class or, where models vote, the share of them that set it."""
        rows, seen = (0, image.shape[0]), list[Seen]()
        for m in range(len(self.members)):
            self.load(m)
            seen += self._look(m, image, rows)
        yield from self._shares(seen, (image.shape[0], image.shape[1]), rows)
        self.spool.clear()

    def run(self, items: Iterable[T], read: Callable[[T], np.ndarray]) -> Iterator[Answer[T]]:
        """The answer to each item, in order; `read` gives its image, in other threads, and more than once.

        Raises InputError where the temporary file cannot be written.
        """
        try:
            yield from self._groups(items, read)
        except OSError as e:
            raise InputError(
                f"{tempfile.gettempdir()}: cannot hold the networks' answers for a while ({e.strerror}); "
                "free space, or set TMPDIR to another folder"
            ) from e
        finally:
            self.spool.clear()

    @torch.no_grad()
    def _groups(self, items: Iterable[T], read: Callable[[T], np.ndarray]) -> Iterator[Answer[T]]:
        """Show the first model each image; whenever the file is full, finish those that it has seen."""
        group, used = list[Looked[T]](), 0
        for item, reading in ahead(read, items):
            one, need, parts = Looked(item), 0, list[tuple[int, int]]()
            with one.holding():
                one.image = reading.result()
                check_image(one.image)
                parts, need = self._parts(one.image.shape[:2])
            if used + need > self.most:
                yield from self._finish(group, read)
                group, used = [], 0
            group.append(one)
            used += need
            if one.image is not None and one.fault is None:
                self.load(0)
                with one.holding():
                    if len(parts) > 1:
                        one.mask = self._in_parts(one.image, parts)
                    else:
                        one.seen += self._look(0, one.image, parts[0])
            if len(self.members) == 1 or one.mask is not None:
                yield from self._finish(group, read)
                group, used = [], 0
            else:
                one.image = None  # read once more for each model, lest a group's images fill the memory
        yield from self._finish(group, read)

    def _finish(self, group: list[Looked[T]], read: Callable[[T], np.ndarray]) -> Iterator[Answer[T]]:
        """Show a group to all models but the first, which has seen it; then put the masks together."""

        def image(one: Looked[T]) -> np.ndarray | None:
            return read(one.item) if one.image is None and one.fault is None else one.image

        wanted = [one for one in group if one.mask is None and one.fault is None]
        for m in range(1, len(self.members)) if wanted else ():
            self.load(m)
            for one, reading in ahead(image, wanted):
                with one.holding():
                    pixels = reading.result()
                    if pixels is not None and one.fault is None:  # which an earlier model may have met
                        one.seen += self._look(m, pixels, (0, len(pixels)))
        for one, reading in ahead(image, group):
            answer = Answer(one.item, mask=one.mask, fault=one.fault)  # not `one`: the group would keep it
            with answer.holding():
                answer.image = reading.result()
                if answer.image is not None and answer.mask is None and answer.fault is None:
                    size = answer.image.shape[0], answer.image.shape[1]
                    mask, second = self._mask(one.seen, size, (0, size[0]))
                    answer.mask = self.decision.filtered(mask, self.labels, second)
            yield answer
        self.spool.clear()

    def _in_parts(self, image: np.ndarray, parts: list[tuple[int, int]]) -> np.ndarray:
        """The mask of an image that is too large for the file: rows [top, bottom) after one another."""
        masks, seconds = list[np.ndarray](), list[np.ndarray]()
        for rows in parts:
            seen = list[Seen]()
            for m in range(len(self.members)):
                self.load(m)
                seen += self._look(m, image, rows)
            mask, second = self._mask(seen, (image.shape[0], image.shape[1]), rows)
            masks, seconds = [*masks, mask], [*seconds, second]
            self.spool.clear()
        return self.decision.filtered(np.concatenate(masks), self.labels, np.concatenate(seconds))

    def load(self, m: int) -> None:
        """Have model m in memory, `predictor`, after the one that was there has gone."""
        if self.current != m:
            if self.current >= 0:
                del self.predictor
            self.current = -1
            self.predictor = Predictor.from_checkpoint(self.paths[m], *self.machine)
            self.current = m
            if m in self.choices:
                self.predictor.use(self.choices[m].layout, self.choices[m].amp)

    # ------------------------------------------------------------ what the models say

    def _parts(self, size: tuple[int, ...]) -> tuple[list[tuple[int, int]], int]:
        """Rows [top, bottom) to go through the file at a time, and the bytes that the fullest needs there."""
        height, width = size[:2]
        shown = [show(member, view, (height, width)) for member in self.members for view in self.views]
        chosen, least = [(0, height)], math.inf
        for count in (1, 2, 4, 8, 16, 32, 64):
            step = -(-height // count)
            parts = [(top, min(top + step, height)) for top in range(0, height, step)]
            need = 4 * self.labels.num_classes * max(
                sum(s.boxes[i].area for s in shown for i in s.reach(rows, height)) for rows in parts
            )  # fmt: skip
            if need < least:
                chosen, least = parts, need
            if need <= self.most:
                break
        return chosen, int(least)

    def _look(self, m: int, image: np.ndarray, rows: tuple[int, int]) -> list[Seen]:
        """Put what model m says of rows [top, bottom) of the image, and what they need around them, into the
        file, view by view."""
        member, seen = self.members[m], []
        if self.choosing and m not in self.choices:
            self.choices[m] = choose(self.predictor, image)
        for view in self.views:
            shown = show(member, view, (image.shape[0], image.shape[1]))
            pixels = view.show(resize_image(image, shown.canvas))
            (h, w), margin, windows = shown.tile, member.margin, shown.windows
            top, left = -windows[0].y, -windows[0].x
            below = max(0, windows[-1].y + h - pixels.shape[0])
            right = max(0, windows[-1].x + w - pixels.shape[1])
            pixels = mirror_pad(pixels, margin + top, margin + below, margin + left, margin + right)
            parts = []
            for i in shown.reach(rows, image.shape[0]):
                y, x = windows[i].y + top, windows[i].x + left
                try:
                    logits = self.predictor.logits(pixels[y : y + h + 2 * margin, x : x + w + 2 * margin])
                except InputError as e:
                    raise InputError(f"{member.path}: {e}") from e
                down, across = windows[i].inside
                parts.append((shown.boxes[i], self.spool.write(view.restore(logits[:, down, across]))))
            seen.append(Seen(shown.canvas, self.weights[m], parts))
        return seen

    # ------------------------------------------------------------ what becomes of it

    def _mask(
        self, seen: list[Seen], size: tuple[int, int], rows: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows [top, bottom) of the mask, not filtered, and the next best class there, for filters of
        multi-class masks (else of no rows)."""
        mask = np.empty((rows[1] - rows[0], size[1]), mask_dtype(self.labels))
        wanted = self.labels.task == "multiclass" and self.decision.filters
        second = np.empty(mask.shape if wanted else (0, size[1]), np.uint8)
        for top, share in self._shares(seen, size, rows):
            decided = decide(share, self.labels, self.decision.thresholds if self.rule == "mean" else None)
            inside = slice(top - rows[0], top - rows[0] + len(decided))
            mask[inside] = decided.cpu().numpy()
            if wanted:
                others = share.scatter(0, decided[None].long(), -1.0)
                second[inside] = others.argmax(0).cpu().numpy()
        return mask, second

    def _shares(
        self, seen: list[Seen], size: tuple[int, int], rows: tuple[int, int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Rows [top, bottom) of `probabilities`."""
        step = max(1, BAND // (self.labels.num_classes * size[1]))
        for top in range(rows[0], rows[1], step):
            bottom = min(top + step, rows[1])
            shape = self.labels.num_classes, bottom - top, size[1]
            for dtype in (torch.float32, torch.float64):
                total = torch.zeros(shape, dtype=dtype, device=self.device)
                for one in seen:
                    logits = self.spool.enlarged(one, size, top, bottom).to(dtype)
                    each = logits.softmax(0) if self.labels.task == "multiclass" else logits.sigmoid_()
                    if self.rule == "vote":
                        each = votes(each, self.labels, self.decision.thresholds)
                    total.add_(each, alpha=one.weight)
                if self.rule == "vote" or clear(total, self.labels, self.decision.thresholds):
                    break
            yield top, total


@dataclass
class Looked(Answer[T]):
    """An answer on its way."""

    seen: list[Seen] = field(default_factory=list)


def room() -> int:
    """Bytes that the temporary file may hold.  Raises InputError where there is no place for one."""
    try:
        return min(SPOOL, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    except OSError as e:
        raise InputError(f"no folder for temporary files ({e.strerror}); set TMPDIR to one with space") from e


def show(member: Member, view: View, size: tuple[int, int]) -> Shown:
    """How a view of an image (H, W) is laid before a network."""
    if member.tiles:
        canvas, tiles = view.scaled(size), member.tiles
    else:
        h, w = canvas = member.preprocess.size
        if view.scale != 1:
            h, w = view.scaled(canvas)
            canvas = member.sizes.least(h), member.sizes.least(w)
        tiles = None
    seen = (canvas[1], canvas[0]) if view.turns % 2 else canvas
    tile, windows = (tiles or Tiles(seen)).lay(seen, member.sizes, member.margin)
    return Shown(view, canvas, tile, windows, [window.box.restored(view, seen) for window in windows])


def _member(path: Path, predictor: Predictor, tiles: Tiles | None) -> Member:
    """Raises InputError where the network cannot give so small a tile."""
    preprocess, sizes = predictor.preprocess, predictor.sizes
    if tiles is None:
        tiles = Tiles(preprocess.size) if preprocess.tile else None
    elif min(tiles.size) < sizes.smallest:
        raise InputError(
            f"--tile {min(tiles.size)}: too small for {path}, whose smallest is {sizes.smallest} pixels"
        )
    return Member(path, preprocess, sizes, predictor.margin, tiles)
