"""If these break, a run is overwritten, or its logs say an epoch twice."""

from pathlib import Path

import pytest

from zoo.core.config import TrainConfig
from zoo.core.run import choose_folder, log, open_folder, truncate_logs
from zoo.errors import InputError


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    c = TrainConfig()
    assert choose_folder(None, c) == Path("runs/unetpp-phantom")
    (tmp_path / "runs" / "unetpp-phantom").mkdir(parents=True)
    assert choose_folder(None, c) == Path("runs/unetpp-phantom-2")
    listed = TrainConfig(data="coco-polygons:a/train.json+a/images,a/val.json+a/images")
    assert choose_folder(None, listed) == Path("runs/unetpp-train")
    (tmp_path / "mine").mkdir()
    assert choose_folder(Path("mine"), c) == Path("mine")
    (tmp_path / "mine" / "last.pt").touch()
    with pytest.raises(InputError, match="holds a run"):
        choose_folder(Path("mine"), c)


def test_logs_are_cut_at_the_resumed_epoch_and_a_torn_line_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    truncate_logs(tmp_path, 2)
    assert path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_a_log_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot write .*--resume"):
        log(tmp_path / "metrics.jsonl", {"epoch": 1})


def test_a_run_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out .*cannot make it"):
        open_folder(tmp_path / "file" / "run", TrainConfig())
