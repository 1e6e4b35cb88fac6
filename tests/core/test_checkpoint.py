"""If these break, a run is lost to a full disk or a kill, or a stranger's file runs code when opened."""

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.core import checkpoint
from zoo.core.checkpoint import Checkpoint
from zoo.core.config import Preprocess
from zoo.core.masks import Labels
from zoo.errors import InputError
from zoo.registry import normalisation


def tiny() -> Checkpoint:
    """A width-2 UNet++ of two classes, untrained."""
    build = {"num_classes": 2, "in_channels": 1, "encoder": None, "width": 2}
    return Checkpoint(
        arch="unetpp",
        build=build,
        labels=Labels("multilabel", ("a", "b c"), ((1, 2, 3), (4, 5, 6))),
        preprocess=Preprocess(1, (0.5,), (0.25,), (32, 48)),
        model=zoo.build("unetpp", **build).state_dict(),
        config={"arch": "unetpp"},
        training={"rng": checkpoint.rng_state()},
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = tiny()
    checkpoint.write(tmp_path / "a.pt", written)
    back = checkpoint.read(tmp_path / "a.pt")
    assert (back.arch, back.build, back.labels, back.preprocess) == (
        written.arch, written.build, written.labels, written.preprocess
    )
    assert all(torch.equal(back.model[k], v) for k, v in written.model.items())
    assert os.listdir(tmp_path) == ["a.pt"]


def test_load_gives_the_model_in_eval_with_equal_outputs(tmp_path: Path) -> None:
    written = tiny()
    checkpoint.write(tmp_path / "a.pt", written)
    model = zoo.build("unetpp", **written.build).eval()
    model.load_state_dict(written.model)
    x = torch.randn(1, 1, 33, 47)
    loaded = zoo.load(tmp_path / "a.pt")
    assert not loaded.training
    assert torch.equal(loaded(x), model(x))


def test_rng_state_brings_every_generator_back() -> None:

    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    state = checkpoint.rng_state()
    first = draw()
    checkpoint.set_rng_state(state)
    assert draw() == first


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"format": checkpoint.FORMAT, "x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "plain.pkl"):
        with pytest.raises(InputError, match=name):
            checkpoint.read(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_files_that_are_no_checkpoint_are_named_with_the_cause(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "whole.pt", tiny())
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    causes = {"cut.pt": "whole", "empty.pt": "whole", "text.pt": "text.pt", "other.pt": "train.py"}
    for name, cause in {**causes, "none.pt": "no such"}.items():
        with pytest.raises(InputError, match=name) as e:
            checkpoint.read(tmp_path / name)
        assert cause in str(e.value)
    with pytest.raises(InputError, match=r"best\.pt"):
        checkpoint.read(tmp_path)


def test_a_damaged_file_is_refused_whichever_byte_it_is(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "good.pt", tiny())
    good = (tmp_path / "good.pt").read_bytes()
    state = checkpoint.read(tmp_path / "good.pt").model
    rng, bad = random.Random(0), tmp_path / "bad.pt"
    refused = 0
    for _ in range(60):
        flipped = bytearray(good)
        flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        bad.write_bytes(flipped)
        try:
            back = checkpoint.read(bad).model
        except InputError:
            refused += 1
        else:  # a byte of padding, or of a field that nobody reads
            assert all(torch.equal(back[k], v) for k, v in state.items())
    assert refused > 20


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.write(path, tiny())
    before = path.read_bytes()

    class Full:
        """The disk takes the first kilobyte of a file, no more."""

        def __init__(self, name: object, mode: str) -> None:
            self.file = real(name, mode)

        def write(self, data: bytes) -> None:
            self.file.write(bytes(data)[:1024])
            raise OSError(28, "No space left on device")

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    real = open
    monkeypatch.setattr("builtins.open", Full)
    with pytest.raises(InputError, match=r"No space left on device.*intact"):
        checkpoint.write(path, tiny())
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


def test_weights_that_do_not_fit_the_network_are_refused() -> None:
    written = tiny()
    written.build["num_classes"] = 3
    with pytest.raises(InputError, match=r"the unetpp checkpoint does not fit .* of another shape \['heads"):
        checkpoint.model_of(written)


def test_the_model_knows_the_input_it_was_trained_on(tmp_path: Path) -> None:
    """So that weights taken from it, and networks cut out of it, are given the same."""
    checkpoint.write(tmp_path / "a.pt", tiny())
    assert normalisation(zoo.load(tmp_path / "a.pt")) == ((0.5,), (0.25,))


def test_options_of_several_values_come_back(tmp_path: Path) -> None:
    written = tiny()
    written.arch = "pspnet"
    written.build = {"num_classes": 2, "encoder": "resnet18", "bins": (1, 2), "aux": False}
    written.model = zoo.build("pspnet", **written.build).state_dict()
    checkpoint.write(tmp_path / "a.pt", written)
    assert checkpoint.read(tmp_path / "a.pt").build == written.build
    assert len(zoo.load(tmp_path / "a.pt").ppm.branches) == 2
