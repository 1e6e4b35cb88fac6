"""The ImageNet files of the encoders: their keys -> ours.  (Whole networks: `zoo.weights.layouts`.)"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.encoders.efficientnet import EfficientNet
from zoo.encoders.encoder import Encoder
from zoo.encoders.hrnet import HRNet
from zoo.encoders.mit import MixTransformer
from zoo.encoders.regnet import RegNet
from zoo.encoders.resnet import ResNet
from zoo.encoders.xception import Xception

# (pattern of their key, our key): the first that matches a whole key decides.  None: dropped on purpose.
# Ours ends in [0], [1], … where several of theirs, one above the other, are one of ours.
Rows = tuple[tuple[str, str | None], ...]


class Mapped(NamedTuple):
    """Tensors under our keys; what was dropped by a row that says so; keys that no row knows."""

    weights: dict[str, Tensor]
    dropped: list[str]
    unknown: list[str]


def mapped(weights: dict[str, Tensor], rows: Rows) -> Mapped:
    """`weights` under our keys.  A part without its other parts keeps its [0], which no network takes."""
    ours: dict[str, Tensor] = {}
    dropped, unknown = [], []
    for key, tensor in weights.items():
        for pattern, replacement in rows:
            if match := re.fullmatch(pattern, key):
                if replacement is None:
                    dropped.append(pattern.removesuffix(r"\..*").replace("\\", ""))
                else:
                    ours[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(key)
    for key in [key for key in ours if key.endswith("[0]")]:
        stem = key.removesuffix("[0]")
        parts = [part for i in range(9) if (part := f"{stem}[{i}]") in ours]
        if len(parts) > 1 and len({ours[part].shape for part in parts}) == 1:
            ours[stem] = torch.cat([ours.pop(part) for part in parts])
    return Mapped(ours, list(dict.fromkeys(dropped)), unknown)


AS_IS: Rows = ((r".*", r"\g<0>"),)

HRNET_CLASSIFIER: Rows = (  # the authors' and timm's: behind the four maps a head of its own
    (r"incre_modules\..*", None),
    (r"downsamp_modules\..*", None),
    (r"final_layer\..*", None),
    (r"classifier\..*", None),
    (r"(?:conv|bn)[12]\..*", r"\g<0>"),
    (r"(?:layer1|transition[1-3]|stage[2-4])\..*", r"\g<0>"),
)

# Hugging Face's parts of a block, and the authors', which are ours.  transformers 5 renamed its modules, but
# reads and writes files with these names.
BLOCK_OF_HUGGING_FACE = {
    "layer_norm_1": "norm1.{}",
    "attention.self.query": "attn.q.{}",
    "attention.self.key": "attn.kv.{}[0]",
    "attention.self.value": "attn.kv.{}[1]",
    "attention.self.sr": "attn.sr.{}",
    "attention.self.layer_norm": "attn.norm.{}",
    "attention.output.dense": "attn.proj.{}",
    "layer_norm_2": "norm2.{}",
    "mlp.dense1": "mlp.fc1.{}",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv.{}",
    "mlp.dense2": "mlp.fc2.{}",
}


def mit_of_hugging_face(prefix: str = "") -> Rows:
    """The encoder in Hugging Face's SegFormer files, to ours under `prefix`.  It counts stages from 0."""
    blocks = {re.escape(theirs): ours.format(r"\2") for theirs, ours in BLOCK_OF_HUGGING_FACE.items()}
    root = r"segformer\.encoder\."
    rows = []
    for s in range(4):
        rows += [
            (rf"{root}patch_embeddings\.{s}\.proj\.(.*)", rf"{prefix}patch_embed{s + 1}.proj.\1"),
            (rf"{root}patch_embeddings\.{s}\.layer_norm\.(.*)", rf"{prefix}patch_embed{s + 1}.norm.\1"),
            (rf"{root}layer_norm\.{s}\.(.*)", rf"{prefix}norm{s + 1}.\1"),
            *(
                (rf"{root}block\.{s}\.(\d+)\.{theirs}\.(.*)", rf"{prefix}block{s + 1}.\1.{ours}")
                for theirs, ours in blocks.items()
            ),
        ]
    return tuple(rows)


MIT_OF_NVLABS: Rows = (
    (r"head\..*", None),
    (r"(?:patch_embed|block|norm)[1-4]\..*", r"\g<0>"),
)
MIT_OF_HUGGING_FACE: Rows = ((r"classifier\..*", None), *mit_of_hugging_face())

# What `encoders.build(…, pretrained=True)` downloads, by family.
DOWNLOADED: dict[type[Encoder], Rows] = {
    ResNet: ((r"fc\..*", None), *AS_IS),
    EfficientNet: (
        (r"features\.8\..*", None),  # a last 1×1 convolution that widens the map for pooling
        (r"classifier\..*", None),
        *AS_IS,
    ),
    RegNet: ((r"fc\..*", None), *AS_IS),
    Xception: ((r"head\..*", None), *AS_IS),
    HRNet: HRNET_CLASSIFIER,
    MixTransformer: MIT_OF_HUGGING_FACE,
}
