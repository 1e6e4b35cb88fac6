"""If these break, saving memory changes what is trained, or saves nothing."""

import copy

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests import small
from tests.encoders.hrnets import few_blocks
from zoo.core.memory import blocks_of, recompute
from zoo.dropout import draw_by_sample
from zoo.registry import legal_size, margin

CASES = [(name, small.options(name, width=4)) for name in small.NAMES]
CASES += [("unetpp", {"width": 4, "encoder": "resnet18", "deep_supervision": True})]
CASES += [
    ("unet_halved", {"encoder": e})
    for e in ("resnet50", "efficientnet_b0", "regnet_y_400mf", "xception41", "mit_b0", "hrnet_w18")
]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    few_blocks(monkeypatch)


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Forward and backward: the loss, every gradient, every buffer; and the same once more."""
    found = []
    for _ in range(2):
        draw_by_sample(model, [5, 6])
        output = model.train()(x)
        loss = sum((t.sigmoid() * torch.linspace(0, 1, t.numel()).view_as(t)).sum() for t in
                   (output.logits, *output.aux))
        model.zero_grad()
        loss.backward()
        found += [loss.detach().clone(), *(p.grad.clone() for p in model.parameters())]
    return [*found, *(b.clone() for b in model.buffers())]


@every_case
def test_loss_gradients_and_statistics_are_the_same(name: str, options: dict) -> None:
    """Bit for bit, dropout and dropped paths included."""
    plain = zoo.build(name, 2, 3, **options)
    twice = zoo.build(name, 2, 3, **options)
    twice.load_state_dict(plain.state_dict())
    recompute(twice)
    height, width = (side + 2 * margin(plain) for side in legal_size(plain, (33, 47)))
    x = torch.randn(2, 3, height, width)
    for a, b in zip(step(plain, x), step(twice, x), strict=True):
        assert torch.equal(a, b)


@every_case
def test_less_is_kept_for_the_way_back(name: str, options: dict) -> None:
    """What autograd saves, counted: at most 0.7 of it (where blocks are most of the network)."""
    kept = []
    for way in (lambda model: None, recompute):
        model = zoo.build(name, 2, 3, **options).train()
        way(model)
        height, width = (side + 2 * margin(model) for side in legal_size(model, (64, 64)))
        saved: dict[int, int] = {}

        def pack(t: Tensor, saved: dict[int, int] = saved) -> Tensor:
            if t.numel() and not isinstance(t, nn.Parameter):
                saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.randn(2, 3, height, width))
        kept.append(sum(saved.values()))
    assert kept[1] < 0.7 * kept[0]


def test_in_eval_and_without_gradients_nothing_is_computed_twice() -> None:
    model = zoo.build("unet_halved", 2, 3, encoder="resnet18")
    runs: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, path=path: runs.append(path))
    recompute(model)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model.train()(x)
    model.eval()(x)
    convs = len([m for m in model.modules() if isinstance(m, nn.Conv2d)])
    assert len(runs) == 2 * convs
    runs.clear()
    model.train()(x).logits.sum().backward()
    assert convs < len(runs) < 2 * convs  # stem and head once


def test_blocks_are_the_outermost_and_cover_most_of_a_network() -> None:
    for name, options in CASES:
        with torch.device("meta"):
            model = zoo.build(name, 2, 3, **options)
        blocks = blocks_of(model)
        inner = {id(m) for block in blocks for m in block.modules() if m is not block}
        assert not inner & {id(block) for block in blocks}
        counted = sum(p.numel() for block in blocks for p in block.parameters())
        assert counted > 0.6 * sum(p.numel() for p in model.parameters()), name


def test_a_copy_made_before_is_untouched() -> None:
    model = zoo.build("unet", width=2)
    other = copy.deepcopy(model)
    recompute(model)
    assert "forward" in vars(model.enc1)
    assert "forward" not in vars(other.enc1)
