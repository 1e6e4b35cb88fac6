"""If these break, `--batch auto` chooses a batch that does not fit, or a batch too large ends in a trace."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from tests.core.test_trainer import config, trainer
from train import main
from zoo.core import fit
from zoo.core.dataset import open_run
from zoo.core.ema import Average
from zoo.core.fit import MEBI, does_not_fit, largest_batch, peak, steps
from zoo.core.ranks import ALONE, Ranks
from zoo.errors import InputError


def line(monkeypatch: pytest.MonkeyPatch, free: float, base: float = 100, each: float = 50) -> None:
    """A machine with `free` MiB, a run that takes `base` and `each` more an image."""

    def measured(c: object, labels: object, channels: int, n: int, device: str) -> float | None:
        return (base + each * n) * MEBI

    monkeypatch.setattr(fit, "peak", measured)
    monkeypatch.setattr(fit, "free_memory", lambda device: free * MEBI)


@pytest.mark.parametrize(
    ("free", "processes", "batch"),
    [(500, 1, 7), (200, 1, 1), (1e6, 1, 8), (1000, 2, 14)],  # 0.9 · 500 = 450 = 100 + 7 · 50; 8: all images
)
def test_the_largest_batch_is_where_the_line_meets_the_memory(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, free: float, processes: int, batch: int
) -> None:
    line(monkeypatch, free)
    said: list[str] = []
    found = largest_batch(config(shapes), Ranks(0, processes), said.append)
    assert found == min(batch, 8)
    assert said == [f"batch {found}: an image takes 50 MiB, cpu has {free / processes:.0f} MiB free"]


def test_where_not_even_one_fits_it_says_what_to_do(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line(monkeypatch, 120)
    says = r"^not even one image fits: cpu has 120 MiB free; choose a smaller --size, or --grad-checkpoint$"
    with pytest.raises(InputError, match=says):
        largest_batch(config(shapes), ALONE, print)


def test_what_three_images_do_not_fit_into_fits_one(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line(monkeypatch, 200)
    monkeypatch.setattr(fit, "peak", lambda c, labels, channels, n, device: 100 * MEBI if n == 1 else None)
    assert largest_batch(config(shapes), ALONE, print) == 1


@pytest.mark.parametrize(("free", "processes", "batch"), [(280, 1, 2), (560, 2, 4), (400, 1, 4)])
def test_pairs_that_mix_stay_in_one_process(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, free: float, processes: int, batch: int
) -> None:
    """Where three images fit into each of two processes, six of them would make one process hold four."""
    line(monkeypatch, free)
    assert largest_batch(config(shapes, mix="mixup:1"), Ranks(0, processes), lambda line: None) == batch
    line(monkeypatch, 190)
    with pytest.raises(InputError, match=r"^not even a pair of images fits: cpu has 190 MiB free"):
        largest_batch(config(shapes, mix="mixup:1"), ALONE, print)


@pytest.mark.parametrize("spec", ["mixup:1", "cutmix:1+mixup:1"])
def test_the_masks_of_both_are_measured(
    spec: str, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partners: list[bool] = []
    whole = fit.losses.total

    def total(criterion, output, weights, target):  # type: ignore[no-untyped-def]
        partners.append(target.partner is not None)
        return whole(criterion, output, weights, target)

    monkeypatch.setattr(fit.losses, "total", total)
    c = config(shapes, mix=spec)
    steps(c, open_run(c)[0].labels, 3, 2, "cpu")
    assert partners == [True, True]


@pytest.mark.slow
def test_the_measured_memory_grows_with_the_images(shapes: Path) -> None:
    """Activations of four images against one, in processes of their own; a wide network, for resolution."""
    c = config(shapes, size=(128, 128), options={"width": 8})
    labels = open_run(c)[0].labels
    one, four = (peak(c, labels, 3, n, "cpu") for n in (1, 4))
    assert one
    assert four
    # eight channels at full size alone: a convolution's input and a ReLU's output, four nodes, 128² floats
    assert four - one > 3 * 8 * 8 * 128 * 128 * 4


def test_only_processes_of_this_machine_share_its_memory(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four on two machines: half of 600 for each, not a quarter."""
    line(monkeypatch, 600)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    said: list[str] = []
    largest_batch(config(shapes), Ranks(0, 4), said.append)
    assert said[0].endswith("cpu has 300 MiB free")


@pytest.mark.slow
def test_what_the_allocator_refuses_does_not_fit(shapes: Path) -> None:
    """On a CPU torch raises a plain RuntimeError."""
    c = config(shapes, size=(2**20, 2**20))
    assert peak(c, open_run(c)[0].labels, 3, 1, "cpu") is None


def test_the_average_of_the_weights_takes_memory_too(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    monkeypatch.setattr(fit, "Average", lambda model, decay: made.append(decay) or Average(model, decay))
    c = config(shapes, ema=0.9)
    assert steps(c, open_run(c)[0].labels, 3, 1, "cpu") >= 0
    assert made == [0.9]


@pytest.mark.slow
def test_batch_auto_is_a_batch_that_trains(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = f"--arch unetpp --opt width=2 --size 32 --epochs 1 --amp off --workers 0 --data folder:{shapes}"
    assert main([*flags.split(), "--batch", "auto", "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "batch 8: an image takes" in shown, "as many as there are"
    assert "what fits" in shown


def test_a_batch_that_does_not_fit_gets_the_largest_that_would(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line(monkeypatch, 300)
    t = trainer(replace(config(shapes), batch=8), tmp_path / "run")

    def too_much(group: list) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    t.step = too_much  # type: ignore[method-assign]
    says = r"^--batch 8 does not fit into the memory of cpu; the largest that would is 3$"
    with pytest.raises(InputError, match=says):
        t.fit()
    assert (tmp_path / "run" / "last.pt").exists()


def test_what_fits_is_measured_when_the_run_holds_nothing_any_more(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights, moments, average and activations would look like memory that is not there."""
    t = trainer(config(shapes, ema=0.9), tmp_path / "run")
    step, held = t.step, list[StorageWeakRef]()

    def too_much(group: list) -> float:
        step(group)
        activations = torch.zeros(1000)
        moments = [m for state in t.optimizer.state.values() for m in state.values()]
        parts = (*t.model.state_dict().values(), *t.average.weights.values(), *moments, activations)
        held.extend(StorageWeakRef(part.untyped_storage()) for part in parts)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def measured(*_: object) -> float:
        left.append(sum(not one.expired() for one in held))
        return MEBI

    left: list[int] = []
    t.step = too_much  # type: ignore[method-assign]
    monkeypatch.setattr(fit, "peak", measured)
    with pytest.raises(InputError, match="does not fit"):
        t.fit()
    assert len(held) > 50
    assert left == [0, 0]


def test_which_errors_are_of_memory() -> None:
    assert does_not_fit(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not does_not_fit(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError) as e:
        torch.empty(2**60)
    assert does_not_fit(e.value)


def test_a_margin_is_the_networks_own(shapes: Path) -> None:
    """unet has one but with padded=true."""
    c = config(shapes, arch="unet", options={"width": 2, "padded": True}, size=(20, 20))
    assert steps(c, open_run(c)[0].labels, 1, 1, "cpu") >= 0
