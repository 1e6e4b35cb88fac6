"""handbone:PATH: the layout of the hand-bone X-ray set, a folder a person and polygons in JSON.

    PATH/train/DCM/PERSON/NAME.png
    PATH/train/outputs_json/PERSON/NAME.json
    PATH/classes.txt or PATH/train/classes.txt    other classes than the 29 bones

A JSON file is an object with `annotations`, a list of {"label": NAME, "points": [[x, y], ...]}.  Points are
pixels of the image.  Polygons of several classes may overlap; those of one class are joined.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.core.classes import FILE, Class, bit_labels, read_classes
from zoo.core.dataset import Sample, Source
from zoo.core.files import read_json
from zoo.core.images import (
    SUFFIXES,
    Facts,
    Progress,
    dark_warning,
    examine,
    on_all_cores,
    plural,
    read_image,
    refuse_all,
    resize_image,
)
from zoo.core.masks import Labels, polygons_to_bits
from zoo.errors import InputError

IMAGES, POLYGONS = "train/DCM", "train/outputs_json"
Polygon = tuple[str, np.ndarray]  # the label and its points (P, 2), float32


@dataclass(frozen=True)
class Pair:
    """An image, its polygons' file, its person, and the image's path inside the data set."""

    image: Path
    json: Path
    person: str
    name: str


class HandBones(Source):
    """Images with polygons, which are kept in memory: the files were read to check them."""

    def __init__(
        self,
        pairs: list[Pair],
        polygons: list[list[tuple[int, np.ndarray]]],
        labels: Labels,
        channels: int,
        warnings: list[str],
    ):
        self.pairs, self.polygons = pairs, polygons
        self.labels, self.channels, self.warnings = labels, channels, warnings

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, i: int) -> str:
        return self.pairs[i].name

    def group(self, i: int) -> str:
        return self.pairs[i].person

    def files(self, i: int) -> tuple[Path, ...]:
        return self.pairs[i].image, self.pairs[i].json

    def load(self, i: int, size: tuple[int, int] | None = None) -> Sample:
        image = read_image(self.pairs[i].image, self.channels)
        native_h, native_w = image.shape[:2]
        h, w = size or (native_h, native_w)
        scale = (w / native_w, h / native_h)
        bits = polygons_to_bits(self.polygons[i], (h, w), self.labels.num_classes, scale)
        return Sample(resize_image(image, (h, w)), bits, self.pairs[i].name)


def read_polygons(path: Path) -> list[Polygon]:
    """The polygons of a JSON file, by label.  Raises one InputError for all that is wrong with it."""
    held = read_json(path)
    annotations = held.get("annotations") if isinstance(held, dict) else None
    if not isinstance(annotations, list):
        raise InputError(f"{path}: wants an object with a list `annotations`")
    polygons, problems = [], []
    for number, annotation in enumerate(annotations):
        try:
            polygons.append(_polygon(annotation))
        except ValueError as e:
            problems.append(f"{path}: annotation {number}: {e}")
    if problems:
        raise InputError("\n".join(problems))
    return polygons


def _polygon(annotation: object) -> Polygon:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("label"), str):
        raise ValueError("wants an object with a `label` and `points`")
    label, points = annotation["label"], annotation.get("points")
    if not isinstance(points, list):
        raise ValueError(f"{label}: has no list `points`")
    if len(points) < 3:
        raise ValueError(f"{label}: a polygon of {len(points)} points; wants 3 or more")
    try:
        array = np.array(points, dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as e:
        raise ValueError(f"{label}: points want to be pairs of numbers [x, y]") from e
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ValueError(f"{label}: points want to be pairs of numbers [x, y]")
    return label, array


# ---------------------------------------------------------------- opening


@dataclass(frozen=True)
class Found:
    """What reading a pair told."""

    problems: tuple[str, ...]
    facts: Facts | None
    polygons: list[Polygon]


def open_handbone(
    root: Path, task: str | None, ignore: Sequence[int], progress: Progress | None = None
) -> HandBones:
    """Everything under train/, not yet split.  Raises one InputError for all that is wrong with the files."""
    classes = _classes(root, ignore)
    counted = [c for c in classes if not c.ignore]
    labels = bit_labels(counted, task)
    problems: list[str] = []
    pairs = _pairs(root, problems)
    found = on_all_cores(_examine, pairs, progress)
    problems += [line for f in found for line in f.problems]
    problems += _unknown_labels(pairs, found, classes)
    refuse_all(root, problems)

    place = {c.name: k for k, c in enumerate(counted)}
    polygons = [[(place[label], points) for label, points in f.polygons if label in place] for f in found]
    warnings = _warnings(pairs, found)
    occurring = {k for of_image in polygons for k, _ in of_image}
    absent = [c.name for k, c in enumerate(counted) if k not in occurring]
    warnings += [f"no polygon of {', '.join(absent)}"] if absent else []
    channels = 1 if all(f.facts and f.facts.grey for f in found) else 3
    return HandBones(pairs, polygons, labels, channels, warnings)


def _classes(root: Path, ignore: Sequence[int]) -> list[Class]:
    """The classes of classes.txt or the 29 bones; those of `ignore` marked so."""
    file = next((f for f in (root / FILE, root / "train" / FILE) if f.is_file()), None)
    if file:
        classes = read_classes(file)
    else:
        from zoo.core.phantom import NAMES

        classes = [Class(k, name) for k, name in enumerate(NAMES)]
    unknown = set(ignore) - {c.index for c in classes}
    if unknown:
        last = classes[-1].index
        raise InputError(f"ignore {', '.join(map(str, sorted(unknown)))}: no such class; the last is {last}")
    classes = [Class(c.index, c.name, c.colour, c.ignore or c.index in ignore) for c in classes]
    if all(c.ignore for c in classes):
        raise InputError(f"{root}: every class is ignored; leave one")
    return classes


def _pairs(root: Path, problems: list[str]) -> list[Pair]:
    for folder in (root / IMAGES, root / POLYGONS):
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder; handbone:PATH wants PATH/{IMAGES}/PERSON/NAME.png and "
                f"PATH/{POLYGONS}/PERSON/NAME.json"
            )
    images = _by_person(root / IMAGES, SUFFIXES, problems)
    texts = _by_person(root / POLYGONS, (".json",), problems)
    if not images:
        raise InputError(f"{root / IMAGES}: no images PERSON/NAME ({', '.join(SUFFIXES)})")
    for person, stem in sorted(images.keys() - texts.keys()):
        want = root / POLYGONS / person / f"{stem}.json"
        problems.append(f"{images[person, stem]}: image without mask; want {want}")
    for person, stem in sorted(texts.keys() - images.keys()):
        want = root / IMAGES / person / f"{stem}.png"
        problems.append(f"{texts[person, stem]}: mask without image; want {want}")
    return [
        Pair(images[key], texts[key], key[0], images[key].relative_to(root).as_posix())
        for key in sorted(images.keys() & texts.keys())
    ]


def _by_person(folder: Path, suffixes: tuple[str, ...], problems: list[str]) -> dict[tuple[str, str], Path]:
    """(person, stem) -> file; a file outside a person's folder has no person and is a problem."""
    files: dict[tuple[str, str], Path] = {}
    for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        key = (path.parent.name, path.stem)
        if path.parent == folder:
            problems.append(f"{path}: lies outside a person's folder; the split goes by person")
        elif key in files:
            problems.append(f"{path}: has the same stem as {files[key].name}; rename or remove one")
        else:
            files[key] = path
    return files


def _examine(pair: Pair) -> Found:
    problems: list[str] = []
    facts, polygons = None, []
    try:
        facts = examine(pair.image)
    except InputError as e:
        problems.append(str(e))
    try:
        polygons = read_polygons(pair.json)
    except InputError as e:
        problems += str(e).splitlines()
    return Found(tuple(problems), facts, polygons)


def _unknown_labels(pairs: list[Pair], found: list[Found], classes: list[Class]) -> list[str]:
    """A line for each label that no class has: the files it is in, and the labels that are known."""
    known = {c.name for c in classes}
    files: dict[str, list[Path]] = defaultdict(list)
    for pair, f in zip(pairs, found, strict=True):
        for label in {label for label, _ in f.polygons} - known:
            files[label].append(pair.json)
    listed = ", ".join(c.name for c in classes)
    more = {k: f" and {plural(len(at) - 1, 'more file')}" if at[1:] else "" for k, at in files.items()}
    return [
        f"{at[0]}{more[label]}: unknown label {label!r}; known: {listed}"
        for label, at in sorted(files.items())
    ]


def _warnings(pairs: list[Pair], found: list[Found]) -> list[str]:
    warnings = dark_warning([p.name for p, f in zip(pairs, found, strict=True) if f.facts and f.facts.dark])
    outside: list[str] = []
    for pair, f in zip(pairs, found, strict=True):
        h, w = f.facts.size if f.facts else (math.inf, math.inf)
        outside += [
            f"{pair.json.name} {label}"
            for label, points in f.polygons
            if (points < 0).any() or (points > (w, h)).any()
        ]
    if outside:
        first = ", ".join(outside[:3]) + (", ..." if len(outside) > 3 else "")
        count = plural(len(outside), "polygon")
        warnings.append(f"{count} partly or wholly outside their image, clipped there: {first}")
    bare = [pair.json.name for pair, f in zip(pairs, found, strict=True) if not f.polygons]
    if bare:
        warnings.append(f"{plural(len(bare), 'image')} without any polygon, first {bare[0]}")
    return warnings
