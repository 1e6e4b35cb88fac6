"""Training recipes: what `--recipe` sets, one row an architecture and name, each row citing its source.

A setting is the recipe's unless a flag says otherwise.  `ours` names the settings of a row that its source
leaves open, or that differ from it for the reason beside them; how they were chosen stands in the
architecture's note.
"""

from dataclasses import replace
from typing import NamedTuple

from zoo import registry, weights
from zoo.core.config import TrainConfig, spelled
from zoo.core.network import on_meta
from zoo.encoders.pretrained import source as encoder_weights
from zoo.errors import InputError
from zoo.options import as_annotated, keywords


class Recipe(NamedTuple):
    """settings: fields of TrainConfig.  source: paper and section.  ours: fields not from there."""

    source: str
    settings: dict[str, object]
    ours: tuple[str, ...] = ()


# What a source of data brings along where neither the recipe nor a flag says otherwise.
DATA_DEFAULTS: dict[str, dict[str, object]] = {
    "phantom": {"size": (128, 128), "epochs": 4, "batch": 4, "augment": "flip"},  # ten minutes on two cores
    "handbone": {"size": (512, 512)},
    "folder": {"size": (256, 256)},
    "voc": {"size": (512, 512)},  # its longer side is 500
    "pets": {"size": (256, 256)},
    "cityscapes": {"size": (512, 1024)},  # half of its own
    "coco-polygons": {"size": (512, 512)},  # its longer side is 640
}

# CamVid at 60x80, encoders from random weights (resnet18; hrnet_w18), batch 8, 4 epochs; mIoU at 3e-4, 1e-3
# and 3e-3: unet_halved 0.392, 0.402, 0.385; fcn 0.355, 0.346, 0.358; pspnet 0.370, 0.369, 0.327;
# deeplabv3plus 0.270, 0.348, 0.325; hrnet_ocr 0.228, 0.329, 0.302; segformer_b0 0.237, 0.302, 0.312.
_ENCODER_DEFAULT = "ours: of 3e-4, 1e-3 and 3e-3 for all six the best on CamVid, or within 0.012 of the best"


def _segformer(size: tuple[int, int]) -> Recipe:
    """The authors' training on ADE20K."""
    return Recipe(
        source="Xie et al. 2021, Sec. 4.1 (arXiv:2105.15203), and the authors' code",
        settings={
            "pretrained": True,
            "optimizer": "adamw",
            "lr": 6e-5,
            "head_lr": 10.0,
            "weight_decay": 0.01,
            "decay_on": "not_norm",
            "schedule": "linear",
            "warmup": 1.19,  # 1,500 steps of 16 out of 20,210 images
            "batch": 16,
            "size": size,
            "augment": "crop+flip+colour",
            "loss": "ce",
            "epochs": 127,  # 160,000 such steps are 126.7
            "amp": "off",
            "clip": 0.0,
        },
    )


SEGFORMERS = tuple(name for name in registry.names() if name.startswith("segformer_"))

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
    ("unet_halved", "default"): Recipe(
        source=_ENCODER_DEFAULT,
        settings={"lr": 1e-3},
    ),
    ("unet_halved", "paper"): Recipe(
        source="the hand-bone team's own report; its training settings are not published",
        settings={
            "encoder": "efficientnet_b7",
            "size": (1024, 1024),
            "loss": "bce+dice",
            "augment": "flip",
            "pretrained": True,
            "optimizer": "adamw",
            "lr": 1e-4,
            "weight_decay": 1e-4,
            "batch": 2,
            "schedule": "cosine",
            "warmup": 1.0,
            "clip": 1.0,
            "epochs": 50,
        },
        ours=(
            "pretrained", "optimizer", "lr", "weight_decay", "batch", "schedule", "warmup", "clip", "epochs",
        ),
    ),
    ("fcn", "default"): Recipe(
        source=_ENCODER_DEFAULT,
        settings={"lr": 1e-3},
    ),
    ("fcn", "paper"): Recipe(
        source="torchvision's references/segmentation, from which its weights come (not the VGG of 2015)",
        settings={
            "pretrained": True,
            "optimizer": "sgd",
            "momentum": 0.9,
            "lr": 0.02,
            "head_lr": 1.0,  # there 10 for the auxiliary head alone; ours: encoder or rest
            "weight_decay": 1e-4,
            "decay_on": "all",
            "schedule": "poly",
            "batch": 32,
            "size": (480, 480),
            "augment": "crop+flip",
            "loss": "ce",
            "epochs": 30,
            "amp": "off",
            "warmup": 0.0,
            "clip": 0.0,
        },
        ours=("head_lr",),
    ),
    ("pspnet", "default"): Recipe(
        source=_ENCODER_DEFAULT,
        settings={"lr": 1e-3},
    ),
    ("pspnet", "paper"): Recipe(
        source="Zhao et al. 2017, Sec. 5.1 (arXiv:1612.01105); semseg is the authors' training code",
        settings={
            "pretrained": True,
            "optimizer": "sgd",
            "momentum": 0.9,
            "lr": 0.01,
            "head_lr": 10.0,
            "weight_decay": 1e-4,
            "decay_on": "all",
            "schedule": "poly",
            "batch": 16,
            "size": (473, 473),
            "augment": "crop+rotate+blur+flip",
            "loss": "ce",
            "epochs": 50,
            "amp": "off",
            "warmup": 0.0,
            "clip": 0.0,
        },
    ),
    ("deeplabv3plus", "default"): Recipe(
        source=_ENCODER_DEFAULT,
        settings={"lr": 1e-3},
    ),
    ("deeplabv3plus", "paper"): Recipe(
        source="Chen et al. 2018, Sec. 4 (arXiv:1802.02611), and the authors' TensorFlow code",
        settings={
            "pretrained": True,
            "optimizer": "sgd",
            "momentum": 0.9,
            "lr": 0.007,
            "weight_decay": 4e-5,
            "decay_on": "dense",
            "schedule": "poly",
            "batch": 16,
            "size": (513, 513),
            "augment": "crop+flip",
            "loss": "ce",
            "epochs": 46,  # 30,000 steps of 16 out of 10,582 images are 45.4
            "amp": "off",
            "warmup": 0.0,
            "clip": 0.0,
        },
    ),
    ("hrnet_ocr", "default"): Recipe(
        source=_ENCODER_DEFAULT,
        settings={"lr": 1e-3},
    ),
    ("hrnet_ocr", "paper"): Recipe(
        source="the authors' code (HRNet-Semantic-Segmentation, branch HRNet-OCR), for Cityscapes",
        settings={
            "pretrained": True,
            "options": {"align_corners": True},
            "optimizer": "sgd",
            "momentum": 0.9,
            "lr": 0.01,
            "head_lr": 1.0,
            "weight_decay": 5e-4,
            "decay_on": "all",
            "schedule": "poly",
            "batch": 12,
            "size": (512, 1024),
            "augment": "crop+flip",
            "loss": "ce",
            "epochs": 484,
            "amp": "off",
            "warmup": 0.0,
            "clip": 0.0,
        },
    ),
    **{
        (name, "default"): Recipe(
            source=f"{_ENCODER_DEFAULT}; decay as published, but none on norms and biases",
            settings={"lr": 1e-3, "weight_decay": 0.01},
        )
        for name in SEGFORMERS
    },
    **{
        (name, "paper"): _segformer((640, 640) if name == "segformer_b5" else (512, 512))
        for name in SEGFORMERS
    },
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

    Later wins: TrainConfig's defaults, the data's, the recipe's, those of a published network that a flag
    names, the flags.  `options` merge key by key.  A size that the architecture cannot put out is rounded up
    to the next one it can.
    """
    arch = flags.get("arch", TrainConfig.arch)
    data = flags.get("data", TrainConfig.data)
    name = flags.get("recipe", TrainConfig.recipe)
    layers: list[tuple[str, dict]] = [
        ("default", {"encoder": registry.default_encoder(arch)}),
        ("data", DATA_DEFAULTS.get(data.split(":")[0], {})),
        (f"recipe {name}", recipe(arch, name).settings),
        ("weights", published(arch, flags)),
        ("flag", flags),
    ]
    settings: dict = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for key, value in layer.items():
            settings[key] = {**settings.get(key, {}), **value} if key == "options" else value
            origins[key] = f"{origins[key]}, {origin}" if key == "options" and key in origins else origin
    settings["options"] = as_annotated(registry.architecture(arch), settings.get("options", {}))
    config = replace(TrainConfig(), **settings)
    model = on_meta(config)  # so that a wrong option is said before any file is read
    check_encoder(config)
    least, _ = registry.legal_size(model, 1)
    if min(config.size) < least:
        h, w = config.size
        raise InputError(f"--size {h}x{w}: too small for {arch}, whose smallest output is {least}x{least}")
    size = registry.legal_size(model, config.size)
    if size != config.size:
        origins["size"] = f"{origins.get('size', 'default')}, rounded up to what {arch} puts out"
    return replace(config, size=size), origins


def published(arch: str, flags: dict) -> dict[str, object]:
    """The settings that follow from the weights which `flags` start from."""
    name, path = flags.get("pretrained"), flags.get("weights")
    if name and path:
        raise InputError("--pretrained and --weights: a run starts from one of them; leave the other out")
    if flags.get("reset_head") and not path and not isinstance(name, str):
        raise InputError("--reset-head: a fresh head is all there is without --weights or --pretrained NAME")
    follow: dict[str, object] = {"pretrained": False} if path else {}  # a recipe's would be overwritten
    if isinstance(name, str) or path in weights.known():
        build = weights.published(arch, str(name or path)).build
        own = build.get("encoder", registry.default_encoder(arch))
        if flags.get("encoder", own) != own:
            raise InputError(
                f"--encoder {flags['encoder']}: {name or path} are weights of {arch} with {own}; leave "
                f"--encoder out, or take --pretrained without a name for the encoder's ImageNet weights"
            )
        follow["options"] = {k: v for k, v in build.items() if k not in registry.OWN_WORDS}
        if "encoder" in build:
            follow["encoder"] = build["encoder"]
    return follow


def check_encoder(config: TrainConfig) -> None:
    """Raise InputError for a flag about an encoder that is not there, or has no weights."""
    if config.encoder is None:
        for flag, given in (("--pretrained", config.pretrained is True), ("--head-lr", config.head_lr != 1)):
            if given:
                those = [n for n in registry.names() if "encoder" in keywords(registry.architecture(n))]
                way = f"choose an --arch of {', '.join(those)}"
                if config.arch in those:
                    way = "choose an --encoder"
                raise InputError(f"{flag}: {config.arch} has no encoder; {way}, or leave {flag} out")
    elif config.pretrained is True:
        encoder_weights(config.encoder)


# What may differ between a run and its resumption; everything else would make it another run.
RESUMABLE = (
    "epochs", "patience", "workers", "device", "grad_checkpoint", "shard", "save_every", "max_bad", "cache",
    "cache_gb", "download", "log", "fit_thresholds",
)  # fmt: skip


def resume(saved: TrainConfig, flags: dict, run: str) -> TrainConfig:
    """`saved` with the resumable `flags`; raises InputError for a flag that would make it another run."""
    for key, value in flags.items():
        then = getattr(saved, key)
        if key == "options":
            value = as_annotated(registry.architecture(saved.arch), value)
            then = {k: saved.options.get(k) for k in value}
        elif key == "size":
            value = registry.legal_size(on_meta(saved), value)
        if key not in RESUMABLE and value != then:
            flag = key.replace("_", "-")
            raise InputError(
                f"--{flag} {spelled(key, value)}: not what the run in {run} was started with "
                f"({spelled(key, then)}); leave the flag out to resume it, or start anew with another --out"
            )
    return replace(saved, **{k: v for k, v in flags.items() if k in RESUMABLE})
