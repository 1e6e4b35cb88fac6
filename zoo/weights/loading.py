"""One file into one network: recognise, map, check everything, then load."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from zoo import encoders, registry, state
from zoo.encoders import Encoder, Normalisation
from zoo.encoders.layouts import AS_IS, mapped
from zoo.encoders.pretrained import IMAGENET, fit_depth, fit_input, fit_normalisation
from zoo.errors import InputError, nearest
from zoo.weights.catalogue import known
from zoo.weights.layouts import (
    AUXILIARY,
    CLASSIFIERS,
    LAYOUTS,
    REFUSED,
    WIDTHS,
    Layout,
)
from zoo.weights.own import own_needs, own_remark, unseen

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Loaded:
    """What `load` did.

    line: for people.  fresh: the parts of the model that stay as they were.
    options: keywords of the architecture that the weights need; they are set in the model.
    """

    source: str
    line: str
    fresh: tuple[str, ...]
    options: dict[str, object]
    normalisation: Normalisation | None


class _File(NamedTuple):
    """What was read: tensors under their own keys, their layout, the input they expect, whose that is."""

    weights: Weights
    layout: Layout
    normalisation: Normalisation | None
    whose: str


def load(
    model: nn.Module, path: str | Path, *, reset_head: bool = False, say: Callable[[str], None] = print
) -> Loaded:
    """Fill `model` from the file at `path`: one of train.py, or of a source in `zoo.weights.layouts`.

    model: what `zoo.build` or `zoo.encoders.build` makes.
    reset_head: keep the model's fresh classifier where the file's is for another number of classes.
    say: gets one line: the source, what was mapped, whose normalisation, what was dropped, what stays fresh.

    Raises InputError, and leaves the model as it is, for a file that is none of these or does not fit.
    """
    path, network, own = Path(path), _name_of(model), model.state_dict()
    weights, layout, normalisation, whose = _open(path, network, model)
    ours, dropped = _mapped(weights, layout, path)
    layout.fit(ours)
    fitted = fit_input(model, ours)
    dropped += _drop_auxiliary(ours, own, network, layout, path)
    encoder = _encoder_in(ours, model)
    _check_parts(ours, own, model, encoder, path)
    if encoder:
        ours = _fit_encoder(model, encoder, ours, f"{path}: {layout.title}")

    fresh = _fresh_parts(own, layout.covers) + _fresh_classifiers(ours, own, network, reset_head, path)
    count = len(ours)
    ours |= {key: own[key] for key in own if key.startswith(tuple(f"{part}." for part in fresh))}
    if problem := layout.needs(model):
        raise InputError(f"{path}: {layout.title} into this {network}: {problem}")
    state.load_strict(model, ours, f"{path}: {layout.title}")

    for word, value in layout.options.items():
        setattr(model, word, value)
    if normalisation:
        normalisation = fit_normalisation(normalisation, cast(int, model.in_channels))
        model.normalisation = cast(nn.Module, normalisation)  # it is none, but nn.Module knows no other type
    title = f"{layout.title} ({encoder})" if encoder else layout.title
    said = [
        f"{path.name}: {title}: {count} tensors -> {network}",
        f"normalisation: {whose}",
        *(f"{word}={value}" for word, value in layout.options.items()),
        *([f"input channels 3 -> {model.in_channels}"] if fitted else []),
        *([remark] if (remark := layout.remark(model)) else []),
        *([f"dropped: {', '.join(dropped)}"] if dropped else []),
        *([f"fresh: {', '.join(fresh)}"] if fresh else []),
    ]
    say("; ".join(said))
    return Loaded(layout.title, "; ".join(said), tuple(fresh), dict(layout.options), normalisation)


def _name_of(model: nn.Module) -> str:
    """The network that `model` is, by the name of its module: the sizes of one paper are one network."""
    cls = type(model)
    if isinstance(model, Encoder) or cls in map(registry.architecture, registry.names()):
        return cls.__module__.rpartition(".")[2]
    raise InputError(f"{cls.__name__} is none of zoo.names(); load into what zoo.build makes")


def _open(path: Path, network: str, model: nn.Module) -> _File:
    """Read and recognise the file.  Raises InputError if it is for no network like this."""
    if not path.exists() and str(path) in known():
        raise InputError(
            f"{path}: a name, not a file: zoo.build(…, pretrained={str(path)!r}) or zoo.weights.fetch of it"
        )
    if not path.exists() and path.name == str(path) and not path.suffix:  # rather a name than a file
        raise InputError(f"{path}: no such file, and no published weights; {nearest(path.name, known())}")
    payload = state.read(path)
    if "format" in payload:
        return _open_own(path, network, model)
    weights = _unwrapped(payload, path)
    for title, signs, why in REFUSED:
        if all(sign in weights for sign in signs):
            raise InputError(f"{path}: {title} cannot be loaded: {why}")
    for layout in LAYOUTS:
        if layout.fits(weights):
            return _File(weights, _for(layout, network, model, path), IMAGENET, "ImageNet's")
    if weights.keys() == model.state_dict().keys():
        return _File(weights, Layout("a bare state dict", network, (), AS_IS), None, "not in the file")
    sources = ", ".join(["checkpoints of train.py", *(layout.title for layout in LAYOUTS)])
    raise InputError(f"{path}: not recognised by its keys {list(weights)[:3]}; known: {sources}")


def _unwrapped(payload: dict, path: Path) -> Weights:
    """The network's own tensors, out of what was saved around them."""
    if isinstance(payload.get("state_dict"), dict):  # beside an optimizer's, as semseg has it
        payload = payload["state_dict"]
    weights = state.tensors(payload, path)
    for wrapper, beside in (("module.", "module."), ("model.", "loss.")):  # DataParallel; network and loss
        if all(key.startswith((wrapper, beside)) for key in weights):
            weights = {key.removeprefix(wrapper): tensor for key, tensor in weights.items()}
    return weights


def _for(layout: Layout, network: str, model: nn.Module, path: Path) -> Layout:
    """`layout`, if it is for `model`; one for the encoder of `model` is for that part of it."""
    if layout.network == network:
        return layout
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, Encoder) and layout.network == _name_of(encoder):
        rows = tuple((theirs, ours and f"encoder.{ours}") for theirs, ours in layout.rows)
        return replace(layout, network=network, rows=rows, covers=("encoder",))
    raise InputError(f"{path}: {layout.title}, which is for {layout.network}, not for {network}")


def _open_own(path: Path, network: str, model: nn.Module) -> _File:
    """The same for a checkpoint of train.py."""
    from zoo.core import checkpoint  # a network alone needs none of the core

    saved = checkpoint.read(path)
    if saved.arch not in registry.names() or registry.architecture(saved.arch) is not type(model):
        raise InputError(f"{path}: holds {saved.arch}, not {network}")
    options: dict[str, object] = {}
    if hasattr(model, "align_corners"):  # no shape shows it
        options["align_corners"] = saved.build.get("align_corners", False)
    layout = Layout("checkpoint of train.py", network, (), AS_IS, options=options)
    encoder, theirs_too = getattr(model, "encoder", None), saved.build.get("encoder", "") is not None
    if unseen(model) and (encoder is None or theirs_too):
        with torch.device("meta"):
            theirs = registry.build(saved.arch, **saved.build)
        layout = replace(
            layout,
            needs=lambda model: own_needs(model, theirs),
            remark=lambda model: own_remark(model, theirs),
        )
    return _File(saved.model, layout, saved.preprocess.normalisation, "the checkpoint's")


def _mapped(weights: Weights, layout: Layout, path: Path) -> tuple[Weights, list[str]]:
    """The tensors under our keys, and what was dropped by a row that says so."""
    ours, dropped, unknown = mapped(weights, layout.rows)
    if unknown:
        raise InputError(
            f"{path}: looks like {layout.title}, but keys without a place here: {len(unknown)}, first "
            f"{unknown[:3]}; what can be mapped is {layout.whole}"
        )
    return ours, dropped


def _drop_auxiliary(ours: Weights, own: Weights, network: str, layout: Layout, path: Path) -> list[str]:
    """Drop the auxiliary head if the model has none.  Raises InputError if only the model has one."""
    prefix = AUXILIARY.get(network)
    if prefix is None:
        return []
    there = [key for key in ours if key.startswith(prefix)]
    here = any(key.startswith(prefix) for key in own)
    if here and not there and not layout.covers:
        raise InputError(f"{path}: has no auxiliary head, the model has one: build it with aux=False")
    if here or not there:
        return []
    for key in there:
        del ours[key]
    return [prefix.removesuffix(".")]


def _fresh_parts(own: Weights, covers: tuple[str, ...]) -> list[str]:
    """The parts of the model that the file has nothing for."""
    parts = dict.fromkeys(key.split(".")[0] for key in own)
    return [part for part in parts if covers and part not in covers]


def _fresh_classifiers(ours: Weights, own: Weights, network: str, reset_head: bool, path: Path) -> list[str]:
    """Drop the classifiers for another number of classes and name them.  Raises InputError unless wanted."""
    fresh = []
    for key in list(ours):
        if key not in own or network not in CLASSIFIERS or not re.match(CLASSIFIERS[network], key):
            continue
        there, here = ours[key].shape[:1], own[key].shape[:1]
        if there != here:
            if not reset_head:
                raise InputError(
                    f"{path}: is for {sum(there)} classes, the model for {sum(here)}; --reset-head "
                    f"(in Python: reset_head=True) starts with a fresh classifier"
                )
            fresh.append(key.rpartition(".")[0])
            del ours[key]
    return list(dict.fromkeys(fresh))


def _check_parts(ours: Weights, own: Weights, model: nn.Module, encoder: str, path: Path) -> None:
    """Say what the file was built with, where that can be told and is not what the model was built with.

    encoder: the name of the one in the file, "" where it is none of ours.
    """
    own_encoder = _encoder_of(model)
    mine = "none" if own_encoder is None else own_encoder.name or encoder  # one without a name may fit
    if encoder and encoder != mine:
        if own_encoder is model:
            raise InputError(f"{path}: is of {encoder}, the model is {mine}")
        what = f"has encoder {encoder}, the model {mine}"
        raise InputError(f"{path}: {what}: build {_with(encoder, model)}")
    network = _name_of(model)
    part, option, pattern = WIDTHS.get(network, ("", "", ""))
    there, here = _widths(ours, pattern), _widths(own, pattern)
    if there and there != here:
        if isinstance(there, tuple) and isinstance(here, tuple) and len(there) != len(here):
            raise InputError(f"{path}: its {part} has {len(there)} blocks, {network} always {len(here)}")
        what = f"its {part} is {there} wide, the model's {here}"
        raise InputError(f"{path}: {what}: build it with {option}={there}")


def _with(encoder: str, model: nn.Module) -> str:
    """What to build instead of `model`: the size that has `encoder`, or the same with another keyword."""
    sizes = [name for name in registry.names() if registry.architecture(name) is type(model)]
    for name in sizes:
        if len(sizes) > 1 and registry.default_encoder(name) == encoder:
            return name
    return f"it with encoder={encoder!r}"


def _widths(weights: Weights, pattern: str) -> object:
    """How many channels come out of what `pattern` matches: one number, or one for each; None without any."""
    widths = tuple(sum(tensor.shape[:1]) for key, tensor in weights.items() if re.fullmatch(pattern, key))
    return widths[0] if len(widths) == 1 else widths or None


def _encoder_of(model: nn.Module) -> Encoder | None:
    return model if isinstance(model, Encoder) else cast("Encoder | None", getattr(model, "encoder", None))


def _encoder_prefix(model: nn.Module) -> str:
    """How the keys of the encoder of `model` begin."""
    return "" if isinstance(model, Encoder) else "backbone." if _name_of(model) == "fcn" else "encoder."


def _encoder_in(weights: Weights, model: nn.Module) -> str:
    """The name of the encoder in `weights`, told by its keys and shapes; "" if it is none of ours.

    One that lacks a few parts, as behind `Encoder.keep`, is known by the rest.
    """
    prefix = _encoder_prefix(model)
    part = {key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)}
    if not part:
        return ""
    rows, family = _rows(part), type(_encoder_of(model))
    # To build all of them takes seconds: those of the model's own family go first.
    names = sorted(encoders.names(), key=lambda name: encoders.family(name) is not family)
    exact = next((name for name in names if _rows_of(name) == rows), "")
    return exact or next((name for name in names if _mostly(rows, _rows_of(name))), "")


def _mostly(rows: dict[str, torch.Size], whole: dict[str, torch.Size]) -> bool:
    """Whether `rows` are nine tenths or more of `whole`, and nothing else."""
    return len(rows) >= 0.9 * len(whole) and rows.items() <= whole.items()


def _fit_encoder(model: nn.Module, name: str, weights: Weights, where: str) -> Weights:
    """`weights`, with the whole encoder called `name`, without what that of `model` lacks."""
    encoder, prefix = _encoder_of(model), _encoder_prefix(model)
    assert encoder is not None, "checked before"
    part = {key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)}
    fitted = fit_depth(encoder, name, part, where)
    others = {key: t for key, t in weights.items() if not key.startswith(prefix)}
    return others | {f"{prefix}{key}": t for key, t in fitted.items()}


@cache
def _rows_of(encoder: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return _rows(encoders.build(encoder).state_dict())


def _rows(weights: Weights) -> dict[str, torch.Size]:
    """The first dimension of each tensor, on which the number of input channels has no influence."""
    return {key: t.shape[:1] for key, t in weights.items() if not key.endswith(state.COUNT)}
