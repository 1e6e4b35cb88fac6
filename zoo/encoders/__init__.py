"""Encoders: image -> feature pyramid.  One paper, one file; `build` makes any of them by name."""

from zoo.encoders import efficientnet, hrnet, mit, regnet, resnet, xception
from zoo.encoders.encoder import Encoder, Normalisation
from zoo.errors import InputError, nearest
from zoo.options import check_options

__all__ = ["Encoder", "Normalisation", "build", "family", "names", "pretrained_names"]

_FAMILIES: tuple[tuple[type[Encoder], dict], ...] = (
    (resnet.ResNet, resnet.VARIANTS),
    (efficientnet.EfficientNet, efficientnet.VARIANTS),
    (regnet.RegNet, regnet.VARIANTS),
    (xception.Xception, xception.VARIANTS),
    (hrnet.HRNet, hrnet.VARIANTS),
    (mit.MixTransformer, mit.VARIANTS),
)
_ENCODERS = {name: (cls, row) for cls, variants in _FAMILIES for name, row in variants.items()}


def names(*, dilatable: bool = False) -> tuple[str, ...]:
    """Every name that `build` knows.

    dilatable: only those with five maps from stride 2 on, whose strides can be traded for dilation: neither
        HRNet nor MiT.
    """
    return tuple(name for name, (cls, _) in _ENCODERS.items() if cls.dilatable or not dilatable)


def family(name: str) -> type[Encoder]:
    """The class of the encoder called `name`."""
    return _ENCODERS[name][0]


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
    depth: int | None = None,
    **options: object,
) -> Encoder:
    """The encoder called `name`.

    pretrained: ImageNet weights, downloaded once (see `zoo.encoders.pretrained`); else random ones.
    output_stride: 32, 16 or 8; strides beyond it become dilation, with the same weights.
    dilate_first: whether the first block of a dilated stage uses the new dilation (see `Strides`).
    depth: how many maps are wanted, finest first; stages behind the last of them are not built.  None: all.
    options: the family's own, see its class's `options`; only MiT has any.

    Raises InputError for an unknown name or option (with the nearest ones), or impossible values.
    """
    if name not in _ENCODERS:
        raise InputError(f"unknown encoder {name!r}; {nearest(str(name), _ENCODERS)}")
    if in_channels < 1:
        raise InputError(f"in_channels of encoder {name} must be a whole number >= 1, not {in_channels!r}")
    cls, row = _ENCODERS[name]
    check_options(f"encoder {name}", cls, cls.options, options)
    how: dict = {**row, **options, "output_stride": output_stride, "dilate_first": dilate_first}
    encoder: Encoder = cls(in_channels, **how, **({} if depth is None else {"depth": depth}))
    encoder.name, encoder.output_stride, encoder.dilate_first = name, output_stride, dilate_first
    if pretrained:
        from zoo.encoders.pretrained import load

        load(encoder, name)
    return encoder
