"""Every kind of table that a note may have, by its columns; no other table passes.

A table of numbers is `Checked`: some columns say what is built, all the others are computed from the network
and compared cell by cell.  Of the rest KINDS says what it is: WORDS, whose numbers count as those of the
text around it (see claims.py); ELSEWHERE, with its own test; PUBLISHED, what others reported and what was
measured, which no network can be asked for.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from tests.papers.cells import (
    OVER_RESNET34,
    Cells,
    at,
    auxiliary,
    blocks,
    cost_with_size,
    deeplab,
    entry_flow,
    field_of_level,
    halves,
    in_and_out,
    kind_of_resnet,
    level,
    library_decoder,
    library_node,
    listed,
    named,
    node,
    parameters,
    printed_of_regnet,
    rates_of_resnet,
    rates_of_xception,
    rounded_width,
    text,
    variant,
)  # fmt: skip
from tests.papers.counting import channels, cost, count, network, stages, whole, written
from tests.published import DEEPLAB_MACS, EFFICIENTNET_SIZES, REGNET_ROUNDED
from zoo.encoders.efficientnet import VARIANTS as EFFICIENTNETS
from zoo.encoders.hrnet import VARIANTS as HRNETS
from zoo.encoders.mit import VARIANTS as MITS
from zoo.encoders.regnet import VARIANTS as REGNETS
from zoo.encoders.resnet import VARIANTS as RESNETS
from zoo.encoders.xception import VARIANTS as XCEPTIONS
from zoo.profile import Stage

from .reader import Note, number, tables

WORDS, ELSEWHERE, PUBLISHED = "words", "elsewhere", "published"


class Checked(NamedTuple):
    """given: columns that say what is built.  computed: the other columns, from a row's cells.

    rows: what the first column must list, in order; None: whatever it lists.
    """

    given: tuple[str, ...]
    computed: dict[str, Callable[[Cells], object]]
    rows: Callable[[], list[str]] | None = None


def check(table: list[Cells]) -> None:
    """AssertionError unless the table is of a known kind, and right."""
    header = tuple(table[0])
    assert header in KINDS, f"no kind of table has the columns {header}: add it to tests/papers/tables.py"
    kind = KINDS[header]
    if isinstance(kind, str):
        return
    assert {*kind.given, *kind.computed} == set(header), f"columns that nobody checks in {header}"
    if kind.rows:
        assert [row[header[0]] for row in table] == kind.rows()
    for row in table:
        for column, value in kind.computed.items():
            assert row[column] == text(value(row)), f"{column} of {row[header[0]]}"


def check_stages(note: Note, profiled: Callable[[str, int], dict[str, Stage]] = written) -> None:
    """AssertionError unless the stage table is the network's that section 3 names, and covers it whole."""
    named = re.search(r"`(zoo\.(?:encoders\.)?build\([^`]*\))`, input (?:\d+×)?(\d+)×\2\b", note.section(3))
    assert named, "section 3 says `zoo.build(…)`, input S×S"
    found = profiled(named[1], int(named[2]))
    rows = note.table(3, "stage", "module", "output C×H×W", "parameters", "MACs")
    for row in rows:
        stage = found[row["module"].strip("`")]
        assert row["output C×H×W"] == "×".join(map(str, stage.shape)), row["stage"]
        assert number(row["parameters"]) == stage.parameters, row["stage"]
        assert number(row["MACs"]) == stage.macs, row["stage"]
    *parts, last = rows
    assert last["stage"].startswith("whole ")
    assert last["module"] == ""
    for column in ("parameters", "MACs"):
        assert sum(number(row[column]) for row in parts) == number(last[column])


def compared(table: list[Cells]) -> list[str]:
    """The columns of a table that `check` compares, and in which there is a number."""
    kind = KINDS[tuple(table[0])]
    if isinstance(kind, str):
        return []
    return [c for c in kind.computed if any(letter.isdigit() for row in table for letter in row[c])]


def unchecked(section: str) -> str:
    """A note's section without the tables that `check` compares, or that hold what others published."""
    for block in re.findall(r"(?:^\|.*\n?)+", section, flags=re.M):
        (rows,) = tables(block)
        if KINDS.get(tuple(rows[0])) != WORDS:
            section = section.replace(block, "\n")
    return section


# ---------------------------------------------------------------- kinds

KINDS: dict[tuple[str, ...], Checked | str] = {
    # of all notes
    ("stage", "module", "output C×H×W", "parameters", "MACs"): ELSEWHERE,  # test_stage_table
    ("in the paper", "what it is", "code"): WORDS,
    ("the paper's clause", "status", "what we do, and why", "test"): WORDS,
    ("setting", "published", "`--recipe paper`", "origin"): ELSEWHERE,  # test_training_table_is_the_recipe
    ("setting", "published", "source"): PUBLISHED,
    ("what", "command", "hardware", "result"): PUBLISHED,
    ("switch", "command", "expect"): WORDS,  # and test_commands_work
    ("trap", "effect", "check"): WORDS,
    # of the map, papers/README.md: test_map.py
    ("year", "note", "what was new", "builds as", "code", "tests"): ELSEWHERE,
    # DeepLabV3+
    ("encoder", "options", "classes", "parameters", "MACs at 513×513", "the paper"): Checked(
        ("encoder", "options", "classes"),
        {
            "parameters": lambda row: count("deeplabv3plus", **deeplab(row)),
            "MACs at 513×513": lambda row: cost(513, "deeplabv3plus", **deeplab(row)),
            "the paper": lambda row: DEEPLAB_MACS.get((row["encoder"], row["options"], row["classes"]), ""),
        },
    ),
    ("", "the code", "here", "SMP 0.6.0", "VainF", "jfzhang95"): WORDS,
    ("encoder", "decoder", "separable", "at output stride 16", "at 8"): PUBLISHED,
    ("what", "mean IoU"): PUBLISHED,
    # EfficientNet
    ("encoder", "width", "depth", "maps' channels", "blocks", "parameters", "MACs at 224×224", "size",
     "MACs there"): Checked(
        ("encoder",),
        {
            "width": variant("efficientnet", "width_coefficient"),
            "depth": variant("efficientnet", "depth_coefficient"),
            "maps' channels": lambda row: channels(named(row)),
            "blocks": lambda row: sum(len(stage) for stage in network(named(row)).features[1:]),
            "parameters": parameters,
            "MACs at 224×224": at(224),
            "size": lambda row: EFFICIENTNET_SIZES[named(row)],
            "MACs there": lambda row: cost(EFFICIENTNET_SIZES[named(row)], named(row)),
        },
        listed(EFFICIENTNETS),
    ),
    ("network", "parameters, whole", "MACs", "the paper, Table 2", "torchvision's file"): PUBLISHED,
    # FCN
    ("encoder", "classes", "with the auxiliary head", "without"): Checked(
        ("encoder", "classes"),
        {"with the auxiliary head": auxiliary("fcn", True), "without": auxiliary("fcn", False)},
    ),
    ("stage", "output C×H×W"): ELSEWHERE,  # test_fcn8s
    ("network", "VOC 2011 val, paper", "the same images, released code", "VOC 2012 test"): PUBLISHED,
    ("weights", "mean IoU", "pixel accuracy"): PUBLISHED,
    # HRNet
    ("encoder", "channels", "sum", "parameters", "MACs at 224×224", "MACs at 512×512",
     "MACs at 1024×2048"): Checked(
        ("encoder",),
        {
            "channels": lambda row: channels(named(row)),
            "sum": lambda row: sum(channels(named(row))),
            "parameters": parameters,
            "MACs at 224×224": at(224),
            "MACs at 512×512": at(512),
            "MACs at 1024×2048": at((1024, 2048)),
        },
        listed(HRNETS),
    ),
    ("encoder", "`unet_halved`", "its MACs at 512×512", "`deeplabv3plus`, `output_stride=32`",
     "the MACs of that"): Checked(
        ("encoder",),
        {
            "`unet_halved`": lambda row: count("unet_halved", None, None, named(row)),
            "its MACs at 512×512": lambda row: cost(512, "unet_halved", encoder=named(row)),
            "`deeplabv3plus`, `output_stride=32`": lambda row: count(
                "deeplabv3plus", None, None, named(row), output_stride=32
            ),
            "the MACs of that": lambda row: cost(512, "deeplabv3plus", encoder=named(row), output_stride=32),
        },
        listed(HRNETS),
    ),
    ("network", "ImageNet error", "with SSLD weights"): PUBLISHED,
    ("set", "how", "W48"): PUBLISHED,
    # HRNet+OCR
    ("encoder", "parameters", "MACs at 512×512", "literal at 512×512", "MACs at 1024×2048",
     "literal at 1024×2048"): Checked(
        ("encoder",),
        {
            "parameters": lambda row: count("hrnet_ocr", None, None, named(row)),
            **{
                f"{words} at {h}×{w}": lambda row, size=(h, w), literal=words == "literal": cost(
                    size, "hrnet_ocr", encoder=named(row), literal=literal
                )
                for words in ("MACs", "literal")
                for h, w in ((512, 512), (1024, 2048))
            },
        },
        listed(HRNETS),
    ),
    ("", "the code, and here", "openseg", "mmsegmentation"): WORDS,
    ("set", "how", "the paper", "the code"): PUBLISHED,
    # PSPNet
    ("encoder", "classes", "with the auxiliary classifier", "without", "MACs without"): Checked(
        ("encoder", "classes"),
        {
            "with the auxiliary classifier": auxiliary("pspnet", True),
            "without": auxiliary("pspnet", False),
            "MACs without": lambda row: cost_with_size(
                row, "pspnet", "MACs without", encoder=named(row), classes=int(row["classes"]), aux=False
            ),
        },
    ),
    ("", "Caffe", "semseg", "here", "SMP 0.6.0", "mmsegmentation"): WORDS,
    ("network", "one scale", "several scales"): PUBLISHED,
    ("what", "mean IoU / pixel accuracy"): PUBLISHED,
    # RegNet
    ("encoder", "d", "w_0, w_a, w_m", "group", "widths", "blocks", "parameters", "MACs at 224×224"): Checked(
        ("encoder",),
        {
            "d": variant("regnet", "d"),
            "w_0, w_a, w_m": variant("regnet", "w"),
            "group": variant("regnet", "group_width"),
            "widths": lambda row: channels(named(row))[1:],
            "blocks": blocks,
            "parameters": parameters,
            "MACs at 224×224": at(224),
        },
        listed(REGNETS),
    ),
    ("network", "before", "the code, and timm", "torchvision, and ours", "whole network there",
     "here"): Checked(
        ("network",),
        {
            "before": lambda row: rounded_width(row, "before"),
            "the code, and timm": printed_of_regnet("widths"),
            "torchvision, and ours": lambda row: rounded_width(row, "ours"),
            "whole network there": printed_of_regnet("parameters"),
            "here": lambda row: whole(REGNET_ROUNDED[row["network"]].name),
        },
        lambda: list(REGNET_ROUNDED),
    ),
    ("network", "X, authors", "X, torchvision", "Y, authors", "Y, torchvision"): PUBLISHED,
    # ResNet
    ("encoder", "blocks", "kind", "channels of the maps", "parameters", "MACs at 224×224"): Checked(
        ("encoder",),
        {
            "blocks": variant("resnet", "layers"),
            "kind": kind_of_resnet,
            "channels of the maps": lambda row: channels(named(row)),
            "parameters": parameters,
            "MACs at 224×224": at(224),
        },
        listed(RESNETS),
    ),
    ("rule", "16", "8", "used by"): Checked(
        ("rule", "used by"), {"16": rates_of_resnet(16), "8": rates_of_resnet(8)}
    ),
    ("network", "papers", "torchvision V1", "torchvision V2"): PUBLISHED,
    # SegFormer
    ("encoder", "widths", "blocks", "parameters", "MACs at 224×224", "MACs at 512×512"): Checked(
        ("encoder",),
        {
            "widths": variant("mit", "widths"),
            "blocks": variant("mit", "depths"),
            "parameters": parameters,
            "MACs at 224×224": at(224),
            "MACs at 512×512": at(512),
        },
        listed(MITS),
    ),
    ("network", "width C of the head", "head", "parameters", "MACs, literal", "MACs"): Checked(
        ("network",),
        {
            "width C of the head": lambda row: network(named(row, "network")).head.fuse.out_channels,
            "head": lambda row: count(named(row, "network"), part="head"),
            "parameters": lambda row: count(named(row, "network")),
            "MACs, literal": lambda row: cost(512, named(row, "network"), literal=True),
            "MACs": lambda row: cost(512, named(row, "network")),
        },
        lambda: [f"`segformer_b{n}`" for n in range(6)],
    ),
    ("network", "ADE20K", "ADE20K, several scales", "Cityscapes", "Cityscapes, several scales",
     "COCO-Stuff"): PUBLISHED,
    # U-Net, and the halved one
    ("data", "measure", "U-Net", "best other"): PUBLISHED,
    ("encoder", "in → out by block", "decoder", "network", "library's decoder", "times"): Checked(
        ("encoder",),
        {
            "in → out by block": halves,
            "decoder": lambda row: count("unet_halved", None, None, named(row), part="decoder"),
            "network": lambda row: count("unet_halved", None, None, named(row)),
            "library's decoder": library_decoder,
            "times": lambda row: (
                f"{count('unet_halved', None, None, named(row), part='decoder') / library_decoder(row):.1f}"
            ),
        },
    ),
    ("network", "size", "Dice", "said by"): PUBLISHED,
    # UNet++
    ("level", "parameters", "MACs at 96×96", "MACs at 512×512", "receptive field"): Checked(
        ("level",),
        {
            "parameters": lambda row: count("unetpp", 1, 1, level=level(row)),
            "MACs at 96×96": lambda row: cost(96, "unetpp", classes=1, channels=1, level=level(row)),
            "MACs at 512×512": lambda row: cost(512, "unetpp", classes=1, channels=1, level=level(row)),
            "receptive field": field_of_level,
        },
        lambda: ["1", "2", "3", "4"],
    ),
    ("node", "over ResNet-34", "in → out", "output", "parameters", "the library's name"): Checked(
        ("node", "over ResNet-34"),
        {
            "in → out": in_and_out,
            "output": lambda row: "×".join(map(str, stages("unetpp", 256, **OVER_RESNET34)[node(row)].shape)),
            "parameters": lambda row: count("unetpp", part=node(row), **OVER_RESNET34),
            "the library's name": library_node,
        },
    ),
    ("level over ResNet-34", "parameters", "MACs at 256×256", "smallest size"): Checked(
        ("level over ResNet-34",),
        {
            "parameters": lambda row: count("unetpp", level=level(row), **OVER_RESNET34),
            "MACs at 256×256": lambda row: cost(256, "unetpp", level=level(row), **OVER_RESNET34),
            "smallest size": lambda row: network("unetpp", level=level(row), **OVER_RESNET34).min_size,
        },
        lambda: ["1", "2", "3", "4"],
    ),
    ("network", "parameters", "nuclei", "polyps", "liver", "lung nodules"): PUBLISHED,
    # Xception
    ("encoder", "entry flow (stride)", "middle", "parameters", "MACs at 224×224", "MACs at 299×299"): Checked(
        ("encoder",),
        {
            "entry flow (stride)": entry_flow,
            "middle": variant("xception", "middle"),
            "parameters": parameters,
            "MACs at 224×224": at(224),
            "MACs at 299×299": at(299),
        },
        listed(XCEPTIONS),
    ),
    ("output stride", "entry 3", "middle", "exit 1", "exit 2"): Checked(
        ("output stride",),
        {
            "entry 3": rates_of_xception(2),
            "middle": rates_of_xception(3),
            "exit 1": rates_of_xception(19),
            "exit 2": rates_of_xception(20),
        },
        lambda: ["32", "16", "8"],
    ),
    ("network", "top 1", "top 5", "source"): PUBLISHED,
}  # fmt: skip
