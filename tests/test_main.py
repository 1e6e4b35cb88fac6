"""If these break, `python -m zoo` hides an architecture, or answers a slip of the user with a stack trace."""

import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo import encoders
from zoo.__main__ import VERBS, main
from zoo.core import phantom
from zoo.errors import InputError


def test_alone_it_prints_every_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for name in zoo.names():
        about = zoo.describe(name)
        for word in (name, about.title, str(about.year), f"{about.parameters:,}", about.note):
            assert word in out
    assert f"any of {len(encoders.names())}" in out
    assert "246.6 G" in out  # unet: one 700×700 tile that covers 512×512
    assert "119.2 G" in out  # unetpp with 3 channels


def test_a_verb_lists_the_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders"]) == 0
    rows = {words[0]: words for line in capsys.readouterr().out.splitlines() if (words := line.split())}
    for name in encoders.names():
        assert name in rows
    assert {"11,176,512", "1.81"} < set(rows["resnet18"])  # torchvision's 11,689,512 less its classifier
    assert "64, 64, 128, 256, 512" in " ".join(rows["resnet18"])
    assert rows["resnet18"][-2:] == ["torchvision,", "BSD-3-Clause"]
    assert rows["xception65"][-2:] == ["timm,", "Apache-2.0"]


def test_encoders_of_one_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders", "--arch", "unet"]) == 2
    assert "unet has no choice of encoder" in capsys.readouterr().err
    assert main(["encoders", "--arch", "unet_halvd"]) == 2
    assert "nearest: unet_halved" in capsys.readouterr().err
    assert main(["encoders", "--arch", "fcn"]) == 0
    out = capsys.readouterr().out
    assert "resnext101_32x8d" in out
    assert "mit_b0" not in out


def test_weights_of_whole_networks_and_their_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 0
    out = capsys.readouterr().out
    lines = {words[0]: line for line in out.splitlines() if (words := line.split())}
    for name, row in zoo.weights.known().items():
        assert row.architecture in lines[name]
        assert f" {len(row.classes)} " in lines[name]
    assert "non-commercial" in lines["segformer_b5_ade20k"]
    assert "ocr=False" in lines["hrnet_w48_cityscapes"]


def test_it_runs_as_a_module() -> None:
    ran = subprocess.run([sys.executable, "-m", "zoo", "--help"], capture_output=True, text=True, check=True)
    assert all(name in ran.stdout for name in VERBS)


def test_phantom_hands_its_arguments_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    monkeypatch.setattr(phantom, "write", lambda *given, progress: calls.append(given))
    assert main(["phantom", str(tmp_path), "--count", "6", "--size", "64", "--seed", "3"]) == 0
    assert calls == [(tmp_path, 6, 64, 3)]
    assert f"--data handbone:{tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize("problem", [InputError("count 0: at least 1, please"), OSError("disk full")])
def test_a_user_mistake_is_one_line_and_status_2(
    problem: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(phantom, "write", refuse)
    assert main(["phantom", "somewhere"]) == 2
    assert capsys.readouterr().err == f"zoo: {problem}\n"


def test_a_bug_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["phantom", "somewhere"])


def test_an_unknown_verb_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["phantm"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert all(name in err for name in VERBS)
