"""What the hand-bone report says of training, tried again on drawn hands: equal budgets, three seeds each.

    python benchmarks/study.py [--out runs/study] [--jobs 2] [--full]

A variant is the plain setting with one thing changed.  Each is trained once a seed, which decides the hands,
their split, the first weights and the order; all variants of a seed share what is not their own.  When a run
ends its row goes to OUT/rows.jsonl: seed, budget, the curve of Dice at the hands' full resolution, CPU
seconds of training.  Rows that are there are not trained again, so the command may be killed at any time and
given again.  It prints two tables: the claims, each with the paired difference over the seeds, its 95 %
interval and a verdict, and the variants.  --table prints what there is and trains nothing.

Time is the process's CPU time, one thread a run, for a machine may be shared; with a GPU it is the clock's.
Scores are those of the last step: no epoch is chosen.  --full is the same at 512 and 1024 pixels.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from threading import Lock

import torch
from claims import FULL, MEMBERS, METAL, SMALL, Budget, Row, key, report, variants
from rich.console import Console

import zoo
from zoo.core import phantom
from zoo.core.config import TrainConfig
from zoo.core.dataset import open_data, open_run
from zoo.core.device import resolve_device
from zoo.core.display import Display
from zoo.core.ensemble import RULES, Ensemble
from zoo.core.files import read_json
from zoo.core.manifest import revision
from zoo.core.metrics import Scores, count
from zoo.core.recipes import resolve
from zoo.core.run import log
from zoo.core.trainer import Trainer
from zoo.options import option

ROOT = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------- one run


class Measured(Trainer):
    """Validates every so many steps and after the last; counts the seconds of training alone."""

    def __init__(self, config: TrainConfig, out: Path, every: int):
        super().__init__(config, out, Display(Console(quiet=True)))
        self.every, self.curve = every, list[tuple[int, float]]()
        self.parent = os.getppid()
        self.cpu = self.clocked = 0.0

    def train_epoch(self) -> float:
        """The epoch, timed."""
        if os.getppid() != self.parent:
            sys.exit("study.py: nobody waits for this run any more")
        cpu, clock = time.process_time(), time.monotonic()
        loss = super().train_epoch()
        self.cpu += time.process_time() - cpu
        self.clocked += time.monotonic() - clock
        return loss

    def evaluate(self) -> Scores:
        """None between two validations."""
        p, seen = self.progress, self.curve[-1][0] if self.curve else 0
        if p.step // self.every == seen // self.every and p.epoch + 1 < self.config.epochs:
            return Scores(self.labels)
        scores = super().evaluate()
        self.curve.append((p.step, scores.score))
        return scores


def kind_of(variant: str) -> str:
    """The folder of hands that it trains on: the pool has enough with metal to choose from."""
    return "pool" if variant.startswith("metal") else "hands"


def drawn(kind: str, b: Budget) -> int:
    """How many hands such a folder has."""
    return b.pool if kind == "pool" else b.hands + b.validating


def hands_of(variant: str, seed: int, b: Budget, out: Path) -> dict:
    """The settings that say which hands train: for the two about metal, METAL of them and those without."""
    kind = kind_of(variant)
    root = out / kind / str(seed)
    data: dict = {"data": f"handbone:{root}", "val_fraction": b.validating / drawn(kind, b), "seed": seed}
    if kind == "hands":
        return data
    train, _ = open_data(data["data"], val_fraction=data["val_fraction"], seed=seed)
    names = [train.name(i) for i in range(len(train))]
    metal = [name for name in names if has_metal(root, name)]
    many = round(METAL * b.hands)
    if len(metal) < many:
        raise SystemExit(f"study.py: {len(metal)} of {len(names)} hands have metal in them; want {many}")
    clean = [name for name in names if name not in metal][: b.hands - many]
    kept = {*clean, *(metal[:many] if variant == "metal" else [])}
    return {**data, "exclude": tuple(name for name in names if name not in kept)}


def has_metal(root: Path, name: str) -> bool:
    """Whether a ring, a screw or a plate was drawn into the image."""
    path = Path(str(root / name).replace("/DCM/", "/outputs_json/")).with_suffix(".json")
    content = read_json(path)
    assert isinstance(content, dict)
    return bool(content["attributes"]["outlier"])


def train(variant: str, seed: int, b: Budget, out: Path) -> Row:
    """The row of one run, whose last.pt stays if an ensemble needs it."""
    on_cpu = resolve_device().type == "cpu"  # where loading is to be in the process's own time
    workers = 0 if on_cpu else min(8, os.cpu_count() or 1)
    config, _ = resolve({**variants(b)[variant], **hands_of(variant, seed, b, out), "workers": workers})
    folder = run_folder(out, variant, seed)
    shutil.rmtree(folder, ignore_errors=True)
    if on_cpu:
        torch.set_num_threads(1)
    trainer = Measured(config, folder, b.every)
    trainer.fit()
    for path in folder.glob("*.pt"):
        if variant not in MEMBERS or path.name != "last.pt":
            path.unlink()
    p = trainer.progress
    return {
        "steps": p.step, "images": trainer.session.images, "dice": trainer.curve[-1][1],
        "curve": trainer.curve, "cpu_s": trainer.cpu, "clock_s": trainer.clocked,
        "device": trainer.device.type, "amp": str(trainer.amp).removeprefix("torch."),
        "parameters": sum(w.numel() for w in trainer.model.parameters()),
    }  # fmt: skip


def run_folder(out: Path, variant: str, seed: int) -> Path:
    """Where a run is."""
    return out / "trained" / f"{variant.replace(' ', '-')}-{seed}"


def together(rule: str, seed: int, b: Budget, out: Path) -> Row:
    """The row of the MEMBERS of one seed as an ensemble."""
    torch.set_num_threads(1)
    config, _ = resolve({**variants(b)["plain"], **hands_of("plain", seed, b, out)})
    _, val = open_run(config)
    ensemble = Ensemble([run_folder(out, name, seed) / "last.pt" for name in MEMBERS], rule=rule)
    scores = Scores(val.labels)
    for answer in ensemble.run(range(len(val)), lambda i: val.load(i).image):
        if answer.mask is None:
            raise SystemExit(f"study.py: {answer.fault}")
        sample = val.load(answer.item)
        scores.add(sample.name, count(answer.mask, sample.mask, val.labels))
    return {"dice": scores.score, "members": MEMBERS}


# ---------------------------------------------------------------- all of them


def read_rows(path: Path, b: Budget) -> list[Row]:
    """The rows of this budget; a last line that a kill tore is taken off the file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
        lines.pop()
    return [row for row in map(json.loads, lines) if row["budget"] == asdict(b)]


class Study:
    """What is left to do in `out`, each row in a process of its own."""

    def __init__(self, out: Path, b: Budget, seeds: list[int], only: list[str]):
        self.out, self.budget, self.seeds = out, b, seeds
        self.path, self.lock = out / "rows.jsonl", Lock()
        known = (*variants(b), *RULES)
        self.names = [name for name in known if name in (only or known)]

    def draw(self, seed: int, kind: str) -> None:
        """The hands of a seed as files, once."""
        folder = self.out / kind / str(seed)
        if not folder.exists():
            part = folder.with_name(f"{seed}.part")
            shutil.rmtree(part, ignore_errors=True)
            phantom.write(part, drawn(kind, self.budget), self.budget.label, 2 * seed + (kind == "pool"))
            part.rename(folder)

    def run(self, jobs: int) -> int:
        """Do it, all seeds of one variant before the next; the number that failed.

        A study cut short then has intervals for the first claims, in place of one seed for all.
        """
        done = {key(row) for row in read_rows(self.path, self.budget)}
        for kind, seed in product(sorted({kind_of(name) for name in self.names}), self.seeds):
            self.draw(seed, kind)
        with ThreadPoolExecutor(jobs) as threads:
            begun: dict[tuple[str, int], Future[bool]] = {}
            for name, seed in product(self.names, self.seeds):
                if (name, seed) not in done:
                    needs = [begun[m, seed] for m in MEMBERS if (m, seed) in begun and name in RULES]
                    begun[name, seed] = threads.submit(self.one, name, seed, needs)
            return sum(not future.result() for future in begun.values())

    def one(self, name: str, seed: int, needs: list[Future[bool]]) -> bool:
        """Make a row in a child and append it; False where that failed, or what it needs did."""
        if not all(future.result() for future in needs):
            return False
        command = [sys.executable, "benchmarks/study.py", "--out", str(self.out), "--row", name, str(seed)]
        budget = [f"{name}={value}" for name, value in asdict(self.budget).items()]
        ran = subprocess.run(
            [*command, "--budget", *budget], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        if ran.returncode:
            print(f"{name}, seed {seed}: failed\n{ran.stderr}", flush=True)
            return False
        row = json.loads(ran.stdout.splitlines()[-1])
        with self.lock:
            log(self.path, row)
        print(f"{name}, seed {seed}: Dice {row['dice']:.4f}, {row['cpu_all_s']:.0f} s", flush=True)
        return True


def make_row(name: str, seed: int, b: Budget, out: Path) -> Row:
    """In the child."""
    row = (together if name in RULES else train)(name, seed, b, out)
    code = revision(Path(zoo.__file__).parent) or {}
    whence = {"torch": torch.__version__, "revision": code.get("revision"), "dirty": code.get("dirty")}
    return {
        "variant": name, "seed": seed, **row, "cpu_all_s": time.process_time(), **whence,
        "budget": asdict(b),
    }  # fmt: skip


def main() -> int:
    """Parse, train what is left, print."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--out", type=Path, default=Path("runs/study"), help="default: runs/study")
    p.add_argument("--jobs", type=int, default=1, help="runs side by side, a thread each (default: 1)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    p.add_argument("--only", nargs="+", default=[], metavar="VARIANT", help="default: all")
    p.add_argument("--full", action="store_true", help="512 and 1024 pixels, for a machine with a GPU")
    p.add_argument("--budget", type=option, nargs="+", default=[], metavar="KEY=VALUE",
                   help="another budget, such as epochs=40 size=96; see Budget in claims.py")
    p.add_argument("--table", action="store_true", help="print what there is, train nothing")
    p.add_argument("--row", nargs=2, metavar=("VARIANT", "SEED"), help="print this row alone, as JSON")
    args = p.parse_args()
    b, given = FULL if args.full else SMALL, dict(args.budget)
    if unknown := given.keys() - asdict(b):
        p.error(f"--budget {min(unknown)}: not known; {', '.join(asdict(b))} are")
    out, b, failed = args.out.resolve(), replace(b, **given), 0
    if args.row:
        print(json.dumps(make_row(args.row[0], int(args.row[1]), b, out)))
        return 0
    if not args.table:
        out.mkdir(parents=True, exist_ok=True)
        failed = Study(out, b, args.seeds, args.only).run(args.jobs)
    print(report(read_rows(out / "rows.jsonl", b), b))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
