"""If these break, papers/README.md tells a student that a network sees farther, or finer, than it does."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import zoo
from tests.archs.fields import fields, gradient, positive
from zoo.encoders.mit import Attention
from zoo.profile import profile

WHOLE = "whole image"
# Pixels in a row that an output pixel sees, two numbers where its place in the coarsest map's grid matters.
FIELDS = {
    "unet": "188 or 204",
    "unet_halved": "995 or 1027",
    "fcn": "451",
    "pspnet": WHOLE,
    "unetpp": "188 or 204",
    "deeplabv3plus": WHOLE,
    "hrnet_ocr": WHOLE,
    **{f"segformer_b{n}": WHOLE for n in range(6)},
}
# (module, stride) of the coarsest map, and of the logits before they are enlarged.
STRIDES = {
    "unet": (("bottom", 16), ("head", 1)),
    "unet_halved": (("encoder", 32), ("head", 1)),
    "fcn": (("backbone", 8), ("classifier", 8)),
    "pspnet": (("encoder", 8), ("head", 8)),
    "unetpp": (("x.40", 16), ("heads.4", 1)),
    "deeplabv3plus": (("encoder", 16), ("head", 4)),
    "hrnet_ocr": (("encoder", 32), ("head", 4)),
    **{f"segformer_b{n}": (("encoder", 32), ("head", 4)) for n in range(6)},
}
# How each that sees everything does so: take these away, and it does not beyond so many pixels.
BY = {
    "pspnet": (lambda path, m: path.startswith("ppm.branches."), 1024),
    "deeplabv3plus": (lambda path, m: path == "aspp.image_pooling", 3072),
    "hrnet_ocr": (lambda path, m: path == "context", 4096),
    "segformer_b0": (lambda path, m: isinstance(m, Attention), 1024),
}
EVERYTHING = [name for name, field in FIELDS.items() if field == WHOLE]


def test_every_architecture_is_stated() -> None:
    assert list(FIELDS) == list(STRIDES) == zoo.names()
    assert {name.rstrip("012345") for name in EVERYTHING} == {name.rstrip("012345") for name in BY}


@pytest.mark.parametrize(
    ("name", "options", "shape", "period"),
    [
        ("unet", {"width": 1}, (444, 188), 16),
        ("unet_halved", {}, (1536, 1), 32),
        ("fcn", {}, (1024, 1), 8),
        ("unetpp", {"width": 1}, (480, 32), 16),
    ],
)
def test_receptive_field(name: str, options: dict, shape: tuple[int, int], period: int) -> None:
    """Of the rows of one period in the middle, where no border cuts the field."""
    model = zoo.build(name, 1, **options)
    middle = (shape[0] - 2 * model.margin) // 2
    spans = fields(model, *shape, rows=range(middle, middle + period))
    assert all(first > 0 and last < shape[0] - 1 for first, last in spans) or name == "unet"
    widths = sorted({last - first + 1 for first, last in spans})
    assert " or ".join(map(str, widths)) == FIELDS[name]


def network(name: str) -> nn.Module:
    """Options at their defaults, with weights by which far pixels count enough to be measured.

    MiT's are its own, for the LayerNorm of equal channels is 0, whatever comes in.  HRNet's width, which has
    no say in how far it sees, is its smallest.
    """
    model = zoo.build(name, 1, encoder="hrnet_w18" if name == "hrnet_ocr" else None)
    return model.double().eval() if name.startswith("segformer") else positive(model)


def reach(model: nn.Module, height: int) -> float:
    """How much the first row of a picture of that height moves the last row of the logits."""
    width = 29 if model.min_size == 29 else 1  # MiT's kernels want as much; else a column will do
    x = torch.rand(1, 3, height, width, dtype=torch.float64)
    return gradient(model, x, [height - 1])[0][0].item()


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_farthest_pixel_counts(name: str) -> None:
    assert reach(network(name), 544) > 0


@pytest.mark.parametrize("name", BY)
def test_without_its_context_the_farthest_pixel_does_not_count(name: str) -> None:
    """Else "whole image" would only say that the picture was too small."""
    model = network(name)
    where, height = BY[name]
    whole = reach(model, height)
    assert cut(model, where) > 0
    assert (whole > 0, reach(model, height)) == (True, 0.0)


def cut(model: nn.Module, where: Callable[[str, nn.Module], bool]) -> int:
    """Let no gradient through these modules; how many they are."""
    modules = [module for path, module in model.named_modules() if where(path, module)]
    for module in modules:
        module.register_forward_hook(lambda m, inputs, output: output.detach())
    return len(modules)


@pytest.mark.parametrize("name", zoo.names())
def test_output_stride(name: str) -> None:
    """By how much the input grows for one row more of the coarsest map, and of the logits."""
    with torch.device("meta"):
        model = zoo.build(name)
    small, large = (profile(model, size) for size in (572, 572 + 512))
    for path, stride in STRIDES[name]:
        assert 512 / (large[path].shape[1] - small[path].shape[1]) == stride, path
    assert stride == min(s for _, s in STRIDES[name])
