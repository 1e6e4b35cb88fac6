"""If these break, a run on two processes, or a resumed one, drops other channels than the plain run."""

import pytest
import torch
import torchvision
from torch import nn

import zoo
from tests import small
from tests.encoders.hrnets import few_blocks
from zoo.dropout import Dropout, Dropout2d, StochasticDepth, draw_by_sample
from zoo.registry import legal_size, margin

SEEDS = [3, 2**63 - 1, 0, 12345678901234567]


@pytest.mark.parametrize("shape", [(4000, 3), (4000, 2, 3), (4000, 2, 3, 1)])
def test_stochastic_depth_keeps_or_leaves_out_whole_images(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape) + 1
    y = StochasticDepth(0.2).train()(x)
    out = (y == 0).flatten(1)
    assert torch.equal(out.all(1), out.any(1))
    out = out.all(1)
    torch.testing.assert_close(y[~out], x[~out] / 0.8)
    assert out.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert y.mean().item() == pytest.approx(x.mean().item(), rel=0.03)  # what the division is for


def test_stochastic_depth_draws_as_torchvision_does() -> None:
    x = torch.rand(64, 2, 3, 3)
    drawn = []
    for block in (StochasticDepth(0.3), torchvision.ops.StochasticDepth(0.3, "row")):
        torch.manual_seed(5)
        drawn.append(block(x))
    torch.testing.assert_close(*drawn)


def test_stochastic_depth_does_nothing_in_eval_or_at_zero() -> None:
    x = torch.rand(8, 2)
    assert StochasticDepth(0.9).eval()(x) is x
    before = torch.get_rng_state()
    assert StochasticDepth(0.0).train()(x) is x
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("ours", "theirs"), [(Dropout, nn.Dropout), (Dropout2d, nn.Dropout2d)])
def test_without_seeds_they_are_torchs(ours: type, theirs: type) -> None:
    x, drawn = torch.randn(4, 8, 3, 5), []
    for layer in (ours(0.3), theirs(0.3)):
        torch.manual_seed(5)
        drawn.append(layer(x))
    assert torch.equal(*drawn)
    assert ours(0.3).eval()(x) is x


@pytest.mark.parametrize("kind", [Dropout, Dropout2d, StochasticDepth])
def test_a_sample_loses_the_same_wherever_it_stands(kind: type) -> None:
    """In the batch, in a part of it, in another order; and nothing is drawn from the global generator."""
    layer, x = kind(0.5).train(), torch.randn(4, 64, 3, 5)
    before = torch.get_rng_state()
    draw_by_sample(layer, SEEDS)
    whole = layer(x)
    assert 0.2 < (whole == 0).float().mean() < 0.8
    draw_by_sample(layer, SEEDS[2:])
    assert torch.equal(layer(x[2:]), whole[2:])
    draw_by_sample(layer, SEEDS[::-1])
    assert torch.equal(layer(x.flip(0)), whole.flip(0))
    assert torch.equal(torch.get_rng_state(), before)
    draw_by_sample(layer, None)
    layer(x)
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [Dropout, Dropout2d])
def test_samples_and_layers_lose_different_ones(kind: type) -> None:
    model = nn.Sequential(*(kind(0.5) for _ in range(3))).train()
    draw_by_sample(model, range(100))
    kept = torch.stack([layer(torch.ones(100, 512, 1, 1)) != 0 for layer in model]).flatten(2).double()
    assert kept.mean().item() == pytest.approx(0.5, abs=0.01)
    rows = kept.flatten(0, 1) - 0.5
    agree = (rows @ rows.T) / 128  # correlations of 300 rows of 512
    assert (agree - torch.eye(300)).abs().max() < 0.3


def test_depths_drop_one_by_one_and_with_their_own_chance() -> None:
    model = nn.Sequential(*(StochasticDepth(p) for p in (0.0, 0.1, 0.5, 0.5))).train()
    draw_by_sample(model, range(4000))
    gone = [(layer(torch.ones(4000, 1)) == 0).float()[:, 0] for layer in model]
    assert [g.mean().item() for g in gone] == pytest.approx([0, 0.1, 0.5, 0.5], abs=0.03)
    assert (gone[2] * gone[3]).mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("name", small.NAMES)
def test_no_network_has_a_dropout_that_draws_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass in train mode, seeded by sample, leaves torch's global generator alone."""
    few_blocks(monkeypatch)
    for encoder in {small.options(name).get("encoder"), "efficientnet_b0"}:
        if encoder is not None and encoder not in small.encoders(name):
            continue
        options = {"encoder": encoder} if encoder else small.options(name)
        model = zoo.build(name, 2, 3, **options).train()
        height, width = (side + 2 * margin(model) for side in legal_size(model, 33))
        draw_by_sample(model, SEEDS[:2])
        before = torch.get_rng_state()
        x = torch.ones(2, 3, height, width)
        model(x)
        assert torch.equal(torch.get_rng_state(), before)
