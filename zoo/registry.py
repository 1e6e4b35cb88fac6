"""From a name to a network: `register` on a class, then `build`, `names` and `describe` for everybody else.

A class that is registered keeps the architecture contract, which `register` checks:
    __init__(self, num_classes=…, in_channels=…, *, option=…, …)   no **kwargs, every default the paper's
    aux_weights   what each auxiliary logits of `zoo.layers.Output` counts in the loss; () if there are none
    margin        pixels that the output lacks at each side of the input (unpadded convolutions), else 0
    min_size, size_step   legal OUTPUT heights and widths: min_size + k * size_step, k >= 0
and its instances have `num_classes` and `in_channels`.  A class that is registered with `encoders` takes the
keywords `encoder` and `pretrained` and keeps what it built as `self.encoder`.  The core reads nothing else of
an architecture.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import nn

from zoo.encoders import Normalisation
from zoo.encoders import names as encoder_names
from zoo.errors import InputError, nearest
from zoo.options import check_options, fits
from zoo.profile import macs

Size = int | tuple[int, int]
Model = nn.Module | type[nn.Module]  # limits can be asked of a network and of its class
Class = TypeVar("Class", bound=type[nn.Module])
OWN_WORDS = ("num_classes", "in_channels", "encoder", "pretrained")  # arguments of `build`, not options
ENCODER_WORDS = OWN_WORDS[2:]


@dataclass(frozen=True)
class Paper:
    """Where an architecture comes from, and what of it can be chosen by name."""

    title: str
    authors: str
    year: int
    url: str
    note: str
    encoders: tuple[str, ...]
    encoders_why: str


@dataclass(frozen=True)
class Entry:
    """One registered name: its class with the keywords that its row of the paper's table sets."""

    architecture: type[nn.Module]
    row: Mapping[str, object]
    paper: Paper


@dataclass(frozen=True)
class Description:
    """What `python -m zoo` prints of one name, with every argument at its default.

    pretrained: names of `zoo.weights.known()` for the whole network.
    macs: multiply-adds for a 512×512 output; where 512 is not a legal size, those of the one tile of the next
    legal size (for the unpadded U-Net 516×516, from an input of 700×700).
    """

    name: str
    title: str
    year: int
    authors: str
    url: str
    note: str
    encoders: tuple[str, ...]
    pretrained: tuple[str, ...]
    num_classes: int
    in_channels: int
    options: dict[str, object]
    parameters: int
    macs: int


_ENTRIES: dict[str, Entry] = {}


def register(
    names: str | Mapping[str, Mapping[str, object]],
    *,
    title: str,
    authors: str,
    year: int,
    url: str,
    note: str,
    encoders: tuple[str, ...] = (),
    encoders_why: str = "",
) -> Callable[[Class], Class]:
    """Class decorator.  `names`: one name, or the paper's table of variants {name: {keyword: value}}.

    encoders: the encoders that it takes; encoders_why: why no others, what follows "it takes X, Y: ".
    """
    rows = {names: {}} if isinstance(names, str) else names
    paper = Paper(title, authors, year, url, note, encoders, encoders_why)

    def enter(cls: Class) -> Class:
        for name, row in rows.items():
            if name in _ENTRIES:
                raise ValueError(f"architecture {name!r} is registered twice: {_ENTRIES[name].architecture}")
            _check_contract(cls, row, paper)
            _ENTRIES[name] = Entry(cls, dict(row), paper)
        return cls

    return enter


def names() -> list[str]:
    """Every name that `build` knows, in the order of registration."""
    return list(_ENTRIES)


def build(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    encoder: str | None = None,
    pretrained: bool | str = False,
    reset_head: bool = False,
    **options: object,
) -> nn.Module:
    """The network called `name`, in train mode, its weights drawn from torch's global generator.

    None means the architecture's own default.  `options` are the class's keywords, see `describe(name)`.
    pretrained: True for the encoder's ImageNet weights, or a name of `zoo.weights.known()` for the whole
        network, which also sets the encoder, options and classes that those weights belong to.
    reset_head: keep a fresh classifier where `num_classes` is another; only with such a name.

    Raises InputError for whatever is unknown or impossible, naming the nearest known.
    """
    entry = _entry(name)
    if not isinstance(pretrained, bool | str):
        those = "True, False or a name of zoo.weights.known()"
        raise InputError(f"pretrained of {name} must be {those}, not {pretrained!r}")
    if reset_head and not isinstance(pretrained, str):
        raise InputError(
            f"reset_head of {name}: a fresh head is all there is unless pretrained is a name of "
            f"zoo.weights.known(); leave reset_head out"
        )
    arguments = {**entry.row, **_check_options(name, entry, options)}
    if isinstance(pretrained, str):
        from zoo import weights  # it builds networks itself

        arguments = {**weights.published(name, pretrained).build, **arguments}
    for word, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value is not None:
            if not fits(value, int) or value < 1:
                raise InputError(f"{word} of {name} must be a whole number >= 1, not {value!r}")
            arguments[word] = value
    if encoder is not None:
        arguments["encoder"] = _choose_encoder(name, entry, encoder)
    if pretrained is True:
        if not entry.paper.encoders or arguments.get("encoder", _defaults(entry)["encoder"]) is None:
            raise InputError(
                f"{name} without an encoder has no ImageNet weights (got pretrained=True); "
                f"architectures with an encoder: {_with_encoders()}"
            )
        arguments["pretrained"] = True
    model = entry.architecture(**arguments)
    if isinstance(pretrained, str):
        weights.load(model, weights.fetch(pretrained), reset_head=reset_head)
    return model


def architecture(name: str) -> type[nn.Module]:
    """The class behind `name`.  Raises InputError naming the nearest ones for an unknown name."""
    return _entry(name).architecture


def paper(name: str) -> Paper:
    """Where the architecture called `name` comes from."""
    return _entry(name).paper


def defaults(name: str) -> dict[str, object]:
    """Every argument of the class behind `name` with the value that it has where none is given."""
    return _defaults(_entry(name))


def default_encoder(name: str) -> str | None:
    """The encoder that `name` has where none is chosen; None where it has none."""
    return cast("str | None", _defaults(_entry(name)).get("encoder"))


def describe(name: str) -> Description:
    """Paper, options and size of the network called `name`; built on the meta device, so at no cost."""
    from zoo import weights  # it builds networks itself

    entry = _entry(name)
    defaults = _defaults(entry)
    with torch.device("meta"):
        model = build(name)
    height, width = legal_size(model, 512)
    border = 2 * margin(model)
    return Description(
        name=name,
        **{word: value for word, value in vars(entry.paper).items() if word != "encoders_why"},
        pretrained=tuple(key for key, row in weights.known().items() if row.architecture == name),
        num_classes=cast(int, defaults["num_classes"]),
        in_channels=cast(int, defaults["in_channels"]),
        options={word: value for word, value in defaults.items() if word not in OWN_WORDS},
        parameters=sum(p.numel() for p in model.parameters()),
        macs=macs(model, (height + border, width + border)),
    )


def margin(model: Model) -> int:
    """Pixels that the output of `model` lacks at each side of its input."""
    return _limits(model)[0]


def normalisation(model: nn.Module) -> Normalisation | None:
    """What the weights of `model` expect of its input; None for random weights."""
    parts = (model, getattr(model, "encoder", None))
    return next((found for part in parts if (found := getattr(part, "normalisation", None))), None)


def legal_size(model: Model, size: Size) -> tuple[int, int]:
    """The smallest output (height, width) of `model` that covers `size` (height, width, or one for both)."""
    _, least, step = _limits(model)
    sides = (size, size) if isinstance(size, int) else size
    height, width = (least + max(0, -((least - side) // step)) * step for side in sides)
    return height, width


def check_size(model: Model, size: Size) -> None:
    """Raise InputError, naming the nearest legal sizes, unless `model` can put out exactly `size`."""
    _, least, step = _limits(model)
    name = (model if isinstance(model, type) else type(model)).__name__
    for side in (size,) if isinstance(size, int) else size:
        if side < least:
            raise InputError(f"size {side} is too small for {name}; its smallest is {least}")
        if (side - least) % step:
            below = side - (side - least) % step
            raise InputError(
                f"size {side} is not possible for {name}, whose outputs measure "
                f"{least}, {least + step}, {least + 2 * step}, …; nearest: {below} or {below + step}"
            )


def _limits(model: Model) -> tuple[int, int, int]:
    """(margin, min_size, size_step); nn.Module's typing cannot say that attributes are plain numbers."""
    border, least, step = (getattr(model, word) for word in ("margin", "min_size", "size_step"))
    return border, least, step


def _entry(name: str) -> Entry:
    if name not in _ENTRIES:
        raise InputError(f"unknown architecture {name!r}; {nearest(str(name), _ENTRIES)}; see zoo.names()")
    return _ENTRIES[name]


def _defaults(entry: Entry) -> dict[str, object]:
    """Every argument of the class with its default; a row of the paper's table goes before the signature."""
    signature = inspect.signature(entry.architecture)
    return {word: entry.row.get(word, p.default) for word, p in signature.parameters.items()}


def _check_options(name: str, entry: Entry, options: Mapping[str, object]) -> Mapping[str, object]:
    """`options`, if each is a keyword of the class and its value of the annotated type."""
    known = [word for word in _defaults(entry) if word not in OWN_WORDS]
    check_options(name, entry.architecture, known, options, see=f"zoo.describe({name!r})")
    return options


def _choose_encoder(name: str, entry: Entry, encoder: str) -> str:
    """`encoder`, if `name` was registered with it; else InputError that says why not."""
    paper = entry.paper
    if encoder in paper.encoders:
        return encoder
    if not paper.encoders:
        those = _with_encoders()
        raise InputError(f"{name} has no choice of encoder (got {encoder!r}); available for: {those}")
    if encoder in encoder_names():
        few = len(paper.encoders) <= 10
        those = ", ".join(paper.encoders) if few else f"those of zoo.describe({name!r}).encoders"
        raise InputError(
            f"encoder {encoder!r} is not possible with {name}, which takes {those}: {paper.encoders_why}"
        )
    found = nearest(str(encoder), paper.encoders)
    raise InputError(f"unknown encoder {encoder!r} for {name}; {found}; see zoo.describe({name!r})")


def _with_encoders() -> str:
    return ", ".join(key for key, entry in _ENTRIES.items() if entry.paper.encoders) or "none yet"


def _check_contract(cls: type[nn.Module], row: Mapping[str, object], paper: Paper) -> None:
    """Raise TypeError unless the class keeps the contract above: a mistake of its author, not of a user."""
    problems = []
    for word, least in (("margin", 0), ("min_size", 1), ("size_step", 1)):
        if not fits(value := getattr(cls, word, None), int) or cast(int, value) < least:
            problems.append(f"{word} must be a whole number >= {least}, not {value!r}")
    if not fits(getattr(cls, "aux_weights", None), tuple[float, ...]):
        problems.append("aux_weights must be a tuple of numbers")
    parameters = inspect.signature(cls).parameters
    if list(parameters)[:2] != ["num_classes", "in_channels"]:
        problems.append("the first two arguments must be num_classes and in_channels")
    for word, parameter in parameters.items():
        if word not in OWN_WORDS[:2] and parameter.kind is not parameter.KEYWORD_ONLY:
            problems.append(f"{word} must be keyword-only")
        if parameter.default is parameter.empty and word not in row:
            problems.append(f"{word} has no default")
    wanted = [*row, *(ENCODER_WORDS if paper.encoders else ())]
    problems += [f"{word} is not an argument" for word in wanted if word not in parameters]
    if problems:
        raise TypeError(f"{cls.__name__} breaks the architecture contract: {'; '.join(problems)}")
