"""If these break, a damaged or foreign file gives a trace, runs code, or half of it ends up in a network."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo import state
from zoo.errors import InputError


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("code ran",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def test_a_state_dict_comes_back(path: Path) -> None:
    torch.save({"a": torch.arange(3)}, path)
    assert torch.equal(state.tensors(state.read(path), path)["a"], torch.arange(3))
    torch.save({"a": torch.arange(3)}, path, _use_new_zipfile_serialization=False)  # as older files are
    assert torch.equal(state.read(str(path))["a"], torch.arange(3))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pth: no such file"):
        state.read(tmp_path / "none.pth")
    with pytest.raises(InputError, match=r": a folder, not a file of weights"):
        state.read(tmp_path)


@pytest.mark.parametrize("length", [0, 10, 1000])
@pytest.mark.parametrize("modern", [True, False])
def test_a_truncated_file(path: Path, length: int, modern: bool) -> None:
    torch.save({"a": torch.randn(4000)}, path, _use_new_zipfile_serialization=modern)
    path.write_bytes(path.read_bytes()[:length])
    says = r"weights\.pth: (cannot be read as weights \(.*\); is it whole|refused)"
    with pytest.raises(InputError, match=says):
        state.read(path)


def test_a_flipped_bit(path: Path) -> None:
    torch.save({"a": torch.zeros(4000)}, path)
    with zipfile.ZipFile(path) as file:
        entry = next(info for info in file.infolist() if info.filename.endswith("data/0"))
    data = bytearray(path.read_bytes())
    data[entry.header_offset + 5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged: the checksum of .*data/0 is wrong; copy the file again"):
        state.read(path)


def test_code_is_refused_and_does_not_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.zeros(1), "b": Evil()}, path)
    with pytest.raises(InputError, match=r"refused, for it holds more than tensors: .*print"):
        state.read(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        ({"a": torch.zeros(1), "epoch": 3}, "not a state dict: its entry 'epoch' is no tensor"),
        ({}, "not a state dict: it is empty"),
    ],
)
def test_other_content(path: Path, content: object, says: str) -> None:
    torch.save(content, path)
    with pytest.raises(InputError, match=says):
        state.tensors(state.read(path), path)


def test_all_or_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {key: t.clone() for key, t in model.state_dict().items()}
    wrong = {key: t + 1 for key, t in before.items()}
    wrong["1.bias"], wrong["2.bias"] = torch.zeros(3), torch.zeros(3)
    del wrong["1.weight"]
    says = (
        r"a file does not fit the model: 1 keys missing \['1\.weight'\], 1 too many \['2\.bias'\], "
        r"1 of another shape \['1\.bias is \(3,\) there, \(2,\) here'\]"
    )
    with pytest.raises(InputError, match=says):
        state.load_strict(model, wrong, "a file")
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())


def test_only_a_counter_may_be_missing_and_is_then_zero() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model[1].num_batches_tracked.fill_(7)
    without = {key: t + 1 for key, t in model.state_dict().items() if not key.endswith("tracked")}
    state.load_strict(model, without, "a file")
    assert model[1].num_batches_tracked == 0
    assert torch.equal(model[0].weight, without["0.weight"])
