"""The hand-bone job, whole, as one types it, on hands that are drawn to files.

    python benchmarks/whole_job.py [--count 60] [--side 2048] [--size 256] [--epochs 20]

Prints each command and what it says: hands in the hand-bone layout, and others to predict; `inspect` and its
exclusion list; two architectures on two of five folds, with thresholds fitted; each network, and all of them
by either rule, on the other hands, with masks, csv and scores.  Then code of its own, slow and plain, decodes
the csv, fills the polygons and scores the one by the other.

What is finished is not repeated, and a training that was broken off goes on.  Exit status 1 where the csv
differs from the masks, or the score from infer.py's.
"""

import argparse
import csv
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the two doors are

import infer
import train
from zoo import __main__ as verbs

NETWORKS = {
    "deeplabv3plus": "--arch deeplabv3plus --encoder resnet18",
    "segformer_b0": "--arch segformer_b0",
}
FOLDS = ("0/5", "1/5")
EPSILON = 1e-4  # the competition's
DOORS: dict[str, Callable[[list[str]], int]] = {
    "python -m zoo": verbs.main, "python train.py": train.main, "python infer.py": infer.main,
}  # fmt: skip


def commands(out: Path, args: argparse.Namespace) -> Iterator[str]:
    """What to type, in order."""
    bones, new, look = out / "bones", out / "new", out / "look"
    same = f"--data handbone:{bones} --size {args.size} --epochs {args.epochs} {args.train}"
    models = []
    yield f"python -m zoo phantom {bones} --count {args.count} --size {args.side}"
    yield f"python -m zoo phantom {new} --count {max(2, args.count // 5)} --size {args.side} --seed 7"
    yield f"python -m zoo inspect handbone:{bones} --out {look} --worst {max(1, args.count // 15)}"
    for name, flags in NETWORKS.items():
        for fold in FOLDS:
            run = out / f"{name}-{fold[0]}"
            listed = f"--exclude {look / 'exclude.txt'}"
            yield f"python train.py {flags} {same} --fold {fold} {listed} --fit-thresholds --out {run}"
            models.append(run / "best.pt")
    for model in models:
        yield f"python infer.py {model} --eval handbone:{new} --out {out / 'alone' / model.parent.name}"
    every = " ".join(map(str, models))
    for rule in infer.RULES:
        files = f"--out {out / rule} --csv {out / rule / 'masks.csv'}"
        yield f"python infer.py {every} --ensemble {rule} --eval handbone:{new} {files}"


def run(command: str) -> float:
    """CPU seconds of a command, in this process.  Ends where it fails."""
    door = next(door for door in DOORS if command.startswith(door))
    words = shlex.split(command.removeprefix(door))
    if door == "python train.py" and (after(words, "--out") / "last.pt").exists():
        words = ["--resume", str(after(words, "--out")), "--epochs", str(after(words, "--epochs"))]
    began = time.process_time()
    if status := DOORS[door](words):
        sys.exit(status)
    return time.process_time() - began


def after(words: list[str], flag: str) -> Path:
    """What a flag names."""
    return Path(words[words.index(flag) + 1])


def job(out: Path, args: argparse.Namespace, console: Console) -> dict[str, float]:
    """All commands with their CPU seconds; those that OUT/finished.json has are not run again."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "finished.json"
    finished: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    for command in commands(out, args):
        console.print(f"\n$ {command}", style="bold", highlight=False, markup=False, soft_wrap=True)
        if command in finished:
            console.print(f"finished before, in {finished[command]:.0f} s", highlight=False)
            continue
        finished[command] = run(command)
        file.write_text(json.dumps(finished, indent=1))
    return finished


# ---------------------------------------------------------------- slow and plain, nothing of it from zoo


def decoded(text: str, height: int, width: int) -> np.ndarray:
    """A plane (H, W) from run lengths along its rows."""
    flat = np.zeros(height * width, bool)
    numbers = [int(word) for word in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(height, width)


def filled(file: Path, height: int, width: int) -> dict[str, np.ndarray]:
    """The planes of a JSON file's polygons, by label; points are read to a sixteenth of a pixel."""
    planes: dict[str, np.ndarray] = {}
    for annotation in json.loads(file.read_text())["annotations"]:
        plane = np.zeros((height, width), np.uint8)
        cv2.fillPoly(plane, [np.rint(16 * np.array(annotation["points"])).astype(np.int32)], 1, shift=4)
        label = annotation["label"]
        planes[label] = planes.get(label, np.zeros((height, width), bool)) | (plane > 0)
    return planes


def checked(data: Path, predicted: Path) -> tuple[float, int, int]:
    """The competition's score of `predicted`/masks.csv, the pixels in which it differs from the mask files,
    and the pixels compared."""
    rows: dict[str, list[dict[str, str]]] = {}
    with open(predicted / "masks.csv", newline="") as f:
        for row in csv.DictReader(f):
            rows.setdefault(row["image_name"], []).append(row)
    dice: dict[str, list[float]] = {}
    differ = pixels = 0
    for image in sorted((data / "train" / "DCM").glob("*/*.png")):
        height, width = cv2.imread(str(image), cv2.IMREAD_GRAYSCALE).shape
        person = image.parent.name
        truth = filled(data / "train" / "outputs_json" / person / f"{image.stem}.json", height, width)
        with np.load(next(predicted.glob(f"masks/**/{image.stem}.npz"))) as held:
            bits, names = held["bits"], held["names"].tolist()
        of_image = rows.pop(image.name)
        if [row["class"] for row in of_image] != names:
            sys.exit(f"{predicted / 'masks.csv'}: {image.name} has other classes, or another order")
        for k, row in enumerate(of_image):
            plane = decoded(row["rle"], height, width)
            differ += int((plane != (bits >> k & 1).astype(bool)).sum())
            pixels += plane.size
            true = truth.get(row["class"], np.zeros_like(plane))
            both, sizes = int((plane & true).sum()), int(plane.sum()) + int(true.sum())
            dice.setdefault(row["class"], []).append((2 * both + EPSILON) / (sizes + EPSILON))
    if rows:
        sys.exit(f"{predicted / 'masks.csv'}: has images that are not in {data}: {', '.join(rows)}")
    return sum(sum(values) / len(values) for values in dice.values()) / len(dice), differ, pixels


def said(scored: Path) -> dict[str, float]:
    """The means that infer.py --eval wrote."""
    with open(scored / "scores.csv", newline="") as f:
        row = next(row for row in csv.DictReader(f) if row["class"] == "(mean)")
    return {name: float(row[name]) for name in ("dice", "competition")}


def parser() -> argparse.ArgumentParser:
    """How large the job is."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--out", type=Path, default=Path("runs/whole_job"), help="(default: runs/whole_job)")
    p.add_argument("--count", type=int, default=60, help="hands to train on (default: 60)")
    p.add_argument("--side", type=int, default=2048, help="pixels of an image's side (default: 2048)")
    p.add_argument("--size", type=int, default=256, help="pixels of a network's (default: 256)")
    p.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    p.add_argument("--train", default="--batch 4 --workers 0 --limit-val 4", help="(default: %(default)s)")
    return p


def main() -> int:
    """Do the job, check it, print the table."""
    args, console = parser().parse_args(), Console(width=max(160, Console().width))
    finished = job(args.out, args, console)
    table = Table(box=box.MARKDOWN)
    for column in ("step", "CPU seconds", "Dice on the new hands"):
        table.add_column(column)
    for command, seconds in finished.items():
        words = shlex.split(command)
        place = after(words, "--out") if "--out" in words else Path(words[4])
        score = f"{said(place)['dice']:.4f}" if "--eval" in words else ""
        door = " ".join(words[:4] if "-m" in words else words[:2])
        table.add_row(f"{door} … {place.relative_to(args.out)}", f"{seconds:.0f}", score)
    console.print(table)
    right = True
    for rule in infer.RULES:
        score, differ, pixels = checked(args.out / "new", args.out / rule)
        theirs = said(args.out / rule)["competition"]
        right &= not differ and abs(score - theirs) < 1e-12
        console.print(
            f"{rule}: {differ} of {pixels:,} pixels of the csv differ from the masks; "
            f"competition score {score!r}, by infer.py {theirs!r}",
            highlight=False,
        )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
