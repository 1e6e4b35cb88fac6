"""If these break, a stage table leaves a part out, counts it twice, or names what is not there."""

import pytest
import torch
from torch import nn

import zoo
from tests import small
from zoo import encoders
from zoo.profile import Stage, profile
from zoo.registry import legal_size, margin
from zoo.stages import FEW, Row, stages, words

ENCODERS = ("resnet18", "efficientnet_b0", "regnet_y_400mf", "xception41", "hrnet_w18", "mit_b0")


def profiled(name: str, **options: object) -> tuple[nn.Module, dict[str, Stage]]:
    with torch.device("meta"):
        model = encoders.build(name) if name in ENCODERS else zoo.build(name, **options)
    side = legal_size(model, 64)[0] + 2 * margin(model) if hasattr(model, "margin") else 64
    return model, profile(model, side)


def rows_of(name: str, depth: int | None = None, **options: object) -> dict[str, Row]:
    return {row.path: row for row in stages(*profiled(name, **options), depth)}


@pytest.mark.parametrize("name", [*small.NAMES, *ENCODERS])
def test_rows_add_up_to_the_network_at_every_depth(name: str) -> None:
    options = small.options(name) if name in small.NAMES else {}
    model, found = profiled(name, **options)
    counts = []
    for depth in (1, 2, 3, 9, None):
        rows = stages(model, found, depth)
        assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())
        assert sum(row.macs for row in rows) == found[""].macs > 0
        for row in rows:
            model.get_submodule(row.path)
            assert row.shape == (found[row.path].shape if row.path in found else None)
        counts.append(len(rows))
    assert counts[0] <= counts[1] <= counts[2] <= counts[3]
    assert counts[0] < counts[3]
    assert counts[4] >= FEW


def test_nodes_stand_in_the_order_in_which_they_are_computed() -> None:
    wanted = ["00", "10", "20", "30", "40", "01", "11", "21", "31", "02", "12", "22", "03", "13", "04"]
    assert list(rows_of("unetpp", 1, width=2)) == [f"x.{node}" for node in wanted] + ["heads.4"]


def test_what_runs_in_training_alone_is_one_row_that_was_not_called() -> None:
    rows = rows_of("fcn", 3, encoder="resnet18")
    assert list(rows)[-1] == "aux_classifier"
    aux = rows["aux_classifier"]
    assert (aux.shape, aux.macs, aux.itself) == (None, 0, False)
    assert aux.parameters == 9 * 256 * 64 + 2 * 64 + 21 * 65


def test_what_a_module_computes_beside_its_parts_is_a_row_of_its_own() -> None:
    """SegFormer's head multiplies its layers' weights: they are not called, and the head has the cost."""
    model, found = profiled("segformer_b0", num_classes=2)
    rows = {row.path: row for row in stages(model, found, 2)}
    assert rows["head"].itself
    assert rows["head"].macs == found["head"].macs - found["head.classify"].macs > 0
    assert rows["head"].parameters == 0
    assert rows["head.fuse"].shape is None


def test_parts_without_cost_that_do_not_shape_the_map_are_left_out() -> None:
    model, _ = profiled("fcn", encoder="resnet18")
    kinds = {type(model.get_submodule(path)) for path in rows_of("fcn", 9, encoder="resnet18")}
    assert nn.MaxPool2d in kinds
    assert not kinds & {nn.ReLU, nn.Dropout, nn.Identity}


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Conv2d(4, 8, 3), "3×3 conv"),
        (nn.Conv2d(4, 8, (1, 3), stride=2, padding=1), "1×3 conv, stride 2"),
        (nn.Conv2d(4, 4, 3, groups=4, dilation=6), "3×3 conv, depthwise, dilation 6"),
        (nn.Conv2d(4, 4, 3, groups=2), "3×3 conv, 2 groups"),
        (nn.ConvTranspose2d(4, 2, 2, stride=2), "2×2 up-conv, stride 2"),
        (nn.MaxPool2d(3, 2), "3×3 max, stride 2"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 1, 3)), "3×3 conv (2)"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(1, 1), nn.Linear(1, 1)), "1×1 conv + Linear (2)"),
        (nn.BatchNorm2d(2), "BatchNorm2d"),
    ],
)
def test_words(module: nn.Module, said: str) -> None:
    assert words(module) == said
