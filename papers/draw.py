"""Draws the notes' pictures from the networks themselves: python papers/draw.py

The shapes are those of a forward pass (`zoo.profile`), so a picture cannot disagree with the code; a test
compares the files with what this script draws.  Pictures are 480 units wide with letters of 12 and more, so
that a phone shows them readably, and follow the reader's light or dark scheme.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple
from xml.sax.saxutils import escape

import torch
from torch import nn

import zoo
from zoo import encoders
from zoo.encoders.efficientnet import TAPS
from zoo.encoders.xception import VARIANTS as XCEPTIONS
from zoo.profile import Stage, profile

STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328 }
  .name { font-weight: 700; font-size: 15px }
  .mid { text-anchor: middle }
  .end { text-anchor: end }
  .page { fill: #ffffff }
  .map { fill: #ddf4ff; stroke: #0969da; stroke-width: 1.5 }
  .out { fill: #fff8c5; stroke: #9a6700; stroke-width: 1.5 }
  path { fill: none; stroke-width: 1.8 }
  .copy { stroke: #6e7781 }
  .down { stroke: #cf222e }
  .up { stroke: #1a7f37 }
  .head { stroke: #9a6700 }
  marker path { stroke: none }
  .copy-tip { fill: #6e7781 }
  .down-tip { fill: #cf222e }
  .up-tip { fill: #1a7f37 }
  .head-tip { fill: #9a6700 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 }
    .map { fill: #0c2d4f; stroke: #4493f8 }
    .out { fill: #3b2e00; stroke: #d4a72c }
    .copy { stroke: #9198a1 }
    .down { stroke: #ff7b72 }
    .up { stroke: #3fb950 }
    .head { stroke: #d4a72c }
    .copy-tip { fill: #9198a1 }
    .down-tip { fill: #ff7b72 }
    .up-tip { fill: #3fb950 }
    .head-tip { fill: #d4a72c }
  }
"""

SIDE, NARROW, MAIN, WIDE = 14, 96, 122, 344  # left edge and width of two lanes
HIGH, GAP = 44, 32  # of a box, and below it


class Canvas:
    """An SVG of boxes, arrows and words, 480 units wide."""

    def __init__(self, title: str) -> None:
        self.title, self.height, self.parts = title, 0.0, list[str]()

    def box(self, x: float, y: float, w: float, h: float, name: str, shape: str, css: str = "map") -> None:
        """A feature map: its name over its shape (one line or more), (x, y) the upper left corner."""
        self.parts.append(f'<rect class="{css}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4"/>')
        lines = shape.split("\n")
        first = y + h / 2 + 14 - 8 * (len(lines) - 1)
        self.words(x + w / 2, first - 17, name, "name mid")
        for n, line in enumerate(lines):
            self.words(x + w / 2, first + 16 * n, line, "mid")

    def column(self, x: float, w: float, y: float, boxes: Sequence[tuple[str, ...]]) -> float:
        """Boxes below one another, from what ends at y; returns where the last of them ends.

        A box: the arrow that leads to it ("" for none), the words beside it, name, shape, and maybe a class.
        """
        for kind, words, name, shape, *css in boxes:
            if kind:
                self.arrow(kind, f"M{x + w / 2:g} {y:g}V{y + GAP - 1:g}")
            self.words(x + w / 2 + 8, y + GAP / 2 + 4, words)
            self.box(x, y + GAP, w, HIGH, name, shape, *css)
            y += GAP + HIGH
        return y

    def fan(self, y: float, boxes: Sequence[tuple[str, str]]) -> float:
        """Boxes side by side in the main lane, from what ends at y and to what follows; returns their end."""
        w = (WIDE + 4) / len(boxes)
        for n, (name, shape) in enumerate(boxes):
            middle = MAIN + n * w + (w - 4) / 2
            self.arrow("copy", f"M{middle:g} {y:g}V{y + GAP - 1:g}")
            self.box(MAIN + n * w, y + GAP, w - 4, HIGH + 14, name, shape.replace("×", "×\n", 1))
            self.arrow("copy", f"M{middle:g} {y + GAP + HIGH + 14:g}V{y + 2 * GAP + HIGH + 13:g}")
        return y + GAP + HIGH + 14

    def arrow(self, kind: str, path: str) -> None:
        """`path` in SVG's own letters; kind is copy, down, up or head."""
        self.parts.append(f'<path class="{kind}" d="{path}" marker-end="url(#{kind})"/>')

    def words(self, x: float, y: float, text: str, css: str = "") -> None:
        """One line of text with its baseline at y."""
        self.parts.append(f'<text class="{css}" x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def legend(self, y: float, text: str) -> None:
        """A paragraph that ends the picture, its first baseline at y."""
        lines = wrap(text, 70)
        for n, line in enumerate(lines):
            self.words(SIDE, y + 18 * n, line)
        self.height = y + 18 * len(lines) - 2

    def svg(self) -> str:
        """The file."""
        tips = "".join(
            f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'markerUnits="userSpaceOnUse" orient="auto">'
            f'<path class="{kind}-tip" d="M0 0.5 8 4 0 7.5Z"/></marker>'
            for kind in ("copy", "down", "up", "head")
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 {self.height:g}" role="img">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{tips}</defs>",
            f'<rect class="page" width="480" height="{self.height:g}" rx="8"/>',
        )
        return "\n".join([*head, *self.parts, "</svg>", ""])


def shape(stage: Stage | torch.Tensor) -> str:
    """C×H×W, the last three numbers of a shape."""
    return "×".join(map(str, stage.shape[-3:]))


def unet() -> str:
    """Fig. 1 of the paper: down on the left, up on the right, copies in between; its input of 572×572."""
    with torch.device("meta"):
        stages = profile(zoo.build("unet"), 572)
    wide, high, gap, top = 164, 46, 54, 88
    left, right = 16, 300
    canvas = Canvas("U-Net: feature maps for an input of 1×572×572")

    def y(level: int) -> int:
        return top + (level - 1) * (high + gap)

    canvas.box(left, 12, wide, high, "input", "1×572×572", "out")
    canvas.box(right, 12, wide, high, "logits", shape(stages["head"]), "out")
    down, up = left + wide // 2, right + wide // 2
    canvas.arrow("head", f"M{down} {12 + high}V{top - 1}")
    canvas.arrow("head", f"M{up} {top}V{12 + high + 1}")
    for level in (1, 2, 3, 4):
        above, below = y(level), y(level) + high
        enc, dec, risen = (stages[f"{part}{level}"] for part in ("enc", "dec", "up"))
        canvas.box(left, above, wide, high, f"enc{level}", shape(enc))
        canvas.box(right, above, wide, high, f"dec{level}", shape(dec))
        canvas.arrow("copy", f"M{left + wide} {above + high // 2}H{right - 1}")
        canvas.words(240, above + 16, f"crop {(enc.shape[1] - risen.shape[1]) // 2}", "mid")
        canvas.words(240, above + 40, shape(risen), "mid")
        channels, height, width = enc.shape
        canvas.words(down + 8, below + 24, "max 2×2")
        canvas.words(down + 8, below + 39, f"{channels}×{height // 2}×{width // 2}")
        canvas.words(up - 8, below + 24, "up-conv 2×2", "end")
        canvas.words(up - 8, below + 39, shape(risen), "end")
        if level < 4:
            canvas.arrow("down", f"M{down} {below}V{y(level + 1) - 1}")
            canvas.arrow("up", f"M{up} {y(level + 1)}V{below + 1}")
    floor = y(5) + high // 2
    canvas.box(240 - wide // 2, y(5), wide, high, "bottom", shape(stages["bottom"]))
    canvas.arrow("down", f"M{down} {y(4) + high}V{floor}H{240 - wide // 2 - 1}")
    canvas.arrow("up", f"M{240 + wide // 2} {floor}H{up}V{y(4) + high + 1}")

    canvas.legend(
        588,
        "Blue: two unpadded 3×3 convolutions, each with a ReLU; red: maximum of 2×2; green: 2×2 "
        "up-convolution to half the channels; grey: copy without its border, put before the up-convolved "
        "map; logits: a 1×1 convolution. Dropout 0.5 after enc4 and bottom.",
    )
    return canvas.svg()


def unetpp() -> str:
    """Fig. 1a of the 2018 paper: X^{i,j} in row i, each step j to the right; for an input of 1×96×96."""
    with torch.device("meta"):
        stages = profile(zoo.build("unetpp", 1, 1, deep_supervision=True), 96)
    width, height, step, drop, top = 82, 44, 95, 92, 118
    canvas = Canvas("UNet++: nodes for an input of 1×96×96")

    def corner(i: int, j: int) -> tuple[float, float]:
        return 9 + step * (j + i / 2), top + drop * i

    for j in (1, 2, 3, 4):
        x = corner(0, j)[0]
        canvas.box(x, 10, width, height, f"L{j}", shape(stages[f"heads.{j}"]), "out")
        canvas.arrow("head", f"M{x + width / 2:g} {top}V{10 + height + 1}")
    for i in range(5):
        for j in range(5 - i):
            x, y = corner(i, j)
            for k in range(j):  # row i, from X^{i,k}: the nearest straight, the others in arcs above
                from_x = corner(i, k)[0] + width
                if k == j - 1:
                    canvas.arrow("copy", f"M{from_x:g} {y + height / 2:g}H{x - 1:g}")
                else:
                    rise = 8 + 8 * (j - k)
                    start, end = from_x - 18 + 4 * (j - k), x + 22 - 5 * (j - k)
                    bend = f"C{start:g} {y - rise:g} {end:g} {y - rise:g} {end:g} {y - 1:g}"
                    canvas.arrow("copy", f"M{start:g} {y:g}{bend}")
            if j:
                below_x, below_y = corner(i + 1, j - 1)
                canvas.arrow("up", f"M{below_x + 50:g} {below_y:g}L{x + 32:g} {y + height + 1:g}")
            elif i:
                above_x, above_y = corner(i - 1, 0)
                canvas.arrow("down", f"M{above_x + 50:g} {above_y + height:g}L{x + 32:g} {y - 1:g}")
    for i in range(5):
        for j in range(5 - i):
            canvas.box(*corner(i, j), width, height, f"X {i},{j}", shape(stages[f"x.{i}{j}"]))

    canvas.legend(
        574,
        "Blue: H, two padded 3×3 convolutions, each with a ReLU; red: D, maximum of 2×2; green: U, 2×2 "
        "up-convolution; grey: all maps before in the row, joined; yellow: 1×1 convolutions. The network Ld "
        "keeps the nodes with i\xa0+\xa0j\xa0≤\xa0d and the output Ld.",
    )
    return canvas.svg()


def unet_halved() -> str:
    """The encoder's maps on the left, the decoder's blocks on the right; an input of 224×224."""
    size = 224
    with torch.device("meta"):
        model = zoo.build("unet_halved")
        stages = profile(model, size)
    maps = pyramid(model.encoder, size)
    wide, high, gap, top, left, right = 164, 46, 46, 90, 14, 302
    canvas = Canvas(f"U-Net, halved: feature maps for an input of 3×{size}×{size}")
    down, up = left + wide // 2, right + wide // 2

    canvas.box(right, 12, wide, high, "logits", shape(stages["head"]), "out")
    canvas.arrow("head", f"M{up} {top}V{12 + high + 1}")
    canvas.box(left, top, wide, high, "input", f"3×{size}×{size}", "out")
    for row in range(5):
        y, name = top + row * (high + gap), f"decoder.{4 - row}"
        canvas.arrow("down", f"M{down} {y + high}V{y + high + gap - 1}")
        canvas.box(left, y + high + gap, wide, high, f"map at stride {2 ** (row + 1)}", maps[row])
        canvas.box(right, y, wide, high, name, shape(stages[name]))
        given, out = model.get_submodule(name).conv1[0].in_channels, stages[name].shape[0]
        if row:
            canvas.arrow("copy", f"M{left + wide} {y + high // 2}H{right - 1}")
        if row < 4:
            canvas.arrow("up", f"M{up} {y + high + gap}V{y + high + 1}")
        canvas.words(240, y + high // 2 - 6, f"{given} in", "mid")
        canvas.words(240, y + high // 2 + 18, f"{out} out", "mid")
    floor = top + 5 * (high + gap) + high // 2
    canvas.arrow("up", f"M{left + wide} {floor}H{up}V{floor - high // 2 - gap + 1}")

    canvas.legend(
        642,
        f"Left: the maps of the encoder, here {default(model)}. Right: a block joins a map with what nearest "
        "up-sampling (green) brings from below, and runs two 3×3 convolutions, each with BatchNorm and a "
        "ReLU; it puts out half of the channels that it is given. Logits: a 3×3 convolution.",
    )
    return canvas.svg()


def fcn() -> str:
    """The network that torchvision publishes: a dilated ResNet, one head, and one at its third stage."""
    size = 520
    with torch.device("meta"):
        model = zoo.build("fcn")
        stages = profile(model, size)
        (aux,) = model.train()(torch.empty(1, 3, size, size)).aux
    *_, third, last = pyramid(model.encoder, size)
    canvas = Canvas(f"FCN: feature maps for an input of 3×{size}×{size}")
    canvas.box(SIDE, 12, 452, HIGH, "input", f"3×{size}×{size}", "out")
    y = canvas.column(
        MAIN,
        WIDE,
        12 + HIGH,
        [
            ("down", f"{default(model)}, stride 8", "layer4", last),
            ("copy", "3×3, BatchNorm, ReLU", "classifier.0", shape(stages["classifier.0"])),
            ("copy", "dropout, 1×1", "classifier.4", shape(stages["classifier.4"])),
            ("up", "bilinear", "logits", shape(stages[""]), "out"),
        ],
    )
    third_end = canvas.column(SIDE, NARROW, 12 + HIGH, [("down", "", "layer3", third)])
    canvas.arrow("head", f"M{SIDE + NARROW // 2} {third_end}V{y - HIGH - 1}")
    canvas.box(SIDE, y - HIGH, NARROW, HIGH, "aux", shape(aux), "out")
    canvas.legend(
        y + 34,
        "The last two stages of the encoder have dilation 2 and 4 in place of strides. Yellow arrow, in "
        "training only: a head of the same form at layer3, whose logits count half in the loss.",
    )
    return canvas.svg()


def pspnet() -> str:
    """Fig. 3 of the paper: the last map, the pyramid of its means, the head; left the auxiliary one."""
    size = 473
    with torch.device("meta"):
        model = zoo.build("pspnet")
        stages = profile(model, size)
        (aux,) = model.train()(torch.empty(1, 3, size, size)).aux
    *_, third, last = pyramid(model.encoder, size)
    canvas = Canvas(f"PSPNet: feature maps for an input of 3×{size}×{size}")
    canvas.box(SIDE, 12, 452, HIGH, "input", f"3×{size}×{size}", "out")
    third_end = canvas.column(SIDE, NARROW, 12 + HIGH, [("down", "", "layer3", third)])
    y = canvas.column(MAIN, WIDE, 12 + HIGH, [("down", f"{default(model)}, stride 8", "layer4", last)])
    levels = [(f"{b}×{b}", shape(stages[f"ppm.branches.{i}"])) for i, b in enumerate(model.ppm.bins)]
    y = canvas.fan(y, [("itself", last), *levels])
    joined = (model.head[0].in_channels, *stages["head.0"].shape[1:])
    y = canvas.column(
        MAIN,
        WIDE,
        y,
        [
            ("", "", "joined", "×".join(map(str, joined))),
            ("copy", "3×3, BatchNorm, ReLU", "head.0", shape(stages["head.0"])),
            ("copy", "dropout, 1×1", "head.4", shape(stages["head.4"])),
            ("up", "bilinear", "logits", shape(stages[""]), "out"),
        ],
    )
    canvas.arrow("head", f"M{SIDE + NARROW // 2} {third_end}V{y - HIGH - 1}")
    canvas.box(SIDE, y - HIGH, NARROW, HIGH, "aux", shape(aux), "out")
    canvas.legend(
        y + 34,
        "The last map itself and its means over 1×1, 2×2, 3×3 and 6×6 parts, each of these through a 1×1 "
        "convolution with BatchNorm and a ReLU, then spread to the map's size; all joined. Yellow arrow, in "
        "training only: a head of the same form at layer3, weighted 0.4 in the loss.",
    )
    return canvas.svg()


def deeplabv3plus() -> str:
    """Fig. 2 of the paper: the encoder and ASPP on the right, the early map left, the decoder below."""
    size = 513
    with torch.device("meta"):
        model = zoo.build("deeplabv3plus")
        stages = profile(model, size)
    early, deep = (pyramid(model.encoder, size)[i] for i in (model.early, -1))
    canvas = Canvas(f"DeepLabV3+: feature maps for an input of 3×{size}×{size}")
    canvas.box(SIDE, 12, 452, HIGH, "input", f"3×{size}×{size}", "out")
    y = canvas.column(MAIN, WIDE, 12 + HIGH, [("down", default(model), "last map", deep)])
    canvas.column(SIDE, NARROW, 12 + HIGH, [("down", "entry 2", "early map", early)])

    branches = {"mean": "aspp.image_pooling"}
    for i, branch in enumerate(model.aspp.branches):
        conv = branch[0] if i == 0 else branch.conv_dw
        branches[f"rate {conv.dilation[0]}" if i else "1×1"] = f"aspp.branches.{i}"
    y = canvas.fan(y, [(name, shape(stages[path])) for name, path in branches.items()])
    y = canvas.column(MAIN, WIDE, y, [("", "", "project", shape(stages["aspp.project"]))])
    low, project, first = (stages[path] for path in ("low_level", "aspp.project", "decoder.0"))
    joined = (low.shape[0] + project.shape[0], *first.shape[1:])
    canvas.box(SIDE, y + GAP, NARROW, HIGH, "low level", shape(low))
    canvas.arrow("copy", f"M{SIDE + NARROW // 2} {12 + 2 * HIGH + GAP}V{y + GAP - 1}")
    canvas.words(SIDE + NARROW // 2 + 8, 12 + 2 * HIGH + GAP + 22, "1×1")
    canvas.arrow("copy", f"M{SIDE + NARROW} {y + GAP + HIGH // 2}H{MAIN - 1}")
    canvas.column(
        MAIN,
        WIDE,
        y,
        [
            ("up", "bilinear", "joined", "×".join(map(str, joined))),
            ("copy", "separable 3×3", "decoder.0", shape(stages["decoder.0"])),
            ("copy", "separable 3×3", "decoder.1", shape(stages["decoder.1"])),
            ("copy", "1×1", "head", shape(stages["head"])),
            ("up", "bilinear", "logits", shape(stages[""]), "out"),
        ],
    )
    canvas.legend(
        718,
        "ASPP: the mean over the image, spread again, a 1×1 convolution, and separable 3×3 ones whose points "
        "lie 6, 12 and 18 apart; all joined, and projected by a 1×1. Each convolution has BatchNorm and a "
        "ReLU, except the head; the early map is taken before its ReLU.",
    )
    return canvas.svg()


def default(model: nn.Module) -> str:
    """The encoder that an architecture takes by default."""
    return inspect.signature(type(model)).parameters["encoder"].default


def pyramid(model: nn.Module, size: int) -> list[str]:
    """C×H×W of each map that an encoder returns for an input of `size`."""
    return [shape(y) for y in model(torch.empty(1, 3, size, size, device="meta"))]


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


PICTURES = {
    "unet.svg": unet,
    "unetpp.svg": unetpp,
    "unet_halved.svg": unet_halved,
    "fcn.svg": fcn,
    "pspnet.svg": pspnet,
    "deeplabv3plus.svg": deeplabv3plus,
    "resnet.svg": resnet,
    "efficientnet.svg": efficientnet,
    "regnet.svg": regnet,
    "xception.svg": xception,
}


def main() -> None:
    """Write every picture beside this script."""
    for name, draw in PICTURES.items():
        Path(__file__).with_name(name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
