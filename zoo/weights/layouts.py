"""The files that we know: one table a source, their keys -> ours."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from zoo.encoders import Encoder

# (pattern of their key, our key): the first that matches a whole key decides.  None: dropped on purpose.
Rows = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Layout:
    """A kind of file, and how it fills one of our architectures.

    signs: keys that tell it from all other kinds behind it in LAYOUTS.
    covers: the parts of our network that it fills, where these are not all; the others stay fresh.
    options: of our network, to be set with these weights.
    needs: what our network must have been built with though no shape shows it: "" or what to do.
    fit: a last change to the mapped weights.
    remark: what else whoever loads it should know of these weights in this network, "" or a few words.
    """

    title: str
    architecture: str
    signs: tuple[str, ...]
    rows: Rows
    covers: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    needs: Callable[[nn.Module], str] = lambda model: ""
    fit: Callable[[dict[str, Tensor]], None] = lambda weights: None
    remark: Callable[[nn.Module], str] = lambda model: ""


AS_IS: Rows = ((r".*", r"\g<0>"),)
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


def unseen(model: nn.Module) -> dict[str, Any]:
    """Options that change what the weights compute but none of their shapes, as {keyword: value}.

    Rates count in pixels of the input, for those of another output stride see the same places.
    """
    found: dict[str, Any] = {}
    if model.encoder is not None:
        found["dilate_first"] = dilates_first(model)
    if hasattr(model, "ppm"):
        found["bins"] = cast(nn.Module, model.ppm).bins
    if hasattr(model, "rates"):
        found["rates"] = tuple(r * encoder_of(model).output_stride for r in cast(Iterable[int], model.rates))
    return found


def own_needs(model: nn.Module, theirs: nn.Module) -> str:
    """What `model` must be built with for the graph of `theirs`, the network that the weights are of."""
    here, there = unseen(model), unseen(theirs)
    words = [word for word in there if here.get(word) != there[word]]
    if not words:
        return ""
    stride, rates = encoder_of(model).output_stride, there.get("rates", ())
    undilated = stride == 32 and there["dilate_first"]
    if undilated or any(rate % stride for rate in rates):  # only their own output stride will do
        stride = encoder_of(theirs).output_stride
        words.append("output_stride")
    values = {**there, "rates": tuple(rate // stride for rate in rates), "output_stride": stride}
    needed = [f"{word}={values[word]}" for word in words]
    return f"build it with {', '.join(needed)}, for the same graph"


def own_remark(model: nn.Module, theirs: nn.Module) -> str:
    """The output stride, where it is another: the weights serve at every one (see `Strides`)."""
    there, here = encoder_of(theirs).output_stride, encoder_of(model).output_stride
    return "" if there == here else f"output stride {there} there, {here} here"


def image_pooling_first(weights: dict[str, Tensor]) -> None:
    """torchvision joins the pooled branch last, DeepLabV3+ first: 256 columns of the projection move."""
    key = "aspp.project.0.weight"
    if key in weights:
        weights[key] = weights[key].roll(256, 1)                # (256, 1280, 1, 1)


SMP = "segmentation_models_pytorch's"
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
)

# Our keys of what has one row a class, and of the heads that a network can be built without.
CLASSIFIERS = {
    "unet": r"head\.",
    "unet_halved": r"head\.",
    "fcn": r"(aux_)?classifier\.4\.",
    "pspnet": r"(head|aux)\.4\.",
    "unetpp": r"heads\.\d\.",
    "deeplabv3plus": r"head\.",
}
AUXILIARY = {"fcn": "aux_classifier.", "pspnet": "aux."}
