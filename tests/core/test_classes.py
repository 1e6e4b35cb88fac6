"""A misread classes.txt trains the wrong classes under the right names: for whoever writes one by hand."""

from pathlib import Path

import pytest

from zoo.core.classes import Class, bit_labels, check_task, index_labels, read_classes, without_ignored
from zoo.core.masks import palette
from zoo.errors import InputError


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    return tmp_path / "classes.txt"


def test_a_line_is_index_name_colour_and_ignore(tmp_path: Path) -> None:
    text = """\ufeff# made by hand
    0 sky #808080

    11 void #000000 ignore
    6   sign symbol  #C08080
    3 ignore
    4 to ignore ignore
    7 #1 road
    """
    assert read_classes(written(tmp_path, text)) == [
        Class(0, "sky", (128, 128, 128)),
        Class(3, "ignore"),
        Class(4, "to ignore", None, True),
        Class(6, "sign symbol", (192, 128, 128)),
        Class(7, "#1 road"),
        Class(11, "void", (0, 0, 0), True),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 sky\nsea", r"classes.txt, line 2: 'sea': want `index name"),
        ("0", "line 1: '0': want"),
        ("-1 sky", "line 1: '-1 sky': want"),
        ("0 sky\n0 sea", r"line 2: '0 sea': 0 sky is above"),
        ("0 sky\n1 sky", r"line 2: '1 sky': 0 sky is above"),
        ("65536 sky", "index 65536.*at most 65535"),
        ("\n# nothing\n", "holds no class"),
    ],
)
def test_malformed_lines_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_classes(written(tmp_path, text))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"0 \xff\xfe\xfd")
    with pytest.raises(InputError, match=r"classes\.txt: cannot be read as UTF-8"):
        read_classes(tmp_path / "classes.txt")


def test_two_classes_of_which_one_is_background_are_binary() -> None:
    nucleus = [Class(0, "Background"), Class(255, "nucleus", (1, 2, 3))]
    labels = index_labels(nucleus, None)
    assert (labels.task, labels.names, labels.colours) == ("binary", ("nucleus",), ((1, 2, 3),))
    assert (labels.index, labels.num_classes) == ((0, 255), 1)
    both = index_labels(nucleus, "multiclass")
    assert (both.task, both.names, both.index) == ("multiclass", ("Background", "nucleus"), (0, 255))
    assert both.colours == ((0, 0, 0), (1, 2, 3))


def test_other_index_masks_are_multiclass() -> None:
    cells = [Class(0, "membrane"), Class(1, "cell")]
    assert index_labels(cells, None).task == "multiclass"
    assert index_labels(cells, None).colours == palette(2)
    assert index_labels(cells, "binary").names == ("cell",)
    three = [Class(0, "background"), Class(1, "a"), Class(4, "b")]
    assert index_labels(three, None).index == (0, 1, 4)


def test_tasks_that_the_data_cannot_have_are_refused() -> None:
    three = [Class(k, f"c{k}") for k in range(3)]
    with pytest.raises(InputError, match=r"task binary: wants two classes.*0 c0, 1 c1, 2 c2"):
        index_labels(three, "binary")
    with pytest.raises(InputError, match=r"task multilabel: index masks hold one class a pixel.*handbone"):
        index_labels(three, "multilabel")
    with pytest.raises(InputError, match="task binary: pixels here may carry several"):
        bit_labels(three, "binary")
    with pytest.raises(InputError, match="256 classes"):
        index_labels([Class(k, f"c{k}") for k in range(256)], None)
    with pytest.raises(InputError, match="unknown task 'multilable'; nearest: multilabel"):
        check_task("multilable")


def test_ignored_values() -> None:
    lines = [Class(0, "a"), Class(1, "b"), Class(2, "void", None, True)]
    assert without_ignored(lines, (1,)) == ([lines[0]], {1, 2, 255})
    white = [Class(0, "a"), Class(255, "b")]
    assert without_ignored(white, ()) == (white, set())
