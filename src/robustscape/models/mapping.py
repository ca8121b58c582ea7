"""Fit a state dict's names to those of a network: prefixes, other authors' names, normalisation, order."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

State = Mapping[str, Tensor]
"""Name to tensor."""

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, a number for each channel or one for all."""

_PREFIXES = tuple(
    f"{name}."
    for name in (
        *("module", "_orig_mod", "model", "net", "network", "ema", "ema_model", "averaged", "averaged_model"),
        *("0", "1"),  # of a Sequential: the network alone, or behind a normalisation
    )
)
_SURPLUS = re.compile(r"(^|\.)(sub_block1|attacker)\.|^n_averaged$")  # is never run, or counts
_CONSTANTS = {"mu": "sigma", "mean": "std", "new_mean": "new_std", "whiten.bias": "whiten.weight"}
_COUNTER = "num_batches_tracked"  # older torch did not have it; unused with a momentum


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names that a family of checkpoints has.

    Attributes:
        marker: A name by which it is known.
        rules: Pattern and replacement, carried out on every name one after another.
        fields: What the architecture is that has such names, where shapes do not tell.
        whose: Whose names they are.
    """

    marker: str
    rules: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    whose: str


def _next(name: str) -> Callable[[re.Match[str]], str]:
    """Return a replacement by a name and the number that was found, counted from 1 instead of from 0."""
    return lambda found: f"{name}{int(found[1]) + 1}."


LAYOUTS = (
    Layout(
        marker="init_conv.weight",
        rules=(
            *((r"^init_conv\.", "conv1."), (r"^layer\.(\d)\.", _next("block")), (r"\.block\.", ".layer.")),
            *((r"\.conv_0\.", ".conv1."), (r"\.conv_1\.", ".conv2."), (r"\.shortcut\.", ".convShortcut.")),
            *((r"\.batchnorm_0\.", ".bn1."), (r"\.batchnorm_1\.", ".bn2.")),
            *((r"^batchnorm\.", "bn1."), (r"^logits\.", "fc.")),
        ),
        fields={"padding": "same", "activation": "silu"},
        whose="Gowal et al. 2020",
    ),
    Layout(
        marker="conv_2d.weight",
        rules=(
            *((r"^conv_2d\.", "conv1."), (r"^layer_(\d)\.", _next("layer")), (r"\.conv_2d_(\d)\.", r".conv\1.")),
            *((r"\.batchnorm_0\.", ".bn1."), (r"\.batchnorm_1\.", ".bn2."), (r"\.shortcut\.", ".shortcut.0.")),
            *((r"^batchnorm\.", "bn."), (r"^logits\.", "linear.")),
        ),
        fields={"shortcut": "raw", "padding": "same", "activation": "silu"},
        whose="Gowal et al. 2020",
    ),
    Layout(
        marker="block0.0.norm1.weight",
        rules=(
            *((r"^(re)?bn1\.", "bn1."), (r"^block(\d)\.", _next("layer")), (r"\.norm(\d)\.", r".bn\1.")),
            *((r"\.downsample\.", ".shortcut."), (r"^logits\.", "linear.")),
        ),
        whose="Stutz et al. 2021",
    ),
    Layout(
        marker="layer1.0.conv1.weight",
        rules=((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear.")),
        whose="torchvision",
    ),
    Layout(
        marker="feature_extractor.0.weight",
        rules=((r"^feature_extractor\.", "features."),),
        whose="Liu et al. 2020",
    ),
)
"""Names of other authors; those of Zhang, Rice, Wong and Wu, and all who took them over, are robustscape's own."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What became of a state dict.

    Attributes:
        state: Under the network's own names; empty where it does not fit.
        by: "name", "layout" (other authors' names) or "order".
        problem: How the first name that does not fit differs, "" where all fit.
    """

    state: State
    by: str = "name"
    problem: str = ""


def unwrapped(state: State, own: Collection[str] = ()) -> dict[str, Tensor]:
    """Take off the prefixes that wrappers (DataParallel, torch.compile, averages) put before every name.

    Args:
        state: Under the file's names; what is never run is left out.
        own: The network's names, where it is known: nothing is taken off once one is met.
    """
    state = {name: value for name, value in state.items() if name in own or not _SURPLUS.search(name)}
    while not set(state) & set(own):
        weights = [name for name in state if not _is_constant(name)]
        prefix = next((p for p in _PREFIXES if weights and all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _is_constant(name: str) -> bool:
    known = {*_CONSTANTS, *_CONSTANTS.values()}
    return any(name == end or name.endswith(f".{end}") for end in known)


def without_constants(state: State, own: Collection[str] = ()) -> tuple[dict[str, Tensor], Constants | None]:
    """Take out the mean and std that a checkpoint normalises pixels by, unless the network has them itself.

    Args:
        state: Without prefixes.
        own: The network's names, where it is known.

    Returns:
        The other tensors; mean and std, None where there are none.
    """
    for name, mean in state.items():
        end = next((end for end in _CONSTANTS if name == end or name.endswith(f".{end}")), None)
        if end is None or name in own:
            continue
        other = name.removesuffix(end) + _CONSTANTS[end]
        std = state.get(other)
        if std is not None and std.numel() == mean.numel() <= 4 and bool((std > 0).all()):
            rest = {key: value for key, value in state.items() if key not in (name, other)}
            return rest, (tuple(mean.flatten().tolist()), tuple(std.flatten().tolist()))
    return dict(state), None


def layout_of(state: State) -> Layout | None:
    """Return whose names a state dict has, None for robustscape's own or nobody's."""
    return next((layout for layout in LAYOUTS if layout.marker in state), None)


def renamed(state: State, layout: Layout) -> dict[str, Tensor]:
    """Return a state dict of a layout under robustscape's names."""
    found = {}
    for name, value in state.items():
        for pattern, replacement in layout.rules:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found


def fitted(own: State, state: State, *, ordered: bool) -> Fitted:
    """Fit a state dict to a network: by its names, by those of a layout, or by order where every shape agrees.

    Args:
        own: The network's state dict.
        state: Without prefixes and constants.
        ordered: Whether the order of ``state`` is that in which its network made its parts.
    """
    if not (problem := difference(own, state)):
        return Fitted(state=_counted(own, state))
    if layout := layout_of(state):
        other = renamed(state, layout)
        if not (said := difference(own, other)):
            return Fitted(state=_counted(own, other), by="layout")
        problem = said if set(own) & set(other) else problem
    if ordered and (found := _in_order(own, state)):
        return Fitted(state=_counted(own, found), by="order")
    return Fitted(state={}, problem=problem)


def difference(own: State, state: State) -> str:
    """Return how the first name that does not fit differs, "" where all fit."""
    for name, value in own.items():
        if name not in state:
            if name.endswith(_COUNTER):
                continue
            return f"{name!r} is missing"
        if state[name].shape != value.shape:
            return f"{name!r} has the shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
        if state[name].is_floating_point() != value.is_floating_point() or state[name].is_complex():
            return f"{name!r} has the type {str(state[name].dtype).removeprefix('torch.')}"
    return next((f"{name!r} is unexpected" for name in state if name not in own), "")


def _counted(own: State, state: State) -> dict[str, Tensor]:
    """Put the network's own counters where the state dict has none."""
    return {name: state.get(name, value) for name, value in own.items()}


def _in_order(own: State, state: State) -> dict[str, Tensor]:
    """Return the state dict under the network's names if both are the same one after another; {} if not."""
    ours, theirs = ([name for name in names if not name.endswith(_COUNTER)] for names in (own, state))
    if len(ours) != len(theirs):
        return {}
    for mine, other in zip(ours, theirs, strict=True):
        if own[mine].shape != state[other].shape or mine.rpartition(".")[2] != other.rpartition(".")[2]:
            return {}
    found = {mine: state[other] for mine, other in zip(ours, theirs, strict=True)}
    return found if not difference(own, found) else {}
