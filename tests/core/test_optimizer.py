"""If these break, an encoder is trained away at its head's rate, or decay acts on the wrong ones."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import zoo
from zoo.core.config import DECAYED, TrainConfig
from zoo.core.optimizer import make_optimizer, set_rate


class Net(nn.Module):
    """A grey image, an encoder with a depthwise convolution, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4)
        )
        self.head = nn.Conv2d(4, 2, 1)


def settings(model: nn.Module, word: str, **config: object) -> dict[str, float]:
    """What the optimizer's groups hold under `word`, for each parameter; each is in one group."""
    optimizer = make_optimizer(model, TrainConfig(**config))  # type: ignore[arg-type]
    listed = [(id(p), group[word]) for group in optimizer.param_groups for p in group["params"]]
    held = dict(listed)
    assert len(held) == len(listed) == len(list(model.parameters()))
    return {name: held[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("rule", "decayed"),
    [
        ("weights", {"encoder.0.weight", "encoder.2.weight", "head.weight"}),
        ("dense", {"encoder.0.weight", "head.weight"}),  # a first convolution over grey is not depthwise
        ("all", {name for name, _ in Net().named_parameters()}),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_where_decay_acts(rule: str, decayed: set[str], optimizer: str) -> None:
    held = settings(Net(), "weight_decay", weight_decay=0.5, decay_on=rule, optimizer=optimizer)
    assert {name for name, value in held.items() if value == 0.5} == decayed
    assert {value for name, value in held.items() if name not in decayed} <= {0.0}
    assert rule in DECAYED


def test_what_is_not_called_norm_decays() -> None:
    """SegFormer: no LayerNorm decays, but biases do, and the head's BatchNorm, which is called bn."""
    with torch.device("meta"):
        model = zoo.build("segformer_b0")
    held = settings(model, "weight_decay", weight_decay=0.5, decay_on="not_norm")
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 8 * 2 + 6 + 4 + 4  # in 8 blocks, behind reduction, behind patches, at stages' ends
    spared = {f"{name}.{word}" for name in norms for word in ("weight", "bias")}
    assert {name for name, value in held.items() if value == 0} == spared
    assert held["head.bn.weight"] == held["encoder.block1.0.attn.q.bias"] == 0.5


def test_the_head_is_all_that_is_not_the_encoder() -> None:
    held = settings(Net(), "factor", head_lr=10.0)
    assert held == {n: 1.0 if n.startswith("encoder") else 10.0 for n, _ in Net().named_parameters()}
    fcn = zoo.build("fcn", 2, encoder="resnet18")  # its encoder is called `backbone`, as torchvision calls it
    held = settings(fcn, "factor", head_lr=10.0)
    assert {name.split(".")[0]: value for name, value in held.items()} == {
        "backbone": 1.0, "classifier": 10.0, "aux_classifier": 10.0
    }


def test_one_rate_needs_no_more_groups_than_decay() -> None:
    assert len(make_optimizer(Net(), TrainConfig()).param_groups) == 2
    assert len(make_optimizer(Net(), TrainConfig(head_lr=10.0)).param_groups) == 4
    assert len(make_optimizer(Net(), TrainConfig(decay_on="all")).param_groups) == 1
    assert len(make_optimizer(nn.Conv2d(1, 1, 1, bias=False), TrainConfig()).param_groups) == 1


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_groups_of_the_first_release_go_on(decay: float, optimizer: str) -> None:
    """It had two at any decay, weights before biases and norms, and no factors."""
    torch.manual_seed(1)
    then, now = Net(), Net()
    now.load_state_dict(then.state_dict())
    listed = [
        {"params": [p for p in then.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in then.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    old = kind(listed, lr=0.01, **({"momentum": 0.9} if optimizer == "sgd" else {}))  # type: ignore[arg-type]
    new = make_optimizer(now, TrainConfig(optimizer=optimizer, weight_decay=decay, lr=0.01))

    def step(model: nn.Module, by: torch.optim.Optimizer) -> None:
        set_rate(by, 0.02)
        for p in model.parameters():
            p.grad = p.detach() + 1
        by.step()

    step(then, old)
    now.load_state_dict(then.state_dict())
    new.load_state_dict(deepcopy(old.state_dict()))  # else both step the same momentum
    for model, by in ((then, old), (now, new)):
        step(model, by)
    for name, p in now.named_parameters():
        assert torch.equal(p, then.get_parameter(name)), name


def test_a_step_is_the_rate_times_the_factor() -> None:
    model = Net()
    config = TrainConfig(optimizer="sgd", momentum=0.0, weight_decay=0.1, decay_on="all", head_lr=3.0)
    optimizer = make_optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    set_rate(optimizer, 0.05)
    optimizer.step()
    for name, p in model.named_parameters():
        rate = 0.05 * (3 if name.startswith("head") else 1)
        assert torch.allclose(p, before[name] - rate * (2 + 0.1 * before[name]), rtol=1e-6), name
