"""The embedded data: hand radiographs drawn procedurally, 29 named bones each, exact masks at no cost.

Sample i of seed s has the same masks on every machine: all that shapes them is computed in float64 from
PCG64's raw words, then rounded to 1/16 pixel, far coarser than what two processors differ by, and filled by
`masks.polygons_to_bits`, as polygons read from a file are.  Samples 2p and 2p + 1 are the right and the left
hand of person p.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from zoo.core.dataset import Sample, Source
from zoo.core.hand import FRAME, NAMES, Array, Stream, build, pose
from zoo.core.images import Progress, on_all_cores, resize_image
from zoo.core.masks import Labels, palette, polygons_to_bits, resize_mask
from zoo.core.radiograph import Polygons, expose
from zoo.errors import InputError

__all__ = ["LABELS", "NAMES", "OUTLIERS", "Phantom", "Phantoms", "draw", "write"]

LABELS = Labels("multilabel", NAMES, palette(len(NAMES)))
OUTLIERS = ("ring", "screw", "plate")
OUTLIER_SHARE = 0.07
SIZES = (64, 4096)


@dataclass(frozen=True)
class Phantom:
    """One drawn radiograph: image uint8 (S, S), bits int32 (S, S), and the polygons that were filled."""

    image: np.ndarray
    polygons: Polygons
    bits: np.ndarray
    side: str  # "R" or "L"
    pose: str  # "straight" or "bent"
    outlier: str  # "", "ring", "screw" or "plate"


def draw(seed: int, index: int, size: int = FRAME) -> Phantom:
    """Sample `index` of `seed` at size x size; the same hand at every size."""
    side = _side(index)
    person = build(Stream(seed, index // 2, 0))
    hand = pose(person, Stream(seed, index, 1), side)
    outlines = (hand.outlines + 0.5) * (size / FRAME) - 0.5
    polygons = [(bone, np.rint(_clip(outline, size - 1) * 16) / 16) for bone, outline in enumerate(outlines)]
    bits = polygons_to_bits(polygons, (size, size), len(NAMES))
    stream = Stream(seed, index, 2)
    outlier = OUTLIERS[int(stream.uniform(0, len(OUTLIERS)))] if stream.chance(OUTLIER_SHARE) else ""
    image = expose(hand, person, polygons, bits, stream, outlier)
    return Phantom(image, polygons, bits, side, hand.pose, outlier)


def _side(index: int) -> str:
    return "RL"[index % 2]


def _clip(polygon: Array, limit: float) -> Array:
    """The part of a polygon inside 0..limit in x and y, border by border (Sutherland and Hodgman, 1974)."""
    if polygon.min() >= 0 and polygon.max() <= limit:
        return polygon
    for axis in (0, 1):
        for sign, bound in ((1.0, 0.0), (-1.0, -limit)):
            beyond = polygon[:, axis] * sign - bound
            inside = beyond >= 0
            if inside.all():
                continue
            after, beyond_after = np.roll(polygon, -1, axis=0), np.roll(beyond, -1)
            crosses = inside != (beyond_after >= 0)
            t = beyond / np.where(crosses, beyond - beyond_after, 1.0)
            border = polygon + t[:, None] * (after - polygon)
            border[:, axis] = bound * sign
            both = np.stack([polygon, border], axis=1).reshape(-1, 2)
            polygon = both[np.stack([inside, crosses], axis=1).ravel()]
    return polygon


def _path(seed: int, index: int) -> str:
    """Where the hand-bone layout has this image: a folder a person, thirteen digits a picture."""
    return f"ID{index // 2 + 1:03d}/image{10**12 + seed % 10**7 * 10**5 + index}_{_side(index)}.png"


class Phantoms(Source):
    """`count` phantoms of a seed, drawn when asked for; two by two, a person's right and left hand."""

    labels = LABELS
    channels = 1
    warnings: Sequence[str] = ()

    def __init__(self, count: int, seed: int = 0, size: int = FRAME):
        _check(count, seed, size)
        self.count, self.seed, self.size = count, seed, size

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        return _path(self.seed, self._index(i))

    def group(self, i: int) -> str:
        return self.name(i).split("/")[0]

    def load(self, i: int, size: tuple[int, int] | None = None) -> Sample:
        phantom = draw(self.seed, self._index(i), self.size)
        image, bits = phantom.image, phantom.bits
        if size is not None:
            image, bits = resize_image(image, size), resize_mask(bits, size)
        return Sample(image, bits, self.name(i))

    def _index(self, i: int) -> int:
        if not -self.count <= i < self.count:
            raise IndexError(f"phantom {i} of {self.count}")
        return i % self.count


def _check(count: int, seed: int, size: int) -> None:
    if count < 1:
        raise InputError(f"count {count}: want at least 1 phantom")
    if seed < 0:
        raise InputError(f"seed {seed}: want 0 or more")
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"size {size}: phantoms are drawn from {SIZES[0]} to {SIZES[1]} pixels square")


def write(
    out: str | Path, count: int, size: int = 2048, seed: int = 0, progress: Progress | None = None
) -> list[Path]:
    """Phantoms as files in the hand-bone layout under OUT/train; the images' paths.

    Each JSON's own `attributes` tell side, pose and outlier.  OUT/train must be new or empty.
    """
    _check(count, seed, size)
    train = Path(out) / "train"
    if train.exists() and (not train.is_dir() or any(train.iterdir())):
        raise InputError(f"{train}: exists already and is not overwritten; name another folder or remove it")

    def one(index: int) -> Path:
        phantom, path = draw(seed, index, size), Path(_path(seed, index))
        image, outline = train / "DCM" / path, train / "outputs_json" / path.with_suffix(".json")
        text = json.dumps(_annotations(phantom, path.name, seed, index), separators=(",", ":"))
        png = cv2.imencode(".png", phantom.image)[1].tobytes()
        for file, data in ((image, png), (outline, text.encode())):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as stream:
                stream.write(data)
        return image

    try:
        return on_all_cores(one, range(count), progress)
    except OSError as e:
        raise InputError(f"{e.filename or train}: cannot be written: {e.strerror or e}") from e


def _annotations(phantom: Phantom, file: str, seed: int, index: int) -> dict:
    """As an annotator would have saved it.  Sixteenths are exact in decimals: one reads what was drawn."""
    same = {"type": "poly_seg", "attributes": {}}
    annotations = [
        {"id": f"{index}-{bone}", **same, "points": points.tolist(), "label": NAMES[bone]}
        for bone, points in phantom.polygons
    ]
    return {
        "filename": file,
        "attributes": {"side": phantom.side, "pose": phantom.pose, "outlier": phantom.outlier},
        "metadata": {"width": len(phantom.image), "height": len(phantom.image), "seed": seed, "index": index},
        "annotations": annotations,
    }
