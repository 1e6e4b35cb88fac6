"""If these break, a flag of train.py does nothing, or a mistake of the user's ends in a stack trace."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import infer
import zoo
from tests import small
from tests.encoders.hrnets import few_blocks
from train import flags_of, main, parser
from zoo.core import checkpoint
from zoo.core.config import TrainConfig

FLAGS = (
    "--arch --ds --opt --encoder --pretrained --weights --reset-head --recipe --data --val-fraction --fold "
    "--task --ignore --size --epochs --batch --accumulate --lr --head-lr --optimizer --momentum "
    "--weight-decay --decay-on --schedule --warmup --clip --patience --loss --augment --amp --workers --seed "
    "--limit-train --limit-val --device --out --resume --ema --freeze-encoder --freeze-bn --compile "
    "--grad-checkpoint --no-sync-bn --shard --cache --cache-gb --max-bad --save-every --debug-nan "
    "--download --log --fit-thresholds --exclude "
).split()


def options() -> list[argparse.Action]:
    return [a for a in parser()._actions if a.dest != "help"]


def test_the_option_list_is_frozen() -> None:
    """A flag is a promise: adding or renaming one is a decision, made here."""
    assert sorted(a.option_strings[0] for a in options()) == sorted(FLAGS)


def test_every_flag_reaches_the_configuration() -> None:
    fields = {*TrainConfig().to_dict()} - {"options"}
    assert {a.dest for a in options()} - {"ds", "opt", "out", "resume", "debug_nan"} == fields


def test_help_groups_the_flags_and_shows_defaults(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as e:
        main(["--help"])
    assert e.value.code == 0
    text = capsys.readouterr().out
    for group in ("model:", "data:", "optimisation:", "machine:", "run:"):
        assert group in text
    for a in options():
        assert a.help
        if (default := getattr(TrainConfig(), a.dest, None)) not in (None, False, True, ()):
            shown = "x".join(map(str, default)) if isinstance(default, tuple) else str(default)
            assert f"(default: {shown}" in " ".join(text.split()), a.dest


def test_values_are_read_as_typed() -> None:
    argv = "--ds --opt width=8 --opt norm=none --opt x=0.5 --opt y=true --size 96x128 --fold 1/5"
    argv += " --ignore 3 --ignore 4 --opt bins=1,2,3,6 --opt one=7, --opt mixed=0.5,a"
    flags = flags_of(parser().parse_args(argv.split()))
    assert flags == {
        "options": {
            "width": 8, "norm": None, "x": 0.5, "y": True, "deep_supervision": True,
            "bins": (1, 2, 3, 6), "one": (7,), "mixed": (0.5, "a"),
        },
        "size": (96, 128), "fold": (1, 5), "ignore": (3, 4),
    }


@pytest.mark.parametrize(
    ("argv", "pretrained"),
    [
        ("--pretrained", True), ("--pretrained --arch fcn", True), ("--pretrained none", False),
        ("--pretrained fcn_resnet50_coco", "fcn_resnet50_coco"),
    ],
)
def test_pretrained_is_a_flag_or_a_name(argv: str, pretrained: object) -> None:
    assert flags_of(parser().parse_args(argv.split()))["pretrained"] == pretrained


def one_epoch(data: Path, out: Path) -> list[str]:
    flags = f"--data folder:{data} --opt width=2 --size 32 --epochs 1 --workers 0 --amp off --out {out}"
    return flags.split()


def test_a_run_and_its_resumption(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    assert main([*one_epoch(shapes, out), "--ds"]) == 0
    said = capsys.readouterr().out
    for expected in ("configuration", "deep_supervision=True", "epoch 1/1", "disc", "infer.py", "best.pt"):
        assert expected in said
    assert main(["--resume", str(out), "--epochs", "2", "--log", "tensorboard"]) == 0
    assert [json.loads(x)["epoch"] for x in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert len(list((out / "tensorboard").iterdir())) == 1, "a log may be added on the way"
    assert zoo.load(out / "best.pt").deep_supervision


OPTIONS = {  # to be quick; the first ones are of several values
    "unet_halved": "--opt decoder_channels=32,16,8,8,4",
    "pspnet": "--opt bins=1,2",
    "deeplabv3plus": "--opt rates=1,2",
    "unetpp": "--opt level=2 --opt width=2",
    "unet": "--opt width=2",
}


@pytest.mark.parametrize("arch", small.NAMES)
def test_every_architecture_through_both_doors(
    arch: str,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One epoch of three images: the last batch holds one, at which BatchNorm behind a pooling stops."""
    few_blocks(monkeypatch)
    out = tmp_path / "run"
    encoder = str(small.options(arch).get("encoder", ""))
    flags = f"--arch {arch} {OPTIONS.get(arch, '')} --data folder:{shapes} --size 64 --epochs 1"
    flags += f" --encoder {encoder}" if encoder else ""
    flags += f" --batch 2 --limit-train 3 --limit-val 1 --workers 0 --amp off --out {out}"
    assert main(flags.split()) == 0
    assert encoder in capsys.readouterr().out
    state = checkpoint.read(out / "last.pt")
    assert state.training["progress"]["step"] == 2
    config = TrainConfig.from_dict(json.loads((out / "config.json").read_text()))
    assert config == TrainConfig.from_dict(state.config)
    assert all(torch.isfinite(v).all() for v in state.model.values())

    masks = tmp_path / "masks"
    assert infer.main(f"{out / 'best.pt'} --input {shapes / 'images'} --out {masks} --amp off".split()) == 0
    assert len(list((masks / "masks").iterdir())) == 10
    assert cv2.imread(str(masks / "masks" / "00.png"), cv2.IMREAD_UNCHANGED).shape == (48, 40)


def test_a_published_size_and_crop_through_the_door(shapes: Path, tmp_path: Path) -> None:
    """`--recipe paper` as PSPNet was trained, but for what no small machine can do; tuples show as typed."""
    out = tmp_path / "run"
    flags = f"--arch pspnet --recipe paper --pretrained none --encoder resnet18 --data folder:{shapes}"
    flags += f" --size 40 --epochs 1 --limit-train 2 --limit-val 1 --workers 0 --opt bins=1,2 --out {out}"
    assert main(flags.split()) == 0
    state = checkpoint.read(out / "last.pt")
    assert state.preprocess.tile
    assert state.build["bins"] == (1, 2)
    rates = {group["factor"]: group["lr"] for group in state.training["optimizer"]["param_groups"]}
    assert rates == {1.0: pytest.approx(0.01), 10.0: pytest.approx(0.1)}


def test_a_padded_unet_sees_whole_images(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It has no margin, so nothing is cut into tiles, and its masks have the image's size."""
    out = tmp_path / "run"
    flags = f"--arch unet --opt padded=true --opt width=2 --data folder:{shapes} --size 33x47 --epochs 1"
    assert main(f"{flags} --limit-train 2 --limit-val 1 --workers 0 --amp off --out {out}".split()) == 0
    capsys.readouterr()
    preprocess = checkpoint.read(out / "last.pt").preprocess
    assert (preprocess.tile, preprocess.size) == (False, (33, 47))
    assert zoo.load(out / "best.pt").margin == 0
    assert main(f"--resume {out} --size 33x47 --epochs 2".split()) == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--arch unetp", "unetpp"),
        ("--arch unet --ds", "deep_supervision"),
        ("--opt widht=4", "width"),
        ("--arch unet --encoder resnet34", "encoder"),
        ("--encoder resnet3", "resnet34"),
        ("--arch pspnet --opt output_stride=4", "output stride 4"),
        ("--arch pspnet --opt bins=1,two", "bins"),
        ("--pretrained", "--encoder"),
        ("--arch unet --pretrained", "leave --pretrained out"),
        ("--arch fcn --recipe paper --data phantom", "ce does not fit multilabel"),
        ("--pretrained --weights x.pt", "leave the other out"),
        ("--arch pspnet --pretrained pspnet_of_nowhere", "pspnet_of_nowhere"),
        ("--head-lr 10", "no encoder"),
        ("--decay-on weight", "nearest: weights"),
        ("--recipe papers", "paper"),
        ("--data fodler:x", "folder"),
        ("--data folder:/nowhere/at/all", "/nowhere/at/all"),
        ("--loss dise", "dice"),
        ("--augment flipp", "flip"),
        ("--optimizer adam", "--optimizer"),
        ("--size 8", "17x17"),
        ("--weights none.pt", "none.pt"),
        ("--resume nowhere", "nowhere"),
        ("--lr -1", "--lr"),
        ("--epochs 0", "--epochs"),
        ("--device cuda:99", "cuda:99"),
        ("--task multilable", "multilabel"),
        ("--log tensorbord", "nearest: tensorboard"),
        ("--download", "fetches voc and pets, not folder"),
        ("--data voc:/nowhere", "--download makes it"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(
    flags: str, expected: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = flags.split()
    base = ["--data", f"folder:{shapes}"] if "--data" not in given and "--resume" not in given else []
    out = [] if "--resume" in given else ["--out", str(tmp_path / "run")]
    assert main([*base, *given, *out]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("train.py: ")
    assert expected in captured.err
    assert not (tmp_path / "run").exists(), "nothing is left of a run that could not start"


def test_a_flag_that_argparse_refuses_exits_with_2(capsys: pytest.CaptureFixture) -> None:
    for flags in (["--size", "big"], ["--fold", "3"], ["--opt", "width"], ["--no-such-flag"]):
        with pytest.raises(SystemExit) as e:
            main(flags)
        assert e.value.code == 2
    capsys.readouterr()


def test_resuming_as_another_run_is_refused(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    assert main(one_epoch(shapes, out)) == 0
    for flags in (["--arch", "unet"], ["--data", "phantom"]):
        assert main(["--resume", str(out), *flags]) == 2
        assert "was started with" in capsys.readouterr().err


def test_a_broken_file_stops_before_training(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mask = cv2.imread(str(shapes / "masks" / "03.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(shapes / "masks" / "03.png"), np.where(mask == 2, 7, mask).astype(np.uint8))
    assert main(one_epoch(shapes, tmp_path / "run")) == 2
    message = capsys.readouterr().err
    assert "03.png" in message
    assert "7" in message
    assert not (tmp_path / "run").exists()
