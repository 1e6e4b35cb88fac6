"""train.py's flags: what each says, and the settings that those which were given make."""

import argparse
from dataclasses import fields
from pathlib import Path

from zoo import names
from zoo.core import exclude
from zoo.core.config import AMP_WORDS, OPTIMIZERS, SCHEDULES, TrainConfig, spelled
from zoo.core.dataset import FETCHED, KINDS, typed
from zoo.core.loggers import LOGGERS
from zoo.core.recipes import DATA_DEFAULTS, RECIPES, RESUMABLE
from zoo.core.transforms import WORDS
from zoo.options import as_typed, fold, option, size

DEFAULTS = {f.name: getattr(TrainConfig(), f.name) for f in fields(TrainConfig)}
OVERRIDES = DATA_DEFAULTS | {arch: row.settings for (arch, name), row in RECIPES.items() if name == "default"}

OTHERS = ("ds", "opt", "out", "resume", "debug_nan", "tune", "search", "seeds")  # no fields of TrainConfig


def overrides(name: str, default: object) -> str:
    """Whose default differs, by value: `; unet: 180x180; phantom, handbone: 512x512`."""
    whose: dict[str, list[str]] = {}
    for who, row in OVERRIDES.items():
        if name in row and row[name] != default:
            whose.setdefault(spelled(name, row[name]), []).append(who)
    return "".join(f"; {', '.join(names)}: {value}" for value, names in whose.items())


def batch(text: str) -> int | str:
    """`8`, or `auto`."""
    return text if text == "auto" else int(text)


def start(text: str) -> bool | str:
    """The name after `--pretrained`; `none` undoes a recipe's."""
    return text != "none" and text


def parser() -> argparse.ArgumentParser:
    """The command line; a flag that is not given is left to the data, the recipe or the default."""
    p = argparse.ArgumentParser(
        prog="train.py",
        description="Train a segmentation network. Settings come from the defaults shown, then the data set, "
        "then the recipe, then these flags; the result is printed and saved in the run folder.",
        argument_default=argparse.SUPPRESS,
    )

    def add(group: argparse._ArgumentGroup, flag: str, what: str, **how: object) -> None:
        name = flag.removeprefix("--").replace("-", "_")
        name = {"opt": "options"}.get(name, name)
        default = None if name == "options" else DEFAULTS.get(name)
        others = overrides(name, default)
        none = default is None or default is False or default == ()
        given = "none" if none else spelled(name, default)
        shown = f" (default: {given}{others})" if others or not none else ""
        group.add_argument(flag, help=what + shown, **how)  # type: ignore[arg-type]

    g = p.add_argument_group("model")
    add(g, "--arch", f"one of {', '.join(names())}", metavar="NAME")
    add(g, "--ds", "deep supervision, where the architecture has it", action="store_true")
    add(g, "--opt", "an architecture's own option, several values joined by commas; may be repeated",
        metavar="KEY=VALUE", type=option, action="append")
    add(g, "--encoder", "encoder, where the architecture takes one", metavar="NAME")
    add(g, "--pretrained", "start the encoder from its ImageNet weights, or the whole network from published "
        "ones of this name; none: from random ones", metavar="NAME", type=start, nargs="?", const=True)
    add(g, "--weights", "start from the weights in this file, or from published ones", metavar="PATH|NAME")
    add(g, "--reset-head", "start with a fresh classifier where those weights are of other classes",
        action="store_true")
    g = p.add_argument_group("data")
    *some, last = map(typed, KINDS)
    add(g, "--data", f"{', '.join(some)} or {last}", metavar="SOURCE")
    add(g, "--download", f"fetch the set to PATH if it is not there: {', '.join(FETCHED)}",
        action="store_true")
    add(g, "--task", "multilabel, multiclass or binary; read from the data where it can be", metavar="TASK")
    add(g, "--ignore", "mask value to leave out; may be repeated", metavar="VALUE", type=int, action="append")
    add(g, "--val-fraction", "share of data without a split that validates", metavar="SHARE", type=float)
    add(g, "--fold", "validate on part I of N, counted from 0", metavar="I/N", type=fold)
    add(g, "--limit-train", "train on at most this many images", metavar="N", type=int)
    add(g, "--limit-val", "validate on at most this many images", metavar="N", type=int)
    add(g, "--exclude", "do not train on the images in this file, a name a line with a `# reason`; "
        "validation stays as it is", metavar="FILE", type=Path)
    add(g, "--size", "pixels of the network's output: S or HxW", metavar="SIZE", type=size)
    add(g, "--augment", f"none, default, or words joined by +: {' '.join(WORDS)}", metavar="WORDS")
    add(g, "--mix", "mix pairs of images and their masks: mixup:A, cutmix:A or both joined by +, in shares "
        "from Beta(A, A)", metavar="WORDS")
    g = p.add_argument_group("optimisation")
    add(g, "--recipe", "default, or paper: as the architecture was published", metavar="NAME")
    add(g, "--epochs", "passes over the training images", metavar="N", type=int)
    add(g, "--batch", "images a step at once, over all processes; auto: what fits into memory",
        metavar="N|auto", type=batch)
    add(g, "--accumulate", "batches summed into one optimizer step", metavar="N", type=int)
    add(g, "--optimizer", " or ".join(OPTIMIZERS), metavar="NAME")
    add(g, "--lr", "learning rate after warm-up", metavar="RATE", type=float)
    add(g, "--head-lr", "factor on the rate of all but the encoder", metavar="FACTOR", type=float)
    add(g, "--momentum", "momentum of sgd", metavar="M", type=float)
    add(g, "--weight-decay", "strength of weight decay", metavar="D", type=float)
    add(g, "--decay-on", "what decays: weights (no biases, no norms), dense (nor depthwise kernels), "
        "not_norm (all but what has norm in its name), all", metavar="WORD")
    add(g, "--schedule", ", ".join(SCHEDULES), metavar="NAME")
    add(g, "--warmup", "epochs of linear warm-up", metavar="EPOCHS", type=float)
    add(g, "--clip", "largest norm of the gradient; 0: off", metavar="NORM", type=float)
    add(g, "--ema", "decay of a moving average of the weights, which is then what is kept; 0: off",
        metavar="DECAY", type=float)
    add(g, "--freeze-encoder", "do not train the encoder, nor its BatchNorms' statistics",
        action="store_true")
    add(g, "--freeze-bn", "no BatchNorm learns from batches: each normalises by what it has",
        action="store_true")
    add(g, "--patience", "epochs without a better score before it stops; 0: off", metavar="EPOCHS", type=int)
    add(g, "--loss", "terms joined by +, with weights: 0.5*bce+dice; terms: bce dice ce focal weighted_ce "
        "(default: bce+dice, or ce+dice for multiclass)", metavar="SPEC")
    g = p.add_argument_group("machine")
    add(g, "--amp", f"half precision: {', '.join(AMP_WORDS)}; auto: bf16 if it is native", metavar="WORD")
    add(g, "--compile", "compile the network with torch.compile", action="store_true")
    add(g, "--grad-checkpoint", "compute blocks twice: less memory, a third more time", action="store_true")
    add(g, "--no-sync-bn", "over several GPUs, let each BatchNorm see its own images alone",
        action="store_false", dest="sync_bn")
    add(g, "--shard", "over several processes, keep the weights, gradients and moments in parts (FSDP2)",
        action="store_true")
    add(g, "--cache", "keep decoded samples in this folder", metavar="DIR")
    add(g, "--cache-gb", "the largest size of that folder; 0: no limit", metavar="GB", type=float)
    add(g, "--max-bad", "training images that may turn out unreadable in an epoch; no validation image may",
        metavar="N", type=int)
    add(g, "--workers", "processes that load data; 0: load in the training process", metavar="N", type=int)
    add(g, "--seed", "every random choice follows from it", metavar="N", type=int)
    add(g, "--device", "auto, cpu, cuda or cuda:N", metavar="DEVICE")
    g = p.add_argument_group("run")
    add(g, "--fit-thresholds", "when training ends, find each class's threshold with the best Dice on the "
        "validation images, and keep it in best.pt", action="store_true")
    add(g, "--save-every", "also save after every N steps; 0: after each epoch alone", metavar="N", type=int)
    add(g, "--log", f"where numbers and pictures go besides the run folder: {', '.join(LOGGERS)}, or both "
        "joined by +", metavar="WORDS")
    add(g, "--out", "new folder for the run (default: runs/ARCH-DATA, numbered)", metavar="DIR", type=Path)
    add(g, "--resume", f"go on with the run in this folder; only {', '.join(RESUMABLE)} may be given besides",
        metavar="DIR", type=Path)
    add(g, "--tune", "a study of N runs, in folders below --out, whose settings Optuna chooses; --resume "
        "goes on with it, and joins it from further processes", metavar="N", type=int)
    add(g, "--search", "what --tune varies: NAME (its own range), NAME=LOW..HIGH, NAME=A,B or opt.NAME=A,B "
        "(default: lr weight-decay loss augment)", metavar="WORD", nargs="+")
    add(g, "--seeds", "further seeds for the best few of --tune; 0: none (default: 3)", metavar="N", type=int)
    add(g, "--debug-nan", "replay the step at which the run in this folder was not finite, and say where",
        metavar="DIR", type=Path)
    return p


def flags_of(args: argparse.Namespace) -> dict:
    """The TrainConfig fields that were given."""
    flags = {k: v for k, v in vars(args).items() if k not in OTHERS}
    options = dict(getattr(args, "opt", []))
    if hasattr(args, "ds"):
        options["deep_supervision"] = True
    if options:
        flags["options"] = options
    if "exclude" in flags:  # its names, so that a resumed run does not depend on the file
        flags["exclude"] = exclude.read(flags["exclude"])
    if "ignore" in flags:
        flags["ignore"] = tuple(flags["ignore"])
    return flags


def words(flags: dict, exclude_file: Path) -> list[str]:
    """The command line that `flags_of` reads as `flags`.  exclude_file: where the names to exclude are."""
    found: list[str] = []
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "options":
            found += [word for k, v in value.items() for word in ("--opt", as_typed({k: v}))]
        elif name == "exclude":
            found += [flag, str(exclude_file)]
        elif name == "ignore":
            found += [word for v in value for word in (flag, str(v))]
        elif name == "sync_bn" and value is False:
            found.append("--no-sync-bn")
        elif name == "pretrained" and value is False:
            found += [flag, "none"]
        elif value is True:
            found.append(flag)
        elif value is not None and value is not False:
            found += [flag, spelled(name, value)]
    return found
