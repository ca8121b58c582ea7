"""Tell by the shapes of its weights which network a state dict belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import isqrt
from typing import Any

from torch import Tensor

from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.models.mapping import State, layout_of, renamed
from robustscape.models.preact_resnet import PreActResNet
from robustscape.models.resnet import ResNet
from robustscape.models.stutz_resnet import StutzResNet
from robustscape.models.vgg import VGG
from robustscape.models.wide_resnet import WideResNet
from robustscape.types import Architecture

_STEMS = ("conv1.weight", "features.0.weight")
_ENDS = ("fc.weight", "linear.weight", "classifier.weight", "fc2.weight")


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A network that weights may belong to.

    Attributes:
        architecture: The network.
        channels: Channels of its images, None where the weights do not tell.
        side: Height and width of its images where its weights depend on them and images are square, else None.
        classes: Number of its classes.
    """

    architecture: Architecture
    channels: int | None
    side: int | None = None
    classes: int


def guesses(state: State) -> Iterator[Guess]:
    """Give the networks that a state dict may belong to by its shapes, the likeliest first.

    Every one has about as many weights as the state dict, so that building it costs no more than reading did.

    Args:
        state: Without prefixes and normalisation constants.
    """
    layout = layout_of(state)
    named = renamed(state, layout) if layout else state
    convolutions = [value for value in named.values() if value.ndim == 4]
    matrices = [value for value in named.values() if value.ndim == 2]
    if not matrices:
        return
    end = next((named[name] for name in _ENDS if name in named), matrices[-1])
    if end.ndim != 2 or end.shape[0] < 2:
        return
    classes, features = end.shape
    if not convolutions:
        if len(matrices) == 1:
            yield Guess(architecture=Linear(bias=len(state) == 2), channels=None, classes=classes)
        return
    stem = next((named[name] for name in _STEMS if name in named), convolutions[0])
    if stem.ndim != 4:
        return
    for network in _networks(named, stem, features, convolutions):
        known = {f.name for f in fields(network)}
        other = {name: value for name, value in (layout.fields if layout else {}).items() if name in known}
        yield Guess(architecture=replace(network, **other), channels=stem.shape[1], classes=classes)
    yield from _lenets(named, stem, classes, convolutions)


def _networks(named: State, stem: Tensor, features: int, convolutions: list[Tensor]) -> Iterator[Any]:
    """Give the networks of 3x3 convolutions whose depth and width agree with the shapes."""
    outputs, number = stem.shape[0], len(convolutions)
    if stem.shape[2:] != (3, 3) or not any(value.shape == (features, features, 3, 3) for value in convolutions):
        return
    blocks, rest = divmod(number - 1 - (2 if features == 64 else 3), 6)
    if outputs == 16 and features % 64 == 0 and rest == 0 and blocks > 0:
        yield WideResNet(depth=6 * blocks + 4, width=features // 64)
    if features != 8 * outputs:
        return
    if number in (13, 16):
        yield VGG(depth=16 if number == 13 else 19, width=outputs)
    if number not in (20, 36):
        return
    size = {"depth": 18 if number == 20 else 34, "width": outputs}
    residual = (
        *(ResNet(), PreActResNet(), PreActResNet.wong(), PreActResNet.gowal(), PreActResNet.zheng()),
        *(StutzResNet(norm="batch" if _scales(named) else "reparametrised"),),
    )
    yield from (replace(network, **size) for network in residual)


def _scales(named: State) -> bool:
    """Return whether first normalisations store scales, which stay positive, and not scales less 1, about 0."""
    first = [value for name, value in named.items() if name.endswith("bn1.weight") and value.ndim == 1]
    return bool(first) and all(float(value.min()) > 0 for value in first)


def _lenets(named: State, stem: Tensor, classes: int, convolutions: list[Tensor]) -> Iterator[Guess]:
    first = named.get("fc1.weight")
    if len(convolutions) != 2 or stem.shape[2:] != (5, 5) or stem.shape[0] % 2 or first is None or first.ndim != 2:
        return
    width = stem.shape[0] // 2
    if first.shape[0] == 64 * width:
        side = 4 * isqrt(first.shape[1] // (4 * width))
        yield Guess(architecture=LeNet(width=width), channels=stem.shape[1], side=side, classes=classes)


def in_words(architecture: Architecture) -> str:
    """Return an architecture as a person would write it: its size, and what is not its default."""
    own = {f.name: (f.default, getattr(architecture, f.name)) for f in fields(architecture)}  # pyright: ignore[reportArgumentType]
    shown = [n for n, (usual, value) in own.items() if n in ("depth", "width") or value != usual]
    named = ", ".join(f"{n}={own[n][1]!r}" for n in shown if n not in ("mean", "std"))
    return f"{type(architecture).__name__}({named})"
