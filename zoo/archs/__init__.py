"""One paper, one file.  Importing this package registers every architecture, in the order of their years."""

from zoo.archs import unet, unetpp

__all__ = ["unet", "unetpp"]
