"""How large a batch fits into memory: measured on a throwaway copy of the run, in a process of its own."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo import registry
from zoo.core import losses
from zoo.core.config import TrainConfig
from zoo.core.dataset import open_run
from zoo.core.device import resolve_amp, resolve_device
from zoo.core.ema import Average
from zoo.core.loader import Batch
from zoo.core.masks import Labels, mask_dtype
from zoo.core.mix import Mix
from zoo.core.network import network, ready, training_mode
from zoo.core.optimizer import make_optimizer
from zoo.core.ranks import Ranks
from zoo.errors import InputError

if TYPE_CHECKING:
    from zoo.core.trainer import Trainer

SPARE = 0.9  # of the memory that is free: what the estimate may take
TRIED = (1, 3)  # batches that the line of memory over batch is drawn through
MEBI = 2**20


def largest_batch(config: TrainConfig, ranks: Ranks, say: Callable[[str], None]) -> int:
    """The largest batch of all `ranks` for which a training step of `config` fits into memory.

    Raises InputError where not even one image does.
    """
    train, _ = open_run(config)
    channels = 3 if config.encoder else train.channels
    device = resolve_device(config.device, ranks.local)
    here = min(ranks.size, int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size)))  # torchrun's, on this machine
    free = free_memory(device) / (1 if device.type == "cuda" else here)
    has = f"{device} has {free / MEBI:.0f} MiB free"
    together = 2 if Mix(config.mix) else 1  # pairs stay in one process
    first, second = (n * together for n in TRIED)
    few, more = (peak(config, train.labels, channels, n, str(device)) for n in (first, second))
    if few is None or few > free:
        least = "a pair of images" if Mix(config.mix) else "one image"
        raise InputError(f"not even {least} fits: {has}; choose a smaller --size, or --grad-checkpoint")
    if more is None:
        return first * ranks.size
    slope = max(1.0, (more - few) / (second - first))
    fits = first + int(max(0.0, SPARE * free - few) // slope)
    fits -= fits % together
    batch = min(fits * ranks.size, len(train))
    say(f"batch {batch}: an image takes {slope / MEBI:.0f} MiB, {has}")
    return batch


def does_not_fit(e: RuntimeError) -> bool:
    """Whether torch ran out of memory."""
    return isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e)


def too_large(trainer: Trainer, e: RuntimeError) -> str:
    """What to do when a step ran out of memory by `e`: the largest batch that would fit.  The run is over."""
    release(trainer, e)
    what = f"--batch {trainer.config.batch} does not fit into the memory of {trainer.device}"
    try:
        most = largest_batch(trainer.config, trainer.ranks, lambda line: None)
        return f"{what}; the largest that would is {most}"
    except InputError as wrong:
        return f"{what}: {wrong}"


def release(trainer: Trainer, e: RuntimeError) -> None:
    """Give back what the run holds, which would be taken for memory that another batch cannot have."""
    traceback.clear_frames(e.__traceback__)  # the step's activations
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.optimizer.state.clear()
    trainer.average.weights.clear()
    for tensor in chain(trainer.model.parameters(), trainer.model.buffers()):
        if not hasattr(tensor, "full_tensor"):  # of one in parts they are FSDP's
            tensor.data = tensor.data.new_empty(0)
    gc.collect()
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> float:
    """Bytes that this process could still take."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return kibibytes("/proc/meminfo", "MemAvailable") * 1024


def kibibytes(file: str, word: str) -> float:
    """What Linux says there.  Raises InputError on other systems."""
    try:
        lines = dict(line.split(":", 1) for line in Path(file).read_text().splitlines())
        return float(lines[word].split()[0])
    except (OSError, KeyError) as e:
        raise InputError("--batch auto: this system tells not how much memory is free; give a number") from e


def peak(config: TrainConfig, labels: Labels, channels: int, n: int, device: str) -> float | None:
    """Bytes at most in use during two training steps on `n` images; None if they did not fit."""
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        try:
            return executor.submit(steps, config, labels, channels, n, device).result()
        except (BrokenProcessPool, MemoryError):
            return None
        except RuntimeError as e:
            if not does_not_fit(e):
                raise
            return None


def steps(config: TrainConfig, labels: Labels, channels: int, n: int, where: str) -> float:
    """The child's part of `peak`."""
    device = torch.device(where)
    before = used(device)
    bare = replace(config, pretrained=False, weights=None)
    model, _ = network(bare, labels.num_classes, channels, lambda line: None)
    margin = registry.margin(model)
    layout = ready(model, config, device)
    training_mode(model, config)
    average = Average(model, config.ema)
    optimizer, amp = make_optimizer(model, config), resolve_amp(config.amp, device)
    criterion = losses.Criterion(config.loss, labels)
    mix = Mix("mixup:1" if "mixup" in config.mix else config.mix)  # of both the one that takes more
    pairs = [i ^ 1 if i ^ 1 < n else i for i in range(n)]
    h, w = config.size
    for _ in range(2):  # the optimizer's moments come with the first
        x = torch.rand(n, channels, h + 2 * margin, w + 2 * margin, device=device)
        mask = torch.from_numpy(np.zeros((n, h, w), mask_dtype(labels))).to(device)
        weight = torch.ones(n, h, w, device=device) if criterion.needs_weight else None
        batch = Batch(x, mask, weight, [], list(range(n)), pairs, [])
        x, target = mix(x, mask, weight, batch, labels)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            output = model(x.contiguous(memory_format=layout))
        losses.total(criterion, output, model.aux_weights, target).backward()  # type: ignore[arg-type]
        optimizer.step()
        average.update()
        optimizer.zero_grad(set_to_none=True)
    return used(device) - before


def used(device: torch.device) -> float:
    """Bytes in use, at most until now."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    # not getrusage's word, which a process inherits from the one that starts it
    return kibibytes("/proc/self/status", "VmHWM") * 1024
