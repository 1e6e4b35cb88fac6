"""If these break, a flag of train.py does nothing, or what is typed is read as something else."""

import argparse
from pathlib import Path

import pytest

from zoo.core.config import TrainConfig
from zoo.core.flags import OTHERS, flags_of, parser, words

FLAGS = (
    "--arch --ds --opt --encoder --pretrained --weights --reset-head --recipe --data --val-fraction --fold "
    "--task --ignore --size --epochs --batch --accumulate --lr --head-lr --optimizer --momentum "
    "--weight-decay --decay-on --schedule --warmup --clip --patience --loss --augment --amp --workers --seed "
    "--limit-train --limit-val --device --out --resume --ema --freeze-encoder --freeze-bn --compile "
    "--grad-checkpoint --no-sync-bn --shard --cache --cache-gb --max-bad --save-every --debug-nan "
    "--download --log --fit-thresholds --exclude --mix --tune --search --seeds "
).split()


def options() -> list[argparse.Action]:
    return [a for a in parser()._actions if a.dest != "help"]


def test_the_option_list_is_frozen() -> None:
    """A flag is a promise: adding or renaming one is a decision, made here."""
    assert sorted(a.option_strings[0] for a in options()) == sorted(FLAGS)


def test_every_flag_reaches_the_configuration() -> None:
    fields = {*TrainConfig().to_dict()} - {"options"}
    assert {a.dest for a in options()} - {*OTHERS} == fields


def test_help_groups_the_flags_and_shows_defaults(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as e:
        parser().parse_args(["--help"])
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


def test_a_command_line_made_of_settings_reads_as_them(tmp_path: Path) -> None:
    """Else what --tune says to type trains something else."""
    listed = tmp_path / "listed.txt"
    listed.write_text("a.png\nb c.png\n")
    argv = "--ds --opt width=8 --opt norm=none --opt bins=1,2 --size 96x128 --fold 1/5 --ignore 3 --ignore 4 "
    argv += "--lr 3.16e-05 --momentum 0.1 --no-sync-bn --freeze-bn --pretrained none --batch 4 --cache a "
    argv += f"--loss 0.5*bce+dice --exclude {listed}"
    flags = flags_of(parser().parse_args(argv.split()))
    assert len(flags) == 13
    assert flags_of(parser().parse_args(words(flags, listed))) == flags
    for start in (True, "fcn_resnet50_coco"):
        assert flags_of(parser().parse_args(words({"pretrained": start}, listed)))["pretrained"] == start
    assert words({"encoder": None, "freeze_bn": False}, listed) == []
