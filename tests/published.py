"""What papers and their authors' code published: literals, which notes and recipes must repeat.

PUBLISHED: (architecture, setting) -> (value in our words, where it is said).  The place is quoted by the
note's section 6, in its column "origin".
Below it, numbers of networks that are not ours to count: other people's code, or the papers' own print.
"""

from typing import NamedTuple

_HRNET_OCR = "the HRNet-OCR code"
_REFERENCES = "torchvision's references"
_TENSORFLOW = "the TensorFlow code"

PUBLISHED: dict[tuple[str, str], tuple[object, str]] = {
    ("unet", "optimizer"): ("sgd", "Sec. 3"),
    ("unet", "momentum"): (0.99, "Sec. 3"),
    ("unet", "batch"): (1, "Sec. 3"),
    ("unet", "accumulate"): (1, "Sec. 3"),
    ("unet", "size"): ((388, 388), "Fig. 1"),
    ("unet", "loss"): ("weighted_ce", "Eq. 1 and 2"),
    ("unet", "augment"): ("shift+rotate+grey+elastic", "Sec. 3.1"),
    ("unet", "amp"): ("off", "Caffe computes in float32"),
    ("unetpp", "optimizer"): ("adamw", "2018 Sec. 4"),
    ("unetpp", "weight_decay"): (0.0, "2018 Sec. 4"),
    ("unetpp", "lr"): (3e-4, "2018 Sec. 4"),
    ("unetpp", "loss"): ("0.5*bce+dice", "2018 Eq. 2"),
    ("unetpp", "size"): ((96, 96), "2018 Table 1"),
    ("unetpp", "amp"): ("off", "Keras computes in float32"),
    ("unet_halved", "encoder"): ("efficientnet_b7", "the team's choice"),
    ("unet_halved", "size"): ((1024, 1024), "the team's finding: 1024 beat 512"),
    ("unet_halved", "loss"): ("bce+dice", "the team's finding: it converged faster than bce"),
    ("unet_halved", "augment"): ("flip", "the team's finding: flip alone +0.005 Dice, the best"),
    ("fcn", "pretrained"): (True, _REFERENCES),
    ("fcn", "optimizer"): ("sgd", _REFERENCES),
    ("fcn", "momentum"): (0.9, _REFERENCES),
    ("fcn", "lr"): (0.02, _REFERENCES),
    ("fcn", "weight_decay"): (1e-4, _REFERENCES),
    ("fcn", "decay_on"): ("all", _REFERENCES),
    ("fcn", "schedule"): ("poly", _REFERENCES),
    ("fcn", "batch"): (32, f"{_REFERENCES}: 8 GPUs with 4 images each"),
    ("fcn", "size"): ((480, 480), _REFERENCES),
    ("fcn", "augment"): ("crop+flip", f"{_REFERENCES}; scales 0.5 to 2 of a shorter side of 520 there"),
    ("fcn", "loss"): ("ce", _REFERENCES),
    ("fcn", "epochs"): (30, _REFERENCES),
    ("fcn", "amp"): ("off", _REFERENCES),
    ("fcn", "warmup"): (0.0, _REFERENCES),
    ("fcn", "clip"): (0.0, _REFERENCES),
    ("pspnet", "pretrained"): (True, "Sec. 3.3"),
    ("pspnet", "optimizer"): ("sgd", "semseg"),
    ("pspnet", "momentum"): (0.9, "Sec. 5.1"),
    ("pspnet", "lr"): (0.01, "Sec. 5.1"),
    ("pspnet", "head_lr"): (10.0, "semseg"),
    ("pspnet", "weight_decay"): (1e-4, "Sec. 5.1"),
    ("pspnet", "decay_on"): ("all", "semseg"),
    ("pspnet", "schedule"): ("poly", "Sec. 5.1"),
    ("pspnet", "batch"): (16, "Sec. 5.1"),
    ("pspnet", "size"): ((473, 473), "semseg, VOC 2012"),
    ("pspnet", "augment"): ("crop+rotate+blur+flip", "Sec. 5.1; rotation up to 10 degrees there, 15 here"),
    ("pspnet", "loss"): ("ce", "Sec. 4"),
    ("pspnet", "epochs"): (50, "semseg, VOC 2012"),
    ("pspnet", "amp"): ("off", "semseg computes in float32"),
    ("pspnet", "warmup"): (0.0, "semseg"),
    ("pspnet", "clip"): (0.0, "semseg"),
    ("deeplabv3plus", "pretrained"): (True, "Sec. 4"),
    ("deeplabv3plus", "optimizer"): ("sgd", _TENSORFLOW),
    ("deeplabv3plus", "momentum"): (0.9, _TENSORFLOW),
    ("deeplabv3plus", "lr"): (0.007, "Sec. 4"),
    ("deeplabv3plus", "weight_decay"): (4e-5, _TENSORFLOW),
    ("deeplabv3plus", "decay_on"): ("dense", f"{_TENSORFLOW}: no biases, norms, depthwise kernels"),
    ("deeplabv3plus", "schedule"): ("poly", "Sec. 4"),
    ("deeplabv3plus", "batch"): (16, "DeepLabV3 Sec. 4.1"),
    ("deeplabv3plus", "size"): ((513, 513), "Sec. 4"),
    ("deeplabv3plus", "augment"): ("crop+flip", "DeepLabV3 Sec. 4.1; scales in steps of 0.25 there"),
    ("deeplabv3plus", "loss"): ("ce", _TENSORFLOW),
    ("deeplabv3plus", "epochs"): (46, "DeepLabV3 Sec. 4.1: 30,000 steps of 16 of 10,582 images, rounded up"),
    ("deeplabv3plus", "amp"): ("off", "TensorFlow computes in float32"),
    ("deeplabv3plus", "warmup"): (0.0, _TENSORFLOW),
    ("deeplabv3plus", "clip"): (0.0, _TENSORFLOW),
    ("hrnet_ocr", "pretrained"): (True, "Sec. 4.2"),
    ("hrnet_ocr", "options"): ({"align_corners": True}, _HRNET_OCR),
    ("hrnet_ocr", "optimizer"): ("sgd", _HRNET_OCR),
    ("hrnet_ocr", "momentum"): (0.9, _HRNET_OCR),
    ("hrnet_ocr", "lr"): (0.01, "Sec. 4.2"),
    ("hrnet_ocr", "head_lr"): (1.0, f"{_HRNET_OCR}: 10 for PASCAL-Context and COCO-Stuff alone"),
    ("hrnet_ocr", "weight_decay"): (5e-4, "Sec. 4.2"),
    ("hrnet_ocr", "decay_on"): ("all", _HRNET_OCR),
    ("hrnet_ocr", "schedule"): ("poly", "Sec. 4.2"),
    ("hrnet_ocr", "batch"): (12, f"{_HRNET_OCR}: 4 GPUs with 3 images each"),
    ("hrnet_ocr", "size"): ((512, 1024), _HRNET_OCR),
    ("hrnet_ocr", "augment"): ("crop+flip", f"{_HRNET_OCR}; 0.5 to 2 here, in no steps"),
    ("hrnet_ocr", "loss"): ("ce", "Sec. 3.3; class weights are left out"),
    ("hrnet_ocr", "epochs"): (484, _HRNET_OCR),
    ("hrnet_ocr", "amp"): ("off", _HRNET_OCR),
    ("hrnet_ocr", "warmup"): (0.0, _HRNET_OCR),
    ("hrnet_ocr", "clip"): (0.0, _HRNET_OCR),
    **{
        (f"segformer_{size}", setting): row
        for size in ("b0", "b1", "b2", "b3", "b4", "b5")
        for setting, row in {
            "pretrained": (True, "Sec. 4.1"),
            "optimizer": ("adamw", "Sec. 4.1"),
            "lr": (6e-5, "Sec. 4.1"),
            "head_lr": (10.0, "the code"),
            "weight_decay": (0.01, "the code"),
            "decay_on": ("not_norm", "the code"),
            "schedule": ("linear", "Sec. 4.1"),
            "warmup": (1.19, "the code: 1500 of 1263 iterations an epoch"),
            "batch": (16, "Sec. 4.1"),
            "size": ((640, 640) if size == "b5" else (512, 512), "Sec. 4.1"),
            "augment": ("crop+flip+colour", "Sec. 4.1, the code"),
            "loss": ("ce", "Sec. 4.1"),
            "epochs": (127, "Sec. 4.1: of 16 of 20,210 images, rounded up"),
            "amp": ("off", "the code"),
            "clip": (0.0, "the code"),
        }.items()
    },
}  # fmt: skip

# Billions of multiply-adds in Tables 3 and 5 of DeepLabV3+, by the note's cells: encoder, options, classes.
DEEPLAB_MACS = {
    ("Xception-65", "", "21"): "54.17",
    ("Xception-65", "`output_stride=8`", "21"): "177.10",
    ("Xception-65", "`separable=False`", "21"): "89.76",
    ("Xception-65", "`separable=False`, `output_stride=8`", "21"): "262.59",
    ("ResNet-101, stem of three 3×3", "`separable=False`", "21"): "101.28",
}
# Side of the input that each is scaled with, in the authors' efficientnet_builder.py.
EFFICIENTNET_SIZES = {
    "efficientnet_b0": 224, "efficientnet_b1": 240, "efficientnet_b2": 260, "efficientnet_b3": 300,
    "efficientnet_b4": 380, "efficientnet_b5": 456, "efficientnet_b6": 528, "efficientnet_b7": 600,
}  # fmt: skip


class Rounded(NamedTuple):
    """A RegNet that its authors' code rounds otherwise than torchvision: stages, their widths, its size."""

    name: str
    stages: tuple[int, ...]
    widths: tuple[int, ...]
    parameters: int


# Counted with pycls' rule and timm's networks of the same names; by the first cell of the note.
REGNET_ROUNDED = {
    "X-400MF, stage 4, groups of 16": Rounded("regnet_x_400mf", (4,), (384,), 5_157_512),
    "Y-800MF, stages 2 and 4, groups of 16": Rounded("regnet_y_800mf", (2, 4), (128, 768), 6_263_168),
    "Y-8GF, stage 1, groups of 56": Rounded("regnet_y_8gf", (1,), (168,), 39_180_068),
}

# Phrases of the notes with numbers of others: note -> {phrase: where it is from}.
PHRASES: dict[str, dict[str, str]] = {
    "deeplabv3plus": {
        "runs 30,000 steps": "DeepLabV3 Sec. 4.1",
        "26,682,725 (R50)": "counted with segmentation_models_pytorch 0.6.0",
        "39,761,845 (R50)": "counted with VainF/DeepLabV3Plus-Pytorch",
        "54,705,317 (X65)": "counted with jfzhang95/pytorch-deeplab-xception",
    },
    "fcn": {"torchvision states 152.717 and 232.738 billion": "torchvision's weights, _ops"},
    "hrnet": {
        "45.2 million parameters, where it makes 45.9": "the paper; counted with the authors' code",
        "for 160,000 steps": "mmsegmentation's list of models",
    },
    "ocr": {
        "which the paper prints as 1,206.3": "as printed for it, in units of 2^30",
        "74,520,390 | 70,371,446": "counted from the definitions in openseg.pytorch and mmsegmentation",
        "74.5 million parameters": "the same, rounded",
        "for 160,000 steps": "mmsegmentation's list of models",
        "shares of 100,000 pixels": "no network: about as many as a crop of Cityscapes has",
        "166,912 equal pixels": "no network: the number is the test's",
    },
    "pspnet": {
        "150,000 for ADE20K, 30,000 for VOC, 90,000 for Cityscapes": "Sec. 5.1",
        "24,393,173": "counted with segmentation_models_pytorch 0.6.0",
        "22 million lie idle": "the same: parameters without a gradient",
    },
    "segformer": {
        "after 40,000 iterations": "Table 1b",
        "95.7 G, and 183.3": "Table 1a",
        "125.5 to 1460.4 G": "Table 1a",
        "24,761,686 parameters": "counted with mmsegmentation's SegformerHead",
    },
    "unet": {"17,263,042 (3 channels, 2 classes)": "counted with milesial/Pytorch-UNet, bilinear=True"},
    "unetpp": {
        "The 9.13 M of the wide U-Net": "2018 Table 3",
        "9,162,753 parameters": "counted with 4uiiurz1/pytorch-nested-unet, which has BatchNorm, too",
    },
    "xception": {"20,806,952 parameters": "counted with VainF/DeepLabV3Plus-Pytorch, without the classifier"},
}
