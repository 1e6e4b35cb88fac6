"""How a network predicts here: memory format and precision, chosen by a look at one image.

Channels-last in float32 is right everywhere and seldom the slowest.  Contiguous memory is taken where it is
faster, and bfloat16 where the processor computes in it, it is faster, and it gives the same mask.  All of
that depends on the network, the machine and the weights, so it is measured and not known.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from zoo.core.device import has_bf16
from zoo.core.predictor import Predictor, harden
from zoo.errors import InputError

AGREE = 0.999  # of the pixels must be the same in bfloat16
FASTER = 0.95  # of the time of channels-last, at most: below that it is noise
PASSES = 3  # of which the fastest counts


@dataclass(frozen=True)
class Choice:
    """layout: of weights and images.  amp: dtype of autocast, None for float32.

    agreement: the share of pixels, at the network's `size`, whose classes bfloat16 gets as float32 does; None
        where it was not tried.
    """

    layout: torch.memory_format
    amp: torch.dtype | None
    agreement: float | None
    size: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        precision = str(self.amp or "float32").removeprefix("torch.")
        memory = "" if self.layout is torch.channels_last else ", contiguous"
        if self.agreement is None:
            return precision + memory
        other = "as in float32" if self.amp else "the same in bfloat16"
        what = "of the first image's pixels at {}x{}".format(*self.size)
        return f"{precision}{memory} ({100 * self.agreement:.3f} % {what} are {other})"


@torch.no_grad()
def choose(predictor: Predictor, image: np.ndarray) -> Choice:
    """The best of what `predictor` could do, which it then does.  image: uint8 (H, W) or (H, W, 3).

    Looks at the image at the network's own size.  Raises InputError as `Predictor.whole`.
    """

    def timed(amp: torch.dtype | None) -> tuple[float, torch.memory_format]:
        """Seconds of a pass in the faster memory format, and which that is."""

        def use(layout: torch.memory_format) -> Callable[[], object]:
            predictor.use(layout, amp)
            return lambda: predictor.whole(image)

        return faster(use)

    agreement = None
    try:
        (seconds, layout), amp = timed(None), None
        if has_bf16(predictor.device):
            exact, rounded = (mask_of(predictor, image, amp) for amp in (None, torch.bfloat16))
            agreement = float((exact == rounded).float().mean())
            if agreement >= AGREE:
                other, its = timed(torch.bfloat16)
                if other <= seconds:
                    layout, amp = its, torch.bfloat16
    except InputError:
        predictor.use(torch.channels_last, None)
        raise
    predictor.use(layout, amp)
    return Choice(layout, amp, agreement, predictor.preprocess.size)


def faster(
    use: Callable[[torch.memory_format], Callable[[], object]],
) -> tuple[float, torch.memory_format]:
    """Seconds of the pass that `use` makes ready in a memory format, in the faster one, and which that is."""
    seconds = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        run = use(layout)
        run()  # what is set up on first use
        taken = []
        for _ in range(PASSES):
            began = time.perf_counter()
            run()
            taken.append(time.perf_counter() - began)
        seconds[layout] = min(taken)
    worth = seconds[torch.contiguous_format] < FASTER * seconds[torch.channels_last]
    layout = torch.contiguous_format if worth else torch.channels_last
    return seconds[layout], layout


def mask_of(predictor: Predictor, image: np.ndarray, amp: torch.dtype | None) -> torch.Tensor:
    """The mask (h, w) at the network's own size, by its thresholds."""
    predictor.use(torch.channels_last, amp)
    logits = predictor.whole(image)
    return harden(logits, predictor.labels, (logits.shape[1], logits.shape[2]), predictor.decision)
