"""transformers' SegFormer as the reference: built offline on random weights, and its file under our keys.

The keys are those of files, which no version of transformers has changed; its modules have others by now.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

# Their key -> ours; stages and levels count from 0 there and from 1 here: "@" is the number plus one.
ENCODER, BLOCK = r"segformer\.encoder\.", r"segformer\.encoder\.block\.(\d)\.(\d+)\."
ROWS = (
    (ENCODER + r"patch_embeddings\.(\d)\.proj\.(.*)", r"encoder.patch_embed@.proj.\2"),
    (ENCODER + r"patch_embeddings\.(\d)\.layer_norm\.(.*)", r"encoder.patch_embed@.norm.\2"),
    (ENCODER + r"layer_norm\.(\d)\.(.*)", r"encoder.norm@.\2"),
    (BLOCK + r"layer_norm_(\d)\.(.*)", r"encoder.block@.\2.norm\3.\4"),
    (BLOCK + r"attention\.self\.query\.(.*)", r"encoder.block@.\2.attn.q.\3"),
    (BLOCK + r"attention\.self\.(key|value)\.(.*)", r"encoder.block@.\2.attn.\3.\4"),
    (BLOCK + r"attention\.self\.sr\.(.*)", r"encoder.block@.\2.attn.sr.\3"),
    (BLOCK + r"attention\.self\.layer_norm\.(.*)", r"encoder.block@.\2.attn.norm.\3"),
    (BLOCK + r"attention\.output\.dense\.(.*)", r"encoder.block@.\2.attn.proj.\3"),
    (BLOCK + r"mlp\.dense(\d)\.(.*)", r"encoder.block@.\2.mlp.fc\3.\4"),
    (BLOCK + r"mlp\.dwconv\.(.*)", r"encoder.block@.\2.mlp.dwconv.\3"),
    (r"decode_head\.linear_c\.(\d)\.proj\.(.*)", r"head.linear.\1.\2"),
    (r"decode_head\.linear_fuse\.(.*)", r"head.fuse.\1"),
    (r"decode_head\.batch_norm\.(.*)", r"head.bn.\1"),
    (r"decode_head\.classifier\.(.*)", r"head.classify.\1"),
)
SIZES = {  # widths, depths, the head's width: Table 6 and the authors' code, once more by hand
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}


def segformer(size: str, classes: int = 150) -> nn.Module:
    """transformers' network with random weights, in eval mode."""
    transformers = pytest.importorskip("transformers", reason="pip install transformers to compare with it")
    widths, depths, head = SIZES[size]
    config = transformers.SegformerConfig(
        hidden_sizes=widths, depths=depths, decoder_hidden_size=head, num_labels=classes
    )
    return transformers.SegformerForSemanticSegmentation(config).eval()


def under_our_keys(theirs: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The weights of `theirs` as it saves them, renamed; keys and values become one layer, keys first."""
    from safetensors.torch import load_file

    theirs.save_pretrained(folder)
    weights = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        matches = [(m, ours) for pattern, ours in ROWS if (m := re.fullmatch(pattern, key))]
        assert len(matches) == 1, key
        match, ours = matches[0]
        stage = str(int(match[1]) + 1) if "@" in ours else ""
        weights[match.expand(ours).replace("@", stage)] = tensor
    for key in [key for key in weights if ".attn.key." in key]:
        both = [weights.pop(key), weights.pop(key.replace(".key.", ".value."))]
        weights[key.replace(".key.", ".kv.")] = torch.cat(both)
    return weights
