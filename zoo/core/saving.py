"""A run to its files and back, whole or in parts, with however many processes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from zoo.core import checkpoint, content
from zoo.core.optimizer import load_optimizer
from zoo.core.ranks import parted, whole

if TYPE_CHECKING:
    from zoo.core.trainer import Trainer


def save(trainer: Trainer, name: str) -> None:
    """The whole run as one file in its folder, by the first process; all of them must call it."""
    trainer.parallel.settle()
    weights = cast(dict[str, Tensor], whole(trainer.model.state_dict()))
    training = {
        "progress": asdict(trainer.progress),
        "optimizer": whole(trainer.optimizer.state_dict()),
        "scaler": trainer.scaler.state_dict(),
        "rng": checkpoint.rng_state(),
        "data": [c.identity() for c in trainer.contents],
    }
    if trainer.average.decay:  # whoever uses the file wants the average; training goes on from the weights
        training |= {"weights": weights, "averaged": trainer.average.steps}
        weights = cast(dict[str, Tensor], whole(trainer.average.weights))
    state = checkpoint.Checkpoint(
        arch=trainer.config.arch,
        build=trainer.build,
        labels=trainer.labels,
        preprocess=trainer.preprocess,
        model=weights,
        config=trainer.config.to_dict(),
        training=training,
    )
    trainer.ranks.alone(lambda: checkpoint.write(trainer.out / name, state))


def restore(trainer: Trainer, state: checkpoint.Checkpoint) -> None:
    """Take up the run where `state` was saved; the trainer's model has the file's weights already."""
    saved, last = state.training, trainer.out / "last.pt"
    content.check(saved["data"], trainer.contents, trainer.out, trainer.config.data)
    if trainer.average.decay:
        trainer.average.restore(state.model, saved["averaged"])
        with torch.no_grad():
            for key, now in trainer.model.state_dict().items():
                now.copy_(parted(saved["weights"][key].to(now.device), now))
    load_optimizer(trainer.optimizer, saved["optimizer"], last)
    trainer.scaler.load_state_dict(saved["scaler"])
    vars(trainer.progress).update(saved["progress"])
    checkpoint.set_rng_state(saved["rng"])
