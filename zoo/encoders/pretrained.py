"""ImageNet weights of the encoders: where each comes from, and how they fit another input or depth.

torchvision's are its `IMAGENET1K_V1` files, not the newer V2: every encoder has one, and the published
segmentation results started from such weights, trained without label smoothing and averaging.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo import download, encoders, state
from zoo.encoders.encoder import Encoder, Normalisation
from zoo.encoders.layouts import DOWNLOADED, mapped
from zoo.errors import InputError

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # TensorFlow's: values -1..1


class Source(NamedTuple):
    """One file: its address, how its sha256 begins, its licence and the input that it expects.

    sha256: "" where none is published.  file: its name in the cache; "" for the last part of the address.
    whose: the library or site that it comes from.
    """

    url: str
    sha256: str
    licence: str
    normalisation: Normalisation
    whose: str = "timm"
    file: str = ""


GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
HRNET = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-hrnet/"
NVIDIA = "https://huggingface.co/nvidia/{}/resolve/main/pytorch_model.bin"
NVIDIA_LICENCE = "NVIDIA Source Code License: non-commercial use only"


def _mit(size: str) -> Source:
    """The SegFormer authors', at Hugging Face, where every file is called pytorch_model.bin."""
    whose, file = "NVIDIA at Hugging Face", f"mit-{size}.bin"
    return Source(NVIDIA.format(f"mit-{size}"), "", NVIDIA_LICENCE, IMAGENET, whose, file)


# What torchvision lacks.  How their keys become ours: `zoo.encoders.layouts`.
SOURCES = {
    "resnet50s":  Source(GLUON + "gluon_resnet50_v1s-1762acc0.pth",  "1762acc0", "Apache-2.0", IMAGENET),
    "resnet101s": Source(GLUON + "gluon_resnet101_v1s-60fe0cc1.pth", "60fe0cc1", "Apache-2.0", IMAGENET),
    "resnet152s": Source(GLUON + "gluon_resnet152_v1s-dcc41b81.pth", "dcc41b81", "Apache-2.0", IMAGENET),
    "xception41": Source(TIMM + "tf_xception_41-e6439c97.pth",       "e6439c97", "Apache-2.0", INCEPTION),
    "xception65": Source(TIMM + "tf_xception_65-c9ae96e8.pth",       "c9ae96e8", "Apache-2.0", INCEPTION),
    "xception71": Source(TIMM + "tf_xception_71-8eec7df1.pth",       "8eec7df1", "Apache-2.0", INCEPTION),
    "hrnet_w18":  Source(HRNET + "hrnetv2_w18-8cb57bb9.pth",         "8cb57bb9", "MIT",        IMAGENET),
    "hrnet_w32":  Source(HRNET + "hrnetv2_w32-90d8c5fb.pth",         "90d8c5fb", "MIT",        IMAGENET),
    "hrnet_w48":  Source(HRNET + "hrnetv2_w48-abd2e6ab.pth",         "abd2e6ab", "MIT",        IMAGENET),
    **{f"mit_{size}": _mit(size) for size in ("b0", "b1", "b2", "b3", "b4", "b5")},
}  # fmt: skip

TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf",
    "regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf",
    "regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf",
)  # fmt: skip

NAMES = (*TORCHVISION, *SOURCES)


def source(name: str) -> Source:
    """Where the weights of the encoder called `name` come from.  Raises InputError if there are none."""
    if name in SOURCES:
        return SOURCES[name]
    if name not in TORCHVISION:
        raise InputError(
            f"encoder {name} has no ImageNet weights (got pretrained=True); "
            f"those with: {', '.join(encoders.pretrained_names())}"
        )
    # Slow to import, so it is done here.
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)["IMAGENET1K_V1"]
    expects = weights.transforms()
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", weights.url)
    return Source(
        weights.url,
        digits[1] if digits else "",
        "BSD-3-Clause",
        Normalisation(tuple(expects.mean), tuple(expects.std)),
        "torchvision",
    )


def load(encoder: Encoder, name: str) -> None:
    """Put ImageNet weights into `encoder`, which is the one called `name`, and set its normalisation.

    The file must have all keys of the whole network and no others.  Dropped are the classifier, and what
    lies behind the encoder's last map; the first convolution is fitted to the input (see `fit_input`).

    Raises InputError where there are no weights, or not these.
    """
    origin = source(name)
    path = download.fetch(origin.url, name=origin.file, sha256=origin.sha256)
    weights, _, unknown = mapped(state.tensors(state.read(path), path), DOWNLOADED[type(encoder)])
    if unknown:
        raise InputError(f"{path} for encoder {name}: {len(unknown)} keys have no place here, {unknown[:3]}")
    fit_input(encoder, weights)
    weights = fit_depth(encoder, name, weights, f"{path} for encoder {name}")
    state.load_strict(encoder, weights, f"{path} for encoder {name}")
    encoder.normalisation = fit_normalisation(origin.normalisation, encoder.in_channels)


def fit_depth(encoder: Encoder, name: str, weights: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """`weights`, those of the whole encoder called `name`, without what one of fewer maps lacks."""
    own = encoder.state_dict()
    if not weights.keys() - own.keys():
        return weights
    with torch.device("meta"):
        whole = encoders.build(name, encoder.in_channels)
    state.check(whole, weights, where)
    return {key: tensor for key, tensor in weights.items() if key in own}


def fit_input(module: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Fit the first convolution in `weights`, made for RGB, to the input of `module`; True if it changed.

    module: an encoder, a network with one, whose first convolution sees the image, or one without.
    One channel takes the sum over the three: it gives what three channels gave that were equal once
    normalised, as those of a grey image are under one mean and deviation for all.  Any other number n takes
    R, G, B, R, … in turn, times 3/n, which keeps the size of the response.
    """
    encoder, parts = getattr(module, "encoder", None), dict(module.named_modules())
    start = next((f"{path}." for path, part in parts.items() if part is encoder), "")
    convs = ((path, part) for path, part in parts.items() if isinstance(part, nn.Conv2d))
    first, conv = next((path, part) for path, part in convs if path.startswith(start))
    key, wanted = f"{first}.weight", conv.in_channels
    rgb = weights.get(key)                                      # (C, 3, k, k)
    if rgb is None or rgb.ndim != 4 or rgb.shape[1] != 3 or wanted == 3:
        return False
    if wanted == 1:
        weights[key] = rgb.sum(1, keepdim=True)                 # (C, 1, k, k)
    else:
        weights[key] = rgb[:, [i % 3 for i in range(wanted)]] * (3 / wanted)    # (C, n, k, k)
    return True


def fit_normalisation(rgb: Normalisation, channels: int) -> Normalisation:
    """The same rule for mean and deviation: one channel takes the mean of the three, n take R, G, B, R, …"""
    if len(rgb.mean) == channels:
        return rgb
    if channels == 1:
        return Normalisation(*((sum(values) / len(values),) for values in rgb))
    return Normalisation(*(tuple(values[i % 3] for i in range(channels)) for values in rgb))
