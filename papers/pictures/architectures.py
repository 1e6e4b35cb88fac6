"""The architectures: the figure of each paper, with the shapes of a forward pass."""

import torch

import zoo
from zoo.profile import profile

from .canvas import GAP, HIGH, MAIN, NARROW, SIDE, WIDE, Canvas, default, pyramid, shape


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
        canvas.words(240, y + high // 2 - 6, f"{given} in" if row else f"{given} in, no skip", "mid")
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


def hrnet_ocr() -> str:
    """Fig. 3 of the paper: left the soft object regions, right the pixels and what they ask the regions."""
    size = 512
    with torch.device("meta"):
        model = zoo.build("hrnet_ocr")
        stages = profile(model, size)
        (aux,) = model.train()(torch.empty(1, 3, size, size)).aux
    maps = pyramid(model.encoder, size)
    canvas = Canvas(f"HRNet+OCR: feature maps for an input of 3×{size}×{size}")
    canvas.box(SIDE, 12, 452, HIGH, "input", f"3×{size}×{size}", "out")
    y = 12 + HIGH
    w = 456 / len(maps)
    for i, text in enumerate(maps):
        middle = SIDE + i * w + (w - 4) / 2
        canvas.arrow("down", f"M{middle:g} {y}V{y + GAP - 1}")
        canvas.box(SIDE + i * w, y + GAP, w - 4, HIGH, f"map {i}", text)
    canvas.words(SIDE + w / 2 + 6, y + GAP / 2 + 4, default(model))
    y += GAP + HIGH

    left, wide, middle = 196, 250, 321  # of the main lane, whose boxes are narrower than in other pictures
    joined = (sum(model.encoder.channels), *stages["regions"].shape[1:])
    len_x = stages["pixels"].shape[0]
    canvas.arrow("up", f"M{middle} {y}V{y + GAP - 1}")
    canvas.words(middle + 8, y + GAP / 2 + 4, "bilinear, side by side")
    canvas.box(SIDE, y + GAP, 452, HIGH, "joined", "×".join(map(str, joined)))
    y += GAP + HIGH
    regions_end = canvas.column(
        SIDE, 150, y, [("copy", "two 1×1", "M, regions", shape(stages["regions"]))]
    )
    vectors = canvas.column(
        left,
        wide,
        y,
        [
            ("copy", "3×3", "x, pixels", shape(stages["pixels"])),
            ("copy", "weighted mean", "f, region vectors", f"{len_x}×{aux.shape[1]}×1"),
            ("copy", "attention", "y, context", shape(stages["context"])),
            ("copy", "1×1 over y and x", "g", shape(stages["g"])),
            ("copy", "1×1", "head", shape(stages["head"])),
            ("up", "bilinear", "logits", shape(stages[""]), "out"),
        ],
    )
    f_top = regions_end + GAP
    canvas.arrow("copy", f"M{SIDE + 110} {regions_end}V{f_top + HIGH / 2:g}H{left - 1}")
    canvas.words(SIDE + 118, f_top + HIGH / 2 - 8, "shares")
    pixels = regions_end - HIGH / 2
    for n, (x, row) in enumerate(((10, 2), (20, 3))):  # the pixels ask the regions, and join what they got
        end = f_top + (row - 1) * (HIGH + GAP) + HIGH / 2
        canvas.arrow("copy", f"M{left + wide} {pixels + 6 - 12 * n:g}h{x}V{end:g}H{left + wide + 1}")
    canvas.arrow("head", f"M{SIDE + 40} {regions_end}V{vectors - HIGH - 1}")
    canvas.box(SIDE, vectors - HIGH, 150, HIGH, "aux", shape(aux), "out")
    canvas.legend(
        vectors + 34,
        "M: rough logits of each class; their softmax over all places says what share a pixel has in the "
        "mean of that class's region. Each pixel weighs the region vectors by how well they match it (right "
        "line), and goes on with the mixture beside itself. Yellow arrow, in training only: M's own loss, "
        "times 0.4.",
    )
    return canvas.svg()


def segformer() -> str:
    """Fig. 2 of the paper: four stages on the left, a linear layer of each on the right, all joined."""
    size = 512
    with torch.device("meta"):
        model = zoo.build("segformer_b0", literal=True)
        stages = profile(model, size)
    wide, right = 164, 278
    down = SIDE + wide // 2
    canvas = Canvas(f"SegFormer-B0: feature maps for an input of 3×{size}×{size}")
    canvas.box(SIDE, 12, wide, HIGH, "input", f"3×{size}×{size}", "out")
    y = 12
    rows = []
    for s in (1, 2, 3, 4):
        patches = model.encoder.get_submodule(f"patch_embed{s}.proj")
        kernel, blocks = patches.kernel_size[0], len(model.encoder.get_submodule(f"block{s}"))
        y += HIGH
        canvas.arrow("down", f"M{down} {y}V{y + GAP - 1}")
        canvas.words(down + 8, y + GAP / 2 + 4, f"{kernel}×{kernel}, {blocks} blocks")
        y += GAP
        canvas.box(SIDE, y, wide, HIGH, f"stage {s}", shape(stages[f"encoder.norm{s}"]))
        canvas.box(right, y, wide, HIGH, f"linear.{s - 1}", shape(stages[f"head.linear.{s - 1}"]))
        canvas.arrow("copy", f"M{SIDE + wide} {y + HIGH / 2:g}H{right - 1}")
        canvas.words((SIDE + wide + right) / 2, y + HIGH / 2 - 6, "linear", "mid")
        rows.append(y)
    joined = (model.head.fuse.in_channels, *stages["head.fuse"].shape[1:])
    for n, row in enumerate(rows):  # each goes down beside the others
        path = f"M{right + wide} {row + HIGH / 2:g}h{21 - 5 * n}V{y + HIGH + GAP - 1}"
        canvas.arrow("up" if n else "copy", path)
    y = canvas.column(
        SIDE,
        452,
        y + HIGH,
        [
            ("", "", "joined, all at the first one's size", "×".join(map(str, joined))),
            ("copy", "linear, BatchNorm, ReLU", "fuse", shape(stages["head.fuse"])),
            ("copy", "dropout, linear", "classify", shape(stages["head.classify"])),
            ("up", "bilinear", "logits", shape(stages[""]), "out"),
        ],
    )
    canvas.legend(
        y + 34,
        "Red: patches that overlap, by a strided convolution, then transformer blocks and a LayerNorm. "
        "Green: bilinear enlarging. The network multiplies the two linear layers of each stage first and "
        "enlarges their result, which is the same sum; literal=True computes it as drawn.",
    )
    return canvas.svg()
