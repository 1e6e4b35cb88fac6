"""`python -m zoo inspect`: every image measured once, then compared, and what came out written to a folder.

    OUT/problems.txt     what is wrong with the files, all of it; empty where nothing is
    OUT/images.csv       a row an image: rank, score and why, side, cluster, statistics, pixels of each class
    OUT/classes.csv      a row a class; OUT/pairs.csv: a row for each two classes that share pixels or images
    OUT/duplicates.csv   a row a pair of images; OUT/duplicates.png
    OUT/worst.png        the first images of the ranking, and OUT/exclude.txt for train.py --exclude
    OUT/classes/*.png    each class from its smallest to its largest; OUT/clusters/*.png: sides and poses
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.core import content, exclude, pictures
from zoo.core.dataset import Sample, Source
from zoo.core.files import write_bytes, write_csv
from zoo.core.images import BadFiles, Progress, on_all_cores, plural
from zoo.core.inspection import clusters, duplicates, ranking, sheets
from zoo.core.inspection.clusters import Poses, Sides
from zoo.core.inspection.duplicates import Duplicate
from zoo.core.inspection.measure import INTENSITIES, Measured, measure
from zoo.core.inspection.ranking import Rank, Statistic
from zoo.core.masks import Labels
from zoo.core.metrics import count, dice, divide
from zoo.core.pictures import make_folder
from zoo.core.predictor import Predictor
from zoo.errors import InputError

CARDS = 12  # on a sheet of a class or cluster
PROBLEMS, EXCLUDE = "problems.txt", "exclude.txt"


@dataclass(frozen=True)
class Findings:
    """All that is known of n images with K classes; lists and arrays over images are in one order.

    split: "training" or "validation".  order: images by rank, the oddest first.
    duplicates: those across the split first.
    dice: (n, K) of a checkpoint's predictions, nan for empty pairs; None without one.
    """

    labels: Labels
    images: list[Measured]
    split: list[str]
    groups: list[str]
    warnings: list[str]
    statistics: list[Statistic]
    ranks: list[Rank]
    order: list[int]
    sides: Sides
    poses: Poses
    duplicates: list[Duplicate]
    dice: np.ndarray | None

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each class in each image, int64 (n, K)."""
        return np.array([m.areas for m in self.images])

    @property
    def across(self) -> list[Duplicate]:
        """The duplicates of which one trains and the other validates."""
        return [d for d in self.duplicates if self.split[d.a] != self.split[d.b]]

    def cluster(self, i: int) -> str:
        """Side and pose of image i, in a word: `R-1`; "" where all images are of one kind."""
        pose = str(self.poses.of[i] + 1) if self.poses.of.any() else ""
        return "-".join(filter(None, (self.sides.name(i), pose)))


def begin(out: Path) -> None:
    """Make `out`, which must be new, or hold nothing but problems, and see that it can be written to.

    Raises InputError.
    """
    make_folder(out)
    if any(path.name != PROBLEMS for path in out.iterdir()):
        raise InputError(f"--out {out}: is not empty; name another folder, or remove what is in it")
    write_bytes(out / PROBLEMS, b"")


def opened(out: Path, open_sources: Callable[[], tuple[Source, Source]]) -> tuple[Source, Source]:
    """The sources; where their files are bad, all that is wrong is written and said.  Raises InputError."""
    try:
        return open_sources()
    except BadFiles as e:
        write_bytes(out / PROBLEMS, "".join(f"{line}\n" for line in e.problems).encode())
        head, *_ = str(e).splitlines()
        told = f"all of them in {out / PROBLEMS}; mend them, then inspect again"
        raise InputError("\n  ".join([head, *e.problems, told])) from e


def find(
    train: Source,
    val: Source,
    predictor: Predictor | None = None,
    wanted: int | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Measure every image of both sides, on all cores, and compare them.

    predictor: ranks by its Dice instead of by statistics.  wanted: clusters of poses; None: as many as show.
    """
    labels = train.labels
    if predictor and (predictor.labels.task, predictor.labels.names) != (labels.task, labels.names):
        raise InputError(_other_classes(predictor.labels, labels))
    load, names = loader(train, val)
    images = on_all_cores(lambda i: measure(load(i), labels), range(len(names)), progress)
    described = clusters.descriptors(images)
    two = clusters.sides(names, described)
    scores = scored(predictor, load, len(images), progress) if predictor else None
    poses = clusters.poses(described, two.left, wanted)
    found = ranking.statistics(images, labels, two.left, poses.turn, places(images, described, two.left))
    ranks = ranking.by_statistics(found) if scores is None else ranking.by_dice(scores, labels)
    hashes, mirrored = (np.array([m.hash for m in images]), np.array([m.mirrored for m in images]))
    split = [content.SIDES[0]] * len(train) + [content.SIDES[1]] * len(val)
    same = duplicates.find([m.pixels for m in images], hashes, mirrored)
    return Findings(
        labels=labels,
        images=images,
        split=split,
        groups=[source.group(i) for source in (train, val) for i in range(len(source))],
        warnings=[*train.warnings, *val.warnings],
        statistics=found,
        ranks=ranks,
        order=ranking.order(ranks),
        sides=two,
        poses=poses,
        duplicates=sorted(same, key=lambda d: split[d.a] == split[d.b]),
        dice=scores,
    )


def places(images: Sequence[Measured], described: np.ndarray, left: np.ndarray) -> dict[int, np.ndarray]:
    """Class -> x, y (n, 2) among the others, mirrored and turned alike; {} with less than 3 classes."""
    if described.shape[1] < 3:
        return {}
    straight, _ = clusters.aligned(np.where(left[:, None, None], described * clusters.MIRROR, described))
    return {int(k): straight[:, f, :2] for f, k in enumerate(clusters.common(images))}


def loader(train: Source, val: Source) -> tuple[Callable[[int], Sample], list[str]]:
    """(load of image i, names) of both sides as one list, those that train first."""
    names = [source.name(i) for source in (train, val) for i in range(len(source))]
    return lambda i: train.load(i) if i < len(train) else val.load(i - len(train)), names


def _other_classes(theirs: Labels, ours: Labels) -> str:
    said = f"{theirs.task} of {plural(theirs.num_classes, 'class')}"
    lacking = [name for name in ours.names if name not in theirs.names]
    hint = f", without {', '.join(lacking[:3])}" if lacking else ""
    return (
        f"--checkpoint: predicts {said}{hint}; the data is {ours.task} of "
        f"{plural(ours.num_classes, 'class')}; take a checkpoint that was trained on data of these classes"
    )


def scored(
    predictor: Predictor, load: Callable[[int], Sample], n: int, progress: Progress | None
) -> np.ndarray:
    """Dice of each image and class, float64 (n, K), nan for an empty pair."""
    rows = []
    for i in range(n):
        sample = load(i)
        rows.append(dice(count(predictor(sample.image), sample.mask, predictor.labels)))
        if progress:
            progress(i + 1, n)
    return np.array(rows)


# ---------------------------------------------------------------- tables


def class_rows(found: Findings) -> list[dict[str, object]]:
    """For each class in how many images it is, its pixels and share of all valid ones, its areas from the
    smallest to the largest (where it is there), and its Dice if a checkpoint was given."""
    areas, valid = found.areas, sum(m.valid for m in found.images)
    training = np.array([side == content.SIDES[0] for side in found.split])
    rows = []
    for k, name in enumerate(found.labels.names):
        some = areas[areas[:, k] > 0, k]
        row: dict[str, object] = {
            "class": name,
            "images": len(some),
            "training": int((areas[training, k] > 0).sum()),
            "validation": int((areas[~training, k] > 0).sum()),
            "pixels": int(some.sum()),
            "share": float(some.sum() / max(1, valid)),
            "smallest": int(some.min()) if len(some) else "",
            "median": float(np.median(some)) if len(some) else "",
            "largest": int(some.max()) if len(some) else "",
        }
        if found.dice is not None:
            known = found.dice[~np.isnan(found.dice[:, k]), k]
            row["dice"] = float(known.mean()) if len(known) else ""
        rows.append(row)
    return rows


def pair_rows(found: Findings) -> list[dict[str, object]]:
    """For each two classes that stand in one image: in how many both do, the pixels that carry both, and
    these as a share of the smaller class (its pixels in all images); those that share most first."""
    areas = found.areas
    there = (areas > 0).astype(np.int64)
    both, totals = there.T @ there, areas.sum(axis=0)
    pixels = np.zeros((len(totals), len(totals)), np.int64)
    for m in found.images:
        for pair, shared in m.shared.items():
            pixels[pair] += shared
    share = divide(pixels, np.minimum(totals[:, None], totals))
    rows = [
        {
            "class": found.labels.names[a],
            "other": found.labels.names[b],
            "images with both": int(both[a, b]),
            "pixels shared": int(pixels[a, b]),
            "share of the smaller": float(share[a, b]),
        }
        for a, b in zip(*np.nonzero(np.triu(both, 1)), strict=True)
    ]
    return sorted(rows, key=lambda row: -float(str(row["share of the smaller"])))


def image_rows(found: Findings) -> list[dict[str, object]]:
    """A row an image, by rank."""
    rows: list[dict[str, object]] = []
    for rank, i in enumerate(found.order, 1):
        m = found.images[i]
        row: dict[str, object] = {
            "rank": rank,
            "name": m.name,
            "score": found.ranks[i].score,
            "why": found.ranks[i].why,
            "split": found.split[i],
            "group": found.groups[i],
            "side": found.sides.name(i),
            "pose": int(found.poses.of[i]) + 1,
            "turn": float(found.poses.turn[i]),
            "height": m.size[0],
            "width": m.size[1],
            **dict(zip(INTENSITIES, map(float, m.intensities), strict=True)),
        }
        if found.dice is not None:
            row["dice"] = 1 - found.ranks[i].score
        names = found.labels.names
        rows.append(row | {f"pixels of {name}": int(a) for name, a in zip(names, m.areas, strict=True)})
    return rows


def duplicate_rows(found: Findings) -> list[dict[str, object]]:
    """A row a pair of images that are the same, or nearly."""
    rows = []
    for d in found.duplicates:
        a, b = found.images[d.a], found.images[d.b]
        rows.append({
            "image": a.name,
            "other": b.name,
            "how": d.how,
            "bits": d.bits,
            "across the split": "yes" if found.split[d.a] != found.split[d.b] else "no",
            "masks": "equal" if a.mask == b.mask else "differ",
        })  # fmt: skip
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, object]], columns: Iterable[str]) -> Path:
    """A header and `rows`, fractions with six digits.  Raises InputError."""
    header = list(columns)
    cells = ((row[name] for name in header) for row in rows)
    write_csv(path, header, [[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in cells])
    return path


# ---------------------------------------------------------------- the folder


def write(out: Path, found: Findings, load: Callable[[int], Sample], worst: int) -> list[Path]:
    """Everything but problems.txt into `out`; the files, sheets last.  Raises InputError."""
    pairs = pair_rows(found)
    shared = pairs[0] if pairs else ("class", "other", "images with both", "pixels shared")
    tables = {"images": image_rows(found), "classes": class_rows(found)}
    files = [write_rows(out / f"{name}.csv", rows, rows[0]) for name, rows in tables.items()]
    files.append(write_rows(out / "pairs.csv", pairs, shared))
    columns = ("image", "other", "how", "bits", "across the split", "masks")
    files.append(write_rows(out / "duplicates.csv", duplicate_rows(found), columns))
    odd = found.order[:worst]
    if odd:
        listed = [(found.images[i].name, found.ranks[i].why) for i in odd]
        exclude.write(out / EXCLUDE, listed, _head(found, len(odd)))
        files.append(out / EXCLUDE)
    return files + sheets.write(out, list(_sheets(found, odd)), load)


def _head(found: Findings, n: int) -> str:
    how = "Dice, lowest first" if found.dice is not None else "statistics, the oddest first"
    return (
        f"the first {n} of {plural(len(found.images), 'image')} by {how}; see worst.png\n"
        "strike out what is as it should be, then: python train.py --exclude THIS_FILE"
    )


def _sheets(found: Findings, odd: Sequence[int]) -> Iterable[sheets.Sheet]:
    labels, names = found.labels, sheets.legend(found.labels)
    cards = [
        (i, sheets.whole(labels, f"{rank}. {found.ranks[i].why}", found.split[i]))
        for rank, i in enumerate(odd, 1)
    ]
    yield sheets.Sheet("worst.png", names, cards)
    twice = []
    for d in found.duplicates[: CARDS // 2]:
        for i in (d.a, d.b):
            twice.append((i, sheets.bare(f"{d.how}, {d.bits} bits", found.split[i])))
    yield sheets.Sheet("duplicates.png", [], twice)
    areas = found.areas
    for k, name in enumerate(labels.names):
        there = np.flatnonzero(areas[:, k])
        if not len(there) or sheets.background(labels, k):
            continue
        there = there[np.argsort(areas[there, k], kind="stable")]
        taken = np.unique(np.linspace(0, len(there) - 1, CARDS).round().astype(int))
        some = [(int(i), sheets.part(labels, k, f"{areas[i, k]:,} pixels")) for i in there[taken]]
        head = [(f"{name}: {plural(len(there), 'image')}, smallest to largest", names[k][1])]
        yield sheets.Sheet(f"classes/{k:02d} {_file(name)}.png", head, some, 6)
    kinds = [found.cluster(i) for i in range(len(found.images))]
    for kind in sorted(set(kinds) - {""}):
        of = [i for i, other in enumerate(kinds) if other == kind]
        near = sorted(of, key=lambda i: found.poses.apart[i])[:CARDS]
        head = [(f"{kind}: {plural(len(of), 'image')}, the most typical first", pictures.TEXT)]
        yield sheets.Sheet(f"clusters/{_file(kind)}.png", head, [(i, sheets.whole(labels)) for i in near])


def _file(name: str) -> str:
    """`name` as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name)
