"""If these break, a run that was killed is another run, a step on parts is not the step on the whole,
or a loss that blew up has already spoilt the weights."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, product
from operator import mul
from pathlib import Path

import pytest
import torch
from rich.console import Console

import zoo
from zoo import encoders
from zoo.core import checkpoint, losses
from zoo.core.config import TrainConfig
from zoo.core.dataset import Source, Subset
from zoo.core.display import Display, settings_of
from zoo.core.loader import Order, TrainSet
from zoo.core.metrics import Scores, count
from zoo.core.predictor import Predictor
from zoo.core.run import open_folder
from zoo.core.stop import Interrupted
from zoo.core.trainer import Trainer
from zoo.encoders import Normalisation
from zoo.errors import InputError


def config(data: Path, **changes: object) -> TrainConfig:
    """Two short epochs of a narrow supervised UNet++ without BatchNorm."""
    settings = {
        "arch": "unetpp", "options": {"width": 2, "deep_supervision": True}, "data": f"folder:{data}",
        "size": (32, 32), "epochs": 2, "batch": 2, "amp": "off", "workers": 0, **changes,
    }
    return TrainConfig(**settings)  # type: ignore[arg-type]


def trainer(c: TrainConfig, out: Path, **more: object) -> Trainer:
    """Silent."""
    return Trainer(c, out, Display(Console(quiet=True)), **more)  # type: ignore[arg-type]


def interrupted_at(step: int, t: Trainer) -> None:
    """Run until Ctrl-C comes in step `step`."""
    plain = t.step

    def stepping(group: list) -> float:
        if t.progress.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(group)

    t.step = stepping  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        t.fit()


class Heard(Display):
    """Silent, but for warnings, which it keeps."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def assert_same_run(a: Path, b: Path) -> None:
    """Every tensor, number and logged metric of two finished runs equal, bit for bit."""
    for name in ("last.pt", "best.pt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (a, b))
        assert_equal(one, other, name)
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    lines = [json.loads(line)["epoch"] for line in (b / "timing.jsonl").read_text().splitlines()]
    assert lines == list(range(1, len(lines) + 1))


def assert_equal(a: object, b: object, path: str) -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor), path
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert isinstance(b, dict), path
        assert a.keys() == b.keys(), path
        for key in a:
            if key not in ("workers", "cache"):  # may differ between the two runs
                assert_equal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple)), path
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}/{i}")
    else:
        assert a == b, path


def test_a_run_leaves_the_folder_it_promises(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    t = trainer(config(shapes), out)
    t.fit()
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert found == [
        "best.pt", "config.json", "data.json", "last.pt", "manifest.json", "metrics.jsonl",
        "samples/epoch_0001.png", "samples/epoch_0002.png", "timing.jsonl",
    ]
    assert TrainConfig.from_dict(json.loads((out / "config.json").read_text())) == t.config
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["loss"] < lines[0]["loss"]


def test_it_learns_to_find_a_disc_and_a_square(shapes: Path, tmp_path: Path) -> None:
    c = config(shapes, options={"width": 8, "norm": "batch"}, epochs=15, batch=4, lr=0.01, augment="none")
    t = trainer(c, tmp_path / "run")
    t.fit()
    assert t.progress.best > 0.9


NARROW = {"options": {"width": 2}}
BATCH_NORM = {"options": {"width": 2, "norm": "batch", "deep_supervision": True}}
FOUR_GROUPS = {  # of parameters: encoder and head, with and without decay
    "encoder": "resnet18", "options": {"level": 1, "width": 4}, "head_lr": 10.0, "optimizer": "sgd",
    "augment": "crop+rotate+blur+flip",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "stop_after"),
    [*product((NARROW, BATCH_NORM), (1, 5, 6)), (FOUR_GROUPS, 5)],
)
def test_ctrl_c_saves_and_the_resumed_run_is_the_unbroken_one(
    shapes: Path, tmp_path: Path, changes: dict, stop_after: int
) -> None:
    c = config(shapes, **changes, accumulate=2, epochs=3)
    trainer(c, tmp_path / "unbroken").fit()

    broken = trainer(c, tmp_path / "broken")
    interrupted_at(stop_after, broken)
    state = checkpoint.read(tmp_path / "broken" / "last.pt")
    assert state.training["progress"]["step"] == stop_after
    torch.manual_seed(99)  # as another process would find its generators
    trainer(c, tmp_path / "broken", resume=state).fit()
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_ctrl_c_while_validating_resumes_with_the_validation(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = config(shapes)
    trainer(c, tmp_path / "unbroken").fit()

    def interrupting(*masks: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return count(*masks)  # type: ignore[arg-type]

    monkeypatch.setattr("zoo.core.validation.count", interrupting)
    with pytest.raises(Interrupted):
        trainer(c, tmp_path / "broken").fit()
    monkeypatch.undo()
    state = checkpoint.read(tmp_path / "broken" / "last.pt")
    assert state.training["progress"]["epoch"] == 0
    assert state.training["progress"]["step"] == 4
    trainer(c, tmp_path / "broken", resume=state).fit()
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_unet_resumes_with_its_dropout_and_weight_map(shapes: Path, tmp_path: Path) -> None:
    c = config(
        shapes, arch="unet", options={"width": 2}, size=(20, 20), loss="weighted_ce", augment="shift+elastic",
        optimizer="sgd", momentum=0.99,
    )
    trainer(c, tmp_path / "unbroken").fit()
    broken = trainer(c, tmp_path / "broken")
    open_folder(broken.out, c)
    broken.display.begin(2, broken.steps_per_epoch, 0)
    loss = broken.train_epoch()
    broken.finish_epoch(loss, broken.evaluate(), 1.0)
    state = checkpoint.read(tmp_path / "broken" / "last.pt")
    torch.manual_seed(99)
    trainer(c, tmp_path / "broken", resume=state).fit()
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_accumulated_parts_are_the_step_of_the_whole(shapes: Path, tmp_path: Path) -> None:
    """Batches of different content, and so different denominators: 3 × 2 images step as 1 × 6 do."""
    c = config(shapes, augment="none")
    whole = trainer(config(shapes, augment="none", batch=6), tmp_path / "a")
    parts = trainer(config(shapes, augment="none", batch=2, accumulate=3), tmp_path / "b")
    losses_ = [t.step(list(islice(t.loader.epoch(0), n))) for t, n in ((whole, 1), (parts, 3))]
    assert losses_[0] == pytest.approx(losses_[1], rel=1e-6)
    for (name, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-7), name
    assert c.epochs == 2


def test_the_step_equals_a_plain_one(shapes: Path, tmp_path: Path) -> None:
    """Forward, loss of all heads, backward, clip, AdamW: written out once more."""
    t = trainer(config(shapes, augment="none", clip=0.1), tmp_path / "a")
    plain = trainer(config(shapes, augment="none", clip=0.1), tmp_path / "b")
    batch = next(t.loader.epoch(0))
    loss = t.step([batch])

    x, target = plain.to_device(batch)
    out = plain.model.train()(x)
    expected = sum(plain.criterion(y, target) for y in (out.logits, *out.aux))
    expected.backward()
    torch.nn.utils.clip_grad_norm_(plain.model.parameters(), 0.1)
    for group in plain.optimizer.param_groups:
        group["lr"] = plain.lr(0)
    plain.optimizer.step()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(t.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer(shapes: Path, tmp_path: Path) -> None:
    t = trainer(config(shapes), tmp_path / "run")
    step = t.step
    seen: list[dict] = []

    def poisoned(group: list) -> float:
        if t.progress.step == 2:
            with torch.no_grad():
                next(t.model.parameters()).fill_(float("nan"))
            seen.append({k: v.clone() for k, v in t.optimizer.state_dict()["state"][0].items()})
        return step(group)

    t.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"loss is nan at step 3 .*\.png") as e:
        t.fit()
    assert "last.pt" in str(e.value)
    assert all(torch.equal(v, seen[0][k]) for k, v in t.optimizer.state_dict()["state"][0].items())
    saved = checkpoint.read(tmp_path / "run" / "last.pt")
    assert all(torch.isfinite(v).all() for v in saved.model.values())


def test_gradients_that_are_not_finite_stop_before_the_optimizer(shapes: Path, tmp_path: Path) -> None:
    t = trainer(config(shapes), tmp_path / "run")
    name, weight = next(iter(t.model.named_parameters()))  # the first, for a search from behind finds it last
    weight.register_hook(lambda grad: grad * float("nan"))  # a finite loss all the same
    before = weight.detach().clone()
    says = rf"norm of the gradient is nan at step 1 .* first to be so: the gradient of {re.escape(name)}\."
    with pytest.raises(InputError, match=says):
        t.fit()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_gone_bad_while_training_is_named(shapes: Path, tmp_path: Path, workers: int) -> None:
    t = trainer(config(shapes, workers=workers), tmp_path / "run")
    for path in (shapes / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"\.png") as e:
        t.fit()
    assert "Traceback" not in str(e.value)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_worker_that_dies_is_said_and_nothing_is_lost(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """As where the system kills what takes too much memory: a sentence, and the run goes on from its save."""
    load = TrainSet.load

    def dying(self: TrainSet, now: int, index: int) -> object:
        if now == epoch and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, now, index)

    monkeypatch.setattr(TrainSet, "load", dying)
    t = trainer(config(shapes, workers=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"^a process that loads data died .*; try fewer --workers; ") as e:
        t.fit()
    assert str(e.value).endswith(f"go on with --resume {tmp_path / 'run'}")
    saved = checkpoint.read(tmp_path / "run" / "last.pt")
    assert saved.training["progress"]["epoch"] == epoch
    monkeypatch.undo()
    trainer(config(shapes, workers=0), tmp_path / "run", resume=saved).fit()
    trainer(config(shapes), tmp_path / "unbroken").fit()
    assert_same_run(tmp_path / "unbroken", tmp_path / "run")


def killed_at_image(self: Source, i: int, size: tuple[int, int] | None = None) -> object:
    """A worker that the system kills while it loads for validation."""
    if size is None and torch.utils.data.get_worker_info():
        os.kill(os.getpid(), signal.SIGKILL)
    return load_subset(self, i, size)


load_subset = Subset.load


def test_a_worker_that_dies_while_validating_costs_the_validation_alone(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subset, "load", killed_at_image)
    t = trainer(config(shapes, workers=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"^a process that loads data died .*; try fewer --workers; "):
        t.fit()
    monkeypatch.undo()
    saved = checkpoint.read(tmp_path / "run" / "last.pt")
    assert (saved.training["progress"]["epoch"], saved.training["progress"]["step"]) == (0, 4)
    trainer(config(shapes, workers=0), tmp_path / "run", resume=saved).fit()
    trainer(config(shapes), tmp_path / "unbroken").fit()
    assert_same_run(tmp_path / "unbroken", tmp_path / "run")


def test_a_worker_whose_death_interrupts_a_step_is_said(shapes: Path, tmp_path: Path) -> None:
    """torch raises it out of a signal, wherever the program is."""
    t = trainer(config(shapes), tmp_path / "run")

    def interrupted(group: list) -> float:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore")

    t.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"died \(.*Killed\. \); try fewer --workers; then go on with --res"):
        t.fit()
    assert (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_validation_image_gone_bad_stops_the_run_whatever_max_bad_is(
    shapes: Path, tmp_path: Path, workers: int
) -> None:
    """In the second epoch, whose training is kept: the image put back, the run is the unbroken one."""
    c = config(shapes, workers=workers, max_bad=5)
    trainer(c, tmp_path / "unbroken").fit()
    t = trainer(c, tmp_path / "run")
    path = shapes / t.val_source.name(1)
    content, evaluate = path.read_bytes(), t.evaluate

    def breaking() -> Scores:
        if t.progress.epoch == 1:
            path.write_bytes(b"")
        return evaluate()

    t.evaluate = breaking  # type: ignore[method-assign]
    says = f"{path}: is empty (0 bytes); validation leaves none out, for its scores are to be compared: "
    with pytest.raises(InputError, match=rf"^{re.escape(says)}put it back; then go on with --resume "):
        t.fit()
    saved = checkpoint.read(tmp_path / "run" / "last.pt")
    assert (saved.training["progress"]["epoch"], saved.training["progress"]["step"]) == (1, 8)
    path.write_bytes(content)
    trainer(c, tmp_path / "run", resume=saved).fit()
    assert_same_run(tmp_path / "unbroken", tmp_path / "run")


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_does_uncompiled(shapes: Path, tmp_path: Path) -> None:
    """The same losses and keys; what it saves opens without a compiler."""
    runs = []
    for compiled in (False, True):
        out = tmp_path / f"run{compiled}"
        small = {"arch": "unet", "options": {"width": 2, "dropout": 0.0}, "size": (20, 20), "limit_val": 1}
        c = config(shapes, compile=compiled, augment="none", epochs=1, **small)
        trainer(c, out).fit()
        runs.append(json.loads((out / "metrics.jsonl").read_text()))
    assert runs[1]["loss"] == pytest.approx(runs[0]["loss"], rel=1e-4)
    plain, compiled = (checkpoint.read(tmp_path / f"run{c}" / "last.pt").model for c in (False, True))
    assert plain.keys() == compiled.keys()
    for key, tensor in plain.items():
        torch.testing.assert_close(compiled[key], tensor, rtol=1e-3, atol=1e-4)
    zoo.load(tmp_path / "runTrue" / "best.pt")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_gone_bad_are_named_counted_and_left_out_up_to_max_bad(
    shapes: Path, tmp_path: Path, workers: int
) -> None:
    """Broken behind the first epoch: one is left out in all later ones, a second stops the run."""
    for breaks in (1, 2):
        display = Heard()
        c = config(shapes, workers=workers, max_bad=1, epochs=3)
        t = Trainer(c, tmp_path / f"run{breaks}", display)
        paths = [shapes / t.train_source.name(i) for i in range(breaks)]
        contents = [path.read_bytes() for path in paths]
        evaluate = t.evaluate

        def breaking(t: Trainer = t, evaluate: Callable = evaluate, paths: list[Path] = paths) -> Scores:
            for path in paths if t.progress.epoch == 0 else ():
                path.write_bytes(b"")
            return evaluate()

        t.evaluate = breaking  # type: ignore[method-assign]
        if breaks == 1:
            t.fit()
            said = [line for line in display.warned if "left out" in line]
            assert said == [f"left out: {paths[0]}: is empty (0 bytes)"] * 2
            assert t.session.images == 8 + 7 + 7
        else:
            with pytest.raises(InputError, match=r"\.png: is empty \(0 bytes\); then go on with --resume"):
                t.fit()
            saved = checkpoint.read(t.out / "last.pt").training["progress"]
            assert saved["bad"] <= 1, "not those of the step that was not made"
            assert saved["step"] == t.progress.step > 4
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)


def test_a_step_without_an_image_leaves_the_run_as_it_is(shapes: Path, tmp_path: Path) -> None:
    """Momentum and decay would move the weights, and the average; the schedule goes on."""
    c = config(shapes, optimizer="sgd", momentum=0.9, weight_decay=0.1, ema=0.9, max_bad=9, epochs=1)
    t = trainer(c, tmp_path / "run")
    batches = list(t.loader.epoch(0))
    (first,) = (t.step([batch]) for batch in batches[:1])
    bad: list = [InputError("gone"), InputError("gone, too")]
    unread = t.loader.loader.dataset.collate(bad)  # type: ignore[attr-defined]
    ignored = batches[1]._replace(mask=torch.full_like(batches[1].mask, 255))
    before = [state.clone() for state in everything(t)]
    for nothing in ([unread], [unread, ignored]):
        assert t.step(nothing) is None
        assert all(map(torch.equal, everything(t), before))
    assert first
    assert t.step([unread, batches[1]]), "what is there counts"
    assert not all(map(torch.equal, everything(t), before))


def everything(t: Trainer) -> list[torch.Tensor]:
    """What a step moves."""
    moments = [v for state in t.optimizer.state_dict()["state"].values() for v in state.values()]
    return [*t.model.state_dict().values(), *moments, *t.average.weights.values()]


def test_an_epoch_leaves_steps_without_images_out_of_its_loss(shapes: Path, tmp_path: Path) -> None:
    t = trainer(config(shapes, max_bad=9, epochs=1), tmp_path / "run")
    load = TrainSet.load
    order = [i for batch in Order(8, 2, 0) for _, i in batch]

    def missing(epoch: int, index: int) -> object:
        if index in order[2:4]:
            raise InputError(f"{index} is gone")
        return load(t.loader.loader.dataset, epoch, index)  # type: ignore[arg-type]

    t.loader.loader.dataset.load = missing  # type: ignore[attr-defined]
    losses_, step = list[float | None](), t.step

    def noted(group: list) -> float | None:
        losses_.append(step(group))
        return losses_[-1]

    t.step = noted  # type: ignore[method-assign]
    t.fit()
    assert losses_[1] is None
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["loss"] == pytest.approx(sum(loss for loss in losses_ if loss) / 3)
    assert line["step"] == 4


@pytest.mark.slow
def test_the_full_unet_takes_two_steps_of_the_papers_recipe(shapes: Path, tmp_path: Path) -> None:
    """31 million parameters on a tile of 572×572, a batch of one, momentum 0.99: as published."""
    from zoo.core.recipes import resolve

    flags = {"arch": "unet", "recipe": "paper", "data": f"folder:{shapes}", "epochs": 1}
    c, _ = resolve({**flags, "limit_train": 2, "limit_val": 1, "workers": 0})
    t = trainer(c, tmp_path / "run")
    t.fit()
    assert sum(p.numel() for p in t.model.parameters()) == 31_030_658 + 65  # three classes
    assert (t.progress.step, c.size, c.momentum) == (2, (388, 388), 0.99)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains(shapes: Path, tmp_path: Path, amp: str) -> None:
    t = trainer(config(shapes, amp=amp, options={"width": 4, "norm": "batch"}, epochs=3), tmp_path / "run")
    t.fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(p.dtype == torch.float32 for p in t.model.parameters())


def test_patience_ends_a_run(shapes: Path, tmp_path: Path) -> None:
    t = trainer(config(shapes, epochs=50, patience=2, lr=1e-9), tmp_path / "run")
    t.fit()
    assert t.progress.epoch == t.progress.best_epoch + 2 < 50


def test_resuming_on_other_files_is_refused(shapes: Path, tmp_path: Path) -> None:
    """One mask that somebody mended, of the same name and size, is another training set."""
    t = trainer(config(shapes, epochs=1), tmp_path / "run")
    t.fit()
    _, mask = t.train_source.files(2)
    shutil.copy(t.train_source.files(3)[1], mask)
    state = checkpoint.read(tmp_path / "run" / "last.pt")
    says = rf"not the data this run was started with \(training: 1 image changed: .*{mask.name}\)"
    with pytest.raises(InputError, match=says):
        trainer(config(shapes, epochs=2), tmp_path / "run", resume=state)


def test_a_run_of_the_first_release_without_decay_goes_on(shapes: Path, tmp_path: Path) -> None:
    """Its optimizer had a group for weights, one for biases and norms, whatever the decay; no factors."""
    out = tmp_path / "run"
    c = config(shapes, epochs=1, weight_decay=0.0, options={"width": 2, "norm": "batch"})
    t = trainer(c, out)
    t.fit()
    dimensions = [p.ndim for p in t.model.parameters()]
    weights, spared = sum(d > 1 for d in dimensions), sum(d <= 1 for d in dimensions)
    state = checkpoint.read(out / "last.pt")
    groups = state.training["optimizer"]["param_groups"]
    assert [len(group["params"]) for group in groups] == [weights, spared]
    for group in groups:
        del group["factor"]
    resumed = trainer(replace(c, epochs=2), out, resume=state)
    resumed.fit()
    assert resumed.progress.epoch == 2

    groups[:] = [{**groups[0], "params": list(range(weights + spared))}]  # as of some other version
    with pytest.raises(InputError, match="other parameters than this version of zoo") as e:
        trainer(replace(c, epochs=2), out, resume=state)
    assert f"--weights {out / 'last.pt'}" in str(e.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"loss": "bce"}, "bce does not fit multiclass data"), ({"augment": "flipp"}, "flip")],
)
def test_what_is_refused_is_refused_before_a_download(
    changes: dict, says: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> Path:
        raise AssertionError("fetched")

    monkeypatch.setattr("zoo.download.fetch", fetch)
    c = config(shapes, encoder="resnet18", options={"level": 1}, pretrained=True, **changes)
    with pytest.raises(InputError, match=says):
        trainer(c, tmp_path / "run")
    with pytest.raises(AssertionError, match="fetched"):  # as it is where nothing is refused
        trainer(replace(c, loss=None, augment="none"), tmp_path / "run")


def test_weights_of_another_run_start_this_one(shapes: Path, tmp_path: Path) -> None:
    t = trainer(config(shapes, epochs=1), tmp_path / "run")
    t.preprocess = replace(t.preprocess, mean=(0.123,))  # as of other images
    t.fit()
    path = tmp_path / "run" / "last.pt"
    started = trainer(config(shapes, weights=str(path)), tmp_path / "next")
    assert started.progress.step == 0
    assert started.preprocess == t.preprocess
    for a, b in zip(t.model.parameters(), started.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(InputError, match="holds unetpp, not unet"):
        trainer(config(shapes, arch="unet", options={}, size=(20, 20), weights=str(path)), tmp_path / "x")


def test_the_auxiliary_heads_count_in_the_loss(shapes: Path, tmp_path: Path) -> None:
    """UNet++'s three as much as the last, PSPNet's 0.4 times as much (Sec. 4)."""
    pspnet = {"arch": "pspnet", "encoder": "resnet18", "options": {"bins": (1, 2)}}
    for changes, weights in (({}, (1, 1, 1)), (pspnet, (0.4,))):
        t = trainer(config(shapes, augment="none", **changes), tmp_path / "run")
        x, target = t.to_device(next(t.loader.epoch(0)))
        output = t.model.train()(x)
        denominators = t.criterion.denominators(target)
        every = losses.total(t.criterion, output, t.aux_weights, target, denominators)
        each = [t.criterion(y, target).item() for y in (output.logits, *output.aux)]
        assert len(each) == 1 + len(weights)
        assert every.item() == pytest.approx(each[0] + sum(map(mul, weights, each[1:])), rel=1e-5)


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_imagenet_weights_bring_their_normalisation_and_are_fetched_once(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grey images are repeated for them; resuming and using the checkpoint needs no network."""
    fetched = []

    def load(encoder: encoders.Encoder, name: str) -> None:
        fetched.append(name)
        encoder.normalisation = IMAGENET

    monkeypatch.setattr("zoo.encoders.pretrained.load", load)
    model = {"encoder": "resnet18", "options": {"level": 1, "width": 4}, "pretrained": True}
    c, out = config(shapes, **model, epochs=1, augment="none"), tmp_path / "run"
    t = trainer(c, out)
    assert (t.preprocess.channels, t.preprocess.mean, t.preprocess.std) == (3, *IMAGENET)
    t.fit()
    resumed = trainer(replace(c, epochs=2), out, resume=checkpoint.read(out / "last.pt"))
    resumed.fit()
    assert resumed.preprocess == t.preprocess
    predictor = Predictor.from_checkpoint(out / "best.pt", "cpu", "off")
    assert predictor.preprocess == t.preprocess
    assert fetched == ["resnet18"]
    random_ = trainer(replace(c, pretrained=False), tmp_path / "random")
    assert random_.preprocess.mean[0] == random_.preprocess.mean[1] != IMAGENET.mean[0]  # the images' own
    for said, where in ((t, "weights"), (random_, "data"), (resumed, "the run")):
        assert ("input", said.preprocess.describe(), where) in settings_of(said, {})


def test_a_network_trained_on_windows_predicts_by_windows(shapes: Path, tmp_path: Path) -> None:
    """`crop` leaves an image its own scale, so must all that comes after."""
    t = trainer(config(shapes, augment="crop", size=(32, 24), epochs=1), tmp_path / "run")
    batch = next(t.loader.epoch(0))
    assert (batch.image.shape, batch.mask.shape) == ((2, 1, 32, 24), (2, 32, 24))
    assert t.preprocess.tile
    t.fit()
    predictor = Predictor.from_checkpoint(tmp_path / "run" / "best.pt", "cpu", "off")
    asked: list[tuple[int, ...]] = []
    predictor.model.register_forward_pre_hook(lambda _, x: asked.append(tuple(x[0].shape)))
    assert predictor(t.val_source.load(0).image).shape == (48, 40)
    assert set(asked) == {(1, 1, 32, 24)}
    assert not trainer(config(shapes, augment="flip"), tmp_path / "whole").preprocess.tile
