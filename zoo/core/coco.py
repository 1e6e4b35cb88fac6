"""coco-polygons:JSON+IMAGES: instances in the COCO format, each class of them a bit of a multi-label mask.

    coco-polygons:instances.json+images                              divided as any other data
    coco-polygons:train.json+train2017,val.json+val2017              the first trains, the second validates

JSON is an object with the lists `images` (id, file_name, height, width), `categories` (id, name) and
`annotations` (image_id, category_id, segmentation); what else it holds is not looked at.  Classes stand in
the order of their ids.  A segmentation is a list of polygons, or an object with run lengths, as the format
has it for crowds (`iscrowd`).  Instances of one class join, crowds among them: a mask of classes does not
tell members of a crowd apart anyway.  Those of several classes may overlap.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zoo.core.classes import Class, bit_labels
from zoo.core.dataset import Sample, Source, typed
from zoo.core.files import read_json
from zoo.core.images import (
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
from zoo.core.masks import Labels, bits_dtype, resize_mask
from zoo.core.shapes import Shape, Shapes, paint_polygon, read_counts, runs_to_plane
from zoo.errors import InputError

KIND = "coco-polygons"
MOST = 63  # classes that a mask of bits holds
_FAR = 1e6  # pixels; a point beyond is drawn here, lest numbers overflow


@dataclass
class Listed:
    """An image of the JSON: its path inside IMAGES, its size, and what is annotated in it."""

    name: str
    size: tuple[int, int]
    polygons: list[Shape] = field(default_factory=list)
    runs: list[Shape] = field(default_factory=list)


class Coco(Source):
    """Images with polygons and run lengths, which are kept in memory; json: the file they are from."""

    def __init__(
        self,
        json: Path,
        images: Path,
        listed: list[Listed],
        labels: Labels,
        channels: int,
        warnings: list[str],
    ):
        self.json, self.images = json, images
        self.labels, self.channels, self.warnings = labels, channels, warnings
        self.names = [one.name for one in listed]
        self.polygons = Shapes([one.polygons for one in listed], np.float32)
        self.runs = Shapes([one.runs for one in listed], np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return self.names[i]

    def group(self, i: int) -> str:
        return self.names[i]

    def files(self, i: int) -> tuple[Path, ...]:
        return self.images / self.names[i], self.json

    def load(self, i: int, size: tuple[int, int] | None = None) -> Sample:
        image = read_image(self.images / self.names[i], self.channels)
        native = (image.shape[0], image.shape[1])
        bits = np.zeros(native, bits_dtype(self.labels.num_classes))
        for k, values in self.polygons.of(i):
            paint_polygon(bits, k, values.reshape(-1, 2))
        for k, counts in self.runs.of(i):
            bits |= runs_to_plane(counts, native).astype(bits.dtype) << bits.dtype.type(k)
        size = size or native
        return Sample(resize_image(image, size), resize_mask(bits, size), self.names[i])


# ---------------------------------------------------------------- reading the JSON


def _runs(segmentation: dict, size: tuple[int, int]) -> np.ndarray:
    """The run lengths (R,) of a segmentation, which must cover an image of `size` exactly."""
    counts, given = segmentation.get("counts"), segmentation.get("size")
    if given != [*size]:
        raise ValueError(f"run lengths of an image of {given}, but `images` has it as {[*size]}")
    lengths = read_counts(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(n) is int and n >= 0 for n in lengths):
        raise ValueError("run lengths want `counts`, whole numbers from 0 on, or a string of them")
    if sum(lengths) != size[0] * size[1]:
        raise ValueError(f"run lengths cover {sum(lengths)} pixels of {size[0] * size[1]}")
    return np.array(lengths, np.int32)


def _polygon(numbers: object) -> np.ndarray:
    """The points (P, 2) of a polygon, a list of x and y in turn."""
    try:
        points = np.array(numbers, np.float64)
    except (ValueError, TypeError, OverflowError):
        points = np.zeros((0, 0))
    if points.ndim != 1 or not np.isfinite(points).all():
        raise ValueError("a polygon wants to be a list of numbers x, y, x, y, …")
    if points.size % 2:
        raise ValueError(f"a polygon of {points.size} numbers; wants pairs x, y")
    if points.size < 6:
        raise ValueError(f"a polygon of {points.size // 2} points; wants 3 or more")
    return np.clip(points, -_FAR, _FAR).astype(np.float32).reshape(-1, 2)


def _add(annotation: object, images: dict, categories: dict[int, str], place: dict[int, int]) -> None:
    """Enter an annotation at its image; ValueError says what is wrong with it."""
    if not isinstance(annotation, dict):
        raise ValueError("wants to be an object")
    image, category = annotation.get("image_id"), annotation.get("category_id")
    listed = images.get(image) if isinstance(image, (int, str)) else None
    if listed is None:
        raise ValueError(f"image_id {image!r} is not among `images`")
    if not isinstance(category, int) or category not in categories:
        raise ValueError(f"category_id {category!r} is not among `categories`")
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, (dict, list)) or not segmentation:
        raise ValueError("has no segmentation, maybe a box alone; draw one, or remove the annotation")
    shapes, runs = [], []
    if isinstance(segmentation, dict):
        runs = [_runs(segmentation, listed.size)]
    else:
        shapes = [_polygon(numbers) for numbers in segmentation]
    if category in place:
        listed.polygons += [(place[category], points) for points in shapes]
        listed.runs += [(place[category], counts) for counts in runs]


def _image(entry: object) -> tuple[int | str, Listed]:
    """(id, the image) of an entry of `images`; ValueError says what is wrong with it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), (int, str)):
        raise ValueError("wants to be an object with `id`, `file_name`, `height` and `width`")
    name, height, width = (entry.get(key) for key in ("file_name", "height", "width"))
    if not isinstance(name, str) or not name:
        raise ValueError("has no `file_name`")
    if not all(type(side) is int and side > 0 for side in (height, width)):
        raise ValueError(f"{name}: height {height!r} and width {width!r} want to be whole numbers from 1 on")
    return entry["id"], Listed(name, (height, width))  # type: ignore[arg-type]


def _lists(path: Path) -> tuple[list, list, list]:
    held = read_json(path)
    keys = ("images", "categories", "annotations")
    lists = tuple(held.get(key) if isinstance(held, dict) else None for key in keys)
    missing = [key for key, value in zip(keys, lists, strict=True) if not isinstance(value, list)]
    if missing:
        wants = " and ".join(f"`{key}`" for key in missing)
        raise InputError(f"{path}: wants to be an object with the lists of COCO's format; has no {wants}")
    return lists  # type: ignore[return-value]


def read_categories(path: Path, entries: list) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    names: dict[int, str] = {}
    for number, entry in enumerate(entries):
        key, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if type(key) is not int or not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: category {number}: wants an `id`, a whole number, and a `name`")
        if key in names or name in names.values():
            raise InputError(f"{path}: category {number}: {key} {name}: id or name stands above already")
        names[key] = name
    if not names:
        raise InputError(f"{path}: `categories` is empty; want at least one")
    return dict(sorted(names.items()))


def read_listed(
    path: Path, lists: tuple[list, list, list], categories: dict[int, str], place: dict[int, int]
) -> tuple[list[Listed], list[str]]:
    """The images of a JSON with their shapes, in the order of their names, and a line for each problem.

    place: the bit of each category that counts, by its id.
    """
    images: dict[int | str, Listed] = {}
    problems: list[str] = []
    entries, _, annotations = lists
    for number, entry in enumerate(entries):
        try:
            key, listed = _image(entry)
            if key in images:
                raise ValueError(f"id {key} stands above already")
            images[key] = listed
        except ValueError as e:
            problems.append(f"{path}: image {number}: {e}")
    for number, annotation in enumerate(annotations):
        try:
            _add(annotation, images, categories, place)
        except ValueError as e:
            problems.append(f"{path}: annotation {number}: {e}")
    counts = Counter(listed.name for listed in images.values())
    problems += [f"{path}: file_name {name}: stands {n} times" for name, n in counts.items() if n > 1]
    return sorted(images.values(), key=lambda listed: listed.name), problems


# ---------------------------------------------------------------- opening


def open_coco(
    text: str, task: str | None, ignore: Sequence[int], progress: Progress | None = None
) -> tuple[Coco, Coco | None]:
    """(training, validation) of what stands behind `coco-polygons:`; (all of it, None) where it is one pair.

    Raises one InputError for all that is wrong with the files.
    """
    pairs = split_spec(text)
    held = [_lists(path) for path, _ in pairs]
    categories, *others = (
        read_categories(path, lists[1]) for (path, _), lists in zip(pairs, held, strict=True)
    )
    if any(other != categories for other in others):
        raise InputError(f"{pairs[0][0]} and {pairs[1][0]}: differ in their categories")
    classes = _counted(pairs[0][0], categories, ignore)
    labels = bit_labels(classes, task)
    place = {c.index: k for k, c in enumerate(classes)}
    parts, problems = [], []
    for (path, _), lists in zip(pairs, held, strict=True):
        listed, wrong = read_listed(path, lists, categories, place)
        if not listed and not wrong:
            raise InputError(f"{path}: `images` is empty; want at least one")
        parts.append(listed)
        problems += wrong
    files = [(root / one.name, one) for (_, root), part in zip(pairs, parts, strict=True) for one in part]
    examined = on_all_cores(lambda file: _examine(*file), files, progress)
    problems += [line for line in examined if isinstance(line, str)]
    refuse_all(pairs[0][0], problems)

    facts = [f for f in examined if isinstance(f, Facts)]
    warnings = _warnings([one for part in parts for one in part], facts, labels)
    channels = 1 if all(f.grey for f in facts) else 3
    train, *val = (
        Coco(path, root, part, labels, channels, [] if n else warnings)
        for n, ((path, root), part) in enumerate(zip(pairs, parts, strict=True))
    )
    return train, val[0] if val else None


def split_spec(text: str) -> list[tuple[Path, Path]]:
    """The JSON file and the folder of images of `JSON+IMAGES`, or of two such, joined by a comma."""
    pairs = [part.partition("+") for part in text.split(",")]
    if len(pairs) > 2 or not all(path and root for path, _, root in pairs):
        raise InputError(
            f"data {KIND}:{text}: write {typed(KIND)}, or two of these joined by a comma, of which the "
            "second validates; a path with + or , in it needs a link by another name"
        )
    found = [(Path(path).expanduser(), Path(root).expanduser()) for path, _, root in pairs]
    for path, root in found:
        if not path.is_file():
            raise InputError(f"data {KIND}:{text}: {path}: no such file; write {typed(KIND)}")
        if not root.is_dir():
            raise InputError(f"data {KIND}:{text}: {root}: no such folder; write {typed(KIND)}")
    return found


def _counted(path: Path, categories: dict[int, str], ignore: Sequence[int]) -> list[Class]:
    """The categories that are not in `ignore`."""
    unknown = sorted(set(ignore) - set(categories))
    if unknown:
        known = ", ".join(f"{key} {name}" for key, name in categories.items())
        raise InputError(f"ignore {', '.join(map(str, unknown))}: no such category in {path}; known: {known}")
    classes = [Class(key, name) for key, name in categories.items() if key not in ignore]
    if not classes:
        raise InputError(f"{path}: every category is ignored; leave one")
    if len(classes) > MOST:
        raise InputError(
            f"{path}: {len(classes)} categories; pixels of several classes hold at most {MOST}: leave "
            f"{len(classes) - MOST} or more out by --ignore ID"
        )
    return classes


def _examine(path: Path, listed: Listed) -> Facts | str:
    """What decoding an image told, or what is wrong with it."""
    try:
        facts = examine(path)
    except InputError as e:
        return str(e)
    if facts.size != listed.size:
        sizes = [f"{h}x{w}" for h, w in (facts.size, listed.size)]
        return f"{path}: is {sizes[0]} (height x width), but `images` has it as {sizes[1]}"
    return facts


def _warnings(listed: list[Listed], facts: list[Facts], labels: Labels) -> list[str]:
    warnings = dark_warning([one.name for one, f in zip(listed, facts, strict=True) if f.dark])
    bare = [one.name for one in listed if not one.polygons and not one.runs]
    if bare:
        warnings.append(f"{plural(len(bare), 'image')} without any annotation, first {bare[0]}")
    seen = {k for one in listed for k, _ in (*one.polygons, *one.runs)}
    absent = [name for k, name in enumerate(labels.names) if k not in seen]
    return warnings + ([f"no annotation of {', '.join(absent)}"] if absent else [])
