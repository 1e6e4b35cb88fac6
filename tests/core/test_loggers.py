"""If these break, a log shows other numbers than the run had, shows them twice, or stops a run."""

import json
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.core.test_trainer import Heard, config, interrupted_at, trainer
from zoo.core import checkpoint, loggers
from zoo.core.loggers import Loggers, Point, parse
from zoo.core.saving import save
from zoo.core.trainer import Trainer
from zoo.errors import InputError

KEY = "0123456789abcdef" * 2 + "01234567"  # of the form of a W&B key, and nobody's


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test speaks to a server: there is none at that address."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: (step, value) of each tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def pictured(out: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}


def records(out: Path) -> Iterator:
    """Every record of every session of W&B: its file is LevelDB's log, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(out.glob("wandb/offline-run-*/*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = Record()
                record.ParseFromString(whole)
                whole = b""
                yield record


def history(out: Path) -> list[dict]:
    rows = [r.history for r in records(out) if r.WhichOneof("record_type") == "history"]
    return [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row.item} for row in rows]


# ---------------------------------------------------------------- what is told


def test_tensorboard_has_the_numbers_of_the_run(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trainer(config(shapes, log="tensorboard", epochs=3), out).fit()
    shown, said = scalars(out), lines(out)
    speeds = [json.loads(line)["images_per_s"] for line in (out / "timing.jsonl").read_text().splitlines()]
    want = {
        "loss": [line["loss"] for line in said],
        "lr": [line["lr"] for line in said],
        "dice": [line["val"]["dice"] for line in said],
        "pooled_iou": [line["val"]["pooled_iou"] for line in said],
        "images_per_s": speeds,
        **{f"dice/{name}": [line["val"]["classes"][name]["dice"] for line in said]
           for name in ("background", "disc", "square")},
    }  # fmt: skip
    assert shown.keys() == want.keys()
    for tag, values in want.items():
        assert [step for step, _ in shown[tag]] == [1, 2, 3]
        assert [value for _, value in shown[tag]] == pytest.approx(values, rel=1e-4, abs=1e-6), tag
    assert pictured(out) == {"classes": [1, 2, 3], "samples": [1, 2, 3]}


def test_wandb_offline_has_them_too_and_no_secret(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "project" / "name"
    trainer(config(shapes, log="wandb"), out).fit()
    rows, said = history(out), lines(out)
    assert [row["_step"] for row in rows] == [1, 2]
    for row, line in zip(rows, said, strict=True):
        assert row["loss"] == pytest.approx(line["loss"])
        assert row["lr"] == pytest.approx(line["lr"])
        assert row["dice"] == pytest.approx(line["val"]["dice"])
        assert row["dice/disc"] == pytest.approx(line["val"]["classes"]["disc"]["dice"])
        assert {"pooled_iou", "images_per_s", "dice/background", "dice/square"} < row.keys()
        assert row["samples/_type"] == row["classes/_type"] == "image-file"
    (run,) = [r.run for r in records(out) if r.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name) == ("project", "name")
    settings = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert settings["arch"] == "unetpp"
    assert len(list(out.glob("wandb/offline-run-*/files/media/images/samples*.png"))) == 2
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_the_pictures_are_panels_with_the_loss_and_bars(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: list[Point] = []

    class Kept:
        def __init__(self, *_: object) -> None: ...

        def add(self, point: Point) -> None:
            points.append(point)

        def close(self) -> None: ...

    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", Kept)
    trainer(config(shapes, log="tensorboard", epochs=1), tmp_path / "run").fit()
    (point,) = points
    plain = torch.from_numpy(np.array(point.pictures["samples"]))
    assert plain.dtype == torch.uint8
    height, width, _ = plain.shape  # two validation images of 48×40, shown at 307×256
    assert (height, width) == (2 * (307 + 2 * 24) + 4, 5 * 256 + 4 * 4)
    assert point.pictures["classes"].shape[0] == 24 * 4 + 4


def test_a_class_that_is_nowhere_has_no_point(tmp_path: Path) -> None:
    from tests.core.test_display import scores

    logs = Loggers(config(tmp_path, log="none"), tmp_path, Heard())
    points: list[Point] = []
    logs.running["kept"] = type("Kept", (), {"add": lambda _, p: points.append(p)})()
    logs.epoch(4, 0.5, 1e-3, 10.0, scores(("a", "b"), [5, -1]))
    assert points[0].epoch == 4
    assert {k for k in points[0].numbers if k.startswith("dice")} == {"dice", "dice/a"}


# ---------------------------------------------------------------- the run goes on as it would have


def test_a_log_changes_nothing_in_the_run(shapes: Path, tmp_path: Path) -> None:
    c = config(shapes, options={"width": 2, "norm": "batch"})
    trainer(c, tmp_path / "plain").fit()
    trainer(config(shapes, options=c.options, log="tensorboard+wandb"), tmp_path / "logged").fit()
    assert (tmp_path / "plain/metrics.jsonl").read_bytes() == (tmp_path / "logged/metrics.jsonl").read_bytes()
    a, b = (checkpoint.read(tmp_path / name / "last.pt") for name in ("plain", "logged"))
    for key, value in a.model.items():
        assert torch.equal(value, b.model[key]), key
    assert str(a.training["rng"]) == str(b.training["rng"])


def test_a_resumed_run_goes_on_in_the_same_logs_without_double_points(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second epoch; then a kill after the second was told, before its checkpoint."""
    out, c = tmp_path / "run", config(shapes, log="tensorboard+wandb", epochs=3)
    interrupted_at(6, trainer(c, out))
    second = trainer(c, out, resume=checkpoint.read(out / "last.pt"))

    def killed(trainer: Trainer, name: str) -> None:
        if trainer.progress.epoch == 2:
            raise ZeroDivisionError("as a kill would")
        save(trainer, name)

    with monkeypatch.context() as m:
        m.setattr("zoo.core.trainer.save", killed)
        with pytest.raises(ZeroDivisionError):
            second.fit()
    assert [step for step, _ in scalars(out)["loss"]] == [1, 2]
    trainer(c, out, resume=checkpoint.read(out / "last.pt")).fit()

    losses = [line["loss"] for line in lines(out)]
    assert scalars(out)["loss"] == [(i + 1, pytest.approx(loss)) for i, loss in enumerate(losses)]
    assert pictured(out)["samples"] == [1, 2, 3]
    rows = history(out)
    assert Counter(row["_step"] for row in rows) == {1: 1, 2: 1, 3: 1}
    assert [row["loss"] for row in rows] == pytest.approx(losses)
    runs = {r.run.run_id for r in records(out) if r.WhichOneof("record_type") == "run"}
    assert runs == {json.loads((out / "wandb.json").read_text())["id"]}
    assert len(list(out.glob("wandb/offline-run-*"))) == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"id": 3, "epoch": 1}', '{"id": "old", "epoch": 7}'])
def test_a_name_that_is_lost_or_of_another_run_is_made_anew(shapes: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "wandb.json").write_text(text)
    trainer(config(shapes, log="wandb", epochs=1), out).fit()
    held = json.loads((out / "wandb.json").read_text())
    assert held["epoch"] == 1
    assert held["id"] != "old"
    assert len(history(out)) == 1


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("where", ["__init__", "add", "close"])
def test_a_log_that_fails_is_told_once_and_stops_nothing(
    where: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the server is gone\nand more")

    monkeypatch.setattr(loggers.TensorBoard, where, fail)
    display = Heard()
    t = Trainer(config(shapes, log="tensorboard+wandb", epochs=3), tmp_path / "run", display)
    t.fit()
    assert display.warned == [
        "--log tensorboard: the server is gone; that log ends here, the run goes on, metrics.jsonl has its "
        "numbers"
    ]
    assert len(lines(tmp_path / "run")) == 3
    assert [row["_step"] for row in history(tmp_path / "run")] == [1, 2, 3], "the other log lives"


def test_pictures_that_cannot_be_drawn_cost_no_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("zoo.core.loggers.loss_map", fail)
    display = Heard()
    Trainer(config(shapes, log="tensorboard", epochs=2), tmp_path / "run", display).fit()
    assert display.warned == ["--log tensorboard: no pictures of samples: MemoryError"]
    assert pictured(tmp_path / "run") == {"classes": [1, 2]}


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_says_what_to_install(
    package: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"--log {package}: takes a package: pip install {package}"):
        trainer(config(shapes, log=package), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_words_are_joined_by_plus() -> None:
    assert parse("none") == []
    assert parse("wandb+tensorboard+wandb") == ["wandb", "tensorboard"]
    with pytest.raises(InputError, match="--log tensorbord: unknown 'tensorbord'; nearest: tensorboard"):
        parse("tensorbord")
    with pytest.raises(InputError, match="unknown ''"):
        parse("wandb+")


def test_a_process_that_does_not_write_draws_with_the_others(shapes: Path, tmp_path: Path) -> None:
    """As the second of several: its network must answer when theirs do."""
    t = trainer(config(shapes, log="tensorboard"), tmp_path / "run")
    logs = Loggers(t.config, None, t.display)
    with logs.after(0):
        assert logs.running == {}
        from zoo.core.predictor import Predictor

        logs.draw(Predictor(t.model, t.labels, t.preprocess), t.val_source)
        assert len(logs.drawn) == 2
    assert not (tmp_path / "run").exists()
