"""Images that are the same, or nearly: by the hash of their pixels, and by one of what they look like.

The perceptual hash has BITS bits, by the lowest frequencies of the image: grey levels averaged to 64×64,
a cosine transform, its first 16×16 coefficients, each above their median or not.  A copy that was resized,
saved as JPEG, or made brighter moves few of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SIDE, LOW = 64, 16  # pixels that are transformed, coefficients that are kept, along each axis
BITS = LOW * LOW
# Bits of BITS by which two images may differ and still be reported, a tenth.  Copies at 0.6 of the size,
# brighter and as JPEG of quality 60 differ by 24 at most (404 images of four sets); different images by 46
# at least (phantoms; 78 and more in chest X-rays and microscopy), but frames of a film by as few as 10.
NEAR = 26
BLOCK = 1024  # images compared with all others at once


@dataclass(frozen=True)
class Duplicate:
    """Images a < b, by number.  how: "same pixels", "nearly the same", "mirrored".

    bits: of BITS, that differ.
    """

    a: int
    b: int
    how: str
    bits: int


def perceptual(grey: np.ndarray) -> np.ndarray:
    """The hash of uint8 (H, W): bool (BITS,)."""
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:LOW, :LOW].ravel()
    low[0] = 0  # brightness alone
    low[np.abs(low) < 0.1] = 0  # of one level throughout
    return np.asarray(low > np.median(low))


def distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Bits that differ, int (n, m), between hashes bool (n, BITS) and (m, BITS)."""
    a, b = (np.where(hashes, np.float32(1), np.float32(-1)) for hashes in (ours, theirs))
    return ((ours.shape[1] - a @ b.T) / 2).astype(np.int32)


def find(
    pixels: Sequence[bytes], hashes: np.ndarray, mirrored: np.ndarray, near: int = NEAR
) -> list[Duplicate]:
    """All pairs with the same pixels, or with hashes at most `near` bits apart, the closest first.

    pixels: a hash of each image's pixels.  hashes, mirrored: bool (n, BITS), of each image and of its mirror
    image.  Images of one level throughout (whose hashes say nothing) are only the same by their pixels.
    """
    found = []
    flat = np.asarray(~hashes.any(axis=1))
    number = {held: i for i, held in enumerate(pixels)}
    kind = np.array([number[held] for held in pixels])
    for start in range(0, len(hashes), BLOCK):
        block = slice(start, start + BLOCK)
        straight, across = (distances(of[block], hashes) for of in (hashes, mirrored))
        best = np.minimum(straight, across)
        best[flat[block]] = best[:, flat] = BITS
        same = kind[block, None] == kind
        later = np.arange(len(hashes)) > np.arange(start, start + len(best))[:, None]
        for i, j in zip(*np.nonzero(((best <= near) | same) & later), strict=True):
            bits = 0 if same[i, j] else int(best[i, j])
            how = "nearly the same" if straight[i, j] <= across[i, j] else "mirrored"
            found.append(Duplicate(start + int(i), int(j), "same pixels" if same[i, j] else how, bits))
    return sorted(found, key=lambda d: (d.how != "same pixels", d.bits, d.a, d.b))
