"""How a network predicts here: memory format and precision, chosen by a look at one image.

Channels-last in float32 is right everywhere and seldom the slowest.  Contiguous memory is taken where it is
faster; bfloat16, which is two to three times as fast where the processor computes in it, where it gives the
same mask.  Both depend on the network, the machine and the weights, so they are measured and not known.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from zoo.core.device import has_bf16
from zoo.core.predictor import Predictor, harden

AGREE = 0.999  # of the pixels must be the same in bfloat16
FASTER = 0.95  # of the time of channels-last, at most: below that it is noise
PASSES = 3  # of which the fastest counts


@dataclass(frozen=True)
class Choice:
    """layout: of weights and images.  amp: dtype of autocast, None for float32.

    agreement: the share of pixels whose classes bfloat16 gets as float32 does; None where it was not tried.
    """

    layout: torch.memory_format
    amp: torch.dtype | None
    agreement: float | None

    def __str__(self) -> str:
        precision = str(self.amp or "float32").removeprefix("torch.")
        memory = "" if self.layout is torch.channels_last else ", contiguous"
        if self.agreement is None:
            return precision + memory
        other = "as in float32" if self.amp else "the same in bfloat16"
        return f"{precision}{memory} ({100 * self.agreement:.3f} % of the first image's pixels are {other})"


@torch.no_grad()
def choose(predictor: Predictor, image: np.ndarray) -> Choice:
    """The best of what `predictor` could do, which it then does.  image: uint8 (H, W) or (H, W, 3).

    Looks at the image at the network's own size.  Raises InputError as `Predictor.whole`.
    """
    layouts = [torch.channels_last]
    if predictor.device.type == "cpu":
        layouts.append(torch.contiguous_format)

    def seconds(layout: torch.memory_format, amp: torch.dtype | None) -> float:
        """Of the fastest pass."""
        predictor.use(layout, amp)
        predictor.whole(image)  # what is set up on first use
        taken = []
        for _ in range(PASSES):
            began = time.perf_counter()
            predictor.whole(image)
            taken.append(time.perf_counter() - began)
        return min(taken)

    amp, agreement = None, None
    if has_bf16(predictor.device):
        exact, rounded = (mask_of(predictor, image, amp) for amp in (None, torch.bfloat16))
        agreement = float((exact == rounded).float().mean())
        amp = torch.bfloat16 if agreement >= AGREE else None
    layout = layouts[0]
    if len(layouts) > 1 and seconds(layouts[1], amp) < FASTER * seconds(layouts[0], amp):
        layout = layouts[1]
    predictor.use(layout, amp)
    return Choice(layout, amp, agreement)


def mask_of(predictor: Predictor, image: np.ndarray, amp: torch.dtype | None) -> torch.Tensor:
    """The mask (h, w) at the network's own size, by its thresholds."""
    predictor.use(torch.channels_last, amp)
    logits = predictor.whole(image)
    return harden(logits, predictor.labels, (logits.shape[1], logits.shape[2]), predictor.decision)
