"""If these break, the weights that a run keeps are not the average it promises, or resuming changes them."""

from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from tests.core.test_trainer import assert_same_run, config, interrupted_at, trainer
from zoo.core import checkpoint
from zoo.core.ema import Average


def drift(model: nn.Module, step: int) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.full_like(p, 0.1 * step))
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None
                assert m.num_batches_tracked is not None
                m.running_mean += step
                m.num_batches_tracked += 1


def test_the_average_by_its_formula() -> None:
    """Weights by the sum over all steps; running statistics as they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    average, decay = Average(model, 0.5), 0.5
    seen, factors = [model[0].weight.detach().clone()], []
    for step in range(1, 8):
        drift(model, step)
        average.update()
        seen.append(model[0].weight.detach().clone())
        factors.append(min(decay, (1 + step) / (10 + step)))
    slow, share = torch.zeros_like(seen[0]), 1.0
    for weights, d in zip(seen[:0:-1], factors[::-1], strict=True):  # the newest first
        slow += share * (1 - d) * weights
        share *= d
    slow += share * seen[0]
    torch.testing.assert_close(average.weights["0.weight"], slow)
    assert torch.equal(average.weights["1.running_mean"], model[1].running_mean)
    assert average.weights["1.num_batches_tracked"] == 7
    assert factors[:3] == [2 / 11, 3 / 12, 4 / 13]
    assert factors[-1] == 8 / 17


def test_swapped_is_the_average_and_then_the_weights_again() -> None:
    model = nn.Conv2d(1, 1, 1)
    average = Average(model, 0.9)
    drift(model, 3)
    average.update()
    weights, slow = (t.clone() for t in (model.weight.detach(), average.weights["weight"]))
    assert not torch.equal(weights, slow)
    with suppress(ZeroDivisionError), average.swapped():
        assert torch.equal(model.weight, slow)
        raise ZeroDivisionError
    assert torch.equal(model.weight, weights)
    assert torch.equal(average.weights["weight"], slow)


def test_without_decay_there_is_none() -> None:
    model = nn.Conv2d(1, 1, 1)
    average = Average(model, 0.0)
    average.update()
    with average.swapped():
        pass
    assert (average.weights, average.steps) == ({}, 0)


def test_a_checkpoint_holds_the_average_and_the_run_goes_on_from_the_weights(
    shapes: Path, tmp_path: Path
) -> None:
    """Interrupted in the second epoch and resumed: bit for bit the unbroken run, average and all."""
    c = config(shapes, ema=0.8, options={"width": 2, "norm": "batch"})
    trainer(c, tmp_path / "unbroken").fit()
    broken = trainer(c, tmp_path / "broken")
    interrupted_at(6, broken)
    state = checkpoint.read(tmp_path / "broken" / "last.pt")
    now = broken.model.state_dict()
    assert state.training["averaged"] == 6
    assert all(torch.equal(t, now[key]) for key, t in state.training["weights"].items())
    assert any(not torch.equal(t, now[key]) for key, t in state.model.items())
    trainer(c, tmp_path / "broken", resume=state).fit()
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
