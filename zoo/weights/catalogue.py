"""The whole networks that can be downloaded, by name.  (Encoders' weights: `zoo.encoders.pretrained`.)"""

from dataclasses import dataclass
from pathlib import Path

from zoo import download
from zoo.encoders import Normalisation
from zoo.encoders.pretrained import IMAGENET, NVIDIA, NVIDIA_LICENCE
from zoo.errors import InputError, nearest
from zoo.weights.classes import ADE20K, CITYSCAPES, COCO_STUFF, LIP, PASCAL_CONTEXT, VOC


@dataclass(frozen=True)
class Published:
    """A whole network that anyone can download.

    build: keywords of `zoo.build` besides the name.  classes: names, in the order of the logits.
    sha256: how it begins; "" where none is published.  mebibytes: of the file; None where not published.
    file: its name in the cache; "" for the last part of the address.
    """

    architecture: str
    build: dict[str, object]
    url: str
    sha256: str
    mebibytes: float | None
    classes: tuple[str, ...]
    normalisation: Normalisation
    licence: str
    file: str = ""


def _fcn(encoder: str, sha256: str, mebibytes: float) -> Published:
    """By torchvision's references/segmentation: images of COCO, classes of VOC."""
    build: dict[str, object] = {"encoder": encoder, "num_classes": len(VOC), "aux": True}
    url = f"https://download.pytorch.org/models/fcn_{encoder}_coco-{sha256}.pth"
    return Published("fcn", build, url, sha256, mebibytes, VOC, IMAGENET, "BSD-3-Clause")


def _segformer(size: str, data: str, crop: str) -> Published:
    """By SegFormer's authors, in Hugging Face's layout.  crop: height and width of the training images."""
    classes = {"ade": ADE20K, "cityscapes": CITYSCAPES}[data]
    build: dict[str, object] = {"encoder": f"mit_{size}", "num_classes": len(classes)}
    repository = f"segformer-{size}-finetuned-{data}-{crop}"
    url, file = NVIDIA.format(repository), f"{repository}.bin"
    return Published(f"segformer_{size}", build, url, "", None, classes, IMAGENET, NVIDIA_LICENCE, file)


def _hrnet(file: str, classes: tuple[str, ...], **options: object) -> Published:
    """By the authors of HRNet-Semantic-Segmentation, from the links in its README."""
    build: dict[str, object] = {"encoder": "hrnet_w48", "num_classes": len(classes), **options}
    url = f"https://github.com/hsfzxjy/models.storage/releases/download/HRNet-OCR/{file}.pth"
    return Published("hrnet_ocr", build, url, "", None, classes, IMAGENET, "MIT")


_KNOWN = {
    "fcn_resnet50_coco": _fcn("resnet50", "1167a1af", 135.009),
    "fcn_resnet101_coco": _fcn("resnet101", "7ecb50ca", 207.711),
    "segformer_b0_ade20k": _segformer("b0", "ade", "512-512"),
    "segformer_b1_ade20k": _segformer("b1", "ade", "512-512"),
    "segformer_b2_ade20k": _segformer("b2", "ade", "512-512"),
    "segformer_b3_ade20k": _segformer("b3", "ade", "512-512"),
    "segformer_b4_ade20k": _segformer("b4", "ade", "512-512"),
    "segformer_b5_ade20k": _segformer("b5", "ade", "640-640"),
    "segformer_b0_cityscapes": _segformer("b0", "cityscapes", "1024-1024"),
    "segformer_b0_cityscapes_512x1024": _segformer("b0", "cityscapes", "512-1024"),
    "segformer_b0_cityscapes_640x1280": _segformer("b0", "cityscapes", "640-1280"),
    "segformer_b0_cityscapes_768x768": _segformer("b0", "cityscapes", "768-768"),
    "segformer_b1_cityscapes": _segformer("b1", "cityscapes", "1024-1024"),
    "segformer_b2_cityscapes": _segformer("b2", "cityscapes", "1024-1024"),
    "segformer_b3_cityscapes": _segformer("b3", "cityscapes", "1024-1024"),
    "segformer_b4_cityscapes": _segformer("b4", "cityscapes", "1024-1024"),
    "segformer_b5_cityscapes": _segformer("b5", "cityscapes", "1024-1024"),
    "hrnet_ocr_w48_cityscapes": _hrnet("hrnet_ocr_cs_8162_torch11", CITYSCAPES),
    "hrnet_ocr_w48_cityscapes_trainval": _hrnet("hrnet_ocr_cs_trainval_8227_torch11", CITYSCAPES),
    "hrnet_ocr_w48_pascal_context": _hrnet("hrnet_ocr_pascal_ctx_5618_torch11", PASCAL_CONTEXT),
    "hrnet_ocr_w48_lip": _hrnet("hrnet_ocr_lip_5648_torch04", LIP),
    "hrnet_ocr_w48_ade20k": _hrnet("hrnet_ocr_ade20k_4451_torch04", ADE20K),
    "hrnet_ocr_w48_coco_stuff": _hrnet("hrnet_ocr_cocostuff_3965_torch04", COCO_STUFF),
    # Without OCR; where its settings say nothing of aligned corners, the code of that time aligned them.
    "hrnet_w48_cityscapes": _hrnet("hrnet_cs_8090_torch11", CITYSCAPES, ocr=False),
    "hrnet_w48_pascal_context": _hrnet("hrnet_pascal_ctx_5410_torch11", PASCAL_CONTEXT, ocr=False),
    "hrnet_w48_lip": _hrnet("hrnet_lip_5583_torch04", LIP, ocr=False),
    "hrnet_w48_ade20k": _hrnet("hrnet_ade20k_4312_torch04", ADE20K, ocr=False, align_corners=True),
    "hrnet_w48_coco_stuff": _hrnet("hrnet_cocostuff_3617_torch04", COCO_STUFF, ocr=False, align_corners=True),
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
    return download.fetch(found.url, name=found.file, sha256=found.sha256)


def _row(name: str) -> Published:
    if name not in _KNOWN:
        raise InputError(f"unknown weights {name!r}; {nearest(str(name), _KNOWN)}; see zoo.weights.known()")
    return _KNOWN[name]
