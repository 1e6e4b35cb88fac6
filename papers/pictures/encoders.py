"""The encoders: their stages, and one of their blocks from within."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from zoo import encoders
from zoo.encoders.efficientnet import TAPS
from zoo.encoders.xception import VARIANTS as XCEPTIONS
from zoo.profile import profile

from .canvas import Canvas, pyramid, shape


class Row(NamedTuple):
    """A stage in an encoder's picture: its name, its module, what leads to it, and the map it gives away."""

    name: str
    path: str
    words: str = ""
    tap: str = ""  # the module whose output is a map that the encoder returns; "" if none is from this stage


def encoder(
    name: str, rows: Sequence[Row], block: str, steps: Sequence[tuple[str, str]], legend: str
) -> str:
    """Stages on the left, with the maps that the encoder returns; on the right one of its blocks.

    steps: (what leads to it, path) of modules within `block`, in their order and with the sum behind them,
    whose path is ""; a shortcut goes around them.
    """
    size = 224
    with torch.device("meta"):
        model = encoders.build(name)
        stages = profile(model, size)
    taps = [stages[row.tap] for row in rows if row.tap]
    assert [shape(tap) for tap in taps] == pyramid(model, size), "the rows name other maps"
    left, wide, high, gap, top = 14, 126, 44, 32, 44
    floor = top + (high + gap) * max(len(rows), len(steps)) + high + 34
    canvas = Canvas(f"{name}: feature maps for an input of 3×{size}×{size}")

    canvas.words(left, 28, name, "name")
    canvas.box(left, top, wide, high, "input", f"3×{size}×{size}", "out")
    middle, before = left + wide // 2, size
    for n, row in enumerate(rows, 1):
        y = top + n * (high + gap)
        here = stages[row.path].shape[-1]
        canvas.arrow("down" if here < before else "copy", f"M{middle} {y - gap}V{y - 1}")
        canvas.words(middle + 8, y - gap // 2 + 4, row.words)
        canvas.box(left, y, wide, high, row.name, shape(stages[row.path]))
        before = here
        if row.tap:
            canvas.arrow("head", f"M{left + wide} {y + high // 2}h17")
            tap = stages[row.tap]
            words = f"stride {size // tap.shape[-1]}"
            if row.tap == row.path:
                canvas.words(left + wide + 21, y + high // 2 + 4, words)
            else:  # a map from within the stage
                canvas.words(left + wide + 21, y + high // 2 - 4, shape(tap))
                canvas.words(left + wide + 21, y + high // 2 + 12, words)

    x, wide = 262, 176
    middle, turn = x + wide // 2, x + wide + 18
    canvas.words(x, 28, f"inside {block.removeprefix('trunk_output.')}", "name")
    inner = model.get_submodule(block)
    canvas.box(x, top, wide, high, "x", shape(stages[block]))
    y = top
    for words, path in steps:
        y += high + gap
        canvas.arrow("copy", f"M{middle} {y - gap}V{y - 1}")
        canvas.words(middle + 8, y - gap // 2 + 4, words)
        if path:
            canvas.box(x, y, wide, high, kind(inner.get_submodule(path)), shape(stages[f"{block}.{path}"]))
    canvas.box(x, y, wide, high, "sum", shape(stages[block]))
    canvas.arrow("up", f"M{x + wide} {top + high // 2}H{turn}V{y + high // 2}H{x + wide + 1}")

    canvas.legend(floor, legend)
    return canvas.svg()


def many(stage: nn.Module) -> str:
    """The number of blocks of a stage, in words."""
    count = len(list(stage.children()))
    return f"{count} block{'s' if count > 1 else ''}"


def kind(module: nn.Module) -> str:
    """What a module is, from its own numbers."""
    if not isinstance(module, nn.Conv2d):
        return "squeeze and excite"
    kernel = "×".join(map(str, module.kernel_size))
    if module.groups == module.in_channels == module.out_channels:
        return f"{kernel} depthwise"
    return f"{kernel} convolution" if module.groups == 1 else f"{kernel}, {module.groups} groups"


def resnet() -> str:
    """Table 1 of the paper for 50 layers, and Fig. 5, right."""
    with torch.device("meta"):
        model = encoders.build("resnet50")
    rows = [Row("conv1", "conv1", "7×7", "conv1")]
    for path in ("layer1", "layer2", "layer3", "layer4"):
        pool = "max pool, " if path == "layer1" else ""
        rows.append(Row(path, path, pool + many(model.get_submodule(path)), path))
    return encoder(
        "resnet50",
        rows,
        "layer2.1",
        [("", "conv1"), ("BN, ReLU", "conv2"), ("BN, ReLU", "conv3"), ("BN", "")],
        "Red: the first convolution or block halves height and width; yellow: maps that the encoder returns. "
        "Green: the identity; in the first block of a stage a 1×1 convolution with the block's stride. A "
        "ReLU follows the sum.",
    )


def xception() -> str:
    """Fig. 4 of DeepLabV3+."""
    second, middle = "stack.conv2", XCEPTIONS["xception65"]["middle"]
    rows = [Row("stem", "stem.1", "two 3×3")]
    rows += [Row(f"entry {i + 1}", f"blocks.{i}", "", f"blocks.{i}.{second}") for i in range(3)]
    exits = [f"blocks.{3 + middle + i}" for i in (0, 1)]
    rows += [Row("middle flow", f"blocks.{2 + middle}", f"{middle} modules")]
    rows += [Row("exit 1", exits[0], "", f"{exits[0]}.{second}"), Row("exit 2", exits[1], "", exits[1])]
    steps = []
    for i in (1, 2, 3):
        conv = f"stack.conv{i}.conv"
        steps += [("BN, ReLU" if i > 1 else "ReLU", f"{conv}_dw"), ("BN", f"{conv}_pw")]
    return encoder(
        "xception65",
        rows,
        "blocks.3",
        [*steps, ("BN", "")],
        "Red: the third separable convolution of a module has stride 2; yellow: maps that the encoder "
        "returns, the first four from behind the second. Green: the identity; where stride or width change, "
        "a 1×1 convolution. Exit 2 has no shortcut, and its ReLUs stand behind each BatchNorm.",
    )


def efficientnet() -> str:
    """Table 1 of the paper, and its MBConv6."""
    with torch.device("meta"):
        features = encoders.build("efficientnet_b0").get_submodule("features")
    rows = []
    for path, stage in features.named_children():
        kernel = max(conv.kernel_size[0] for conv in stage.modules() if isinstance(conv, nn.Conv2d))
        words = f"{kernel}×{kernel}" if path == "0" else f"{many(stage)}, {kernel}×{kernel}"
        path = f"features.{path}"
        rows.append(Row(path, path, words, path if int(path[-1]) in TAPS else ""))
    return encoder(
        "efficientnet_b0",
        rows,
        "features.3.1",
        [
            ("", "block.0.0"),
            ("BN, SiLU", "block.1.0"),
            ("BN, SiLU", "block.2"),
            ("", "block.3.0"),
            ("BN", ""),
        ],
        "Red: the first convolution or block halves height and width; yellow: maps that the encoder returns. "
        "Green: the identity; a stage's first block has none where stride or width change. In training "
        "stochastic depth at times leaves out the other way. No activation follows the sum.",
    )


def regnet() -> str:
    """Fig. 3 and 4 of the paper, with the gate of RegNetY."""
    name = "regnet_y_400mf"
    with torch.device("meta"):
        trunk = encoders.build(name).get_submodule("trunk_output")
    rows = [Row("stem", "stem", "3×3", "stem")]
    for i, (path, stage) in enumerate(trunk.named_children(), 1):
        path = f"trunk_output.{path}"
        rows.append(Row(f"block{i}", path, many(stage), path))
    return encoder(
        name,
        rows,
        "trunk_output.block2.block2-1",
        [("", "f.a.0"), ("BN, ReLU", "f.b.0"), ("BN, ReLU", "f.se"), ("", "f.c.0"), ("BN", "")],
        "Red: the first convolution or block halves height and width; yellow: maps that the encoder returns. "
        "Green: the identity; in the first block of a stage a 1×1 convolution of stride 2. A ReLU follows "
        "the sum. RegNetX has no squeeze and excite.",
    )


def hrnet() -> str:
    """Fig. 2 of the paper: a column a stage, a row a branch, and between two columns all fusions."""
    size, wide, high, step, drop, top = 512, 70, 60, 96, 92, 122
    with torch.device("meta"):
        model = encoders.build("hrnet_w48")
        stages = profile(model, size)
    canvas = Canvas(f"HRNet-W48: feature maps for an input of 3×{size}×{size}")
    columns = [("stage 1", [stages["layer1"]])]
    for s in (2, 3, 4):
        last = f"stage{s}.{len(model.get_submodule(f'stage{s}')) - 1}"
        columns.append((f"stage {s}", [stages[f"{last}.branches.{j}"] for j in range(s)]))

    def corner(column: int, branch: int) -> tuple[float, float]:
        return 12 + step * column, top + drop * branch

    canvas.box(12, 12, 4 * step + wide, 44, "input", f"3×{size}×{size}", "out")
    canvas.arrow("down", f"M{12 + wide / 2:g} 56V{top - 1}")
    canvas.words(12 + wide / 2 + 8, 78, "3×3, 3×3")
    for c in range(len(columns)):
        here, there = len(columns[c][1]), len(columns[c + 1][1]) if c < 3 else 4
        for i in range(here):
            for j in range(there):
                if j >= here and i < here - 1:
                    continue  # a new branch comes from the coarsest
                (x, y), (to_x, to_y) = corner(c, i), corner(c + 1, j)
                kind = "copy" if i == j else "down" if j > i else "up"
                start, end = y + high / 2 + 7 * (j - i), to_y + high / 2 + 7 * (i - j)
                canvas.arrow(kind, f"M{x + wide:g} {start:g}L{to_x - 1:g} {end:g}")
    for c, (name, maps) in enumerate(columns):
        for i, map_ in enumerate(maps):
            canvas.box(*corner(c, i), wide, high, f"H/{2 ** (i + 2)}", shape(map_).replace("×", "×\n", 1))
        canvas.words(corner(c, 0)[0] + wide / 2 + (8 if c == 0 else 0), top - 8, name, "mid" if c else "")
    for i, text in enumerate(pyramid(model, size)):
        canvas.box(*corner(4, i), wide, high, f"map {i}", text.replace("×", "×\n", 1), "out")
    counts = [len(model.get_submodule(f"stage{s}")) for s in (2, 3, 4)]
    canvas.legend(
        top + 4 * drop + 8,
        f"A column a stage of four residual units a branch, {counts[0]}, {counts[1]} and {counts[2]} times "
        "in stages 2, 3 and 4, each time with the fusion that the arrows show: red strided 3×3 convolutions, "
        "green a 1×1 convolution and bilinear enlarging, grey the map itself; the sum has a ReLU. A new "
        "branch begins below the coarsest.",
    )
    return canvas.svg()


def mit() -> str:
    """Eq. 1 to 3 of the SegFormer paper: one block of the second stage from within."""
    size, block = 512, "block2.0"
    with torch.device("meta"):
        model = encoders.build("mit_b0")
        stages = profile(model, size)
    attention = model.get_submodule(f"{block}.attn")
    left, wide, side, narrow, high, gap = 14, 250, 306, 160, 44, 32
    canvas = Canvas(f"MiT-B0: inside {block}, for an input of 3×{size}×{size}")
    canvas.words(left, 28, f"inside {block}", "name")
    canvas.box(left, 44, wide, high, "x", shape(stages[block]))

    def at(path: str) -> str:
        return shape(stages[f"{block}.{path}"])

    y = canvas.column(left, wide, 44 + high, [("copy", "LayerNorm", "norm1", at("norm1"))])
    norm = y - high / 2
    kernel = attention.reduction
    y = canvas.column(
        left,
        wide,
        y,
        [
            ("copy", f"linear, {attention.heads} heads", "q", at("attn.q")),
            ("copy", "attention, linear", "attn", at("attn")),
            ("copy", "", "sum", shape(stages[block])),
            ("copy", "LayerNorm, linear", "mlp.fc1", at("mlp.fc1")),
            ("copy", "3×3 depthwise", "mlp.dwconv", at("mlp.dwconv")),
            ("copy", "GELU, linear", "mlp.fc2", at("mlp.fc2")),
            ("copy", "", "sum", shape(stages[block])),
        ],
    )
    row = high + gap
    canvas.arrow("down", f"M{left + wide} {norm:g}H{side + narrow / 2:g}V{norm + row / 2 + 15:g}")
    canvas.box(side, norm + row / 2 + 16, narrow, high, f"sr, {kernel}×{kernel}", at("attn.sr"))
    canvas.arrow("copy", f"M{side + narrow / 2:g} {norm + row / 2 + 16 + high:g}v{gap / 2 - 1:g}")
    kv = norm + row / 2 + 16 + high + gap / 2
    canvas.box(side, kv, narrow, high, "k and v", at("attn.kv"))
    attn = norm + 2 * row
    canvas.arrow("copy", f"M{side + narrow / 2:g} {kv + high:g}V{attn + 12:g}H{left + wide + 1}")
    first, second = 44 + high / 2, 44 + 4 * row + high / 2
    for start, end in ((first, second - 8), (second + 8, 44 + 8 * row + high / 2)):
        canvas.arrow("up", f"M{left + wide} {start:g}H474V{end:g}H{left + wide + 1}")
    canvas.legend(
        y + 34,
        f"Red: one key and one value for {kernel}×{kernel} places, so that attention of the fine stages "
        "stays affordable; the last stage keeps all. Attention: softmax(q kᵀ / √d) v. Green: the identity, "
        "past attention and past the Mix-FFN. The 3×3 convolution pads with zeros and so tells where the "
        "border is: there is no positional code.",
    )
    return canvas.svg()
