"""What the trainer, the predictor and exporters rely on, for every architecture that `zoo.build` knows.

If these break, the core would need to know which network it holds.
"""

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.encoders.hrnets import few_blocks
from zoo.layers import Output
from zoo.registry import architecture, check_size, legal_size, margin

# Narrow variants of every architecture: each option appears, and each pair that could disturb one another.
VARIANTS = {
    "unet": [{"width": 4}, {"width": 4, "dropout": 0.0}, {"width": 4, "padded": True}],
    "unet_halved": [{"encoder": "resnet18"}, {"encoder": "resnet18", "decoder_channels": (8, 8, 4, 4, 4)}],
    "fcn": [{"encoder": "resnet18"}, {"encoder": "resnet18", "aux": False}],
    "pspnet": [
        {"encoder": "resnet18"},
        {"encoder": "resnet18", "aux": False, "bins": (2, 1), "dilate_first": False, "align_corners": True},
        {"encoder": "resnet18", "output_stride": 32, "dropout": 0.5},
    ],
    "unetpp": [
        {"width": 4},
        {"width": 4, "norm": "batch"},
        {"width": 4, "deep_supervision": True},
        {"width": 4, "norm": "batch", "deep_supervision": True, "level": 2},
        {"width": 8, "encoder": "resnet18"},
        {"width": 8, "encoder": "resnet18", "deep_supervision": True, "level": 2},
    ],
    "deeplabv3plus": [
        {"encoder": "resnet18"},
        {"encoder": "resnet18", "output_stride": 8, "separable": False, "rates": (2,), "dilate_first": True},
        {"encoder": "resnet18", "output_stride": 32, "image_pooling": False},
    ],
    "hrnet_ocr": [
        {"encoder": "hrnet_w18"},
        {"encoder": "hrnet_w18", "dropout": 0.5, "align_corners": True},
        {"encoder": "hrnet_w18", "ocr": False, "literal": True},
        {"encoder": "hrnet_w18", "literal": True},
    ],
    "segformer_b0": [{}, {"literal": True, "width": 16, "reductions": (4, 2, 1, 1)}],
}
CASES = [(name, options) for name, variants in VARIANTS.items() for options in variants]
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options in CASES]
SIZES = [(1, 1), (33, 47), (64, 50)]  # outputs, rounded up to legal ones

every_variant = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    few_blocks(monkeypatch)


def image(model: nn.Module, size: tuple[int, int], batch: int = 1) -> Tensor:
    """Noise for the legal output that covers `size`."""
    height, width = legal_size(model, size)
    border = 2 * margin(model)
    return torch.rand(batch, model.in_channels, height + border, width + border)


def total(output: Output) -> Tensor:
    """A loss that reaches every logit, each by another weight so that nothing cancels."""
    logits = [t.float() for t in (output.logits, *output.aux)]
    return sum((t * torch.rand_like(t)).sum() for t in logits)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_every_architecture_is_listed_here() -> None:
    """The sizes of one paper are one class, which one of them stands for here."""
    here, all_of_them = ({architecture(name) for name in names} for names in (VARIANTS, zoo.names()))
    assert here == all_of_them, "add narrow variants of the new architecture to VARIANTS"


@every_variant
@pytest.mark.parametrize(
    ("batch", "channels", "classes", "size"),
    [(1, 1, 1, (1, 1)), (2, 3, 2, (33, 47)), (1, 3, 29, (64, 50)), (3, 1, 2, (1, 1)), (1, 3, 1, (33, 47))],
)
def test_shapes(name: str, options: dict, batch: int, channels: int, classes: int, size: tuple) -> None:
    model = zoo.build(name, classes, channels, **options)
    x = image(model, size, batch)
    shape = (batch, classes, *legal_size(model, size))
    check_size(model, shape[-2:])

    output = model.train()(x)
    assert type(output) is Output
    assert [t.shape for t in (output.logits, *output.aux)] == [shape] * (1 + len(model.aux_weights))

    logits = model.eval()(x)
    assert type(logits) is Tensor
    assert logits.shape == shape
    assert logits.isfinite().all()


@every_variant
def test_every_parameter_gets_a_gradient(name: str, options: dict) -> None:
    model = zoo.build(name, 2, 3, **options).train()
    total(model(image(model, (33, 47), batch=2))).backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None]
    still = [key for key, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert (idle, still) == ([], [])


@every_variant
def test_a_batch_of_one_trains_at_the_smallest_size(name: str, options: dict) -> None:
    model = zoo.build(name, **options).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        loss = total(model(image(model, (1, 1))))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()


@every_variant
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16(name: str, options: dict, how: str) -> None:
    model = zoo.build(name, 2, 1, **options)
    x = image(model, (33, 47), batch=2)
    reference = model.eval()(x)
    if how == "weights":
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        logits = model.eval()(x)
        loss = total(model.train()(x))
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert (logits - reference).abs().max() < 0.1 * reference.abs().max()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_variant
def test_eval_sees_each_image_alone_and_repeats_itself(name: str, options: dict) -> None:
    model = zoo.build(name, **options).eval()
    x = image(model, (33, 47), batch=3)
    together = model(x)
    assert torch.equal(together, model(x))
    assert_same(model(x[1:2]), together[1:2])


@every_variant
def test_weights_travel_by_state_dict(name: str, options: dict) -> None:
    one, other = (zoo.build(name, **options).eval() for _ in range(2))
    x = image(one, (33, 47))
    assert not torch.equal(one(x), other(x))
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(one(x), other(x))


@every_variant
def test_channels_last_changes_nothing(name: str, options: dict) -> None:
    model = zoo.build(name, **options).eval()
    x = image(model, (33, 47), batch=2)
    expected = model(x)
    last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert_same(last, expected)


@every_variant
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_serves_every_size_and_batch(name: str, options: dict) -> None:
    model = zoo.build(name, **options).eval()
    traced = torch.jit.trace(model, image(model, (40, 40)))
    for size in SIZES:
        x = image(model, size, batch=2)
        assert_same(traced(x), model(x))


@every_variant
def test_export(name: str, options: dict) -> None:
    model = zoo.build(name, **options).eval()
    x = image(model, (33, 47))
    exported = torch.export.export(model, (x,)).module()
    assert_same(exported(x), model(x))
