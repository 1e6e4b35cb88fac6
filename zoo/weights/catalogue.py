"""The whole networks that can be downloaded, by name.  (Encoders' weights: `zoo.encoders.pretrained`.)"""

from dataclasses import dataclass
from pathlib import Path

from zoo import download
from zoo.encoders import Normalisation
from zoo.encoders.pretrained import IMAGENET
from zoo.errors import InputError, nearest

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A whole network that anyone can download.

    build: keywords of `zoo.build` besides the name.  sha256: how it begins.  mebibytes: of the file.
    """

    architecture: str
    build: dict[str, object]
    url: str
    sha256: str
    mebibytes: float
    classes: tuple[str, ...]
    normalisation: Normalisation
    licence: str


def _fcn(encoder: str, sha256: str, mebibytes: float) -> Published:
    """By torchvision's references/segmentation: images of COCO, classes of VOC."""
    build: dict[str, object] = {"encoder": encoder, "num_classes": len(VOC), "aux": True}
    url = f"https://download.pytorch.org/models/fcn_{encoder}_coco-{sha256}.pth"
    return Published("fcn", build, url, sha256, mebibytes, VOC, IMAGENET, "BSD-3-Clause")


_KNOWN = {
    "fcn_resnet50_coco": _fcn("resnet50", "1167a1af", 135.009),
    "fcn_resnet101_coco": _fcn("resnet101", "7ecb50ca", 207.711),
}


def known() -> dict[str, Published]:
    """Every name that `zoo.build(…, pretrained=name)` takes for a whole network."""
    return dict(_KNOWN)


def published(architecture: str, name: str) -> Published:
    """The weights called `name`, if they are of `architecture`.  Raises InputError with the nearest names."""
    found = _row(name)
    if found.architecture != architecture:
        raise InputError(f"{name} are weights of {found.architecture}, not of {architecture}")
    return found


def fetch(name: str) -> Path:
    """The file of the weights called `name`, downloaded once.  Raises InputError."""
    found = _row(name)
    return download.fetch(found.url, sha256=found.sha256)


def _row(name: str) -> Published:
    if name not in _KNOWN:
        raise InputError(f"unknown weights {name!r}; {nearest(str(name), _KNOWN)}; see zoo.weights.known()")
    return _KNOWN[name]
