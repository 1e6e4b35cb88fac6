"""What each stage of a network makes of one image: its feature maps, as pictures.

A picture a stage: maps of the stage as grey tiles, those that vary most first; and one of all stages, a row
a stride, in which each stage is there with the map that varies most.  Every tile is stretched from its
own 1st to its 99th percentile: tiles show where a map differs, not by how much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import zoo
from zoo import encoders, registry, state, weights
from zoo.core import checkpoint
from zoo.core.config import Preprocess
from zoo.core.images import read_image, resize_image
from zoo.core.masks import Labels
from zoo.core.pictures import PAPER, TEXT, caption, grid, make_folder, overlay, to_rgb, write_png
from zoo.core.predictor import harden
from zoo.core.transforms import mirror_pad
from zoo.errors import InputError
from zoo.options import as_annotated
from zoo.profile import profile
from zoo.show import Asked, build, legal
from zoo.stages import stages

LARGEST = 512  # pixels of an image's longer side where neither a flag nor a checkpoint says how large
TILE, ACROSS = 144, 8  # side of a tile in pixels, and tiles in a row
STAGES = 10  # in a row of the index: UNet++'s five nodes, four heads and logits
MOST = 32  # maps of a stage, where no flag says how many
STRETCH = 512  # pixels by which the input grows to tell strides: a multiple of every stride
DIM = (150, 150, 150)


@dataclass(frozen=True)
class Opened:
    """A network in eval mode, and what its checkpoint says besides, if it is from one."""

    name: str
    model: nn.Module
    preprocess: Preprocess | None = None
    labels: Labels | None = None


@dataclass(frozen=True)
class Seen:
    """What a module put out.  shape: (C, H, W).  maps: some of the C, those of largest variance first.

    channels: their numbers; none where a map is a single pixel, for then `maps` is one square of them all.
    flat: how many of the C are the same everywhere.
    stride: pixels of the input from one of the map to the next; 0 of maps whose size is always the same.
    """

    path: str
    shape: tuple[int, ...]
    maps: np.ndarray
    channels: tuple[int, ...]
    flat: int
    stride: int


# ---------------------------------------------------------------- the network


def opened(
    what: Asked,
    source: str | None = None,
    pretrained: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Opened:
    """The network, with random weights drawn from `seed` where there are no others.

    source: a checkpoint of train.py, which also says what network it is; another file of weights; or a name
        of `zoo.weights.known()`.  pretrained: ImageNet weights of the encoder.  Raises InputError.
    """
    if source and pretrained:
        raise InputError("--weights and --pretrained: the weights are from one of them; leave the other out")
    if source and Path(source).exists() and "format" in state.read(source):
        return _of_train(what, source)
    if not what.name:
        where = source or "no --weights"
        raise InputError(f"{where}: only a checkpoint of train.py says what network it is of; give NAME")
    torch.manual_seed(seed)
    if source in weights.known() or (pretrained and what.name in registry.names()):
        options: dict = as_annotated(registry.architecture(what.name), what.options)
        how = source or True
        model = zoo.build(what.name, what.classes, what.channels, what.encoder, pretrained=how, **options)
        return Opened(what.name, model.eval())
    model = build(what)
    if pretrained:
        from zoo.encoders.pretrained import load

        load(cast(encoders.Encoder, model), what.name)
    if source:
        weights.load(model, source, say=say)
    return Opened(what.name, model.eval())


def _of_train(what: Asked, path: str) -> Opened:
    """The network of a checkpoint of train.py."""
    saved = checkpoint.read(path)
    if what.name not in ("", saved.arch):
        raise InputError(f"{path}: holds {saved.arch}, not {what.name}; leave the name out")
    if flags := what.typed().removeprefix(what.name).strip():
        raise InputError(f"{flags}: {path} says how its network is built; leave that out")
    return Opened(saved.arch, checkpoint.model_of(saved), saved.preprocess, saved.labels)


def settle(model: nn.Module, x: Tensor) -> None:
    """Give each BatchNorm without statistics those of `x`; else a deep fresh network grows out of bounds."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    fresh = [norm for norm in norms if norm.get_buffer("running_mean").eq(0).all()]
    momenta = [norm.momentum for norm in fresh]
    for norm in fresh:
        norm.momentum = 1.0
        norm.train()
    try:
        with torch.no_grad():
            model(x)
    except ValueError as e:  # torch's: one value a channel has no variance
        raise InputError(f"{tuple(x.shape[2:])} is too small for a network without statistics: {e}") from e
    for norm, momentum in zip(fresh, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


# ---------------------------------------------------------------- the image


def prepared(found: Opened, image: np.ndarray, size: tuple[int, int] | None) -> tuple[np.ndarray, Tensor]:
    """The uint8 window (h, w) that the network labels, and its input (1, C, h + 2m, w + 2m), m the margin.

    size: (h, w); None: the checkpoint's, else the image's own, its longer side at most LARGEST.
    """
    model, given, channels = found.model, found.preprocess, channels_of(found)
    if size is None and given and not given.tile:
        size = given.size
    if size is None:
        height, width = image.shape[:2]
        scale = 1.0 if given else min(1.0, LARGEST / max(height, width))
        size = _scaled(height, width, scale)
    border = 0
    if hasattr(model, "margin"):
        size, border = legal(model, size), registry.margin(model)
    window = resize_image(image, size)
    if given is None:
        mean, std = registry.normalisation(model) or _own(window, channels)
        given = Preprocess(channels, mean, std, size)
    return window, given.to_tensor(mirror_pad(window, border, border, border, border))[None]


def channels_of(found: Opened) -> int:
    """What the network takes of an image.  Raises InputError unless that is 1 or 3."""
    channels = cast(int, found.model.in_channels)
    if channels not in (1, 3):
        raise InputError(f"{found.name} takes {channels} channels, an image has 1 or 3: --channels 1 or 3")
    return channels


def _own(window: np.ndarray, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the image itself."""
    return (window.mean() / 255,) * channels, (max(window.std() / 255, 1e-3),) * channels


# ---------------------------------------------------------------- looking


def look(
    model: nn.Module, x: Tensor, depth: int | None = None, most: int = MOST
) -> tuple[list[Seen], Tensor]:
    """What the modules of `zoo.stages` put out for `x` (1, C, H, W), in the order of time; and the logits.

    Of a network the logits are the last; of an encoder, the maps.  most: maps kept of each.
    """
    height, width = x.shape[2:]
    profiled, larger = profile(model, (height, width)), profile(model, (height + STRETCH, width))
    rows = stages(model, profiled, depth)
    paths = {model.get_submodule(row.path): row.path for row in rows if row.shape} | {model: ""}
    seen: dict[str, list[Seen]] = {}

    def hook(module: nn.Module, inputs: object, output: Tensor | Sequence[Tensor]) -> None:
        path = paths[module]
        seen.pop(path, None)  # a module that runs again moves to its last place
        several = not isinstance(output, Tensor)
        maps = (output,) if isinstance(output, Tensor) else output
        seen[path] = []
        for i, y in enumerate(maps):
            name = f"{path or 'output'}.{i}" if several else path or "logits"
            # of several maps `profile` knows the last
            grown = (larger[path].shape[1] - profiled[path].shape[1]) * y.shape[2] / maps[-1].shape[2]
            seen[path].append(_seen(name, y[0], most, round(STRETCH / grown) if grown else 0))

    hooks = [module.register_forward_hook(hook) for module in paths]
    try:
        with torch.no_grad():
            out = model(x)
    finally:
        for handle in hooks:
            handle.remove()
    found = [one for several in seen.values() for one in several]
    if isinstance(out, Tensor) and len(found) > 1 and np.array_equal(found[-1].maps, found[-2].maps):
        found.pop()  # the network puts out what its last module does
    return found, out if isinstance(out, Tensor) else out[-1]


def _seen(path: str, y: Tensor, most: int, stride: int) -> Seen:
    """Keep the `most` maps of y (C, H, W) that vary most; of single pixels one square of all channels."""
    shape = tuple(y.shape)
    if not y.isfinite().all():
        raise InputError(f"{path} puts out what is no number; take trained weights, or another --seed")
    if y[0].numel() == 1:
        return Seen(path, shape, _square(y.flatten())[None].float().numpy(), (), 0, stride)
    spread = y.double().flatten(1).std(1, correction=0)
    kept = spread.argsort(descending=True, stable=True)[:most]
    return Seen(path, shape, y[kept].float().numpy(), tuple(kept.tolist()), int((spread == 0).sum()), stride)


def _square(values: Tensor) -> Tensor:
    """The values of a vector from left to right in as many lines as columns, the last line filled up."""
    side = ceil(len(values) ** 0.5)
    lines = ceil(len(values) / side)
    return torch.cat([values, values[-1:].expand(lines * side - len(values))]).unflatten(0, (lines, side))


# ---------------------------------------------------------------- pictures


def sheet(one: Seen) -> np.ndarray:
    """The picture of a stage: a tile a map, each with its channel's number; single pixels in one tile."""
    words = [(f"{one.path}   {'x'.join(map(str, one.shape))}", TEXT)]
    if not one.channels:
        return caption(_wide(tile(one.maps[0])), [*words, ("a pixel a channel, line by line", DIM)])
    tiles = [caption(tile(m), [(f"{c}", DIM)]) for m, c in zip(one.maps, one.channels, strict=True)]
    few = f"{len(one.maps)} of {one.shape[0]} maps, those that vary most first"
    words.append((few if len(one.maps) < one.shape[0] else "all maps, those that vary most first", DIM))
    if one.flat:
        words.append((f"{one.flat} the same everywhere", DIM))
    return caption(_wide(grid(tiles, ACROSS)), words)


def tile(values: np.ndarray) -> np.ndarray:
    """A map (H, W) as a grey RGB picture, its longer side TILE; percentiles 1 and 99 are black and white."""
    low, high = np.percentile(values, (1, 99))
    if high <= low:
        low, high = values.min(), values.max()
    grey = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full_like(values, 0.5)
    height, width = values.shape
    scale = TILE / max(height, width)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    size = _scaled(height, width, scale)
    return to_rgb(cv2.resize((255 * grey).astype(np.uint8), size[::-1], interpolation=way))


def index(seen: Sequence[Seen], image: np.ndarray, answer: np.ndarray | None = None) -> np.ndarray:
    """All stages in one picture, a row a stride, the finest above, from left to right in time.

    image: what went in, which comes first.  answer: the overlay of its mask, which comes last.
    """
    rows: dict[int, list[np.ndarray]] = {}
    for one in seen:
        words = [(f"{one.path}", TEXT), ("x".join(map(str, one.shape)), DIM)]
        rows.setdefault(one.stride or STRETCH, []).append(_cell(tile(one.maps[0]), words))
    size = (f"{image.shape[0]}x{image.shape[1]}", DIM)
    ends = [_cell(_fitted(image), [("image", TEXT), size])]
    ends += [] if answer is None else [_cell(_fitted(answer), [("mask", TEXT), size])]
    lines = [ends, *(rows[stride] for stride in sorted(rows))]
    return _stacked([grid(line, STAGES) for line in lines])


def _stacked(lines: Sequence[np.ndarray]) -> np.ndarray:
    """One below the other, each of its own height."""
    width = max(line.shape[1] for line in lines)
    edges = [((0, 4), (0, width - line.shape[1]), (0, 0)) for line in lines]
    wide = [np.pad(line, edge, constant_values=PAPER) for line, edge in zip(lines, edges, strict=True)]
    return np.concatenate(wide)[:-4]


def _cell(picture: np.ndarray, words: Sequence[tuple[str, tuple[int, int, int]]]) -> np.ndarray:
    """A picture on a square of TILE pixels under lines of words, one word a line."""
    square = np.full((TILE, TILE, 3), PAPER, np.uint8)
    square[: picture.shape[0], : picture.shape[1]] = picture
    for word in reversed(words):
        square = caption(square, [word])
    return square


def _fitted(picture: np.ndarray) -> np.ndarray:
    """An image with sides of at most TILE."""
    height, width = picture.shape[:2]
    return to_rgb(resize_image(picture, _scaled(height, width, TILE / max(height, width))))


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Both sides times `scale`, at least one pixel each."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def _wide(picture: np.ndarray) -> np.ndarray:
    """`picture`, on paper as wide as a full row of tiles, so that words above it have room."""
    missing = ACROSS * (TILE + 4) - 4 - picture.shape[1]
    return np.pad(picture, ((0, 0), (0, max(0, missing)), (0, 0)), constant_values=PAPER)


# ---------------------------------------------------------------- the whole way


def trace(
    found: Opened,
    image: str | Path,
    out: Path,
    size: tuple[int, int] | None = None,
    depth: int | None = None,
    most: int = MOST,
) -> list[Path]:
    """Write a picture a stage and `index.png` into `out`, a new or empty folder; the files, the index last.

    Raises InputError where the image cannot be read, the size not be had, or the folder not be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not overwritten; name another folder or remove it")
    window, x = prepared(found, read_image(image, channels_of(found)), size)
    settle(found.model, x)
    seen, logits = look(found.model, x, depth, most)
    answer = None
    if found.labels:
        mask = harden(logits[0].float(), found.labels, (window.shape[0], window.shape[1])).numpy()
        answer = overlay(window, mask, found.labels)
    make_folder(out)
    files = [out / f"{n:02d}-{one.path}.png" for n, one in enumerate(seen, 1)]
    for file, one in zip(files, seen, strict=True):
        write_png(file, sheet(one))
    write_png(out / "index.png", index(seen, window, answer))
    return [*files, out / "index.png"]
