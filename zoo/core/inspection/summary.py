"""What `python -m zoo inspect` says on the terminal: the findings in a few tables."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoo.core.images import plural
from zoo.core.inspection import report
from zoo.core.inspection.clusters import CLEAR
from zoo.core.inspection.duplicates import BITS, NEAR
from zoo.core.inspection.report import Findings

PAIRS, DUPLICATES, SIZES = 8, 8, 4  # rows that are shown of each


def say(console: Console, found: Findings, out: Path, files: Sequence[Path], worst: int) -> None:
    """All of it."""

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    n, labels = len(found.images), found.labels
    counts = Counter(found.split)
    line(
        f"{plural(n, 'image')} ({', '.join(f'{c} {side}' for side, c in counts.items())}) of "
        f"{plural(len(set(found.groups)), 'group')}; {labels.task}, {plural(labels.num_classes, 'class')}"
    )
    line(f"sizes: {sizes(found)}")
    for warning in found.warnings:
        line(f"warning: {warning}", "yellow")
    columns = ("class", "images", "pixels", "share", "smallest", "median", "largest")
    console.print(table("classes", (*columns, "dice"), report.class_rows(found)))
    pairs = [row for row in report.pair_rows(found) if row["pixels shared"]]
    if pairs:
        title = f"overlaps ({min(PAIRS, len(pairs))} of {plural(len(pairs), 'pair')})"
        console.print(table(title, pairs[0], pairs[:PAIRS]))
    line(kinds(found))
    line(doubles(found), "yellow" if found.across else "")
    if found.duplicates:
        rows = report.duplicate_rows(found)
        title = f"duplicates ({min(DUPLICATES, len(rows))} of {len(rows)})"
        console.print(table(title, rows[0], rows[:DUPLICATES]))
    by = "Dice" if found.dice is not None else "statistics"
    if worst:
        rows = report.image_rows(found)[:worst]
        console.print(table(f"first {len(rows)} by {by}", ("rank", "name", "split", "score", "why"), rows))
        line(f"not to train on these: python train.py … --exclude {out / report.EXCLUDE}")
    top = sorted({path.relative_to(out).parts[0] for path in files})
    line(f"{plural(len(files), 'file')} in {out}: {', '.join(top)}")


def sizes(found: Findings) -> str:
    """The commonest, or the range where there are many."""
    held = Counter(m.size for m in found.images)
    if len(held) <= SIZES:
        return ", ".join(f"{h}x{w} ({c})" for (h, w), c in held.most_common())
    low, high = ([f(m.size[axis] for m in found.images) for axis in (0, 1)] for f in (min, max))
    (h, w), c = held.most_common(1)[0]
    return f"{len(held)} different, from {low[0]}x{low[1]} to {high[0]}x{high[1]}, most often {h}x{w} ({c})"


def kinds(found: Findings) -> str:
    """Sides and poses."""
    n = range(len(found.images))
    if found.sides.by:
        counted = Counter(map(found.sides.name, n))
        each = ", ".join(f"{c} {name}" for name, c in sorted(counted.items()))
        said = f"sides by {found.sides.by}: {each}"
    else:
        said = "sides: one, or not told apart by file names (_L, _R) or shapes"
    counts = Counter(found.poses.of.tolist())
    if len(counts) == 1:
        return f"{said}; poses: one cluster"
    each = ", ".join(str(c) for _, c in sorted(counts.items()))
    apart = found.poses.silhouette
    clear = f"{'' if apart >= CLEAR else 'not '}clearly apart (silhouette {apart:.2f})"
    return f"{said}; poses: {len(counts)} clusters of {each} images, {clear}"


def doubles(found: Findings) -> str:
    """How many pairs are duplicates, and how that is decided."""
    exact = sum(d.how == "same pixels" for d in found.duplicates)
    near = len(found.duplicates) - exact
    return (
        f"duplicates: {exact} with the same pixels, {near} nearly so (at most {NEAR} of {BITS} bits of a "
        f"perceptual hash differ); {len(found.across)} across training and validation"
    )


def table(title: str, columns: Iterable[str], rows: Sequence[dict[str, object]]) -> Table:
    """`rows` by `columns`; those that no row has are left out."""
    columns = [column for column in columns if any(column in row for row in rows)]
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        number = all(isinstance(row[column], int | float) or row[column] == "" for row in rows)
        shown.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(escape(cell(column, row[column])) for column in columns))
    return shown


def cell(column: str, value: object) -> str:
    """A number as one reads it."""
    if isinstance(value, float):
        if column.startswith("share"):
            return f"{value:.1%}"
        return f"{value:.3f}" if abs(value) < 1 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
