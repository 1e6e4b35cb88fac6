"""Which parameters step at which rate, and on which of them weight decay acts."""

from pathlib import Path

import torch
from torch import nn

from zoo.core.config import TrainConfig
from zoo.core.ranks import parted
from zoo.errors import InputError


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD, with a group for each rate and, within it, one that decays and one that does not.

    A group's "factor" is what the run's learning rate is multiplied by: `head_lr` for what is not in
    `model.encoder`, else 1.  Weight decay acts on

        all       every parameter
        weights   those of more than one dimension: neither biases nor the scales and shifts of norms
        dense     those but for the kernels of depthwise convolutions
        not_norm  every parameter but those with "norm" in their name, which is how mmsegmentation's recipes
                  spare the norms of a transformer (and of a head whose BatchNorm is called `bn`, nothing)
    """
    encoder = getattr(model, "encoder", None)
    slow = {id(p) for p in encoder.parameters()} if encoder is not None else set()
    kernels = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and depthwise(m)}
    # By rule, not by strength: a run without any decay has the groups it had in the first release, too.
    keys = [(factor, without) for factor in (1.0, config.head_lr) for without in (False, True)]
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {key: [] for key in keys}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        factor = 1.0 if id(p) in slow else config.head_lr
        spared = {
            "all": False,
            "weights": p.ndim <= 1,
            "dense": p.ndim <= 1 or id(p) in kernels,
            "not_norm": "norm" in name,
        }[config.decay_on]
        groups[factor, spared].append(p)
    listed = [
        {"params": parameters, "weight_decay": 0.0 if without else config.weight_decay, "factor": factor}
        for (factor, without), parameters in groups.items()
        if parameters
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(listed, lr=config.lr)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict, path: Path) -> None:
    """Put back the state that a checkpoint, `path`, holds whole.  Raises InputError where it does not fit."""
    steps = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        moments = {
            i: {word: parted(t, steps[i]) if t.shape == steps[i].shape else t for word, t in state.items()}
            for i, state in saved["state"].items()
        }
        optimizer.load_state_dict({**saved, "state": moments})
    except (ValueError, IndexError) as e:
        raise InputError(
            f"{path}: its optimizer steps other parameters than this version of zoo; resume with the version "
            f"that saved it, or start a new run with --weights {path}"
        ) from e


def depthwise(conv: nn.Conv2d) -> bool:
    """Does each output channel see one input channel alone?"""
    return conv.groups == conv.in_channels > 1


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """`lr` for every group, times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)  # runs of the first release have none
