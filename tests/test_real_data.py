"""If these break, the two doors no longer fit real data.

One short run of a narrow network on each set, broken off, resumed, used.  What the sets score in minutes
stands in the README.
"""

import csv
import json
import os
import signal
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

import infer
import train
from zoo.core.dataset import open_data
from zoo.core.trainer import Trainer

SMALL = "--limit-train 12 --limit-val 3 --workers 0 --batch 2 --lr 0.003 --epochs"
EPOCHS = {"chest": 8}  # else 3
RUNS = {
    "isbi2012": "--arch unet --recipe paper --opt width=4 --size 100 --data folder:{data} --lr 0.001",
    "dsb2018": "--arch unetpp --ds --opt width=4 --size 64 --data folder:{data}",
    "chest": "--arch unetpp --ds --opt width=8 --size 64 --data handbone:{data} --limit-train 30",
    "mandible": "--arch unetpp --opt width=4 --size 48x96 --data folder:{data}",
    "camvid": "--arch unetpp --ds --opt width=4 --size 60x80 --data folder:{data}",
}
IMAGES = {"chest": "train/DCM", "camvid": "val/images"}
TASKS = {"isbi2012": "multiclass", "camvid": "multiclass", "chest": "multilabel"}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_real_set_trains_resumes_and_infers(
    name: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = shared_data / name, tmp_path / "run"
    epochs = EPOCHS.get(name, 3)
    flags = [*SMALL.split(), str(epochs), *RUNS[name].format(data=data).split(), "--out", str(out)]
    step, taken = Trainer.step, []

    def interrupted(self: Trainer, group: list) -> float:
        taken.append(1)
        if len(taken) == 8:  # in the second epoch (third for a batch of one)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, group)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert train.main(flags) == 130
    monkeypatch.undo()
    assert train.main(["--resume", str(out)]) == 0

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, epochs + 1))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert max(line["val"]["dice"] for line in lines[1:]) > lines[0]["val"]["dice"]

    some = tmp_path / "some"
    some.mkdir()
    for path in islice(sorted((data / IMAGES.get(name, "images")).rglob("*.[pj][np]g")), 2):
        (some / path.name).write_bytes(path.read_bytes())
    results = tmp_path / "masks"
    command = f"{out / 'best.pt'} --input {some} --out {results} --csv {tmp_path / 'm.csv'}"
    assert infer.main(command.split()) == 0

    source, _ = open_data(f"{'handbone' if name == 'chest' else 'folder'}:{data}")
    assert source.labels.task == TASKS.get(name, "binary")
    with open(tmp_path / "m.csv", newline="") as f:
        assert len(list(csv.DictReader(f))) == 2 * source.labels.num_classes
    for path in some.iterdir():
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if source.labels.task == "multilabel":
            mask = np.load(results / "masks" / f"{path.stem}.npz")["bits"]
        else:
            mask = cv2.imread(str(results / "masks" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            assert set(np.unique(mask)) <= set(source.labels.index or range(source.labels.num_classes))
        assert mask.shape == image.shape
