"""If these break, nobody can say a year later which code, data and machine made a run, or what it cost."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.core.test_trainer import config, interrupted_at, trainer
from zoo.core import checkpoint, manifest
from zoo.core.config import TrainConfig
from zoo.core.content import describe
from zoo.core.manifest import Session, revision, total, versions
from zoo.core.phantom import Phantoms
from zoo.core.stop import Interrupted
from zoo.errors import InputError

CPU = torch.device("cpu")


def session(out: Path, said: list[str] | None = None) -> Session:
    contents = describe(Phantoms(3, 0)), describe(Phantoms(1, 1))
    return Session(out, TrainConfig(seed=7), contents, CPU, (said if said is not None else []).append)


def held(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


# ---------------------------------------------------------------- what it holds


def test_an_entry_says_what_the_run_was_made_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--arch", "unet", "--out", "a b"])
    with session(tmp_path) as running:
        running.images = 12
        begun = held(tmp_path)
        assert (begun["sessions"][0]["ended"], begun["sessions"][0]["outcome"]) == (None, None)
    read = held(tmp_path)
    assert read["seed"] == 7
    (entry,) = read["sessions"]
    assert entry["command"].endswith("train.py --arch unet --out 'a b'")
    assert entry["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert entry["versions"]["numpy"] == np.__version__
    assert entry["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torchvision", "cv2", "zoo"} < entry["versions"].keys()
    assert entry["outcome"] == "finished"
    times = [entry["began"], entry["ended"]]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", t) for t in times)
    assert times == sorted(times)
    assert (entry["device"], entry["threads"], entry["workers"]) == ("cpu", torch.get_num_threads(), 1)
    assert entry["hardware"]["cores"] >= 1
    assert entry["hardware"]["cpu"]
    assert len(entry["hardware"]["gpus"]) == torch.cuda.device_count()
    assert (entry["data"]["training"]["images"], entry["data"]["validation"]["images"]) == (3, 1)


def test_the_figures_are_those_of_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.5, 104.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with session(tmp_path) as running:
        running.images = 14
    (entry,) = held(tmp_path)["sessions"]
    assert (entry["seconds"], entry["images"], entry["images_per_s"]) == (4.0, 14, 3.5)
    assert entry["peak_gpu_memory_bytes"] is None
    resident = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    assert 0.5 * resident < entry["peak_memory_bytes"] <= 1.05 * resident


def test_a_gpus_memory_is_that_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 123)
    assert manifest.peak_gpu_memory(torch.device("cuda:1")) == 123
    assert asked == [torch.device("cuda:1")]
    assert manifest.peak_gpu_memory(CPU) is None


def test_totals_are_sums_and_the_largest_peak() -> None:
    killed = {"began": "…", "ended": None}  # an entry that lacks what a later version may not write
    a = {"seconds": 4.0, "images": 8, "peak_memory_bytes": 100, "peak_gpu_memory_bytes": None}
    b = {"seconds": 6.0, "images": 12, "peak_memory_bytes": 70, "peak_gpu_memory_bytes": 5}
    assert total([a, killed, b]) == {
        "seconds": 10.0, "images": 20, "images_per_s": 2.0, "peak_memory_bytes": 100,
        "peak_gpu_memory_bytes": 5,
    }  # fmt: skip
    assert total([killed])["images_per_s"] is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(manifest.PACKAGES, "zoo", "no-such-package")
    assert versions()["zoo"] is None


# ---------------------------------------------------------------- git


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    ran = subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_the_revision_and_whether_files_differ(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    assert revision(package) is None
    git(tmp_path, "init", "-q")
    (package / "a.py").write_text("1")
    assert revision(package) is None, "not tracked: installed in somebody else's project"
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-qm", "x")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert revision(package) == {"revision": head, "dirty": False}
    (package / "a.py").write_text("2")
    assert revision(package) == {"revision": head, "dirty": True}


def test_without_git_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with session(tmp_path):
        pass
    assert "git" not in held(tmp_path)["sessions"][0]


# ---------------------------------------------------------------- sessions


def test_a_killed_session_stays_and_the_next_is_added(tmp_path: Path) -> None:
    killed = session(tmp_path).__enter__()
    killed.images = 5
    killed.write()
    with session(tmp_path) as resumed:
        resumed.images = 6
    first, second = held(tmp_path)["sessions"]
    assert (first["ended"], first["images"], second["outcome"]) == (None, 5, "finished")
    assert held(tmp_path)["total"]["images"] == 11


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Interrupted(), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (InputError("the loss is nan\nmore"), "stopped: the loss is nan"),
        (MemoryError(), "stopped: MemoryError"),
    ],
)
def test_how_a_session_ended(error: BaseException, outcome: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), session(tmp_path):
        raise error
    assert held(tmp_path)["sessions"][0]["outcome"] == outcome
    assert held(tmp_path)["sessions"][0]["ended"]


@pytest.mark.parametrize("text", ["{", "[]", '{"sessions": 3}', '{"sessions": [1]}', "\xff"])
def test_a_damaged_file_is_put_aside(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    said: list[str] = []
    with session(tmp_path, said):
        pass
    assert len(held(tmp_path)["sessions"]) == 1
    assert (tmp_path / "manifest.damaged.json").read_text() == text
    assert said == [f"{tmp_path / 'manifest.json'}: cannot be read as the record of a run; put aside as "
                    "manifest.damaged.json"]  # fmt: skip


def test_a_full_disk_keeps_the_old_file_and_the_reason_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    running = session(tmp_path).__enter__()
    before = (tmp_path / "manifest.json").read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        running.__exit__(None, None, None)
    running.__exit__(ValueError, ValueError("the reason"), None)  # which must not be hidden by another
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_the_trainer_keeps_the_record_of_an_interrupted_and_resumed_run(shapes: Path, tmp_path: Path) -> None:
    out, c = tmp_path / "run", config(shapes)
    broken = trainer(c, out)
    interrupted_at(6, broken)
    (first,) = held(out)["sessions"]
    assert (first["outcome"], first["images"]) == ("interrupted", 12)
    trainer(c, out, resume=checkpoint.read(out / "last.pt")).fit()
    first, second = held(out)["sessions"]
    assert (second["outcome"], second["images"]) == ("finished", 4)
    assert held(out)["total"]["images"] == 2 * 8, "two epochs of eight images"
    assert first["data"] == second["data"]
    assert first["data"]["training"]["files"] == 16

    poisoned = trainer(replace(c, epochs=1), tmp_path / "poisoned")
    with torch.no_grad():
        next(poisoned.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError):
        poisoned.fit()
    assert held(tmp_path / "poisoned")["sessions"][0]["outcome"].startswith("stopped: the loss is nan")
