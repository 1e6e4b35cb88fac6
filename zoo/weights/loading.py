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
from zoo.encoders import Normalisation
from zoo.encoders.pretrained import IMAGENET, fit_input, fit_normalisation
from zoo.errors import InputError, nearest
from zoo.weights.catalogue import known
from zoo.weights.layouts import AS_IS, AUXILIARY, CLASSIFIERS, LAYOUTS, Layout, own_needs, own_remark

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

    reset_head: keep the model's fresh classifier where the file's is for another number of classes.
    say: gets one line: the source, what was mapped, whose normalisation, what was dropped, what stays fresh.

    Raises InputError, and leaves the model as it is, for a file that is none of these or does not fit.
    """
    path, architecture, own = Path(path), _name_of(model), model.state_dict()
    weights, layout, normalisation, whose = _open(path, architecture, model)
    ours, dropped = _mapped(weights, layout, path)
    layout.fit(ours)
    fitted = fit_input(model, ours)
    dropped += _drop_auxiliary(ours, own, architecture, layout, path)
    encoder = _encoder_in(ours, architecture)

    fresh = _fresh_parts(own, layout.covers) + _fresh_classifiers(ours, own, architecture, reset_head, path)
    mapped = len(ours)
    ours |= {key: own[key] for key in own if key.startswith(tuple(f"{part}." for part in fresh))}
    _check_parts(ours, own, architecture, encoder, path)
    if problem := layout.needs(model):
        raise InputError(f"{path}: {layout.title} into this {architecture}: {problem}")
    state.load_strict(model, ours, f"{path}: {layout.title}")

    for word, value in layout.options.items():
        setattr(model, word, value)
    if normalisation:
        normalisation = fit_normalisation(normalisation, cast(int, model.in_channels))
        model.normalisation = cast(nn.Module, normalisation)  # it is none, but nn.Module knows no other type
    title = f"{layout.title} ({encoder})" if encoder else layout.title
    said = [
        f"{path.name}: {title}: {mapped} tensors -> {architecture}",
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
    """The architecture that `model` is."""
    for name in registry.names():
        if registry.architecture(name) is type(model):
            return name
    raise InputError(f"{type(model).__name__} is none of zoo.names(); load into what zoo.build makes")


def _open(path: Path, architecture: str, model: nn.Module) -> _File:
    """Read and recognise the file.  Raises InputError if it is for no network like this."""
    if not path.exists() and path.name == str(path) and not path.suffix:  # rather a name than a file
        raise InputError(f"{path}: no such file, and no published weights; {nearest(path.name, known())}")
    payload = state.read(path)
    if "format" in payload:
        return _open_own(path, architecture, model)
    if isinstance(payload.get("state_dict"), dict):  # beside an optimizer's, as semseg has it
        payload = payload["state_dict"]
    weights = state.tensors(payload, path)
    if all(key.startswith("module.") for key in weights):  # saved from within DataParallel
        weights = {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    for layout in LAYOUTS:
        if all(sign in weights for sign in layout.signs):
            if layout.architecture != architecture:
                what = f"{layout.title}, which is for {layout.architecture}"
                raise InputError(f"{path}: {what}, not for {architecture}")
            return _File(weights, layout, IMAGENET, "ImageNet's")
    if weights.keys() == model.state_dict().keys():
        return _File(weights, Layout("a bare state dict", architecture, (), AS_IS), None, "not in the file")
    sources = ", ".join(["checkpoints of train.py", *(layout.title for layout in LAYOUTS)])
    raise InputError(f"{path}: not recognised by its keys {list(weights)[:3]}; known: {sources}")


def _open_own(path: Path, architecture: str, model: nn.Module) -> _File:
    """The same for a checkpoint of train.py."""
    from zoo.core import checkpoint  # a network alone needs none of the core

    saved = checkpoint.read(path)
    if saved.arch != architecture:
        raise InputError(f"{path}: holds {saved.arch}, not {architecture}")
    options: dict[str, object] = {}
    if hasattr(model, "align_corners"):  # no shape shows it
        options["align_corners"] = saved.build.get("align_corners", False)
    layout = Layout("checkpoint of train.py", architecture, (), AS_IS, options=options)
    if getattr(model, "encoder", None) is not None and saved.build.get("encoder", "") is not None:
        with torch.device("meta"):
            theirs = registry.build(architecture, **saved.build)
        layout = replace(
            layout,
            needs=lambda model: own_needs(model, theirs),
            remark=lambda model: own_remark(model, theirs),
        )
    return _File(saved.model, layout, saved.preprocess.normalisation, "the checkpoint's")


def _mapped(weights: Weights, layout: Layout, path: Path) -> tuple[Weights, list[str]]:
    """The tensors under our keys, and what was dropped by a row that says so."""
    ours: Weights = {}
    dropped, unknown = [], []
    for key, tensor in weights.items():
        for pattern, replacement in layout.rows:
            if match := re.fullmatch(pattern, key):
                if replacement is None:
                    dropped.append(pattern.removesuffix(r"\..*").replace("\\", ""))
                else:
                    ours[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(key)
    if unknown:
        raise InputError(
            f"{path}: looks like {layout.title}, but keys without a place here: {len(unknown)}, first "
            f"{unknown[:3]}; what can be mapped is the plain network on a ResNet"
        )
    return ours, list(dict.fromkeys(dropped))


def _drop_auxiliary(ours: Weights, own: Weights, architecture: str, layout: Layout, path: Path) -> list[str]:
    """Drop the auxiliary head if the model has none.  Raises InputError if only the model has one."""
    prefix = AUXILIARY.get(architecture)
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


def _fresh_classifiers(
    ours: Weights, own: Weights, architecture: str, reset_head: bool, path: Path
) -> list[str]:
    """Drop the classifiers for another number of classes and name them.  Raises InputError unless wanted."""
    fresh = []
    for key in list(ours):
        if key not in own or not re.match(CLASSIFIERS[architecture], key):
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


def _check_parts(ours: Weights, own: Weights, architecture: str, encoder: str, path: Path) -> None:
    """Say what the file was built with, where that can be told and is not what the model was built with."""
    mine = _encoder_in(own, architecture)
    if encoder and encoder != mine:
        here = f"the model {mine}" if mine else "the model none"
        raise InputError(f"{path}: has encoder {encoder}, {here}: build it with encoder={encoder!r}")
    if architecture == "unet_halved" and (widths := _widths(ours)) != _widths(own):
        if len(widths) != len(_widths(own)):
            raise InputError(f"{path}: its decoder has {len(widths)} blocks, unet_halved always five")
        raise InputError(
            f"{path}: its decoder is {widths} wide, the model's {_widths(own)}: build it with "
            f"decoder_channels={widths}"
        )


def _encoder_in(weights: Weights, architecture: str) -> str:
    """The name of the encoder in `weights`, told by its keys and shapes; "" if it is none of ours."""
    prefix = "backbone." if architecture == "fcn" else "encoder."
    part = {key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)}
    if not part:
        return ""
    rows = _rows(part)
    return next((name for name in encoders.names() if _rows_of(name) == rows), "")


@cache
def _rows_of(encoder: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return _rows(encoders.build(encoder).state_dict())


def _rows(weights: Weights) -> dict[str, torch.Size]:
    """The first dimension of each tensor, on which the number of input channels has no influence."""
    return {key: t.shape[:1] for key, t in weights.items() if not key.endswith(state.COUNT)}


def _widths(weights: Weights) -> tuple[int, ...]:
    """The output channels of the blocks of unet_halved's decoder."""
    last = r"decoder\.\d\.conv2\.0\.weight"
    return tuple(len(t) for key, t in weights.items() if re.fullmatch(last, key))
