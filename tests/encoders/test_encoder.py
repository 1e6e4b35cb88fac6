"""If these break, a decoder gets maps of other sizes than it was built for, or a wrong word builds something.

What every encoder of `zoo.encoders` has in common; its own numbers are tested with its family.
"""

import functools

import pytest
import torch

from zoo import encoders
from zoo.encoders.encoder import Encoder, Strides, check_depth
from zoo.errors import InputError

STAGES = (2, 2, 1, 2, 2, 2)  # strides of a ResNet's parts: first convolution, pooling, layer1 … layer4
every_encoder = pytest.mark.parametrize("name", encoders.names())


@functools.cache
def meta(name: str, *args: int, **options: int) -> Encoder:
    with torch.device("meta"):
        return encoders.build(name, *args, **options)


@pytest.mark.parametrize(
    ("output_stride", "dilate_first", "stages"),
    [
        # each: stride, dilation of the first block, of the others
        (32, False, [(2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]),
        (32, True, [(2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]),
        (16, False, [(2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)]),
        (16, True, [(2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 2, 2)]),
        (8, False, [(2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]),  # torchvision's
        (8, True, [(2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 4, 4)]),  # semseg's
    ],
)
def test_strides_become_dilation(output_stride: int, dilate_first: bool, stages: list) -> None:
    strides = Strides(output_stride, dilate_first)
    assert [strides.stage(stride) for stride in STAGES] == stages
    assert strides.reached == output_stride


def test_a_stage_without_a_stride_keeps_the_dilation_reached() -> None:
    strides = Strides(8, dilate_first=True)
    assert [strides.stage(stride) for stride in (4, 2, 2, 1, 2)] == [
        (4, 1, 1),
        (2, 1, 1),
        (1, 2, 2),
        (1, 2, 2),
        (1, 4, 4),
    ]


@pytest.mark.parametrize("output_stride", [4, 12, 64, 0, -8])
def test_other_output_strides_are_refused(output_stride: int) -> None:
    with pytest.raises(
        InputError, match=f"output stride {output_stride} is not possible; choose 8, 16 or 32"
    ):
        Strides(output_stride, dilate_first=False)


def test_depth_is_between_one_and_all_maps() -> None:
    for depth in (1, 3, 5):
        check_depth(depth, 5)
    for depth in (0, 6, -1):
        with pytest.raises(InputError, match=f"depth {depth} is not possible; the encoder has 5 maps"):
            check_depth(depth, 5)


@torch.no_grad()
@pytest.mark.parametrize("name", encoders.names(dilatable=True))
def test_maps_are_as_wide_and_as_large_as_said(name: str) -> None:
    """Finest first, sizes rounded up; fewer distinct strides, never fewer maps."""
    whole, encoder = meta(name), meta(name, 2, output_stride=8)
    assert (whole.in_channels, whole.strides[-1]) == (3, 32)
    assert (encoder.in_channels, encoder.channels) == (2, whole.channels)
    assert encoder.strides == tuple(min(stride, 8) for stride in whole.strides)
    maps = encoder(torch.empty(2, 2, 75, 46, device="meta"))
    assert [m.shape for m in maps] == [
        (2, c, -(-75 // s), -(-46 // s)) for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert encoder.normalisation is None


@pytest.mark.parametrize("name", [n for n in encoders.names() if n not in encoders.names(dilatable=True)])
def test_maps_without_dilation_are_as_wide_and_as_large_as_said(name: str) -> None:
    """From stride 4 on; their sizes round up, too."""
    encoder = meta(name, 2)
    assert (encoder.in_channels, encoder.strides) == (2, (4, 8, 16, 32))
    maps = encoder(torch.empty(2, 2, 75, 46, device="meta"))
    assert [m.shape for m in maps] == [
        (2, c, -(-75 // s), -(-46 // s)) for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]


def test_an_encoder_knows_its_name() -> None:
    assert {meta(name).name for name in encoders.names()} == set(encoders.names())


@every_encoder
def test_fewer_maps_are_the_first_ones(name: str) -> None:
    """What is not built is the end of the network, so that its weights are a part of the whole's."""
    whole = meta(name)
    part = meta(name, depth=len(whole.channels) - 1)
    assert (part.channels, part.strides) == (whole.channels[:-1], whole.strides[:-1])
    kept, all_of_it = part.state_dict(), whole.state_dict()
    assert {key: tensor.shape for key, tensor in kept.items()} == {
        key: all_of_it[key].shape for key in kept
    }
    assert len(kept) < len(all_of_it)


@every_encoder
def test_every_option_can_be_said_wrongly(name: str) -> None:
    maps = len(meta(name).channels)
    for options, says in (
        ({"output_stride": 4}, "output stride 4 is not possible"),
        ({"depth": 0}, "depth 0 is not possible"),
        ({"depth": maps + 1}, f"depth {maps + 1} is not possible; the encoder has {maps} maps"),
    ):
        with pytest.raises(InputError, match=says):
            meta(name, **options)


def test_one_seed_makes_one_encoder() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(encoders.build("resnet18", depth=2).state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet5", "unknown encoder 'resnet5'; nearest: resnet50"),
        ("ResNet50", "unknown encoder 'ResNet50'; nearest: "),
        ("zebra", "unknown encoder 'zebra'; known: .*resnet18"),
        ("", "unknown encoder ''"),
        (None, "unknown encoder None"),
    ],
)
def test_an_unknown_encoder_is_answered_with_known_ones(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        encoders.build(name)


def test_names_are_what_build_knows() -> None:
    assert len(set(encoders.names())) == len(encoders.names())
    assert {"resnet18", "resnet50s", "resnext101_32x8d"} <= set(encoders.names())
    assert set(encoders.pretrained_names()) <= set(encoders.names())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reduction": (8, 4, 2, 1)}, "encoder mit_b0 has no option 'reduction'; nearest: reductions"),
        ({"reductions": 8}, "option reductions of encoder mit_b0 must be tuple"),
        ({"widths": (8, 16, 40, 64)}, "encoder mit_b0 has no option 'widths'; known: reductions"),
    ],
)
def test_a_familys_own_options_are_checked(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        encoders.build("mit_b0", **options)


def test_an_option_of_another_family_is_refused() -> None:
    with pytest.raises(InputError, match="encoder resnet18 has no option 'reductions'; known: none"):
        meta("resnet18", reductions=(8, 4, 2, 1))
