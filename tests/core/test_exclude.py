"""If these break, an excluded image trains, validation changes under a list, or a slip in it goes unseen."""

from pathlib import Path

import pytest

import train
from tests.conftest import write_shapes
from zoo.core import content, exclude
from zoo.core.config import TrainConfig
from zoo.core.dataset import Source, open_data, open_run
from zoo.errors import InputError


def names(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def test_names_reasons_comments_and_hashes_in_names(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# head\n\nb/scan#3.png  # a ring, # 2\n  a.png\t# tab\nmy hand.png\na.png #\n#\n")
    assert exclude.read(file) == ("a.png", "b/scan#3.png", "my hand.png")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    exclude.write(file, [("z/b c.png", "two\nlines # of it"), ("a.png", "")], "what this\nis")
    assert file.read_text() == "# what this\n# is\nz/b c.png  # two lines # of it\na.png  # \n"
    assert exclude.read(file) == ("a.png", "z/b c.png")


@pytest.mark.parametrize("held", [None, b"", b"# only words\n", b"\xff\xfe\xff"])
def test_a_list_that_lists_nothing_is_refused(tmp_path: Path, held: bytes | None) -> None:
    file = tmp_path / "list.txt"
    if held is not None:
        file.write_bytes(held)
    with pytest.raises(InputError, match=r"--exclude .*list\.txt: "):
        exclude.read(file)


def test_entries_are_paths_or_file_names_that_only_one_image_has() -> None:
    known = ["p/1.png", "q/1.png", "q/23.png"]
    assert exclude.matched(["q/1.png", "23.png"], known) == {1, 2}
    with pytest.raises(InputError) as e:
        exclude.matched(["1.png", "24.png", "q/3.png", "zzz", "q/23.png"], known)
    assert str(e.value).splitlines()[1:] == [
        "  1.png: the name of 2 images; write one of p/1.png, q/1.png",
        "  24.png: no such image in the data; nearest: 23.png, 1.png",
        "  q/3.png: no such image in the data; nearest: q/23.png, q/1.png, p/1.png",
        "  zzz: no such image in the data; names look like 1.png",
    ]


def test_training_loses_them_and_nothing_else_moves(shapes: Path) -> None:
    """Neither the split, nor which images a limit takes, nor validation, whatever is listed."""
    spec = f"folder:{shapes}"
    train, val = open_data(spec, limit_train=6)
    out = (names(train)[2], Path(names(val)[0]).name)
    less, same = open_data(spec, limit_train=6, excluded=out)
    assert names(less) == [name for name in names(train) if name != out[0]]
    assert names(same) == names(val)
    assert less.warnings == ["1 excluded image in validation, which stays as it is"]
    assert content.describe(less).identity() != content.describe(train).identity()
    assert content.describe(same) == content.describe(val)
    with pytest.raises(InputError, match="all 6 images to train on are listed"):
        open_data(spec, limit_train=6, excluded=names(train))


def test_every_kind_of_source_takes_it(tmp_path: Path) -> None:
    """A folder with a split of its own, and what is drawn."""
    for side in ("train", "val"):
        write_shapes(tmp_path / side, 3)
    train, val = open_data(f"folder:{tmp_path}", excluded=("train/images/01.png",))
    assert names(train) == ["train/images/00.png", "train/images/02.png"]
    assert len(val) == 3
    with pytest.raises(InputError, match=r"01\.png: the name of 2 images"):
        open_data(f"folder:{tmp_path}", excluded=("01.png",))
    drawn, _ = open_data("phantom", limit_train=3)
    less, _ = open_data("phantom", limit_train=3, excluded=(drawn.name(1),))
    assert names(less) == [drawn.name(0), drawn.name(2)]


def test_a_resumed_run_does_not_need_the_file(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost, or rewritten since: the names are in the run's own configuration."""
    file, out = tmp_path / "list.txt", tmp_path / "run"
    gone = open_data(f"folder:{shapes}")[0].name(0)
    file.write_text(f"{gone}  # blurred\n")
    begin = f"--arch unetpp --opt width=2 --size 32 --batch 4 --workers 0 --data folder:{shapes} --epochs 1"
    assert train.main([*begin.split(), "--exclude", str(file), "--out", str(out)]) == 0
    assert "7 to train, 2 to validate" in " ".join(capsys.readouterr().out.split())
    file.unlink()
    assert train.main(["--resume", str(out), "--epochs", "2"]) == 0
    file.write_text("other.png\n")
    assert train.main(["--resume", str(out), "--epochs", "3", "--exclude", str(file)]) == 2
    assert "--exclude other.png: not what the run in" in capsys.readouterr().err
    config = TrainConfig(data=f"folder:{shapes}", exclude=(gone,))
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert gone not in names(open_run(config)[0])


def test_a_wrong_list_ends_the_command_in_a_sentence(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "list.txt"
    file.write_text("images/0l.png # a letter for a digit\n")
    flags = ["--data", f"folder:{shapes}", "--exclude", str(file), "--out", str(tmp_path / "run")]
    assert train.main(flags) == 2
    assert "images/0l.png: no such image in the data; nearest: images/0" in capsys.readouterr().err
