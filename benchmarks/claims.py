"""What `study.py` asks: budgets, variants, the hand-bone report's claims, and the tables of answers."""

import math
from dataclasses import dataclass, field
from statistics import mean, stdev

from verdicts import Holds, Interval, paired, steps_to

from zoo.core.ensemble import RULES

Row = dict  # of rows.jsonl


@dataclass(frozen=True)
class Budget:
    """What each run of the study may have.  Sizes are pixels of a square."""

    hands: int = 120  # that train; a multiple of 6 × batch
    validating: int = 32  # hands
    pool: int = 560  # hands drawn to find enough with metal in them
    label: int = 256  # of a drawn hand, and of the masks that are scored
    size: int = 64  # of a network's input
    batch: int = 4
    epochs: int = 10  # a multiple of 5
    every: int = 30  # steps between two validations
    encoder: str = "resnet18"  # from random weights

    @property
    def steps(self) -> int:
        """Of each run."""
        return self.hands // self.batch * self.epochs


SMALL = Budget()
FULL = Budget(
    hands=288, validating=96, pool=1000, label=2048, size=512, batch=8, epochs=80, every=360,
    encoder="resnet34",
)  # fmt: skip
MEMBERS = ("plain", "flip", "rotate")  # of the ensembles
METAL = 1 / 6  # of the planted hands
LIBRARY = (256, 128, 64, 32, 16)  # decoder channels of segmentation_models_pytorch


def variants(b: Budget) -> dict[str, dict]:
    """The settings of each, as train.py's flags have them."""
    plain: dict = {
        "arch": "unet_halved", "encoder": b.encoder, "options": {}, "augment": "none",
        "size": (b.size, b.size), "batch": b.batch, "epochs": b.epochs,
    }  # fmt: skip
    nested = {**plain, "arch": "unetpp"}
    return {
        "plain": plain,
        "bce": {**plain, "loss": "bce"},
        "flip": {**plain, "augment": "flip"},
        "rotate": {**plain, "augment": "rotate"},
        "flip+rotate": {**plain, "augment": "flip+rotate"},
        "crop": {**plain, "augment": "crop"},
        "mixup": {**plain, "mix": "mixup:0.4"},
        "cutmix": {**plain, "mix": "cutmix:1.0"},
        "metal": plain,
        "metal excluded": {**plain, "epochs": round(b.epochs / (1 - METAL))},  # as many steps
        "fixed decoder": {**plain, "options": {"decoder_channels": LIBRARY}},
        "nested": nested,
        "supervised": {**nested, "options": {"deep_supervision": True}},
        "twice the size": {**plain, "size": (2 * b.size, 2 * b.size)},
    }


@dataclass(frozen=True)
class Claim:
    """`one` against `other` by `measure`: dice, steps (to Found.reach) or time (one's over the other's)."""

    one: str
    other: str
    report: str
    holds: Holds = field(default_factory=lambda: Holds(low=0))
    measure: str = "dice"


CLAIMS = (
    Claim("bce", "plain", "BCE alone needs clearly more steps than BCE + Dice", measure="steps"),
    Claim("bce", "plain", "BCE + Dice is better (steps alone are reported)", Holds(high=0)),
    Claim("flip", "plain", "+0.005"),
    Claim("rotate", "plain", "+0.003"),
    Claim("flip+rotate", "plain", "+0.004"),
    Claim("crop", "plain", "-0.12", Holds(high=0)),
    Claim("mixup", "plain", "better"),
    Claim("cutmix", "plain", "better"),
    Claim("mixup", "cutmix", "MixUp better"),
    Claim("twice the size", "plain", "+0.0156 to +0.0188 (1024 for 512)"),
    Claim("twice the size", "plain", "×1.35 (8.5 h for 6.3 h), here to within 0.2",
          Holds(1.15, 1.55), "time"),
    Claim("fixed decoder", "plain", "worse than plain's, whose channels halve (EfficientNet-B7)",
          Holds(high=0)),
    Claim("supervised", "nested", "0.002, here to within 0.005", Holds(-0.005, 0.005)),
    Claim("metal excluded", "metal", "an effect: helped one model, hurt another; here beyond 0.005",
          Holds(-0.005, 0.005, beyond=True)),
    Claim("vote", "best of three", "better: 0.9727, alone 0.9725 or less"),
    Claim("mean", "vote", "not tried for memory; expected better"),
)  # fmt: skip


def key(row: Row) -> tuple[str, int]:
    """What a row is of."""
    return row["variant"], row["seed"]


class Found:
    """What the rows say."""

    def __init__(self, rows: list[Row], b: Budget):
        self.rows, self.budget = {key(row): row for row in rows}, b
        least = min((max(dice for _, dice in row["curve"]) for row in self.of("plain").values()), default=0)
        self.reach = math.floor(10 * least) / 10  # the highest tenth of Dice that all plain runs got to

    def of(self, name: str) -> dict[int, Row]:
        """The rows of a variant, by seed."""
        return {seed: row for (variant, seed), row in self.rows.items() if variant == name}

    def dice(self, name: str) -> dict[int, float]:
        """The last Dice by seed; of "best of three" the best member's."""
        if name == "best of three":
            members = [self.dice(member) for member in MEMBERS]
            return {s: max(m[s] for m in members) for s in set.intersection(*map(set, members))}
        return {seed: row["dice"] for seed, row in self.of(name).items()}

    def steps(self, name: str) -> dict[int, float | None]:
        """Steps to `reach` by seed, None where the run never got there."""
        return {seed: steps_to(row["curve"], self.reach) for seed, row in self.of(name).items()}

    def seconds(self, name: str) -> dict[int, float]:
        """Of training, a step."""
        return {
            seed: row["cpu_s" if row["device"] == "cpu" else "clock_s"] / row["steps"]
            for seed, row in self.of(name).items()
        }

    def compare(self, claim: Claim) -> tuple[str, str, Interval]:
        """Both sides for people, over the seeds that both have, and the interval of their difference, or of
        the ratio of times."""
        if claim.measure == "time":
            one, other = shared(self.seconds(claim.one), self.seconds(claim.other))
            ratios = {seed: one[seed] / other[seed] for seed in one}
            return spread(one, "{:.3f}"), spread(other, "{:.3f}"), paired(ratios, dict.fromkeys(ratios, 0.0))
        if claim.measure == "dice":
            one, other = shared(self.dice(claim.one), self.dice(claim.other))
            return spread(one, "{:.4f}"), spread(other, "{:.4f}"), paired(one, other)
        sure = {seed: n for seed, n in self.steps(claim.other).items() if n is not None}
        reached = self.steps(claim.one)
        least = {seed: self.budget.steps if n is None else n for seed, n in reached.items()}
        one, other = shared(least, sure)
        late = "≥ " if any(reached[seed] is None for seed in one) else ""  # the interval is of the least
        return late + spread(one, "{:.0f}"), spread(other, "{:.0f}"), paired(one, other)


def shared(one: dict[int, float], other: dict[int, float]) -> tuple[dict[int, float], dict[int, float]]:
    """Both without the seeds that the other has not."""
    seeds = sorted(one.keys() & other.keys())
    return {seed: one[seed] for seed in seeds}, {seed: other[seed] for seed in seeds}


def spread(values: dict[int, float], form: str) -> str:
    """Mean ± deviation."""
    numbers = list(values.values())
    if not numbers:
        return ""
    middle = form.format(mean(numbers))
    return f"{middle} ± {form.format(stdev(numbers))}" if len(numbers) > 1 else middle


def claims_table(found: Found) -> list[str]:
    """Markdown, a row a claim that has a pair of rows; the others in a line below."""
    lines = [
        "| variant | against | of | variant's | the other's "
        "| difference, 95 % | seeds | the report | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    measures = {
        "dice": ("Dice", "{:+.4f}"), "steps": (f"steps to Dice {found.reach:g}", "{:+.0f}"),
        "time": ("seconds a step", "×{:.2f}"),
    }  # fmt: skip
    open_ones = []
    for claim in CLAIMS:
        one, other, interval = found.compare(claim)
        if not interval.count:
            open_ones.append(f"{claim.one} against {claim.other}")
            continue
        what, form = measures[claim.measure]
        middle = form.format(interval.middle)
        ends = " to ".join(form.format(end) for end in interval.ends) if interval.count > 1 else "open"
        lines.append(
            f"| {claim.one} | {claim.other} | {what} | {one} | {other} | {middle} ({ends}) "
            f"| {interval.count} | {claim.report} | {claim.holds.verdict(interval)} |"
        )
    missing = ["", f"Not yet: {', '.join(dict.fromkeys(open_ones))}."] if open_ones else []
    return lines + missing


def variants_table(found: Found) -> list[str]:
    """Markdown, a row a variant that was trained."""
    lines = [
        "| variant | seeds | steps | images | parameters | Dice | "
        f"steps to Dice {found.reach:g} | CPU seconds a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in (*variants(found.budget), *RULES):
        rows = list(found.of(name).values())
        if not rows:
            continue
        cells = [name, ", ".join(str(row["seed"]) for row in sorted(rows, key=key))]
        if name not in RULES:
            reached = {s: n for s, n in found.steps(name).items() if n is not None}
            some = "" if len(reached) == len(rows) else f" ({len(reached)} of {len(rows)})"
            cells += [f"{rows[0][k]:,}" for k in ("steps", "images", "parameters")]
            cells += [spread(found.dice(name), "{:.4f}"), spread(reached, "{:.0f}") + some]
            cells += [spread({row["seed"]: row["cpu_s"] / row["steps"] for row in rows}, "{:.3f}")]
        else:
            cells += ["", "", "", spread(found.dice(name), "{:.4f}"), "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def report(rows: list[Row], b: Budget) -> str:
    """All that is printed at the end."""
    found = Found(rows, b)
    revisions = len({row["revision"] for row in rows})
    made = ", ".join(sorted({f"torch {row['torch']}" for row in rows}))
    minutes = sum(row["cpu_all_s"] for row in rows) / 60
    total = f"{len(rows)} rows, {minutes:.0f} minutes of CPU time in all; {made}"
    if revisions > 1:
        total += f"; made by {revisions} revisions of the code, named in the rows"
    return "\n".join([*claims_table(found), "", *variants_table(found), "", total])
