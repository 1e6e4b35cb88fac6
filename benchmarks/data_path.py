"""From hand-bone files at 2048x2048 to training batches at 512x512: bits from polygons, beside the plain way.

    python benchmarks/data_path.py

The plain way is what a first script does: decode, fill one float plane a class at 2048, resize each to 512.
Both ways decode the same files to the same grey image and end in a collated batch of 4, in one process and
one thread, batch by batch in turn, the first to go changing; neither caches anything.  Times are processor
time, so that a busy machine does not change them.  The files are phantoms, written as grey PNG and again as
RGB, for the real set has both.

    plain           as said, in the fastest order: planes first, nearest neighbour, untouched pages left so
    planes last     the plain way with uint8 planes (H, W, K), the order that augmentation libraries take
    bits            the JSON file read each time, as the plain way does
    bits, held      what training runs: polygons as the check of the files before training has read them
    bits, unpacked  the first, and unpacked to the planes that a loss reads, which else the device does
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import default_collate

from zoo.core import phantom
from zoo.core.handbone import HandBones, open_handbone, read_polygons
from zoo.core.images import read_image, resize_image
from zoo.core.masks import polygons_to_bits, resize_mask, unpack, unpack_tensor

K = len(phantom.NAMES)
PLACE = {name: k for k, name in enumerate(phantom.NAMES)}
TO = (512, 512)
BATCH = 4

Arrays = tuple[np.ndarray, np.ndarray]  # the image, and bits or planes


def decode(file: Path) -> np.ndarray:
    """What both ways begin with, as a first script writes it."""
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return image


def plain(image_file: Path, json_file: Path, nearest: int = cv2.INTER_NEAREST) -> Arrays:
    """Decode, fill float32 planes (K, 2048, 2048), resize plane by plane."""
    image = decode(image_file)
    planes = np.zeros((K, *image.shape), np.float32)
    for annotation in json.loads(json_file.read_bytes())["annotations"]:
        points = np.rint(np.array(annotation["points"])).astype(np.int32)
        cv2.fillPoly(planes[PLACE[annotation["label"]]], [points], 1)
    small = np.stack([cv2.resize(plane, TO, interpolation=nearest) for plane in planes])
    return cv2.resize(image, TO, interpolation=cv2.INTER_AREA), small


def planes_last(image_file: Path, json_file: Path) -> Arrays:
    """The same by uint8 planes (2048, 2048, K), which become float planes (K, 512, 512) in the end."""
    image = decode(image_file)
    planes = np.zeros((*image.shape, K), np.uint8)
    for annotation in json.loads(json_file.read_bytes())["annotations"]:
        points = np.rint(np.array(annotation["points"])).astype(np.int32)
        plane = np.zeros(image.shape, np.uint8)
        cv2.fillPoly(plane, [points], 1)
        planes[..., PLACE[annotation["label"]]] = plane
    small = cv2.resize(planes, TO, interpolation=cv2.INTER_NEAREST)
    small = np.ascontiguousarray(np.moveaxis(small, 2, 0), np.float32)
    return cv2.resize(image, TO, interpolation=cv2.INTER_AREA), small


def bits(image_file: Path, json_file: Path) -> Arrays:
    """What `HandBones.load` does, the JSON file read each time."""
    image = read_image(image_file, 1)
    polygons = [(PLACE[label], points) for label, points in read_polygons(json_file)]
    scale = (TO[1] / image.shape[1], TO[0] / image.shape[0])
    return resize_image(image, TO), polygons_to_bits(polygons, TO, K, scale)


def batches(source: HandBones) -> dict[str, Callable[[list[int]], list[Tensor]]]:
    """Each way, from numbers of images to a batch (images, masks)."""

    def held(i: int) -> Arrays:
        sample = source.load(i, TO)
        return sample.image, sample.mask

    def files(i: int) -> tuple[Path, Path]:
        return source.pairs[i].image, source.pairs[i].json

    def unpacked(numbers: list[int]) -> list[Tensor]:
        image, mask = default_collate([bits(*files(i)) for i in numbers])
        return [image, unpack_tensor(mask, K)]

    return {
        "plain": lambda numbers: default_collate([plain(*files(i)) for i in numbers]),
        "planes last": lambda numbers: default_collate([planes_last(*files(i)) for i in numbers]),
        "bits": lambda numbers: default_collate([bits(*files(i)) for i in numbers]),
        "bits, held": lambda numbers: default_collate([held(i) for i in numbers]),
        "bits, unpacked": unpacked,
    }


def times(ways: dict[str, Callable[[int], object]], calls: int) -> dict[str, float]:
    """Median seconds of a call, the ways taking turns at going first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(calls):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            ways[name](turn)
            seconds[name].append(time.process_time() - start)
    return {name: float(np.median(s)) for name, s in seconds.items()}


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Per class, of bool planes (K, H, W); nan where a class is in neither."""
    union = (a | b).sum((1, 2))
    return np.where(union > 0, (a & b).sum((1, 2)) / np.maximum(union, 1), np.nan)


def as_rgb(root: Path, source: HandBones, new: Path) -> None:
    """The same data set, its grey pictures stored as RGB."""
    for pair in source.pairs:
        image = new / pair.image.relative_to(root)
        text = new / pair.json.relative_to(root)
        for path in (image, text):
            path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), cv2.cvtColor(decode(pair.image), cv2.COLOR_GRAY2BGR))
        text.write_bytes(pair.json.read_bytes())


def speed(sources: dict[str, HandBones], calls: int) -> Table:
    """Samples a second of each way, by how the pictures are stored."""
    table = Table("files", "way", "ms a sample", "samples/s", "x plain", "bytes a sample")
    table.title = "2048x2048 files to 512x512 batches, one core"
    for stored, source in sources.items():
        ways = batches(source)
        size = {name: sum(t[0].nbytes for t in way([0])) for name, way in ways.items()}

        def some(turn: int, count: int = len(source)) -> list[int]:
            return [(BATCH * turn + j) % count for j in range(BATCH)]

        seconds = times({name: lambda turn, way=way: way(some(turn)) for name, way in ways.items()}, calls)  # type: ignore[misc]
        for name, s in seconds.items():
            numbers = f"{1000 * s / BATCH:.1f}", f"{BATCH / s:.1f}", f"{seconds['plain'] / s:.2f}"
            table.add_row(stored, name, *numbers, f"{size[name]:,}")
    return table


def parts(sources: dict[str, HandBones], calls: int) -> Table:
    """Where the time of the bits goes."""
    table = Table("step", "ms", title="bits, step by step")
    source, as_rgb = sources["grey"], sources["rgb"].pairs[0].image
    pair = source.pairs[0]
    image = read_image(pair.image, 1)
    scale = (TO[1] / image.shape[1], TO[0] / image.shape[0])
    steps: dict[str, Callable[[int], object]] = {
        "decode, grey": lambda _: read_image(pair.image, 1),
        "decode, RGB": lambda _: read_image(as_rgb, 1),
        "read JSON": lambda _: read_polygons(pair.json),
        "resize image": lambda _: resize_image(image, TO),
        "polygons to bits": lambda _: polygons_to_bits(source.polygons[0], TO, K, scale),
    }
    for name, seconds in times(steps, 2 * calls).items():
        table.add_row(name, f"{1000 * seconds:.2f}")
    return table


def masses() -> Table:
    """Bytes of one mask in three forms."""
    table = Table("mask", "bits (int32)", "uint8 planes", "float32 planes")
    table.title = f"bytes of a mask, {K} classes"
    for side in (512, 2048):
        pixels = side * side
        table.add_row(f"{side}x{side}", f"{4 * pixels:,}", f"{K * pixels:,}", f"{4 * K * pixels:,}")
    return table


def scaled(source: HandBones, i: int) -> np.ndarray:
    """The shortcut not taken: points scaled to 512 about the pixels' centres, then filled there."""
    factor = np.array(TO[::-1]) / source.load(i).image.shape[::-1]
    polygons = [(k, (points + 0.5) * factor - 0.5) for k, points in source.polygons[i]]
    return unpack(polygons_to_bits(polygons, TO, K), K)


def _row(table: Table, name: str, found: np.ndarray) -> None:
    by_class = np.nanmean(found, axis=0)
    k = int(np.nanargmin(by_class))
    table.add_row(name, f"{np.nanmean(found):.4f}", f"{by_class[k]:.4f} {phantom.NAMES[k]}")


def agreement(source: HandBones) -> Table:
    """IoU of both ways' masks at 512, and of filling polygons that were scaled to 512."""
    table = Table("bits beside", "mean IoU", "lowest class", title="masks at 512x512")
    for name, nearest in (
        ("plain, INTER_NEAREST (upper left pixel)", cv2.INTER_NEAREST),
        ("plain, INTER_NEAREST_EXACT (centre pixel)", cv2.INTER_NEAREST_EXACT),
    ):
        found = np.array([
            iou(unpack(source.load(i, TO).mask, K), plain(pair.image, pair.json, nearest)[1] > 0)
            for i, pair in enumerate(source.pairs)
        ])
        _row(table, name, found)
    found = np.array([iou(unpack(source.load(i, TO).mask, K), scaled(source, i)) for i in range(len(source))])
    _row(table, "points scaled, filled at 512", found)
    exact = all(
        np.array_equal(source.load(i, TO).mask, resize_mask(source.load(i).mask, TO))
        for i in range(len(source))
    )
    table.caption = f"bits at 512 equal bits at 2048, resized: {exact}; the plain way rounds points to pixels"
    return table


def arguments(doc: str | None) -> argparse.Namespace:
    """`count` and `calls` of a benchmark that says `doc` of itself; from here on in one thread."""
    p = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    p.add_argument("--count", type=int, default=8, help="images (default: 8)")
    p.add_argument("--calls", type=int, default=12, help="batches of each way (default: 12)")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    return p.parse_args()


def main() -> None:
    """Draw the files, run both ways, print the tables."""
    args = arguments(__doc__)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        grey, rgb = Path(folder) / "grey", Path(folder) / "rgb"
        phantom.write(grey, args.count, 2048, 0)
        sources = {"grey": open_handbone(grey, None, ())}
        as_rgb(grey, sources["grey"], rgb)
        sources["rgb"] = open_handbone(rgb, None, ())
        start = time.perf_counter()
        open_handbone(grey, None, ())
        opening = (time.perf_counter() - start) / args.count
        for table in (speed(sources, args.calls), parts(sources, args.calls), masses()):
            console.print(table)
        console.print(agreement(sources["grey"]))
        console.print(f"checking every file before training: {1000 * opening:.1f} ms an image, on all cores")


if __name__ == "__main__":
    main()
