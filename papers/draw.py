"""Draws the notes' pictures from the networks themselves: python papers/draw.py

The shapes are those of a forward pass (`zoo.profile`), so a picture cannot disagree with the code; a test
compares the files with what this script draws.
"""

from pathlib import Path

from pictures import architectures, encoders

PICTURES = {
    "unet.svg": architectures.unet,
    "unetpp.svg": architectures.unetpp,
    "unet_halved.svg": architectures.unet_halved,
    "fcn.svg": architectures.fcn,
    "pspnet.svg": architectures.pspnet,
    "deeplabv3plus.svg": architectures.deeplabv3plus,
    "ocr.svg": architectures.hrnet_ocr,
    "segformer.svg": architectures.segformer,
    "resnet.svg": encoders.resnet,
    "efficientnet.svg": encoders.efficientnet,
    "regnet.svg": encoders.regnet,
    "xception.svg": encoders.xception,
    "hrnet.svg": encoders.hrnet,
    "mit.svg": encoders.mit,
}


def main() -> None:
    """Write every picture beside this script."""
    for name, draw in PICTURES.items():
        Path(__file__).with_name(name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
