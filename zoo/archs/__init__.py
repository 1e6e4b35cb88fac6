"""One paper, one file.  Importing this package registers every architecture, in the order of their years."""

# isort: off
from zoo.archs import unet
from zoo.archs import unet_halved
from zoo.archs import fcn
from zoo.archs import pspnet
from zoo.archs import unetpp
from zoo.archs import deeplabv3plus
from zoo.archs import hrnet_ocr
from zoo.archs import segformer
# isort: on

__all__ = ["deeplabv3plus", "fcn", "hrnet_ocr", "pspnet", "segformer", "unet", "unet_halved", "unetpp"]
