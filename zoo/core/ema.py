"""An exponential moving average of a network's weights, which often scores better than the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo.core.ranks import parted


class Average:
    """average ← d · average + (1 - d) · weights after each step, d = min(decay, (1 + t) / (10 + t)), t steps.

    The ramp lets the first weights go quickly (as in TensorFlow's moving averages).  Running statistics are
    averages already, and copied.  decay 0: there is no average, and every method does nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.weights = {key: t.detach().clone() for key, t in model.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step."""
        if not self.decay:
            return
        self.steps += 1
        d = min(self.decay, (1 + self.steps) / (10 + self.steps))
        trained = {key for key, _ in self.model.named_parameters()}
        for key, now in self.model.state_dict().items():
            if key in trained:
                self.weights[key].lerp_(now, 1 - d)
            else:
                self.weights[key].copy_(now)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """While it is entered the model has the average in place of its weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights of the model and the average."""
        for key, now in self.model.state_dict().items() if self.decay else ():
            kept = now.clone()
            now.copy_(self.weights[key])
            self.weights[key].copy_(kept)

    def restore(self, weights: dict[str, Tensor], steps: int) -> None:
        """Take up an average that was saved."""
        self.steps = steps
        for key, t in weights.items():
            self.weights[key].copy_(parted(t, self.weights[key]))
