"""Train any architecture of the zoo: `python train.py --arch unetpp --ds`.  See --help."""

import argparse
import os
import sys
from dataclasses import replace

from rich.console import Console

from zoo.core import checkpoint, thresholds
from zoo.core.config import TrainConfig
from zoo.core.device import resolve_device
from zoo.core.display import Display, settings_of
from zoo.core.finite import replay
from zoo.core.fit import largest_batch
from zoo.core.flags import flags_of, parser
from zoo.core.ranks import Agreed, Ranks, joined, launch, leave, lost, restarted
from zoo.core.recipes import resolve, resume
from zoo.core.run import choose_folder, started_folder
from zoo.core.stop import Interrupted
from zoo.core.trainer import Trainer
from zoo.core.tune.asked import is_study, tune
from zoo.errors import InputError


def run(args: argparse.Namespace, display: Display, ranks: Ranks) -> None:
    """Start or resume a run or a study, and say where things are when it ends."""
    flags, chosen = ranks.together(lambda: flags_of(args)), getattr(args, "out", None)
    if hasattr(args, "resume") and chosen:
        raise InputError("--out and --resume: a resumed run stays in its folder; give one of them")
    if is_study(args):
        return tune(args, flags, display, ranks)
    auto = flags.get("batch") == "auto"
    config, origins = ranks.together(lambda: resolve(flags | {"batch": 1} if auto else flags))
    begun = getattr(args, "resume", None)
    if begun is None and restarted(ranks):  # with the same flags, which are the run's already
        begun, flags = ranks.first(started_folder(chosen, config, launch())), {}
    if begun is not None:
        out, state = begun, ranks.together(lambda: checkpoint.read(begun / "last.pt"))
        config = ranks.together(lambda: resume(TrainConfig.from_dict(state.config), flags, str(out)))
        if ranks.size == 1 and "shard" not in flags:  # it takes up what several left in parts
            config = replace(config, shard=False)
        origins = dict.fromkeys(config.to_dict(), "the run") | dict.fromkeys(flags, "flag")
        trainer = ranks.together(lambda: Trainer(config, out, display, resume=state, ranks=ranks))
        display.note(f"resuming {out} after epoch {trainer.progress.epoch}, step {trainer.progress.step}")
    else:
        if auto:
            most = ranks.first(ranks.together(lambda: largest_batch(config, ranks, display.note)))
            config, origins = replace(config, batch=most), origins | {"batch": "what fits"}
        out = ranks.first(ranks.together(lambda: choose_folder(chosen, config)))
        trainer = ranks.together(lambda: Trainer(config, out, display, ranks=ranks))
    display.settings(settings_of(trainer, origins))
    if config.fit_thresholds:
        ranks.together(lambda: thresholds.check(trainer.labels))
    try:
        trainer.fit()
    except Interrupted:
        display.note(f"stopped and saved; go on with: python train.py --resume {out}")
        raise
    if config.fit_thresholds:
        thresholds.fit(trainer)
    display.done(out, config.data, trainer.progress.best, trainer.progress.best_epoch)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 130 interrupted, 2 wrong input."""
    args = parser().parse_args(argv)
    speaks = int(os.environ.get("RANK", 0)) == 0  # of several processes that torchrun started
    try:
        if hasattr(args, "debug_nan"):
            replay(args.debug_nan, Console())
            return 0
        word = getattr(args, "device", "auto")
        with joined(resolve_device(word, int(os.environ.get("LOCAL_RANK", 0)))) as ranks:
            run(args, Display(None if speaks else Console(quiet=True)), ranks)
    except InputError as e:
        if speaks or not isinstance(e, Agreed):
            print(f"train.py: {e}", file=sys.stderr)
        return 2
    except RuntimeError as e:
        if not lost(e):
            raise
        print(f"train.py: another process is gone ({str(e).splitlines()[0][:120]})", file=sys.stderr)
        return 2
    except Interrupted:
        return 130
    except KeyboardInterrupt:
        print("train.py: stopped at once; --resume goes on with what a run had saved", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    leave(main())
