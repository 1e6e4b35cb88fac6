"""Training recipes: what `--recipe` sets, one row an architecture and name, each row citing its source.

A setting is the recipe's unless a flag says otherwise.  `ours` names the settings of a row that its paper
leaves open; how they were chosen stands in the architecture's note.
"""

from dataclasses import replace
from typing import NamedTuple

import torch

from zoo import registry
from zoo.core.config import TrainConfig
from zoo.errors import InputError


class Recipe(NamedTuple):
    """settings: fields of TrainConfig.  source: paper and section.  ours: fields the source leaves open."""

    source: str
    settings: dict[str, object]
    ours: tuple[str, ...] = ()


# What a source of data brings along where neither the recipe nor a flag says otherwise.
DATA_DEFAULTS: dict[str, dict[str, object]] = {
    "phantom": {"size": (128, 128), "epochs": 4, "batch": 4, "augment": "flip"},  # ten minutes on two cores
    "handbone": {"size": (512, 512)},
    "folder": {"size": (256, 256)},
}

RECIPES: dict[tuple[str, str], Recipe] = {
    ("unet", "default"): Recipe(
        source="ours: AdamW in place of the paper's SGD, tiles that fit two cores",
        settings={"options": {"width": 16}, "size": (180, 180), "batch": 2, "lr": 3e-4},
    ),
    ("unet", "paper"): Recipe(
        source="Ronneberger, Fischer, Brox 2015, Sec. 3 and 3.1 (arXiv:1505.04597)",
        settings={
            "optimizer": "sgd",
            "momentum": 0.99,
            "batch": 1,
            "accumulate": 1,
            "size": (388, 388),
            "loss": "weighted_ce",
            "augment": "shift+rotate+grey+elastic",
            "lr": 1e-3,  # measured: 1e-2 diverges, 1e-4 learns slower; benchmarks/LOG.md
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "clip": 0.0,
            "amp": "off",
            "epochs": 100,
        },
        ours=("lr", "weight_decay", "schedule", "warmup", "clip", "epochs"),
    ),
    ("unetpp", "default"): Recipe(
        source="ours: found on the phantoms, benchmarks/LOG.md",
        settings={"options": {"norm": "batch"}, "lr": 2e-3},
    ),
    ("unetpp", "paper"): Recipe(
        source="Zhou et al. 2018, Eq. 2 and Sec. 4 (arXiv:1807.10165)",
        settings={
            "optimizer": "adamw",  # Adam: AdamW without decay is Adam
            "weight_decay": 0.0,
            "lr": 3e-4,
            "size": (96, 96),
            "loss": "0.5*bce+dice",
            "patience": 20,
            "batch": 16,
            "schedule": "constant",
            "warmup": 0.0,
            "clip": 0.0,
            "amp": "off",
            "augment": "none",
            "epochs": 200,
        },
        ours=("patience", "batch", "schedule", "warmup", "clip", "augment", "epochs"),
    ),
}


def recipe(arch: str, name: str) -> Recipe:
    """The row for `arch` and `name`; every architecture has a `default`, empty where none is listed.

    Raises InputError naming the recipes that `arch` has.
    """
    if (arch, name) in RECIPES:
        return RECIPES[arch, name]
    if name == "default":
        return Recipe(source="the defaults of TrainConfig", settings={})
    known = sorted({"default"} | {n for a, n in RECIPES if a == arch})
    raise InputError(f"--recipe {name}: {arch} has none of that name; it has {', '.join(known)}")


def resolve(flags: dict) -> tuple[TrainConfig, dict[str, str]]:
    """The configuration that `flags` (TrainConfig fields the user gave) make, and where each value is from.

    Later wins: TrainConfig's defaults, the data's, the recipe's, the flags.  `options` merge key by key.
    A size that the architecture cannot put out is rounded up to the next one it can.
    """
    arch = flags.get("arch", TrainConfig.arch)
    data = flags.get("data", TrainConfig.data)
    name = flags.get("recipe", TrainConfig.recipe)
    layers = [
        ("data", DATA_DEFAULTS.get(data.split(":")[0], {})),
        (f"recipe {name}", recipe(arch, name).settings),
        ("flag", flags),
    ]
    settings: dict = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for key, value in layer.items():
            settings[key] = {**settings.get(key, {}), **value} if key == "options" else value
            origins[key] = f"{origins[key]}, {origin}" if key == "options" and key in origins else origin
    config = replace(TrainConfig(), **settings)
    with torch.device("meta"):  # so that a wrong option is said before any file is read
        options: dict = config.options
        model = registry.build(arch, encoder=config.encoder, **options)
    least, _ = registry.legal_size(model, 1)
    if min(config.size) < least:
        h, w = config.size
        raise InputError(f"--size {h}x{w}: too small for {arch}, whose smallest output is {least}x{least}")
    size = registry.legal_size(model, config.size)
    if size != config.size:
        origins["size"] = f"{origins.get('size', 'default')}, rounded up to what {arch} puts out"
    return replace(config, size=size), origins


# What may differ between a run and its resumption; everything else would make it another run.
RESUMABLE = ("epochs", "patience", "workers", "device")


def resume(saved: TrainConfig, flags: dict, run: str) -> TrainConfig:
    """`saved` with the resumable `flags`; raises InputError for a flag that would make it another run."""
    for key, value in flags.items():
        then = getattr(saved, key)
        if key == "options":
            then = {k: saved.options.get(k) for k in value}
        elif key == "size":
            value = registry.legal_size(registry.architecture(saved.arch), value)
        if key not in RESUMABLE and value != then:
            flag = key.replace("_", "-")
            raise InputError(
                f"--{flag} {value}: the run in {run} was started with {then}; leave the flag out to "
                f"resume it, or start a new run with another --out"
            )
    return replace(saved, **{k: v for k, v in flags.items() if k in RESUMABLE})
