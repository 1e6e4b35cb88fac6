"""Folds, several networks and their ensembles on two real sets, as README's tables quote them.

    python benchmarks/whole_real.py ROOT [chest mandible] [--out runs/whole_real]

ROOT holds the folders chest and mandible.  A run that is done is not repeated and one that was broken off
goes on, so the same command finishes what an earlier one left; started once a set, sets train side by side.

chest: 44 X-rays, 13 overlapping labels, split by patient; each of three architectures is trained on each
fold's rest, and each image scored by the networks that have not seen its patient: alone, by the mean of
their probabilities, by vote.  No mirrored views: right and left lung are classes.

mandible: 115 panoramic X-rays drawn twice.  A fifth is held out from all training; folds of the rest train
on observer 1, at two sizes, and are scored on the fifth by both observers.

Steps, batch, rate and augmentation are the same for all of a set, weights start from random ones, and it is
the last epoch's weights that are scored, at a threshold of 0.5: nothing is chosen by the images it is scored
on.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the two doors

import infer
import train
from zoo.core.dataset import open_data
from zoo.core.images import read_values

FOLDS = 3
SAME = "--batch 4 --workers 0 --augment rotate+scale+shift+grey"
CHEST = {
    "unet_halved": "--arch unet_halved --encoder resnet18",
    "deeplabv3plus": "--arch deeplabv3plus --encoder resnet18",
    "segformer_b0": "--arch segformer_b0",
}
CHEST_SAME = "--size 128 --epochs 16"
JAW = "--arch deeplabv3plus --encoder resnet18 --epochs 16"
SIZES = ("64x128", "96x192")
OBSERVERS = {"observer 1": "masks", "observer 2": "masks_observer2"}
JAW_VALUE = 1  # in the mask files
FLIP = ("--tta", "flip")
Dice = dict[tuple[str, str], float]  # of an image and class; nan where it is nowhere


def trained(out: Path, words: str) -> Path:
    """The weights of the last epoch of `train.py words`, run, resumed, or there already."""
    last = out / "last.pt"
    if not (out / "done").exists():
        given = ["--resume", str(out)] if last.exists() else [*words.split(), "--out", str(out)]
        if status := train.main(given):
            sys.exit(status)
        (out / "done").touch()
    return last


def scored(out: Path, models: Sequence[Path], *words: str) -> Dice:
    """Of `infer.py models words`, run or there already."""
    file = out / "scores_images.csv"
    if not file.exists() and (status := infer.main([*map(str, models), *words, "--out", str(out)])):
        sys.exit(status)
    with open(file, newline="") as f:
        return {
            (row["image_name"], row["class"]): float(row["dice"] or "nan") for row in csv.DictReader(f)
        }  # fmt: skip


def chest(data: Path, out: Path) -> Iterable[Table]:
    """Dice of each class for each network, their mean and their vote."""
    found: dict[str, list[Dice]] = defaultdict(list)
    for i in range(FOLDS):
        fold = out / f"fold{i}"
        words = f"--data handbone:{data} --fold {i}/{FOLDS} {SAME} {CHEST_SAME}"
        models = {name: trained(fold / name, f"{flags} {words}") for name, flags in CHEST.items()}
        members = [*((name, [model]) for name, model in models.items()), ("mean", list(models.values()))]
        for name, several in [*members, ("vote", list(models.values()))]:
            rule = ("--ensemble", "vote") if name == "vote" else ()
            eval_words = ("--eval", f"handbone:{data}", *rule)
            found[name].append(scored(fold / f"scored-{name}", several, *eval_words))
    table = Table(title=f"chest, {FOLDS} folds by patient: Dice over all images, ± between folds")
    for column in ("class", "images", *found):
        table.add_column(column)
    classes = list(dict.fromkeys(label for _, label in found["mean"][0]))
    for label in classes:
        several = {name: [of_class(dice, label) for dice in folds] for name, folds in found.items()}
        images = sum(np.isfinite(values).sum() for values in several["mean"])
        table.add_row(label, str(images), *(over_folds(values) for values in several.values()))
    means = {name: [mean_dice(dice, classes) for dice in folds] for name, folds in found.items()}
    table.add_row("mean over classes", "", *(spread(values) for values in means.values()))
    yield table
    yield differences(means)


def of_class(dice: Dice, label: str) -> np.ndarray:
    """Of the images where it is, or was predicted."""
    values = np.array([value for (_, of), value in dice.items() if of == label])
    return values[np.isfinite(values)]


def mean_dice(dice: Dice, classes: Sequence[str]) -> float:
    """Over images, then over those classes that are somewhere."""
    return float(np.mean([values.mean() for label in classes if len(values := of_class(dice, label))]))


def over_folds(folds: Sequence[np.ndarray]) -> str:
    """Mean over all images and the deviation between the folds' means."""
    there = [values for values in folds if len(values)]
    if not there:
        return "none"
    deviation = np.std([values.mean() for values in there], ddof=1) if len(there) > 1 else None
    return f"{np.concatenate(there).mean():.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± deviation."""
    return f"{np.mean(values):{sign}.3f} ± {np.std(values, ddof=1):.3f}"


def differences(means: dict[str, list[float]]) -> Table:
    """What the ensembles gain within a fold, whose images are the same for all."""
    table = Table(title="mean Dice, difference within a fold")
    for column in ("", "mean ± deviation of the folds", *map(str, range(FOLDS))):
        table.add_column(column)
    best = max(list(means)[:-2], key=lambda name: float(np.mean(means[name])))
    for name, other in (("mean", best), ("vote", best), ("mean", "vote")):
        gain = np.subtract(means[name], means[other])
        table.add_row(f"{name} less {other}", spread(gain, "+"), *(f"{value:+.3f}" for value in gain))
    return table


def mandible(data: Path, out: Path) -> Iterable[Table]:
    """Dice of networks and ensembles with either observer, beside the observers with each other."""
    pool, held_out = parted(data, out)
    found: dict[str, list[dict[str, Dice]]] = {}
    every: list[Path] = []

    def score(name: str, models: Sequence[Path], *words: str) -> dict[str, Dice]:
        place = out / "scored" / name.replace(" ", "_").replace(",", "")
        images = ("--input", str(held_out / "images"), "--no-overlays", *words)
        return {
            observer: scored(place / folder, models, *images, "--eval", str(held_out / folder))
            for observer, folder in OBSERVERS.items()
        }

    for size in SIZES:
        words = f"{JAW} --data folder:{pool} {SAME} --size {size} --fold"
        models = [trained(out / f"{size}-{i}", f"{words} {i}/{FOLDS}") for i in range(FOLDS)]
        found[f"one network, {size}"] = [score(f"{size}-{i}", [m]) for i, m in enumerate(models)]
        found[f"one network, {size}, flip"] = [
            score(f"{size}-{i}-flip", [m], *FLIP) for i, m in enumerate(models)
        ]
        found[f"{FOLDS} folds, {size}"] = [score(f"{size}", models)]
        found[f"{FOLDS} folds, {size}, flip"] = [score(f"{size}-flip", models, *FLIP)]
        every += models
    found[f"{FOLDS} folds, both sizes, flip"] = [score("both-flip", every, *FLIP)]
    found["observer 2"] = [{"observer 1": between(held_out)}]
    yield jaws(found)


def parted(data: Path, out: Path) -> tuple[Path, Path]:
    """Links to what trains and to what is held out: the part that train.py would validate on."""
    opened = open_data(f"folder:{data}")
    for name, source in zip(("pool", "held_out"), opened, strict=True):
        for i in range(len(source)):
            stem = Path(source.name(i)).stem
            for file in source.files(i)[0], *(data / masks / f"{stem}.png" for masks in OBSERVERS.values()):
                link(file, out / name / file.parent.name / file.name)
        link(data / "classes.txt", out / name / "classes.txt")
    return out / "pool", out / "held_out"


def link(file: Path, place: Path) -> None:
    """`place` is `file` from now on."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(file.resolve())


def between(held_out: Path) -> Dice:
    """Observer 2 scored by observer 1."""
    dice = {}
    for file in sorted((held_out / "masks").iterdir()):
        one, two = (read_values(held_out / folder / file.name) == JAW_VALUE for folder in OBSERVERS.values())
        dice[file.name, "mandible"] = float(2 * (one & two).sum() / (one.sum() + two.sum()))
    return dice


def jaws(found: dict[str, list[dict[str, Dice]]]) -> Table:
    """A row a network or ensemble; of several networks the mean over them, image by image."""
    people = np.array(list(found["observer 2"][0]["observer 1"].values()))
    table = Table(title=f"mandible, {len(people)} held-out images: Dice, ± between images")
    for column in ("", "with observer 1", "lowest", "with observer 2", "images nearer to 1 than 2 is"):
        table.add_column(column)
    for name, several in found.items():
        cells = []
        for observer in OBSERVERS:
            if of_all := [list(one[observer].values()) for one in several if observer in one]:
                dice = np.mean(of_all, axis=0)
                cells += [spread(dice), f"{dice.min():.3f}", str((dice > people).sum())]
            else:
                cells += [""] * 3
        first, least, nearer, second, *_ = cells
        table.add_row(name, first, least, second, "" if name == "observer 2" else nearer)
    return table


SETS: dict[str, Callable[[Path, Path], Iterable[Table]]] = {"chest": chest, "mandible": mandible}


def main() -> None:
    """Train what is missing and print the tables."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("root", metavar="ROOT", type=Path, help="the folder with chest/ and mandible/")
    p.add_argument("sets", metavar="SET", nargs="*", help=f"{' or '.join(SETS)} (default: both)")
    p.add_argument("--out", type=Path, default=Path("runs/whole_real"), help="(default: runs/whole_real)")
    args = p.parse_args()
    console = Console(width=max(150, Console().width))
    for name in args.sets or SETS:
        for table in SETS[name](args.root / name, args.out / name):
            table.box = box.MARKDOWN
            console.print(table)


if __name__ == "__main__":
    main()
