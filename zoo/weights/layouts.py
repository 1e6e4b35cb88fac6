"""The files that we know: one table a source, their keys -> ours."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

from torch import Tensor, nn

from zoo.encoders import Encoder
from zoo.encoders.layouts import (
    HRNET_CLASSIFIER,
    MIT_OF_HUGGING_FACE,
    MIT_OF_NVLABS,
    Rows,
    mit_of_hugging_face,
)


@dataclass(frozen=True)
class Layout:
    """A kind of file, and how it fills one of our networks.

    network: which, by the name of its module in zoo.archs or zoo.encoders: all sizes of a paper are one.
        A file for an encoder also fills that part of any network which has it.
    signs: keys that tell it from all other kinds behind it in LAYOUTS; lacks: keys that it must not have.
    covers: the parts of our network that it fills, where these are not all; the others stay fresh.
    options: of our network, to be set with these weights.
    needs: what our network must have been built with though no shape shows it: "" or what to do.
    fit: a last change to the mapped weights.
    remark: what else whoever loads it should know of these weights in this network, "" or a few words.
    whole: what of this source can be mapped, for a file with other keys.
    """

    title: str
    network: str
    signs: tuple[str, ...]
    rows: Rows
    lacks: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    needs: Callable[[nn.Module], str] = lambda model: ""
    fit: Callable[[dict[str, Tensor]], None] = lambda weights: None
    remark: Callable[[nn.Module], str] = lambda model: ""
    whole: str = "the plain network on a ResNet"

    def fits(self, weights: dict[str, Tensor]) -> bool:
        """Is this the kind of a file with these keys?"""
        return all(sign in weights for sign in self.signs) and not any(key in weights for key in self.lacks)


class Refused(NamedTuple):
    """A kind of file that looks like one of LAYOUTS, and why it is none."""

    title: str
    signs: tuple[str, ...]
    why: str


RESNET = r"(?:conv1|bn1|layer[1-4])\..*"  # torchvision's keys without the classifier; ours are the same

TORCHVISION_FCN: Rows = (
    (rf"backbone\.{RESNET}", r"\g<0>"),
    (r"(aux_)?classifier\.[014]\..*", r"\g<0>"),
)
TORCHVISION_DEEPLABV3: Rows = (
    (rf"backbone\.({RESNET})", r"encoder.\1"),
    (r"classifier\.0\.convs\.([0-3])\.([01]\..*)", r"aspp.branches.\1.\2"),
    (r"classifier\.0\.convs\.4\.1\.(.*)", r"aspp.image_pooling.0.\1"),
    (r"classifier\.0\.convs\.4\.2\.(.*)", r"aspp.image_pooling.1.\1"),
    (r"classifier\.0\.project\.([01]\..*)", r"aspp.project.\1"),
    (r"classifier\.[124]\..*", None),  # its head stands before the place where DeepLabV3+ has the decoder
    (r"aux_classifier\..*", None),
)
SMP_UNET: Rows = (
    (rf"encoder\.{RESNET}", r"\g<0>"),
    (r"decoder\.blocks\.(\d\.conv[12]\.[01]\..*)", r"decoder.\1"),
    (r"segmentation_head\.0\.(.*)", r"head.\1"),
)
SMP_UNETPP: Rows = (
    (rf"encoder\.{RESNET}", r"\g<0>"),
    *(  # x_d_e: step d of the path that ends in e
        (rf"decoder\.blocks\.x_{d}_{e}\.(.*)", rf"x.{3 - e}{e - d + 1}.\1")
        for e in range(4)
        for d in range(e + 1)
    ),
    (r"decoder\.blocks\.x_0_4\.(.*)", r"full.4.\1"),
    (r"segmentation_head\.0\.(.*)", r"heads.4.\1"),
)
SMP_ENCODER: Rows = (  # of its PSPNet and DeepLabV3Plus, whose heads are other graphs than the papers'
    (rf"encoder\.{RESNET}", r"\g<0>"),
    (r"decoder\..*", None),
    (r"segmentation_head\..*", None),
)
SEMSEG_PSPNET: Rows = (
    (r"layer0\.([01346])\.(.*)", r"encoder.conv1.\1.\2"),
    (r"layer0\.7\.(.*)", r"encoder.bn1.\1"),
    (r"layer[1-4]\..*", r"encoder.\g<0>"),
    (r"ppm\.features\.(\d)\.1\.(.*)", r"ppm.branches.\1.0.\2"),
    (r"ppm\.features\.(\d)\.2\.(.*)", r"ppm.branches.\1.1.\2"),
    (r"cls\.([014]\..*)", r"head.\1"),
    (r"aux\.[014]\..*", r"\g<0>"),
)
# LayerNorm's eps is in no file.  These weights were trained with 1e-6 in the blocks and 1e-5 behind strided
# convolutions, as our encoder has it; Hugging Face computes with 1e-5 everywhere, and so gets logits that
# differ in the sixth digit.
SEGFORMER_OF_NVLABS: Rows = (
    (r"backbone\.((?:patch_embed|block|norm)[1-4]\..*)", r"encoder.\1"),
    *((rf"decode_head\.linear_c{s}\.proj\.(.*)", rf"head.linear.{s - 1}.\1") for s in (1, 2, 3, 4)),
    (r"decode_head\.linear_fuse\.conv\.(weight)", r"head.fuse.\1"),
    (r"decode_head\.linear_fuse\.bn\.(.*)", r"head.bn.\1"),
    (r"decode_head\.linear_pred\.(.*)", r"head.classify.\1"),
    (r"decode_head\.conv_seg\..*", None),  # a classifier of mmsegmentation's that nothing runs through
)
SEGFORMER_OF_HUGGING_FACE: Rows = (
    *mit_of_hugging_face("encoder."),
    *((rf"decode_head\.linear_c\.{i}\.proj\.(.*)", rf"head.linear.{i}.\1") for i in range(4)),
    (r"decode_head\.linear_fuse\.(weight)", r"head.fuse.\1"),  # deepest stage first there, too
    (r"decode_head\.batch_norm\.(.*)", r"head.bn.\1"),
    (r"decode_head\.classifier\.(.*)", r"head.classify.\1"),
)
HRNET_SEGMENTATION: Rows = (
    (r"loss\..*", None),  # the classes' weights in the loss, which was saved with the network
    (r"((?:conv|bn)[12]\..*)", r"encoder.\1"),
    (r"((?:layer1|transition[1-3]|stage[2-4])\..*)", r"encoder.\1"),
)
HRNET_PLAIN: Rows = (*HRNET_SEGMENTATION, (r"last_layer\.([013]\..*)", r"regions.\1"))
ATTENTION = r"ocr_distri_head\.object_context_block\."
HRNET_OCR: Rows = (
    *HRNET_SEGMENTATION,
    (r"aux_head\.([013]\..*)", r"regions.\1"),
    (r"conv3x3_ocr\.([01]\..*)", r"pixels.\1"),
    *(  # each BatchNorm is in a Sequential with its ReLU
        row
        for theirs, ours in (("f_pixel", "phi"), ("f_object", "psi"), ("f_down", "delta"), ("f_up", "rho"))
        for row in (
            (rf"{ATTENTION}{theirs}\.0\.(weight)", rf"context.{ours}.0.\1"),
            (rf"{ATTENTION}{theirs}\.1\.0\.(.*)", rf"context.{ours}.1.\1"),
            (rf"{ATTENTION}{theirs}\.2\.(weight)", rf"context.{ours}.3.\1"),
            (rf"{ATTENTION}{theirs}\.3\.0\.(.*)", rf"context.{ours}.4.\1"),
        )
    ),
    (r"ocr_distri_head\.conv_bn_dropout\.0\.(weight)", r"g.0.\1"),  # context before pixels there, too
    (r"ocr_distri_head\.conv_bn_dropout\.1\.0\.(.*)", r"g.1.\1"),
    (r"cls_head\.(.*)", r"head.\1"),
)


def encoder_of(model: nn.Module) -> Encoder:
    """The encoder of a network that has one; nn.Module knows no type of it."""
    return cast(Encoder, model.encoder)


def dilates_first(model: nn.Module) -> bool:
    """Whether the first block of a dilated stage is dilated; at output stride 32 there is no such stage."""
    return encoder_of(model).dilate_first and encoder_of(model).output_stride < 32


def deeplabv3_needs(model: nn.Module) -> str:
    """DeepLabV3 is our DeepLabV3+ without decoder, at output stride 8 and with plain convolutions."""
    aspp = model.get_submodule("aspp")
    convs = [m for m in aspp.get_submodule("branches").modules() if isinstance(m, nn.Conv2d)]
    rates = tuple(conv.dilation[0] for conv in convs if conv.dilation[0] > 1)
    plain = all(conv.groups == 1 for conv in convs)
    same = plain and rates == (12, 24, 36) and aspp.image_pooling is not None
    if same and encoder_of(model).output_stride == 8 and not dilates_first(model):
        return ""
    return "build it with output_stride=8 and separable=False, the rest by default, for the same graph"


def semseg_needs(model: nn.Module) -> str:
    """semseg dilates the first block of a stage, too, at output stride 8, and its pyramid is the paper's."""
    parts = model.named_modules()
    first = [m for path, m in parts if path.startswith("encoder.layer3.0.") and isinstance(m, nn.Conv2d)]
    dilation = max((conv.dilation[0] for conv in first), default=0)
    if dilation == 2 and getattr(model.ppm, "bins", None) == (1, 2, 3, 6):
        return ""
    return "leave output_stride, dilate_first and bins at their defaults, for the same graph"


def smp_deeplab_needs(model: nn.Module) -> str:
    """SMP dilates every convolution of a stage that lost its stride, at output stride 16 or 8."""
    if dilates_first(model):
        return ""
    return (
        "build it with dilate_first=True, and with output_stride=16 or 8, which the file does not tell (its "
        "encoder_output_stride, by default 16), for the same graph"
    )


def corners_as_built(model: nn.Module) -> str:
    """Files of HRNet without OCR differ in how they enlarge, and no key tells."""
    return (
        f"align_corners={model.align_corners}, as the model was built: the authors' files for Cityscapes, "
        f"LIP and PASCAL-Context want False, those for ADE20K and COCO-Stuff True"
    )


def image_pooling_first(weights: dict[str, Tensor]) -> None:
    """torchvision joins the pooled branch last, DeepLabV3+ first: 256 columns of the projection move."""
    key = "aspp.project.0.weight"
    if key in weights:
        weights[key] = weights[key].roll(256, 1)                # (256, 1280, 1, 1)


def inplace_abn(weights: dict[str, Tensor]) -> None:
    """In-place activated BatchNorm scales by |weight| + eps where BatchNorm has weight alone."""
    for key in list(weights):
        stem, _, word = key.rpartition(".")
        if word == "weight" and f"{stem}.running_mean" in weights:
            weights[key] = weights[key].abs() + 1e-5


def written_by_both(layout: Layout) -> tuple[Layout, Layout]:
    """`layout` as written with torch 0.4, where the authors have in-place activated BatchNorm, and later.

    BatchNorm alone counts batches: that is all which tells one file from the other.
    """
    old = replace(
        layout,
        title=f"{layout.title}, with in-place activated BatchNorm",
        lacks=("bn1.num_batches_tracked",),
        fit=inplace_abn,
        remark=lambda model: "; ".join(filter(None, ("scales |weight| + 1e-5", layout.remark(model)))),
    )
    return old, layout


SMP = "segmentation_models_pytorch's"
HRNET = "of HRNet-Semantic-Segmentation"
LAYOUTS = (
    Layout(
        "torchvision's DeepLabV3",
        "deeplabv3plus",
        signs=("backbone.conv1.weight", "classifier.0.project.0.weight"),
        rows=TORCHVISION_DEEPLABV3,
        covers=("encoder", "aspp"),
        needs=deeplabv3_needs,
        fit=image_pooling_first,
    ),
    Layout(
        "torchvision's FCN",
        "fcn",
        signs=("backbone.conv1.weight", "classifier.4.weight"),
        rows=TORCHVISION_FCN,
    ),
    Layout(
        f"{SMP} UnetPlusPlus",
        "unetpp",
        signs=("decoder.blocks.x_0_0.conv1.0.weight", "segmentation_head.0.weight"),
        rows=SMP_UNETPP,
    ),
    Layout(
        f"{SMP} Unet",
        "unet_halved",
        signs=("decoder.blocks.0.conv1.0.weight", "segmentation_head.0.weight"),
        rows=SMP_UNET,
    ),
    Layout(
        f"{SMP} PSPNet",
        "pspnet",
        signs=("decoder.psp.blocks.1.pool.1.0.weight", "segmentation_head.0.weight"),
        rows=SMP_ENCODER,
        covers=("encoder",),
        remark=lambda model: "layer3 and layer4 never run there: they are as its training found them",
    ),
    Layout(
        f"{SMP} DeepLabV3Plus",
        "deeplabv3plus",
        signs=("decoder.aspp.0.project.0.weight", "segmentation_head.0.weight"),
        rows=SMP_ENCODER,
        covers=("encoder",),
        needs=smp_deeplab_needs,
        remark=lambda model: f"output stride {encoder_of(model).output_stride} here, there unknown",
    ),
    Layout(
        "semseg's PSPNet",
        "pspnet",
        signs=("layer0.0.weight", "ppm.features.0.1.weight"),
        rows=SEMSEG_PSPNET,
        options={"align_corners": True},
        needs=semseg_needs,
    ),
    Layout(
        "NVlabs' SegFormer",
        "segformer",
        signs=("backbone.patch_embed1.proj.weight", "decode_head.linear_c1.proj.weight"),
        rows=SEGFORMER_OF_NVLABS,
        whole="SegFormer as published",
    ),
    Layout(
        "Hugging Face's SegFormer",
        "segformer",
        signs=("segformer.encoder.patch_embeddings.0.proj.weight", "decode_head.linear_fuse.weight"),
        rows=SEGFORMER_OF_HUGGING_FACE,
        whole="SegFormer as published",
    ),
    Layout(
        "NVlabs' Mix Transformer",
        "mit",
        signs=("patch_embed1.proj.weight", "block1.0.attn.kv.weight", "head.weight"),
        rows=MIT_OF_NVLABS,
        whole="its four stages",
    ),
    Layout(
        "Hugging Face's Mix Transformer",
        "mit",
        signs=("segformer.encoder.patch_embeddings.0.proj.weight", "classifier.weight"),
        rows=MIT_OF_HUGGING_FACE,
        whole="its four stages",
    ),
    *written_by_both(
        Layout(
            f"HRNet+OCR {HRNET}",
            "hrnet_ocr",
            signs=("stage4.0.branches.3.0.conv1.weight", "conv3x3_ocr.0.weight"),
            rows=HRNET_OCR,
            options={"align_corners": True},
            needs=lambda model: "" if model.ocr else "build it with ocr=True",
            whole="HRNet+OCR as published",
        )
    ),
    *written_by_both(
        Layout(
            f"HRNet {HRNET}",
            "hrnet_ocr",
            signs=("stage4.0.branches.3.0.conv1.weight", "last_layer.0.weight"),
            rows=HRNET_PLAIN,
            covers=("encoder", "regions"),
            remark=corners_as_built,
            whole="HRNet as published",
        )
    ),
    Layout(
        "HRNet's ImageNet classifier",
        "hrnet",
        signs=("stage4.0.branches.3.0.conv1.weight", "incre_modules.0.0.conv1.weight"),
        rows=HRNET_CLASSIFIER,
        whole="its four maps",
    ),
)
REFUSED = (
    Refused(
        "mmsegmentation's SegFormer",
        ("backbone.layers.0.0.projection.weight",),
        "its head is another network, with a BatchNorm and ReLU at each level before the fuse",
    ),
    Refused(
        "transformers' SegFormer as it is in memory",
        ("segformer.stages.0.patch_embeddings.proj.weight",),
        "write it with save_pretrained, which uses the names that its files have",
    ),
    Refused(
        "openseg's HRNet+OCR",
        ("conv3x3.0.weight", "cls_head.weight"),
        "another network under the name: leaky ReLU, a 3×3 convolution before the regions, and more biases",
    ),
    Refused(
        "mmsegmentation's OCRNet",
        ("decode_head.1.object_context_block.query_project.0.conv.weight",),
        "its convolutions have no biases and its corners are not aligned; known is the authors' HRNet+OCR",
    ),
)

# By network: keys of what has one row a class, and of the heads that it can be built without.
CLASSIFIERS = {
    "unet": r"head\.",
    "unet_halved": r"head\.",
    "fcn": r"(aux_)?classifier\.4\.",
    "pspnet": r"(head|aux)\.4\.",
    "unetpp": r"heads\.\d\.",
    "deeplabv3plus": r"head\.",
    "segformer": r"head\.classify\.",
    "hrnet_ocr": r"(head|regions\.3)\.",
}
AUXILIARY = {"fcn": "aux_classifier.", "pspnet": "aux."}
# The part whose width an option sets, the option, and the keys that show it.
WIDTHS = {
    "unet_halved": ("decoder", "decoder_channels", r"decoder\.\d\.conv2\.0\.weight"),
    "segformer": ("head", "width", r"head\.fuse\.weight"),
}
