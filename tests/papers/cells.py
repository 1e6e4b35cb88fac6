"""Computes the cells of the notes' tables: from a row's words to what the network has there."""

import importlib
import re
from collections.abc import Callable

from tests.archs.fields import fields
from tests.papers.counting import cost, count, network, stages
from tests.published import REGNET_ROUNDED
from zoo.archs.unet_halved import STRIDES, halved
from zoo.archs.unetpp import UNetPP
from zoo.encoders.regnet import VARIANTS as REGNETS
from zoo.encoders.regnet import stages as regnet_stages
from zoo.encoders.resnet import VARIANTS as RESNETS
from zoo.encoders.xception import VARIANTS as XCEPTIONS
from zoo.options import Plain, option

Cells = dict[str, str]
LIBRARY = (256, 128, 64, 32, 16)  # segmentation_models_pytorch's decoder
OVER_RESNET34 = dict(encoder="resnet34")
PRINTED = {
    "Xception-65": "xception65", "Xception-71": "xception71", "ResNet-101": "resnet101",
    "ResNet-101, stem of three 3×3": "resnet101s",
}  # fmt: skip


def text(value: object) -> str:
    """As a note writes it: 1,234 and 64, 128, 256."""
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def named(row: Cells, column: str = "encoder") -> str:
    """The first `name` in a cell."""
    return re.search(r"`([^`]+)`", row[column])[1]


def listed(variants: dict) -> Callable[[], list[str]]:
    """A table has a row for each of these."""
    return lambda: [f"`{name}`" for name in variants]


def opts(row: Cells) -> dict[str, Plain]:
    """The options in a cell, `a=1`, `b=2`."""
    return dict(option(found) for found in re.findall(r"`(\w+=[^`]+)`", row["options"]))


def parameters(row: Cells) -> int:
    """Of the encoder that the row names."""
    return count(named(row))


def at(size: int | tuple[int, int]) -> Callable[[Cells], int]:
    """Multiply-adds of the encoder that the row names."""
    return lambda row: cost(size, named(row))


def variant(family: str, key: str) -> Callable[[Cells], object]:
    """What the paper's table says of the row's encoder."""
    return lambda row: importlib.import_module(f"zoo.encoders.{family}").VARIANTS[named(row)][key]


def deeplab(row: Cells) -> dict[str, object]:
    """How a row of DeepLabV3+'s forms is built."""
    return {"classes": int(row["classes"]), "encoder": PRINTED[row["encoder"]], **opts(row)}


def cost_with_size(row: Cells, name: str, column: str, **options: object) -> str:
    """`1,234 at 473×473`, for the size in the cell; empty where the cell is."""
    if not row[column]:
        return ""
    size = int(re.search(r"at (\d+)×\d+$", row[column])[1])
    return f"{cost(size, name, **options):,} at {size}×{size}"


def auxiliary(name: str, aux: bool) -> Callable[[Cells], int]:
    """Parameters of `name` on the row's encoder and classes, with or without its auxiliary classifier."""
    return lambda row: count(name, int(row["classes"]), None, named(row), aux=aux)


def kind_of_resnet(row: Cells) -> str:
    """Of a block, in words."""
    of = RESNETS[named(row)]
    words = "bottleneck" if of.get("bottleneck", True) else "basic"
    if of.get("deep_stem"):
        words += ", deep stem"
    return words + (f", {of['groups']} groups of {of['group_width']}" if "groups" in of else "")


def rates_of_resnet(output_stride: int) -> Callable[[Cells], str]:
    """Dilation of the first block and of the others, of the stages that have one."""

    def cell(row: Cells) -> str:
        (_, value) = option(named(row, "rule"))
        found = []
        for stage, name in ((3, "conv4_x"), (4, "conv5_x")):
            model = network("resnet50", output_stride=output_stride, dilate_first=value)
            first, other = (model.get_submodule(f"layer{stage}.{b}.conv2").dilation[0] for b in (0, 1))
            if other > 1:
                found.append(f"{name}: {first}, {other}")
        return "; ".join(found)

    return cell


def blocks(row: Cells) -> tuple[int, ...]:
    """Of each stage of a RegNet."""
    return tuple(len(stage) for stage in network(named(row)).get_submodule("trunk_output").children())


def entry_flow(row: Cells) -> str:
    """Channels and strides of an Xception's first modules."""
    return ", ".join(f"{width} ({stride})" for width, stride in XCEPTIONS[named(row)]["entry"])


def rates_of_xception(block: int) -> Callable[[Cells], str]:
    """`stride 2`, or the rate, of the last 3×3 of a module of Xception-65."""

    def cell(row: Cells) -> str:
        model = network("xception65", output_stride=int(row["output stride"]))
        conv = model.get_submodule(f"blocks.{block}.stack.conv3.conv_dw")
        return f"stride {conv.stride[0]}" if conv.stride[0] > 1 else str(conv.dilation[0])

    return cell


def halves(row: Cells) -> str:
    """What each block of the halved U-Net is given, and puts out."""
    encoder = network(named(row))
    *skips, up = encoder.channels
    at_stride, steps = dict(zip(encoder.strides, skips, strict=False)), []
    for stride, out in zip(STRIDES, halved(encoder.channels, encoder.strides), strict=True):
        steps.append(f"{up + at_stride.get(stride, 0)} → {out}")
        up = out
    return ", ".join(steps)


def library_decoder(row: Cells) -> int:
    """Parameters of the popular library's decoder on the same encoder."""
    return count("unet_halved", None, None, named(row), part="decoder", decoder_channels=LIBRARY)


def level(row: Cells) -> int:
    """Of a row of UNet++'s levels."""
    return int(row.get("level") or row["level over ResNet-34"])


def field_of_level(row: Cells) -> str:
    """Rows that an output row of the pruned network sees."""
    spans = fields(UNetPP(1, 1, width=1, level=level(row)), 240, 32, rows=range(112, 128))
    return " or ".join(map(str, sorted({last - first + 1 for first, last in spans})))


def node(row: Cells) -> str:
    """The module of a row of UNet++ over ResNet-34."""
    return named(row, "over ResNet-34")


def in_and_out(row: Cells) -> str:
    """Channels that go into a node over ResNet-34, and out of it."""
    model = network("unetpp", **OVER_RESNET34)
    if node(row) == "encoder":
        return f"3 → {text(model.encoder.channels)}"
    module = model.get_submodule(node(row))
    first = module if node(row).startswith("heads") else module.conv1[0]
    return f"{first.in_channels} → {stages('unetpp', 256, **OVER_RESNET34)[node(row)].shape[0]}"


def library_node(row: Cells) -> str:
    """The popular library's name of a node: its x_d_l is X^{3-l,l-d+1}."""
    if found := re.fullmatch(r"x\.(\d)(\d)", node(row)):
        i, j = map(int, found.groups())
        return f"`x_{4 - i - j}_{3 - i}`"
    return {"encoder": "`encoder`", "full.4": "`x_0_4`", "heads.4": "`segmentation_head.0`"}[node(row)]


def rounded_width(row: Cells, whose: str) -> tuple[int, ...]:
    """The stages of a RegNet whose width the last rounding changes: before it, or in our network."""
    name, numbers = REGNET_ROUNDED[row["network"]].name, REGNET_ROUNDED[row["network"]].stages
    group = REGNETS[name]["group_width"] if whose == "ours" else 1
    widths = regnet_stages(REGNETS[name]["d"], REGNETS[name]["w"], group)
    return tuple(widths[n - 1][0] for n in numbers)


def printed_of_regnet(field: str) -> Callable[[Cells], object]:
    """What the authors' code has there."""
    return lambda row: getattr(REGNET_ROUNDED[row["network"]], field)
