"""Which module was the first to put out something that is not finite, and the batch that made it do so."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from zoo import registry, state
from zoo.core.config import Preprocess, TrainConfig
from zoo.core.device import amp_word, resolve_amp
from zoo.core.files import write_bytes
from zoo.core.loader import Batch
from zoo.core.losses import Criterion, total
from zoo.core.masks import Labels
from zoo.core.mix import Mix
from zoo.core.network import training_mode
from zoo.core.ranks import Agreed, whole
from zoo.dropout import draw_by_sample
from zoo.errors import InputError
from zoo.layers import Output

if TYPE_CHECKING:
    from zoo.core.trainer import Trainer

BAD_STEP = "bad_step.pt"
FORMAT = "zoo bad step 2"
Row = tuple[str, str, float, float, bool]


class NotFinite(Agreed):
    """A loss or the norm of a gradient is infinite or nan; the run stopped before the step."""


def finite(value: object) -> bool:
    """Whether every number in `value`, a tensor or a nest of them, is finite."""
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value).all()) if value.is_floating_point() else True
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return all(map(finite, value)) if isinstance(value, list | tuple) else True


def culprit(model: nn.Module, run: Callable[[], object]) -> str:
    """What was first in `run`, a forward pass of `model`, to be not finite: words for people, "" if nothing.

    Weights are looked at before, for they may have been spoilt by an earlier step.
    """
    by_batch = {  # statistics that the step which failed has just written
        f"{name}.running_{what}".lstrip(".")
        for name, m in model.named_modules() for what in ("mean", "var")
        if m.training and hasattr(m, "running_mean")
    }  # fmt: skip
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name not in by_batch and not finite(tensor):
            return f"{name}, a weight that is not finite already"
    found: list[str] = []
    with watched(model, found):
        run()
    return found[0] if found else ""


@contextmanager
def watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    """While it is entered, the first module to put out what is not finite enters `found`: an inner one."""

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def after(_: nn.Module, inputs: tuple, output: object) -> None:
            if not found and not finite(output):
                came = "from finite inputs" if finite(inputs) else "from inputs that were not finite"
                found.append(f"{name or 'the network'} ({type(module).__name__}), {came}")

        return after

    hooks = [m.register_forward_hook(look(name, m)) for name, m in model.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def ranges(model: nn.Module, x: Tensor) -> tuple[Output, list[Row]]:
    """What `model` makes of `x`, and (name, kind, least, largest, finite) of each module without parts."""
    rows: list[Row] = []

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def after(_: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                low, high = (f(output.detach().float()).item() for f in (torch.min, torch.max))
                rows.append((name, type(module).__name__, low, high, finite(output)))

        return after

    leaves = [(name, m) for name, m in model.named_modules() if not any(m.children())]
    hooks = [m.register_forward_hook(look(name, m)) for name, m in leaves]
    try:
        output = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return output, rows


# ---------------------------------------------------------------------- a step of a run


def explain(trainer: Trainer, what: str, value: float, group: list[Batch]) -> str:
    """Why `what` is not finite in this step, for people; keeps the step for `train.py --debug-nan`.

    All processes must call it, and all get the same words: of the first whose part of the batch did it, or
    where that cannot be known of the whole batch.
    """
    step, out, ranks = trainer.progress.step, trainer.out, trainer.ranks
    if what == "loss":
        told = ranks.gather(culprit(trainer.model, lambda: forward(trainer, group)))
        first = next(filter(None, told), "none of the modules: the loss itself")
    else:  # which is the sum of all processes' in each of them
        told = []
        parameters = reversed(list(trainer.model.named_parameters()))
        bad = (name for name, p in parameters if p.grad is not None and not finite(p.grad))
        first = f"the gradient of {next(bad, 'no single weight: their sum')}"
    ours = not any(told) or told.index(first) == ranks.rank
    shares = ranks.gather([batch._asdict() for batch in group if batch.names] if ours else [])
    batches = [batch for share in shares for batch in share]
    names = ", ".join(name for batch in batches for name in batch["names"])
    kept = keep(trainer, batches)
    return (
        f"the {what} is {value} at step {step + 1} (learning rate {trainer.lr(step):.3g}, images {names}); "
        f"first to be so: {first}. {kept} {out / 'last.pt'} is from before: look at these images, or start "
        f"anew from it with --weights {out / 'last.pt'} and a lower --lr or --amp off"
    )


@torch.no_grad()
def forward(trainer: Trainer, group: list[Batch]) -> None:
    """The forward passes of a step, once more, with the batch's own statistics."""
    for batch in group:
        x, _ = trainer.to_device(batch)
        if not trainer.config.compile:
            draw_by_sample(trainer.model, batch.seeds, trainer.device)
        with torch.autocast(trainer.device.type, trainer.amp, enabled=trainer.amp is not None):
            trainer.model(x)


def keep(trainer: Trainer, batches: list[dict]) -> str:
    """Write the step, weights and all, into the run folder; says so, or why not.

    batches: those to be looked at, as dictionaries.  The chief writes, all processes must call it.
    """
    path = trainer.out / BAD_STEP
    config = replace(trainer.config, amp=amp_word(trainer.amp))  # `auto` may be another one elsewhere
    payload = {
        "format": FORMAT,
        "arch": trainer.config.arch,
        "build": trainer.build,
        "labels": trainer.labels.to_dict(),
        "preprocess": trainer.preprocess.to_dict(),
        "config": config.to_dict(),
        "model": whole(trainer.model.state_dict()),
        "step": trainer.progress.step + 1,
        "group": batches,
    }
    buffer = io.BytesIO()
    try:
        if trainer.ranks.chief:
            torch.save(payload, buffer)
            write_bytes(path, buffer.getbuffer())
    except InputError as e:
        return f"({e})"
    return f"The step is in {path}: python train.py --debug-nan {trainer.out} replays it."


def replay(run: Path, console: Console) -> None:
    """What `train.py --debug-nan RUN` prints: each module's range in the step that was kept, to the first
    that is not finite, the loss, and the first gradient that is not finite.  Raises InputError.
    """
    path = run / BAD_STEP if run.is_dir() else run
    payload = state.read(path)
    if payload.get("format") != FORMAT:
        raise InputError(f"{path}: not a step that train.py kept because it was not finite")
    config, labels = TrainConfig.from_dict(payload["config"]), Labels.from_dict(payload["labels"])
    preprocess = Preprocess.from_dict(payload["preprocess"])
    model = registry.build(payload["arch"], **payload["build"])
    state.load_strict(model, payload["model"], str(path))
    training_mode(model, config)
    criterion, mix = Criterion(config.loss, labels), Mix(config.mix)
    amp = resolve_amp(config.amp, torch.device("cpu"))
    for n, batch in enumerate(payload["group"], 1):
        console.print(f"step {payload['step']}, batch {n}: {', '.join(batch['names'])}", markup=False)
        image = preprocess.normalise(batch["image"])
        x, target = mix(image, batch["mask"], batch["weight"], Batch(**batch), labels)
        draw_by_sample(model, batch["seeds"])
        with torch.autocast("cpu", amp, enabled=amp is not None):
            output, rows = ranges(model, x)
        console.print(range_table(rows))
        loss = total(criterion, output, cast(tuple[float, ...], model.aux_weights), target)
        console.print(f"loss {loss.item():g}")
        model.zero_grad()
        loss.backward()
        named = reversed(list(model.named_parameters()))
        bad = [name for name, p in named if p.grad is not None and not finite(p.grad)]
        first = f", first on the way back {bad[0]}" if bad else ""
        console.print(f"gradients that are not finite: {len(bad)}{first}", markup=False)


def range_table(rows: list[Row]) -> Table:
    """Rows of `ranges` up to the first that is not finite."""
    table = Table("module", "kind", "least", "largest", title="what each module puts out")
    for name, kind, low, high, fine in rows:
        table.add_row(name, kind, f"{low:.4g}", f"{high:.4g}", style="" if fine else "red")
        if not fine:
            break
    return table
