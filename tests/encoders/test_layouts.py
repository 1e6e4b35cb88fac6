"""If these break, a public file's keys reach other places in an encoder than they say."""

import pytest
import torch

from zoo import encoders
from zoo.encoders.layouts import AS_IS, DOWNLOADED, MIT_OF_NVLABS, Rows, mapped

ROWS: Rows = (
    (r"head\..*", None),
    (r"a\.(\d)\.query\.(.*)", r"b.\1.kv.\2[0]"),
    (r"a\.(\d)\.value\.(.*)", r"b.\1.kv.\2[1]"),
    (r"a\..*", r"\g<0>"),
)


def test_the_first_row_that_matches_a_whole_key_decides() -> None:
    x = torch.ones(2)
    found = mapped({"a.x": x, "head.w": x, "head.b": x, "z.a.x": x, "a": x}, ROWS)
    assert list(found.weights) == ["a.x"]
    assert found.dropped == ["head"], "said once"
    assert found.unknown == ["z.a.x", "a"]


def test_parts_are_put_one_above_the_other() -> None:
    query, value = torch.zeros(2, 3), torch.ones(2, 3)
    joined = mapped({"a.4.value.w": value, "a.4.query.w": query}, ROWS).weights
    assert joined.keys() == {"b.4.kv.w"}
    assert torch.equal(joined["b.4.kv.w"], torch.cat([query, value]))
    alone = mapped({"a.4.query.w": query}, ROWS).weights
    assert alone.keys() == {"b.4.kv.w[0]"}, "which no network takes"
    other = mapped({"a.4.query.w": query, "a.4.value.w": torch.ones(5, 3)}, ROWS).weights
    assert other.keys() == {"b.4.kv.w[0]", "b.4.kv.w[1]"}, "of other shapes: no halves of one"


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnet_y_400mf", "xception41", "hrnet_w18"])
def test_our_own_names_are_those_of_the_files(name: str) -> None:
    """Of all families but MiT, whose files are Hugging Face's: every tensor stays where it is."""
    with torch.device("meta"):
        encoder = encoders.build(name)
    own = encoder.state_dict()
    found = mapped(own, DOWNLOADED[type(encoder)])
    assert (found.weights.keys(), found.dropped, found.unknown) == (own.keys(), [], [])


def test_mit_has_the_authors_names() -> None:
    with torch.device("meta"):
        own = encoders.build("mit_b0").state_dict()
    assert mapped(own, MIT_OF_NVLABS).weights.keys() == own.keys()
    assert mapped(own, AS_IS).weights.keys() == own.keys()
