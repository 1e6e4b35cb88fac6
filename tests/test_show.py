"""If these break, `python -m zoo show` or `diff` prints numbers of another network, or a stack trace."""

import re

import pytest
from rich.console import Console

import zoo
from zoo import encoders, show
from zoo.__main__ import main
from zoo.errors import InputError
from zoo.show import Asked


def printed(capsys: pytest.CaptureFixture[str], words: str) -> str:
    assert main(words.split()) == 0
    return capsys.readouterr().out


def lines(text: str) -> dict[str, list[str]]:
    """First word of each line: its words."""
    return {words[0]: words for line in text.splitlines() if (words := line.split())}


def test_the_table_of_the_papers_unet(capsys: pytest.CaptureFixture[str]) -> None:
    """Fig. 1 and the counts of test_unet: what a reader compares the figure with."""
    out = printed(capsys, "show unet --size 388")
    assert "unet: 1×572×572 -> 2×388×388; 92 pixels are lost at each side" in out
    assert zoo.describe("unet").title in out
    rows = lines(out)
    assert rows["enc1"][-4:] == ["64×568×568", "37,568", "12,080,353,536", "8.0"]
    assert rows["bottom"][-4:-1] == ["1024×28×28", "14,157,824", "11,645,485,056"]
    assert rows["total"][-4:] == ["2×388×388", "31,030,658", "150,428,424,448", "100.0"]


@pytest.mark.parametrize("name", zoo.names())
def test_every_architecture_shows_what_it_is_described_with(name: str) -> None:
    shown = show.show(Asked(name))
    about = zoo.describe(name)
    assert (shown.whole.parameters, shown.whole.macs) == (about.parameters, about.macs)
    assert shown.outputs[0][0] == about.num_classes


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnet_x_400mf", "xception41", "mit_b0"])
def test_an_encoder_shows_its_maps(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, f"show {name} --size 64x96")
    encoder = encoders.build(name)
    maps = [f"{c}×{64 // s}×{96 // s}" for c, s in zip(encoder.channels, encoder.strides, strict=True)]
    assert f"{name}: 3×64×96 -> {', '.join(maps)}" in out
    assert lines(out)["total"][-3] == f"{sum(p.numel() for p in encoder.parameters()):,}"


def test_flags_and_colons_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    flags = printed(capsys, "show pspnet --encoder resnet18 --classes 2 --channels 1 --opt bins=1 --size 64")
    colons = printed(capsys, "show pspnet:encoder=resnet18:classes=2:channels=1:bins=1 --size 64")
    assert flags == colons
    assert "pspnet --encoder resnet18 --classes 2 --channels 1 --opt bins=1: 1×64×64 -> 2×64×64" in flags
    assert "ppm.branches.0" in flags
    assert "ppm.branches.1" not in flags


def test_depth_opens_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(lines(printed(capsys, "show unetpp --depth 1 --opt width=2")))[:20].count("x.00") == 1
    assert "x.00.h" in lines(printed(capsys, "show unetpp --depth 2 --opt width=2"))


def test_a_size_that_it_cannot_put_out_is_rounded_up_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    said = "2×516×516; the next size above 512×512 that it can put out; 92 pixels are lost at each side"
    assert said in printed(capsys, "show unet --size 512")


def test_parts_that_are_not_called_are_explained_where_there_are_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_aux, without = (printed(capsys, f"show fcn:encoder=resnet18:aux={aux}") for aux in ("true", "false"))
    assert '"not called": a head of training' in " ".join(with_aux.split())
    assert "not called" not in without


# ---------------------------------------------------------------- two


def test_the_same_rows_face_each_other_and_what_differs_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "diff pspnet pspnet:bins=1,2 --encoder resnet18 --size 64")
    table, below = out.split("what differs")
    marks = dict(re.findall(r"^ (\S+) .* ([=≠])  \1 ", table, re.M))
    assert marks["encoder.layer4"] == marks["head.4"] == "="
    assert marks["ppm.branches.0"] == marks["ppm.branches.1"] == "≠"
    assert re.search(r"^ ppm\.branches\.3 .*\d +$", table, re.M), "the other side is left empty"
    assert re.search(r"option bins +1,2,3,6 +1,2", below)
    assert "parameters" not in below, "the levels share the same channels"
    assert "MACs" in below


def test_two_papers_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "diff unet unet_halved")
    for word in ("31,030,658", "28,154,393", "246,634,518,784", "86,312,484,864", "× 0.907", "× 0.350"):
        assert word in out
    assert re.search(r"pixels lost a side +92 +0", out)
    assert re.search(r"encoder +None +resnet34", out)


def test_nothing_differs_from_itself(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "diff resnet18 resnet18:output_stride=32")
    assert "≠" not in out
    assert "nothing" in out.split("what differs")[1]


def test_an_encoder_beside_an_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "diff resnet18 fcn:encoder=resnet18 --size 64")
    assert re.search(r"class +ResNet +FCN", out)


def test_rows_of_other_names_face_each_other_without_a_mark() -> None:
    a, b = (show.show(Asked(name), (196, 196)) for name in ("unet", "unet_halved"))
    left, right = (show.stages(x.model, x.profiled) for x in (a, b))
    pairs = show.aligned(left, right)
    assert [p[0] for p in pairs if p[0]] == left
    assert [p[1] for p in pairs if p[1]] == right
    console = Console(width=200, record=True, quiet=True)
    console.print(show.side_by_side(a, b))
    assert pairs[-1][0].path == pairs[-1][1].path == "head"


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("show unetp", "unknown network 'unetp'; nearest: .*unetpp"),
        ("show resnet5", "unknown network 'resnet5'; nearest: .*resnet50"),
        ("show zebra", "unknown network 'zebra'; known: "),
        ("show unetpp --opt levl=3", "unetpp has no option 'levl'; nearest: level"),
        ("show unetpp --opt level=5", "level 5 must be 1, 2, 3 or 4"),
        ("show unetpp:level", "write options as NAME:KEY=VALUE"),
        ("show unetpp --size 3", "size 3 is too small for UNetPP; its smallest is 17"),
        ("show pspnet --size 64x8", "size 8 is too small for PSPNet; its smallest is 9"),
        ("show mit_b0 --size 8", "mit_b0 cannot take an input of 8x8"),
        ("show resnet18 --encoder resnet50", "resnet18 is an encoder and has one itself; leave --encoder"),
        ("show resnet18 --classes 3", "resnet18 is an encoder and has none; leave --classes out"),
        ("show resnet18 --opt depth=x", "option depth of encoder resnet18 must be int"),
        ("show resnet18 --opt stride=8", "encoder resnet18 has no option 'stride'"),
        ("show unet --encoder resnet18", "unet has no choice of encoder"),
        ("show unet --classes 0", "num_classes of unet must be a whole number >= 1"),
        ("show resnet18 --channels 0", "in_channels of encoder resnet18 must be a whole number >= 1"),
        ("show unetpp --size 0", "size 0 is too small"),
        ("show unetpp --size -5", "size -5 is too small"),
        ("show unetpp --size 99999999999", "unetpp cannot take an input"),
        ("show unet --opt width=99999999999", "unet cannot"),
        ("diff unet unetp", "unknown network 'unetp'"),
    ],
)
def test_a_mistake_is_one_sentence(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert re.match(f"zoo: .*{says}", err), err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", ["--size big", "--opt width", "--depth 0", "--depth x", "--classes x"])
def test_words_that_cannot_be_read_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["show", "unetpp", *words.split()])
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_was_asked_for_can_be_typed_again() -> None:
    what = Asked("pspnet", "resnet18", 2, 1, {"bins": (1, 2), "aux": False})
    flags = dict(re.findall(r"--(\w+) (\S+)", what.typed()))
    assert what.typed().split()[0] == "pspnet"
    assert flags["encoder"] == "resnet18"
    assert show.asked("pspnet:encoder=resnet18:classes=2:channels=1:bins=1,2:aux=False", Asked("")) == what


def test_what_a_name_says_goes_before_the_flags() -> None:
    flags = Asked("", "resnet18", 5, None, {"width": 4, "level": 2})
    found = show.asked("unetpp:encoder=resnet34:level=3", flags)
    assert found == Asked("unetpp", "resnet34", 5, None, {"width": 4, "level": 3})


def test_an_unknown_name_is_an_error_in_code_too() -> None:
    with pytest.raises(InputError, match="unknown network 'x'"):
        show.show(Asked("x"))
