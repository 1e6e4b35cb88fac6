"""Batches at 512x512 out of a cache, from hand-bone files at 2048x2048: bits beside planes.

    python benchmarks/cache.py [--count 8] [--calls 12]

Both ways keep what they have decoded in files that are mapped into memory.  In the first epoch these are
written, in all later ones read.  A batch is 4 samples, collated, in one process and one thread; the ways take
turns, and times are processor time.  "augmented" is rotation, scale, shift and flip by the same maps.

    planes, 2048   an image and 29 uint8 planes as decoded, 126 MB a sample; resized in every epoch
    planes, 512    the same resized before they are kept, 7.9 MB a sample
    bits, 512      what `--cache` keeps, 1.3 MB a sample; the device unpacks the bits
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from data_path import BATCH, TO, K, arguments, plain, times
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import default_collate

from zoo.core import phantom
from zoo.core.cache import Cache, Cached
from zoo.core.content import describe
from zoo.core.handbone import HandBones, open_handbone
from zoo.core.images import read_image, resize_image
from zoo.core.masks import unpack
from zoo.core.transforms import Augment

AUGMENT = Augment("flip+rotate+scale+shift", TO)
Way = Callable[[int], tuple[np.ndarray, np.ndarray]]


class Planes:
    """The plain way: an image and a plane a class, kept at one size by `np.save`."""

    def __init__(self, source: HandBones, folder: Path, size: tuple[int, int] | None):
        self.source, self.folder, self.size = source, folder, size
        folder.mkdir()

    def load(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(image, planes (K, h, w)), at 512."""
        files = [self.folder / f"{i}.{what}.npy" for what in ("image", "planes")]
        if not files[1].exists():
            pair = self.source.pairs[i]
            image, planes = read_image(pair.image, 1), unpack(self.source.load(i).mask, K).view(np.uint8)
            for file, array in zip(files, self.sized(image, planes), strict=True):
                np.save(file, array)
        image, planes = (np.load(file, mmap_mode="c") for file in files)
        return (image, planes) if self.size else resized(image, planes)

    def sized(self, image: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As they are kept."""
        return resized(image, planes) if self.size else (image, planes)


def resized(image: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """To 512, plane by plane."""
    small = [cv2.resize(plane, TO, interpolation=cv2.INTER_NEAREST) for plane in planes]
    return resize_image(image, TO), np.stack(small)


def augmented(way: Way) -> Way:
    """Each plane, or the bits, by the map that the image gets."""

    def load(i: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = way(i)
        geometry = AUGMENT._geometry(TO, np.random.default_rng(i))
        image = geometry.take(image, TO, 0, cv2.INTER_LINEAR)
        if mask.ndim == 2:
            return image, geometry.take_mask(mask, TO, 0)
        return image, np.stack([geometry.take(plane, TO, 0, cv2.INTER_NEAREST) for plane in mask])

    return load


def batch(way: Way, turn: int, count: int) -> list[Tensor]:
    """Four samples, collated."""
    return default_collate([way((BATCH * turn + j) % count) for j in range(BATCH)])


def first_epoch(source: HandBones, ways: dict[str, Way]) -> Table:
    """Milliseconds a sample while the caches fill; `nothing kept` is decoding alone, as float planes."""
    table = Table("way", "ms a sample", "x nothing kept", title="first epoch")
    pairs = source.pairs
    ways = {"nothing kept": lambda i: plain(pairs[i].image, pairs[i].json), **ways}
    seconds = times({name: lambda turn, way=way: way(turn) for name, way in ways.items()}, len(source))  # type: ignore[misc]
    for name, s in seconds.items():
        table.add_row(name, f"{1000 * s:.1f}", f"{seconds['nothing kept'] / s:.2f}")
    return table


def later_epochs(count: int, ways: dict[str, Way], calls: int) -> Table:
    """Milliseconds and samples a second out of full caches."""
    table = Table("way", "ms a sample", "samples/s", "bits are faster by", title="every later epoch")
    ways = {f"{name}{more}": change(way) for more, change in (("", lambda w: w), (", augmented", augmented))
            for name, way in ways.items()}  # fmt: skip
    jobs = {name: lambda turn, way=way: batch(way, turn, count) for name, way in ways.items()}  # type: ignore[misc]
    seconds = times(jobs, calls)
    for name, s in seconds.items():
        ours = seconds["bits, 512" + (", augmented" if name.endswith("augmented") else "")]
        table.add_row(name, f"{1000 * s / BATCH:.2f}", f"{BATCH / s:.0f}", f"{s / ours:.1f}")
    return table


def main() -> None:
    """Draw the files, fill the caches, read them."""
    args = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        phantom.write(root / "hands", args.count, 2048, 0)
        source = open_handbone(root / "hands", None, ())
        cached = Cached(source, describe(source), Cache(root / "bits"), "handbone")

        def bits(i: int) -> tuple[np.ndarray, np.ndarray]:
            sample = cached.load(i, TO)
            return sample.image, sample.mask

        ways = {
            "planes, 2048": Planes(source, root / "large", None).load,
            "planes, 512": Planes(source, root / "small", TO).load,
            "bits, 512": bits,
        }
        console = Console()
        console.print(first_epoch(source, ways))
        console.print(later_epochs(args.count, ways, args.calls))


if __name__ == "__main__":
    main()
