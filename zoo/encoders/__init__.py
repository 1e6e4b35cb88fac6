"""Encoders: image -> feature pyramid.  One paper, one file; `build` makes any of them by name."""

from zoo.encoders import efficientnet, regnet, resnet, xception
from zoo.encoders.encoder import Encoder, Normalisation
from zoo.errors import InputError, nearest

__all__ = ["Encoder", "Normalisation", "build", "names", "pretrained_names"]

_FAMILIES = (
    (resnet.ResNet, resnet.VARIANTS),
    (efficientnet.EfficientNet, efficientnet.VARIANTS),
    (regnet.RegNet, regnet.VARIANTS),
    (xception.Xception, xception.VARIANTS),
)
_ENCODERS = {name: (cls, row) for cls, variants in _FAMILIES for name, row in variants.items()}


def names() -> tuple[str, ...]:
    """Every name that `build` knows."""
    return tuple(_ENCODERS)


def pretrained_names() -> tuple[str, ...]:
    """Every name that `build` knows ImageNet weights for."""
    from zoo.encoders.pretrained import NAMES

    return tuple(name for name in _ENCODERS if name in NAMES)


def build(
    name: str,
    in_channels: int = 3,
    *,
    pretrained: bool = False,
    output_stride: int = 32,
    dilate_first: bool = False,
    depth: int = 5,
) -> Encoder:
    """The encoder called `name`.

    pretrained: ImageNet weights, downloaded once (see `zoo.encoders.pretrained`); else random ones.
    output_stride: 32, 16 or 8; strides beyond it become dilation, with the same weights.
    dilate_first: whether the first block of a dilated stage uses the new dilation (see `Strides`).
    depth: how many maps are wanted, finest first; stages behind the last of them are not built.

    Raises InputError for an unknown name (with the nearest ones) or impossible channels, stride or depth.
    """
    if name not in _ENCODERS:
        raise InputError(f"unknown encoder {name!r}; {nearest(str(name), _ENCODERS)}")
    if in_channels < 1:
        raise InputError(f"in_channels of encoder {name} must be a whole number >= 1, not {in_channels!r}")
    cls, row = _ENCODERS[name]
    encoder = cls(
        in_channels, **row, output_stride=output_stride, dilate_first=dilate_first, depth=depth
    )  # type: ignore[arg-type]
    encoder.output_stride, encoder.dilate_first = output_stride, dilate_first
    if pretrained:
        from zoo.encoders.pretrained import load

        load(encoder, name)
    return encoder
