"""What the notes say of our networks in running text: each phrase with its numbers as the network has them.

CLAIMS: note -> a function that gives (phrase, numbers).  A phrase is written as in the note, with a format
in the place of each number; bare `{:,}` stands for an exact count, wherever it is.  Numbers of other
people's networks are literals in tests/published.py.
"""

from collections.abc import Callable
from math import e

from tests.papers import fcn8s
from tests.papers.counting import BILLION, MILLION, Size, channels, cost, count, network, stages, whole
from tests.published import PHRASES
from zoo.encoders.mit import REDUCTIONS, STRIDES
from zoo.encoders.mit import VARIANTS as MITS
from zoo.layers import SqueezeExcite

Claim = tuple[object, ...]  # a phrase and its numbers
EXACT = "{:,}"
SEGFORMERS = [f"segformer_b{n}" for n in range(6)]


def millions(*given: object, **options: object) -> float:
    """Parameters."""
    return count(*given, **options) / MILLION


def billions(size: Size, name: str, part: str = "", **options: object) -> float:
    """Multiply-adds."""
    return cost(size, name, part, **options) / BILLION


def exact(*numbers: int) -> list[Claim]:
    """Counts that a note may name anywhere."""
    return [(EXACT, number) for number in numbers]


def unet() -> list[Claim]:
    """31,100,354 is the release's last up-convolution of 128 channels; 31,037,698 BatchNorm for biases."""
    paper, width = count("unet"), 64
    release = paper + (4 * 128 * 128 + 128) - (4 * 128 * 64 + 64) + 9 * 64 * 64
    norms = sum(2 * 2 * width * 2**level for level in range(4)) + 2 * 1024
    padded = billions((388, 388), "unet", padded=True)
    costs = "It costs {:.0f} million parameters, {:.0f} billion multiply-adds for one tile"
    return [
        (costs, paper / MILLION, billions(572, "unet")),
        ("{:.1f} in place of {:.1f} billion multiply-adds", padded, billions(572, "unet")),
        *exact(release, count("unet", 1, 3), count("unet", 2, 3), count("unet", 2, 3) + norms),
    ]


def unet_halved() -> list[Claim]:
    """The library's EfficientNets have the 1×1 convolution before the classifier besides."""
    unused = [idle(name) for name in HEADS]
    seven = count("unet_halved", None, None, "efficientnet_b7")
    library = dict(decoder_channels=(256, 128, 64, 32, 16))
    both = [billions(224, "unet_halved", encoder="resnet101", **options) for options in ({}, library)]
    sizes = [millions("unet_halved", **options) for options in (library, {})]
    decoder = millions("unet_halved", None, None, "resnet101", part="decoder")
    return [
        ("{:,} for B0, {:,} for B4, {:,} for B7 (the library: {:,})", *unused, seven + unused[-1]),
        ("ResNet-101 at 224×224 takes {:.1f} billion, with the library's channels {:.1f} billion", *both),
        ("ImageNet weights, {:.0f} million parameters", seven / MILLION),
        ("{:.1f} million parameters in place of {:.1f}", *sizes),
        ("{:.0f} million parameters in the decoder alone", decoder),
        ("{:.1f} million too many or too few for B7", unused[-1] / MILLION),
        *exact(count("unet_halved"), count("unet_halved", part="decoder.4")),
    ]


HEADS = {"efficientnet_b0": 1280, "efficientnet_b4": 1792, "efficientnet_b7": 2560}  # before the classifier


def idle(name: str) -> int:
    """Parameters of an EfficientNet's 1×1 convolution before its classifier, with BatchNorm."""
    return channels(name)[-1] * HEADS[name] + 2 * HEADS[name]


def fcn() -> list[Claim]:
    """A transposed convolution of s has 2s×2s weights a pair of classes, or a class where it is grouped."""
    parameters, macs = fcn8s.totals()
    both = [count("fcn", 21, None, "resnet50", aux=aux) for aux in (True, False)]
    more = count("fcn", 21, None, "resnet101") - count("fcn", 21, None, "resnet50")
    kernels = sum((2 * s) ** 2 for s in (2, 2, 8))
    extra = both[0] - both[1]
    three = cost(512, "fcn"), cost(512, "fcn", encoder="resnet101"), cost(520, "fcn", encoder="resnet101")
    return [
        ("{:.0f} million parameters in place of {:.0f}", both[1] / MILLION, parameters / MILLION),
        ("adds {:,} parameters and {} a class", extra - 21 * 257, 257),
        ("ResNet-50 {:,} at 512×512, ResNet-101 {:,} and at 520×520 {:,}", *three),
        ("21 classes: {:,} parameters, {:,} multiply-adds", parameters, macs),
        ("{:.1f} million parameters fewer in training", extra / MILLION),
        ("{:.0f} million parameters more", more / MILLION),
        ("{:.0f} million parameters or {:.0f}", parameters / MILLION, both[1] / MILLION),
        ("{:.1f} and 152.7 billion at 520×520", billions(520, "fcn")),
        ("{:,} weights in place of {:,}", 21 * kernels, 21 * 21 * kernels),
    ]


def pspnet() -> list[Claim]:
    """Sizes of the default network, of 473×473 and without the auxiliary classifier where it says so."""
    deep = dict(aux=False)
    parts = [billions(473, "pspnet", part, **deep) for part in ("", "encoder", "head.0")]
    extra = count("pspnet") - count("pspnet", **deep)
    return [
        ("The pyramid itself costs {:.1f} million parameters", millions("pspnet", part="ppm")),
        ("of the {:.0f} billion multiply-adds at 473×473 the ResNet at stride 8 takes {:.0f} and the 3×3 "
         "convolution over the 4096 joined channels {:.0f}", *parts),
        ("adds {:,} parameters and {} a class", extra - 21 * 257, 257),
        ("{:.1f} million parameters fewer", extra / MILLION),
        ("{:.1f} million parameters, a third of the work", millions("pspnet", None, None, "resnet18")),
        *exact(count("pspnet", **deep)),
    ]  # fmt: skip


def unetpp() -> list[Claim]:
    """UNet+ feeds a node by its neighbour alone: 9·width² weights fewer for each other map in the row."""
    one, four = count("unetpp", 1, 1), count("unetpp", 1, 1, deep_supervision=True)
    plain = sum(9 * (32 * 2**i) ** 2 * (j - 1) for i in range(4) for j in range(1, 5 - i))
    over = [count("unetpp", None, None, f"resnet{n}") for n in (34, 50, 101)]
    ends = ("efficientnet_b0", "efficientnet_b7")
    efficient, unused = [count("unetpp", None, None, n) for n in ends], [idle(n) for n in ends]
    head = count("unetpp", None, None, "resnet34", deep_supervision=True) - over[0]
    norms = [count("unetpp", 1, c, norm="batch") for c in (1, 3)]
    return [
        ("It costs {:.2f} million parameters against {:.2f} million of a U-Net of the same width",
         one / MILLION, millions("unet", 1, 1, width=32)),
        ('{:,} for 3 channels; with `norm="batch"` {:,} for 1 channel and {:,} for 3',
         count("unetpp"), *norms),
        ("That is {:,} in all, {:,} over ResNet-50 and {:,} over ResNet-101", *over),
        ("Over EfficientNet-B0 it is {:,} and over B7 {:,}: the library has {:,} and {:,} more",
         *efficient, *unused),
        ("{:,} each over ResNet-34", head // 3),
        ("only so the published {:.2f} M comes out", one / MILLION),
        ("35 to 560 make {:,}", count("unet", 1, 1, width=35)),
        ("that is UNet+: {:,} parameters", one - plain),
        *exact(one, four, over[0]),
    ]  # fmt: skip


def deeplabv3plus() -> list[Claim]:
    """Of Xception-65 and 21 classes."""
    forms = [billions(513, "deeplabv3plus", separable=s) for s in (True, False)]
    more = count("deeplabv3plus", separable=False) - count("deeplabv3plus")
    return [
        ("this costs {:.0f} billion multiply-adds at 513×513 instead of {:.0f}", *forms),
        ("has 418.64 billion; ours are {:.2f}", billions((1025, 2049), "deeplabv3plus", classes=19)),
        ("{:.1f} million parameters more, and 0.14 points", more / MILLION),
        *exact(count("deeplabv3plus")),
    ]


def ocr() -> list[Claim]:
    """P pixels at H/4, K = 19 regions; widths of HRNet-W48 are 48, 96, 192 and 384."""
    p, k, widths = 128 * 128, 19, channels("hrnet_w48")
    literal = stages("hrnet_ocr", 512, literal=True)
    attention = p * k * 2 * 256
    large = cost((1024, 2048), "hrnet_ocr", literal=True) - 8 * attention
    heights = sum(128 * 3 * h * 128 * 512 for h in (32, 16))
    regions = sum(c * 720 * p // 4**i for i, c in enumerate(widths))
    far = sum(widths[2:]) * 512 * 9 * p
    rows = 512 * 9 * 128 * (32 * widths[2] + 16 * widths[3])
    parts = [literal[part].macs for part in ("regions", "pixels", "context", "")]
    classes = [count("hrnet_ocr", n) for n in (59, 60, 150, 171)]
    narrow = millions("hrnet_ocr", None, None, "hrnet_w18")
    return [
        ("On HRNet-W48 that costs {:.0f} million parameters",
         (count("hrnet_ocr") - count("hrnet_w48")) / MILLION),
        ("regions take {:,}, pixels {:,}, context {:,} and the whole {:,}", *parts),
        ("the convolutions alone are {:,}; at 1024×2048 they are {:,.1f} billion",
         parts[3] - attention, large / BILLION),
        ("the mean over each region, {:.0f} million", p * k * 512 / MILLION),
        ("the two matrices by which heights grow, {:.1f} billion", heights / BILLION),
        ("For 59, 60, 150 and 171 classes W48 has {:,}, {:,}, {:,} and {:,} parameters", *classes),
        ("{:.2f} billion multiply-adds become {:.2f}", 720 * 720 * p / BILLION, regions / BILLION),
        ("{:.1f} billion become {:.1f}", far / BILLION, rows / BILLION),
        ("{:.2f} billion become {:.2f} more in the sum", 256 * 512 * p / BILLION, p * k * 256 / BILLION),
        ("differ by a factor of {:,.0f}", round(e**10, -3)),
        ("{:.1f} million parameters in place of {:.1f}", narrow, millions("hrnet_ocr")),
        *exact(count("hrnet_ocr")),
    ]  # fmt: skip


def hrnet() -> list[Claim]:
    """HRNetV2 is HRNet+OCR without OCR; the authors divide by 2^30."""
    large = cost((1024, 2048), "hrnet_ocr", ocr=False, literal=True)
    both = [billions(512, "hrnet_ocr", ocr=False, literal=literal) for literal in (False, True)]
    return [
        ("W48 has {:,} at 19 classes and takes {:.1f} billion multiply-adds at 1024×2048, which the authors "
         "print as {:.1f}", count("hrnet_ocr", 19, ocr=False), large / BILLION, large / 2**30),
        ("takes {:.1f} in place of {:.1f} billion at 512×512", *both),
    ]  # fmt: skip


def segformer() -> list[Claim]:
    """The paper's figures are those of the literal head."""
    heads = [millions(name, part="head") for name in SEGFORMERS]
    cityscapes = [billions((1024, 2048), name, classes=19, literal=True) for name in SEGFORMERS]
    products = [
        sum(network(name).head.fuse.out_channels ** 2 * c for c in channels(f"mit_{name[-2:]}")) / BILLION
        for name in SEGFORMERS[:3]
    ]
    b0 = cityscapes[0] - attention("mit_b0", 1024, 2048) / BILLION
    return [
        ("{:.1f} to {:.1f} of {:.1f} to {:.1f} million parameters", min(heads), max(heads),
         millions("segformer_b0"), millions("segformer_b5")),
        ("B5 at 640×640, where the literal form has {:.1f}", billions(640, "segformer_b5", literal=True)),
        ("With 19 classes the counts are {:,}, {:,}, {:,}, {:,}, {:,} and {:,}",
         *(count(name, 19) for name in SEGFORMERS)),
        ("the literal form has {:.3f}, {:.3f}, {:.3f}, {:.3f}, {:.3f} and {:.3f} G", *cityscapes),
        ("{:.2f} G in B0, {:.2f} in B1, {:.1f} from B2 on", *products),
        ("B0 at 1024×2048 shows {:.1f} of {:.1f} GMACs", b0, cityscapes[0]),
        *exact(count("segformer_b2")),
    ]  # fmt: skip


def attention(name: str, height: int, width: int) -> int:
    """Multiply-adds of a MiT's two products of matrices: 2·L·M·C a block."""
    total, row = 0, MITS[name]
    for c, blocks, stride, r in zip(row["widths"], row["depths"], STRIDES, REDUCTIONS, strict=True):
        length = height * width // stride**2
        total += blocks * 2 * length * (length // r**2) * c
    return total


def resnet() -> list[Claim]:
    """The deep stem of 32, 32, 64 channels, and what its first stage then reads, against 64, 64, 128."""
    classifiers = [whole(name) - count(name) for name in ("resnet18", "resnet50")]

    def stem(a: int, b: int, c: int) -> int:
        return 9 * (3 * a + a * b + b * c) + 2 * (a + b + c) + c * (64 + 256)

    return [
        ("{:,} parameters behind basic blocks and {:,} behind bottlenecks", *classifiers),
        ("{:.1f} billion multiply-adds for 50 layers, not 3.8", billions(224, "resnet50")),
        ("{:.2f} or 3.8 billion", billions(224, "resnet50")),
        ("{:,} parameters too many", 64 * 64 + 2 * 64),
        ("{:,} parameters fewer in 50 layers", stem(64, 64, 128) - stem(32, 32, 64)),
        *exact(count("resnet50s")),
    ]


def xception() -> list[Claim]:
    """Of the encoders alone."""
    more = count("xception71") - count("xception65")
    return [
        ("With {:.1f} million parameters it is smaller than ResNet-101 ({:.1f})",
         millions("xception65"), millions("resnet101")),
        ("A classifier of 1000 classes adds {:,} parameters", whole("xception65") - count("xception65")),
        ("an encoder with {:.1f} million parameters more", more / MILLION),
        ("{:,} parameters in DeepLabV3+'s `low_level`", count("deeplabv3plus", part="low_level")),
        *exact(count("xception65")),
    ]  # fmt: skip


def efficientnet() -> list[Claim]:
    """Stage 9 is a 1×1 convolution to four times the last width, with BatchNorm; then the classifier."""
    ends = ("efficientnet_b0", "efficientnet_b7")
    blocks = sum(len(stage) for stage in network("efficientnet_b7").features[1:])
    gates = count("efficientnet_b0") + widened("efficientnet_b0")
    own, small = (billions(size, "efficientnet_b7") for size in (600, 224))
    return [
        ("B7's encoder has {:.1f} million parameters, and at its own 600×600 it takes {:.0f} billion "
         "multiply-adds in {} blocks", millions("efficientnet_b7"), own, blocks),
        ("({:,} parameters in B0, {:,} in B7) and a classifier ({:,} and {:,})",
         *map(idle, ends), *(1000 * HEADS[name] + 1000 for name in ends)),
        ("B0's encoder has {:,} parameters", gates),
        ("a network of {:.0f} billion multiply-adds | it takes {:.1f} there; {:.0f} at 600×600",
         own, small, own),
        ("{:.0f} million parameters; use a GPU", millions("unet_halved", None, None, "efficientnet_b7")),
        *exact(count("efficientnet_b0")),
    ]  # fmt: skip


def widened(name: str) -> int:
    """How many more parameters there were if gates squeezed to a quarter of what they weigh."""
    gates = [module for module in network(name).modules() if isinstance(module, SqueezeExcite)]
    extra = 0
    for gate in gates:
        weighed, squeezed = gate.fc1.in_channels, gate.fc1.out_channels
        extra += (weighed // 4 - squeezed) * (2 * weighed + 1)
    return extra


def regnet() -> list[Claim]:
    """With the classifier where a count is compared with torchvision's."""
    large, small = "regnet_x_32gf", "regnet_x_3_2gf"
    costs = [(cost(224, name) + 1000 * channels(name)[-1]) / BILLION for name in (large, small)]
    return [
        ("{:,} for X-32GF, {:,} for Y-32GF", whole(large), whole("regnet_y_32gf")),
        ("{:.1f} million parameters, not {:.1f}: {:.0f} and {:.1f} billion multiply-adds",
         whole(large) / MILLION, whole(small) / MILLION, *costs),
        ("Y-32GF has {:,} parameters more", widened("regnet_y_32gf")),
        ("count: {:,} in `block1`", count(large, part="trunk_output.block1")),
        *exact(count("regnet_y_32gf")),
    ]  # fmt: skip


CLAIMS: dict[str, Callable[[], list[Claim]]] = {
    function.__name__: function
    for function in (
        unet, unet_halved, fcn, pspnet, unetpp, deeplabv3plus, ocr, hrnet, segformer,
        resnet, xception, efficientnet, regnet,
    )
}  # fmt: skip


def phrases(note: str) -> list[str]:
    """Every phrase with a number that the text of this note may have: ours, then those of others."""
    ours = [str(phrase).format(*numbers) for phrase, *numbers in CLAIMS[note]()]
    return [*ours, *PHRASES.get(note, {})]
