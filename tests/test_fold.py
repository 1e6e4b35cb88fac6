"""If these break, a trained network answers otherwise once its BatchNorms are folded, or is damaged by it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests import small
from tests.encoders.hrnets import few_blocks
from tests.scatter import scattered
from tests.test_contract import CASES, IDS, image
from zoo import encoders
from zoo.fold import example

BEHIND_OTHERS = {  # two behind sums of convolutions' parts, one behind the attention
    "hrnet_ocr": ["regions.1", "pixels.1", "context.rho.1"],
}


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def assert_same(folded: nn.Module, model: nn.Module, x: Tensor, most: float = 1e-5) -> None:
    """Every map is equal to `most` of its range."""
    wanted, got = ([y] if isinstance(y, Tensor) else y for y in (model(x), folded(x)))
    for y, z in zip(wanted, got, strict=True):
        span = float(y.max() - y.min())
        assert span > 0.01
        torch.testing.assert_close(z, y, rtol=0, atol=most * span)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_every_architecture_gives_the_same_logits(
    name: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_blocks(monkeypatch)
    model = zoo.build(name, 5, **options)
    x = image(model, (70, 90), batch=2)
    scattered(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = zoo.fold(model)
    assert not folded.training
    assert_same(folded, model, x)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert list(after) == list(before)
    exact = model.double()
    assert_same(zoo.fold(exact), exact, x.double(), most=1e-11)  # what float32 leaves is rounding


@pytest.mark.parametrize("name", encoders.names())
def test_every_encoder_gives_the_same_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few_blocks(monkeypatch)
    model = encoders.build(name)
    x = torch.rand(2, 3, 64, 96)
    scattered(model)
    folded = zoo.fold(model)
    assert norms(folded) == 0
    assert_same(folded, model, x)


@pytest.mark.parametrize("name", small.NAMES)
def test_nothing_is_left_that_could_be_folded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else inference is slower than it could be, and nobody would notice."""
    few_blocks(monkeypatch)
    model = zoo.build(name, **small.options(name))
    called = called_norms(model)
    left = [key for key, module in zoo.fold(model).named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert [key for key in left if key in called] == BEHIND_OTHERS.get(name, [])


def called_norms(model: nn.Module) -> set[str]:
    """BatchNorms that run in eval mode: not an auxiliary head's, nor SegFormer's, of which the numbers do."""
    called: set[str] = set()
    for key, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_, key=key: called.add(key))
    with torch.no_grad():
        model.eval()(example(model))
    return called


# ---------------------------------------------------------------- what must stay


class Wired(nn.Module):
    """Two convolutions and two BatchNorms, used as `how` says."""

    in_channels = 4

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 1, bias=False)
        self.n, self.m = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        if how == "one weight":
            self.b.weight = nn.Parameter(torch.randn(4, 4, 1, 1))
            self.a = nn.Conv2d(4, 4, 1)
            self.a.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        match self.how:
            case "read twice":
                return self.n(y) + y
            case "returned as well":
                self.seen = self.n(y)
                return y
            case "called twice":
                return self.n(self.a(F.relu(y)))
            case "norm twice":
                return self.n(self.b(F.relu(self.n(y))))
            case "weight read":
                return self.n(y) * self.a.weight.sum()
            case "norm read":
                return self.n(y) * self.n.running_var[0]
            case "something between":
                return self.n(y.relu())
        return self.m(self.b(self.n(y)))


@pytest.mark.parametrize(
    ("how", "folds"),
    [("plain", 2), ("read twice", 0), ("returned as well", 0), ("called twice", 0), ("norm twice", 0),
     ("weight read", 0), ("norm read", 0), ("something between", 0), ("no statistics", 1), ("one weight", 0)],
)  # fmt: skip
def test_what_someone_else_reads_is_not_folded(how: str, folds: int) -> None:
    """A folded weight would be wrong for the other reader."""
    model = scattered(Wired(how))
    model.m.weight = model.m.bias = None  # as `affine=False` has it
    if how == "no statistics":
        model.n = nn.BatchNorm2d(4, track_running_stats=False)
    x = torch.randn(2, 4, 9, 9)
    folded = zoo.fold(model)
    assert norms(model) - norms(folded) == folds
    assert_same(folded, model, x)


def test_it_goes_on_as_a_network() -> None:
    """What the core reads of an architecture is there, and the copy can be folded, traced and saved."""
    model = scattered(zoo.build("unetpp", 3, encoder="resnet18", width=4))
    folded = zoo.fold(model)
    assert (folded.min_size, folded.in_channels) == (model.min_size, model.in_channels)
    again = zoo.fold(folded)
    assert all(torch.equal(a, b) for a, b in zip(folded.parameters(), again.parameters(), strict=True))
    half = zoo.fold(model.bfloat16())
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
