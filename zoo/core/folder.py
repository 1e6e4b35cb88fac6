"""folder:PATH: images/ and masks/ paired by file stem, as they are or under train/ and val/.

Masks are pictures of class numbers, or .npz files of bits as infer.py writes them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from zoo.core.classes import FILE, Class, bit_labels, index_labels, read_classes, without_ignored
from zoo.core.dataset import Sample, Source
from zoo.core.images import (
    SUFFIXES,
    Progress,
    dark_warning,
    examine,
    on_all_cores,
    read_image,
    read_values,
    refuse_all,
    resize_image,
)
from zoo.core.masks import IGNORE, Labels, bits_dtype, resize_mask
from zoo.errors import InputError

BITS = ".npz"
LOSSY, JPEG = (".jpg", ".jpeg"), "JPEG changes values, write masks as PNG"
MOST_CLASSES = 64  # more values than this, and no classes.txt: a photograph rather than a mask


@dataclass(frozen=True)
class Pair:
    """An image, its mask, and the image's path inside the data set."""

    image: Path
    mask: Path
    name: str


class Folder(Source):
    """Images with index masks or masks of bits.

    table: for each value in an index mask's file its value in memory; None for bits.
    """

    def __init__(
        self, pairs: list[Pair], labels: Labels, channels: int, table: np.ndarray | None, warnings: list[str]
    ):
        self.pairs, self.labels, self.channels, self.table = pairs, labels, channels, table
        self.warnings = warnings

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, i: int) -> str:
        return self.pairs[i].name

    def group(self, i: int) -> str:
        return self.pairs[i].name

    def files(self, i: int) -> tuple[Path, ...]:
        return self.pairs[i].image, self.pairs[i].mask

    def load(self, i: int, size: tuple[int, int] | None = None) -> Sample:
        pair = self.pairs[i]
        image = read_image(pair.image, self.channels)
        if self.table is None:
            mask = read_bits(pair.mask)[0].astype(bits_dtype(self.labels.num_classes), copy=False)
        else:
            mask = read_values(pair.mask)
        if size is not None:
            image, mask = resize_image(image, size), resize_mask(mask, size)
        return Sample(image, mask if self.table is None else self.table[mask], pair.name)


def read_bits(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(bits (H, W), class names or ()) of an .npz mask with the keys `bits` and, if it likes, `names`."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            bits = held["bits"]
            names = tuple(str(n) for n in held["names"]) if "names" in held else ()
    except Exception as e:  # a damaged archive lets zipfile, zlib and numpy raise nearly anything
        raise InputError(f"{path}: cannot be read as an .npz mask with the key `bits`: {e}") from e
    if bits.ndim != 2 or bits.dtype.kind not in "iu":
        raise InputError(f"{path}: bits {bits.dtype} {bits.shape}: want whole numbers (H, W)")
    return bits, names


# ---------------------------------------------------------------- opening


@dataclass(frozen=True)
class Found:
    """What decoding a pair told.  values: those in an index mask, or the numbers of the bits set in bits."""

    problems: tuple[str, ...] = ()
    grey: bool = True
    dark: bool = False
    values: frozenset[int] = frozenset()
    names: tuple[str, ...] = ()


def open_folder(
    root: Path, task: str | None, ignore: Sequence[int], progress: Progress | None = None
) -> tuple[Source, Source | None]:
    """(training, validation) where `root` has train/ and val/, else (all of it, None).

    Raises one InputError for all that is wrong with the files.
    """
    parts = _parts(root)
    problems: list[str] = []
    paired = [_pair(root, part, problems) for part in parts]
    pairs = [pair for part in paired for pair in part]
    found = on_all_cores(examine_pair, pairs, progress)
    problems += [line for f in found for line in f.problems]
    file = next((p / FILE for p in (root, *parts) if (p / FILE).is_file()), None)
    listed = read_classes(file) if file else None
    kinds = {pair.mask.suffix.lower() == BITS for pair in pairs}
    if len(kinds) > 1:
        raise InputError(f"{root}: masks are {BITS} on one side of the split, pictures on the other")
    of_bits = True in kinds
    if of_bits:
        classes = _bit_classes(root, found, listed, ignore)
        problems += strangers(pairs, found, classes, set())
    elif listed:
        problems += strangers(pairs, found, *without_ignored(listed, ignore))
    refuse_all(root, problems)
    if of_bits:
        labels = bit_labels(classes, task)
    else:
        values = _seen(found)
        classes, _ = without_ignored(listed or _values_as_classes(root, pairs, values, ignore), ignore)
        labels = index_labels(_at_least_two(root, classes, values), task)
    train, *val = folders(root, paired, found, classes, labels, ignore)
    return train, val[0] if val else None


def folders(
    root: Path,
    parts: list[list[Pair]],
    found: list[Found],
    classes: list[Class],
    labels: Labels,
    ignore: Sequence[int],
) -> list[Folder]:
    """A Folder a part, after `examine_pair` of the parts' pairs, in order; the first one has the warnings.

    classes: those that count.  ignore: values of which the user said that they do not.
    """
    pairs, values = [pair for part in parts for pair in part], _seen(found)
    warnings = dark_warning([pair.name for pair, f in zip(pairs, found, strict=True) if f.dark])
    if labels.task == "binary" and not values[labels.index[1]]:
        raise InputError(
            f"{root}: no mask holds the foreground, {labels.index[1]} {labels.names[0]}; values in the "
            f"masks: {_numbers(values)}; list the right one in {FILE}"
        )
    warnings += [f"ignore {v}: no mask holds this value" for v in ignore if not values[v]]
    absent = [c.name for c in classes if not values[c.index]]
    warnings += [f"no mask holds {', '.join(absent)}"] if absent else []
    channels = 1 if all(f.grey for f in found) else 3
    table = None if labels.task == "multilabel" else _table(labels)
    return [Folder(part, labels, channels, table, [] if n else warnings) for n, part in enumerate(parts)]


def _seen(found: list[Found]) -> Counter[int]:
    """In how many masks each value is."""
    return Counter(value for f in found for value in f.values)


def _parts(root: Path) -> list[Path]:
    """`root` itself, or its train/ and val/."""
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return [root]
    parts = [root / "train", root / "val"]
    missing = [str(p / kind) for p in parts for kind in ("images", "masks") if not (p / kind).is_dir()]
    if not missing:
        return parts
    if (root / "train").is_dir() or (root / "val").is_dir():
        raise InputError(f"no such folder: {', '.join(missing)}; train/ and val/ want images/ and masks/")
    raise InputError(f"{root}: holds neither images/ and masks/, nor train/ and val/ with those two in each")


def _pair(root: Path, part: Path, problems: list[str]) -> list[Pair]:
    """The images of a part with their masks; what stays single is a problem."""
    images = _by_stem(part / "images", SUFFIXES, problems)
    masks = _by_stem(part / "masks", (BITS,), problems) or _by_stem(part / "masks", SUFFIXES, problems)
    if not images:
        raise InputError(f"{part / 'images'}: no images ({', '.join(SUFFIXES)})")
    if not masks:
        raise InputError(f"{part / 'masks'}: no masks ({', '.join((*SUFFIXES, BITS))})")
    suffix = next(iter(masks.values())).suffix
    for stem in sorted(images.keys() - masks.keys()):
        problems.append(f"{images[stem]}: image without mask; want {part / 'masks' / (stem + suffix)}")
    for stem in sorted(masks.keys() - images.keys()):
        problems.append(f"{masks[stem]}: mask without image; want {part / 'images' / stem}.png or the like")
    return [
        Pair(images[stem], masks[stem], images[stem].relative_to(root).as_posix())
        for stem in sorted(images.keys() & masks.keys())
    ]


def _by_stem(folder: Path, suffixes: Iterable[str], problems: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            problems.append(f"{path}: has the same stem as {files[path.stem].name}; rename or remove one")
        files.setdefault(path.stem, path)
    return files


def examine_pair(pair: Pair) -> Found:
    """Decode the image and its mask, which alone shows that they are whole."""
    problems = []
    facts = None
    names: tuple[str, ...] = ()
    values: frozenset[int] = frozenset()
    try:
        facts = examine(pair.image)
    except InputError as e:
        problems.append(str(e))
    try:
        if pair.mask.suffix.lower() == BITS:
            mask, names = read_bits(pair.mask)
            union = int(np.bitwise_or.reduce(mask, axis=None))
            values = frozenset(k for k in range(mask.dtype.itemsize * 8) if union >> k & 1)
        else:
            mask = read_values(pair.mask)
            values = _values(mask)
    except InputError as e:
        problems.append(str(e))
    else:
        if facts and mask.shape != facts.size:
            sizes = [f"{h}x{w}" for h, w in (mask.shape, facts.size)]
            problems.append(f"{pair.mask}: is {sizes[0]}, but its image {pair.image.name} is {sizes[1]}")
    grey, dark = (facts.grey, facts.dark) if facts else (True, False)
    return Found(tuple(problems), grey, dark, values, names)


def _values(mask: np.ndarray) -> frozenset[int]:
    """The values in an index mask."""
    if mask.dtype == np.uint8:  # a histogram is ten times as fast as sorting
        counts = cv2.calcHist([mask], [0], None, [256], [0, 256])
        return frozenset(np.flatnonzero(counts).tolist())
    return frozenset(np.unique(mask).tolist())


# ---------------------------------------------------------------- classes


def strangers(
    pairs: list[Pair], found: list[Found], classes: list[Class], ignored: set[int]
) -> list[str]:
    """A line for each mask with values that are neither a class nor ignored."""
    known = {c.index for c in classes}
    problems = []
    for pair, f in zip(pairs, found, strict=True):
        strange = f.values - known - ignored
        if strange:
            hint = f"; {JPEG}" if pair.mask.suffix.lower() in LOSSY else ""
            problems.append(
                f"{pair.mask}: mask value {_numbers(strange)} outside the classes "
                f"(known: {_numbers(known)}; ignored: {_numbers(ignored) or 'none'}){hint}"
            )
    return problems


def _values_as_classes(
    root: Path, pairs: list[Pair], values: Iterable[int], ignore: Sequence[int]
) -> list[Class]:
    """Classes of masks without classes.txt: the values that occur; {0, 1} and {0, 255} are binary masks'."""
    kept = set(values) - set(ignore)
    if kept != {0, IGNORE}:
        kept.discard(IGNORE)
    if len(kept) > MOST_CLASSES:
        lossy = any(pair.mask.suffix.lower() in LOSSY for pair in pairs)
        remedy = JPEG if lossy else f"write class numbers, or list all in {FILE}"
        raise InputError(f"{root}: {len(kept)} different values in the masks, too many for classes; {remedy}")
    if kept in ({0, 1}, {0, IGNORE}):
        return [Class(0, "background"), Class(max(kept), "foreground")]
    return [Class(value, f"class {value}") for value in sorted(kept)]


def _at_least_two(root: Path, classes: list[Class], values: Iterable[int]) -> list[Class]:
    if len(classes) < 2:
        names = ", ".join(f"{c.index} {c.name}" for c in classes) or "none"
        raise InputError(
            f"{root}: wants two classes or more (background is one), has {names}; values in the masks: "
            f"{_numbers(values)}"
        )
    return classes


def _bit_classes(
    root: Path, found: list[Found], listed: list[Class] | None, ignore: Sequence[int]
) -> list[Class]:
    """Classes of bits: of classes.txt, else the names in the .npz files, else one for each bit."""
    if ignore or any(c.ignore for c in listed or ()):
        raise InputError(f"{root}: masks of bits have no value to ignore; drop it")
    named = {f.names for f in found if f.names}
    if len(named) > 1:
        a, b, *_ = sorted(named)
        raise InputError(f"{root}: .npz masks differ in names: {', '.join(a)} here, {', '.join(b)} there")
    if listed:
        if [c.index for c in listed] != list(range(len(listed))):
            given = _numbers(c.index for c in listed)
            raise InputError(f"{root}: {FILE} numbers bits, from 0 on without gaps; it has {given}")
        return listed
    count = 1 + max((max(f.values, default=0) for f in found), default=0)
    names = named.pop() if named else [f"class {k}" for k in range(count)]
    return [Class(k, name) for k, name in enumerate(names)]


def _table(labels: Labels) -> np.ndarray:
    """For each of 65536 values its place among the classes (binary: 0 or 1), 255 where it has none."""
    table = np.full(1 << 16, IGNORE, np.uint8)
    for place, value in enumerate(labels.index):
        table[value] = place
    return table


def _numbers(values: Iterable[int], most: int = 12) -> str:
    ordered = [str(v) for v in sorted(values)]
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most else "")
