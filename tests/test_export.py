"""If these break, a trained network cannot leave Python: TorchScript, torch.export, ONNX, any size and batch.

Each is made from one image size and run at another, odd one, and with one image at the smallest size.
test_contract.py traces and exports every option; here every architecture and every family of encoders takes
the whole way to a file that another runtime reads.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import zoo
from tests import small
from tests.encoders.hrnets import few_blocks
from zoo import encoders
from zoo.registry import legal_size, margin

pytest.importorskip("onnxscript", reason='pip install -e ".[export]" to run these')
onnxruntime = pytest.importorskip("onnxruntime", reason='pip install -e ".[export]" to run these')

OPSET = 18
MADE = (2, (40, 56))  # batch and output; sizes are rounded up to legal ones
RUN = [(3, (63, 49)), (1, (1, 1))]
# torch.export takes a map of one row for one that never has more, and a higher one for one that never has
# one: SegFormer's first map of keys has one below 61 pixels.  Its ONNX file serves those sizes, too.
EXPORTED_FROM = {"segformer_b0": 61}
ENCODERS = ["resnet50s", "xception41", "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf"]

Case = tuple[str, tuple[tuple[str, object], ...]]  # a name and its options; hashable, to be built once
CASES: list[Case] = [(name, tuple(small.options(name, width=4).items())) for name in small.NAMES]
CASES += [("unetpp", (("width", 4), ("norm", "batch"), ("deep_supervision", True)))]
CASES += [(name, ()) for name in ENCODERS]
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join([case[0], *(f"{key}={value}" for key, value in case[1])])
)

Run = Callable[[Tensor], Tensor | Sequence[Tensor]]  # an encoder returns several maps


@functools.cache
def network(case: Case) -> nn.Module:
    """In eval mode, with running statistics as if trained: at their start a BatchNorm does nothing."""
    torch.manual_seed(0)
    name, options = case
    with pytest.MonkeyPatch.context() as monkeypatch:
        few_blocks(monkeypatch)
        model = (encoders.build(name) if name in ENCODERS else zoo.build(name, 5, **dict(options))).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@functools.cache
def exported(case: Case) -> ExportedProgram:
    """`torch.export` with batch, height and width left open."""
    model = network(case)
    axes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    batch, (height, width) = MADE
    least = EXPORTED_FROM.get(case[0], 1)
    example = images(model, batch, (max(height, least), max(width, least)))
    return torch.export.export(model, (example,), dynamic_shapes=(axes,))


def images(model: nn.Module, batch: int, size: tuple[int, int]) -> Tensor:
    """Noise for the legal output that covers `size`; for an encoder at least 33×33, a deepest map of 2×2."""
    if isinstance(model, encoders.Encoder):
        height, width, border = max(size[0], 33), max(size[1], 33), 0
    else:
        (height, width), border = legal_size(model, size), 2 * margin(model)
    return torch.rand(batch, model.in_channels, height + border, width + border)


@torch.no_grad()
def assert_equals(model: nn.Module, other: Run, least: int = 1) -> None:
    """`other` gives what `model` gives, to 1e-4 of its range, at sizes and batches it was not made with."""
    for batch, (height, width) in RUN:
        x = images(model, batch, (max(height, least), max(width, least)))
        wanted, got = ([y] if isinstance(y, Tensor) else y for y in (model(x), other(x)))
        for y, z in zip(wanted, got, strict=True):
            span = float(y.max() - y.min())
            assert span > 0.01
            torch.testing.assert_close(z, y, rtol=0, atol=1e-4 * span)


@every_case
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_serves_every_size_and_batch(case: Case) -> None:
    model = network(case)
    assert_equals(model, torch.jit.trace(model, images(model, *MADE)))


@every_case
def test_an_export_serves_every_size_and_batch(case: Case) -> None:
    assert_equals(network(case), exported(case).module(), EXPORTED_FROM.get(case[0], 1))


@pytest.mark.slow
@every_case
def test_an_onnx_file_serves_every_size_and_batch(case: Case, tmp_path: Path) -> None:
    program = torch.onnx.export(exported(case), opset_version=OPSET, dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert program.model.opset_imports[""] == OPSET
    (given,) = session.get_inputs()

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(y) for y in session.run(None, {given.name: x.numpy()})]

    assert_equals(network(case), run)
