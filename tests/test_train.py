"""If these break, a run cannot be begun or gone on with, or a mistake ends in a stack trace."""

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
from train import main
from zoo.core import checkpoint
from zoo.core.config import TrainConfig


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
