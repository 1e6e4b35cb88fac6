"""Masks for an image or a folder of images, from checkpoints and nothing else.

    python infer.py runs/NAME/best.pt --input IMAGES --out MASKS
    python infer.py runs/NAME/best.pt --eval DATA --out MASKS
    python infer.py A.pt B.pt C.pt --weights 2 1 1 --tta flip --input IMAGES --out MASKS

Exit status: 0 fine; 1 some images failed, or a result could not be written; 2 wrong usage; 130 interrupted.
"""

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.core import checkpoint
from zoo.core.choose import choose
from zoo.core.decide import HALF
from zoo.core.ensemble import RULES, Ensemble
from zoo.core.evaluate import Evaluation, compared, trained_on
from zoo.core.images import plural
from zoo.core.inference import Item, Writer, find_images, predict_all
from zoo.core.predictor import Predictor
from zoo.core.views import BLENDS, Tiles, parse_views
from zoo.errors import InputError
from zoo.options import size

MANY = 16  # images for which it pays to try what is fastest
PLAIN_SECONDS = 5.0  # between two lines where output is not a terminal


def parser() -> argparse.ArgumentParser:
    """The options of infer.py."""
    p = argparse.ArgumentParser(prog="infer.py", description=(__doc__ or "").partition("\n")[0])
    p.add_argument("checkpoints", metavar="CHECKPOINT", type=Path, nargs="+",
                   help="best.pt or last.pt of a run; several, of any architectures, decide together")
    p.add_argument("--input", metavar="FILE_OR_FOLDER", type=Path,
                   help="an image, or a folder of images, those in sub-folders too; not with --eval DATA")
    p.add_argument("--out", required=True, metavar="DIR", type=Path,
                   help="masks/, overlays/ and planes/ go here, with the sub-folders of the input")
    p.add_argument("--eval", metavar="DATA", dest="truth",
                   help="score the masks: data as train.py takes it (of the run's own, its validation part), "
                   "or the true masks of --input, a folder or a csv of run lengths")
    several = p.add_argument_group("several networks, several views")
    several.add_argument("--ensemble", choices=RULES, default="mean",
                         help="the mean of probabilities, or a vote of masks (default: mean)")
    several.add_argument("--weights", metavar="W", type=float, nargs="+",
                         help="what each checkpoint counts for (default: all the same)")
    several.add_argument("--tta", metavar="WORDS", default="",
                         help="views as further members: flip (left to right), rot90 (three turns), "
                              "scale:0.75+1.25; joined by commas every combination (default: none)")
    tiles = p.add_argument_group("tiles")
    tiles.add_argument("--tile", metavar="SIZE", type=size,
                       help="tiles of S or HxW pixels at the image's own scale (default: as it was trained)")
    tiles.add_argument("--overlap", metavar="SHARE", type=float,
                       help="of neighbouring tiles; U-Net's margins have their exact tiling (default: 0.25)")
    tiles.add_argument("--blend", choices=BLENDS, help="of what overlaps (default: gaussian)")
    files = p.add_argument_group("files")
    files.add_argument("--csv", metavar="FILE", type=Path,
                       help="run lengths, a row an image and class: image_name,class,rle")
    files.add_argument("--rle-order", choices=("C", "F"), default="C",
                       help="run along rows (C) or columns (F, as COCO and Kaggle) (default: C)")
    files.add_argument("--coco", metavar="FILE", type=Path,
                       help="run lengths in the COCO format, packed as pycocotools has them")
    files.add_argument("--planes", action="store_true", help="a PNG for each class as well (0 and 255)")
    files.add_argument("--no-overlays", action="store_true", help="leave the overlays out")
    decision = p.add_argument_group("decision", "values for all classes, or CLASS=VALUE; several may follow")
    decision.add_argument("--thresholds", metavar="P", nargs="+", default=[],
                          help="probability above which a pixel has a class (default: those that train.py "
                          "--fit-thresholds kept in the checkpoint, else 0.5)")
    decision.add_argument("--min-area", metavar="N", nargs="+", default=[],
                          help="take away connected components of fewer pixels (default: 0)")
    decision.add_argument("--largest", metavar="CLASS", nargs="*",
                          help="keep only the largest connected component of these classes, or of all")
    machine = p.add_argument_group("machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    machine.add_argument("--amp", default="auto", choices=("auto", "bf16", "fp16", "off"),
                         help=f"precision; auto: float32, or from {MANY} images on bf16 where the processor "
                         "has it and the first image's mask is the same but for 0.1 %% (default: auto)")
    return p


class Said:
    """A live bar on a terminal, else a line every few seconds."""

    def __init__(self, console: Console, total: int):
        self.console, self.total, self.done = console, total, 0
        self.failures: list[str] = []
        self.began = self.last = time.monotonic()
        bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*bar, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.progress.add_task("images", total=total)

    def __call__(self, item: Item, failure: str) -> None:
        self.done += 1
        if failure:
            self.failures.append(failure)
        self.progress.update(self.task, completed=self.done)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last > PLAIN_SECONDS:
            say(self.console, f"{self.done}/{self.total} images, {self.speed():.2f} images/s")
            self.last = now

    def speed(self) -> float:
        """Images a second so far."""
        return self.done / max(1e-9, time.monotonic() - self.began)


def say(console: Console, text: str) -> None:
    """One line, as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def opened(args: argparse.Namespace) -> Predictor | Ensemble:
    """The network, or all of them with all views, in float32 if the choice is ours.  Raises InputError."""
    machine = args.device, "off" if args.amp == "auto" else args.amp
    tiles = None
    if args.tile:
        share = 0.25 if args.overlap is None else args.overlap
        tiles = Tiles(args.tile, share, args.blend or "gaussian")
    elif args.overlap is not None or args.blend:
        raise InputError(f"--{'blend' if args.overlap is None else 'overlap'}: needs --tile SIZE as well")
    views = parse_views(args.tta)
    if len(args.checkpoints) > 1 or len(views) > 1 or tiles or args.weights:
        return Ensemble(
            args.checkpoints, weights=args.weights, rule=args.ensemble, views=views, tiles=tiles,
            machine=machine,
        )
    return Predictor.from_checkpoint(args.checkpoints[0], *machine)


def fastest(predictor: Predictor | Ensemble, items: list[Item]) -> str:
    """Let it choose how to predict by the first image that can be read; what a single network chose."""
    if isinstance(predictor, Ensemble):
        predictor.choosing = True
        return "a precision that each network chooses"
    for item in items:
        with suppress(InputError):
            return str(choose(predictor, item.read(predictor.preprocess.channels)[0]))
    return ""


def settings(predictor: Predictor | Ensemble, images: int, chosen: str) -> str:
    """What is about to run, in a line."""
    labels = predictor.labels
    if isinstance(predictor, Ensemble):
        way = predictor.describe()
    else:
        tile, side = predictor.preprocess.tile, predictor.preprocess.size
        way = "tiles at the image's own scale" if tile else "resized to {}x{}".format(*side)
    precision = chosen or str(predictor.amp or "float32").removeprefix("torch.")
    what = f"{labels.task}, {plural(labels.num_classes, 'class')}, {way}"
    thresholds = sorted(set(predictor.decision.thresholds))
    if labels.task != "multiclass" and thresholds != [HALF]:
        what += f", thresholds {thresholds[0]:g} to {thresholds[-1]:g}"
    return f"{plural(images, 'image')}; {what}, on {predictor.device} in {precision}"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = parser().parse_args(argv)
    console, errors = Console(), Console(stderr=True)
    try:
        if args.input is None and args.truth is None:
            raise InputError("nothing to predict: give images as --input, or data to be scored as --eval")
        predictor = opened(args)
        labels = predictor.labels
        predictor.decision = predictor.decision.asked(labels, args.thresholds, args.min_area, args.largest)
        evaluation, items = None, list[Item]()
        if args.truth is None:
            items = find_images(args.input, args.out)
        else:
            evaluation, trained = Evaluation(labels), checkpoint.read(args.checkpoints[0]).config
            scored = compared(args.truth, args.input, args.out, labels, trained)
            for path in args.checkpoints:  # of folds, one has seen what the other is scored on
                if seen := trained_on(scored, path.parent):
                    what = f"{seen} of the {plural(len(scored), 'image')} that are scored"
                    say(errors, f"warning: {path} was trained on {what}: the score flatters it")
            items += scored
        writer = Writer(
            args.out, predictor.labels,
            csv_file=args.csv, rle_order=args.rle_order, coco_file=args.coco,
            planes=args.planes, overlays=not args.no_overlays,
        )
    except InputError as e:
        say(errors, f"infer.py: {e}")
        return 2
    except KeyboardInterrupt:
        return 130

    said, status, files = Said(console, len(items)), 0, list[Path]()
    try:
        chosen = fastest(predictor, items) if args.amp == "auto" and len(items) >= MANY else ""
        say(console, settings(predictor, len(items), chosen))
        with writer, said.progress:
            predict_all(predictor, items, writer, said, evaluation)
    except InputError as e:
        say(errors, f"infer.py: {e}")
        status = 1
    except KeyboardInterrupt:
        say(errors, "infer.py: interrupted; what was finished is written")
        status = 130
    for m, choice in predictor.choices.items() if isinstance(predictor, Ensemble) else ():
        say(console, f"{args.checkpoints[m]}: {choice}")
    for failure in said.failures:
        say(errors, f"failed: {failure}")
    if evaluation and evaluation.scores.names:
        console.print(evaluation.table())
        try:
            files = evaluation.write(args.out)
        except InputError as e:
            say(errors, f"infer.py: {e}")
            status = 1
    folders = ["masks", *(["planes"] if args.planes else []), *([] if args.no_overlays else ["overlays"])]
    files += [file for file in (args.csv, args.coco) if file]
    places = ", ".join(map(str, [args.out / folder for folder in folders] + files))
    written = said.done - len(said.failures)
    say(console, f"{written} of {len(items)} images written to {places} ({said.speed():.2f} images/s)")
    return status or (1 if said.failures else 0)


if __name__ == "__main__":
    sys.exit(main())
