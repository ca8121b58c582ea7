"""What several weight perturbations of the room share: their choices, and the sizes of what they move."""

from __future__ import annotations

import typing
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from robustscape.config import hints
from robustscape.types import BadInput, Params, WeightPerturbation
from robustscape.weights.space import filter_norms

Unit: TypeAlias = Literal["layer", "filter", "network"]
"""What a radius is for: each layer (one parameter tensor), each filter, or all that moves together."""

DecayAt: TypeAlias = Literal["w", "w+v"]
"""Where weight decay reads the weights."""

Statistics: TypeAlias = Literal["w+v", "w", "every", "eval"]
"""Which forwards move BatchNorm's running statistics: the trained one, one at w in its place, or every one.

"eval" is as "w", but the search for v is in eval mode and moves none: the forward at w is one of its own.
"""


def check(perturbation: WeightPerturbation) -> None:
    """Refuse what can be meant for no weight perturbation.

    Raises:
        BadInput: a closed field with another value than its choices, or a warm-up below 0.
    """
    name = type(perturbation).__name__
    for field, kind in hints(type(perturbation)).items():
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        value = getattr(perturbation, field)
        if choices and value not in choices:
            raise BadInput(f"{name}'s {field} is one of {', '.join(map(repr, choices))}, not {value!r}")
    if not perturbation.warmup >= 0:
        raise BadInput(f"{name}'s warmup must be at least 0 epochs, not {perturbation.warmup:g}")


def sizes(params: Params, unit: Unit, norm: Literal["l1", "l2"] = "l2") -> Params:
    """Return the norm of the unit that each number belongs to, shaped to broadcast over its parameter.

    Filters are those of parameters of more than one dimension.
    """
    order = 1 if norm == "l1" else 2
    if unit == "filter":
        return {name: _filters(value, order) for name, value in params.items()}
    each = {name: torch.linalg.vector_norm(value, order) for name, value in params.items()}
    if unit == "layer":
        return each
    whole = torch.linalg.vector_norm(torch.stack(list(each.values())), order)
    return {name: whole for name in params}


def _filters(value: Tensor, order: int) -> Tensor:
    return filter_norms(value) if order == 2 else value.abs().sum(dim=tuple(range(1, value.ndim)), keepdim=True)


def divided(params: Params, by: Params) -> Params:
    """Return each number over the size of its unit; 0 over 0 is 0."""
    return {name: value / by[name].clamp(min=torch.finfo(value.dtype).tiny) for name, value in params.items()}


def within(params: Params, radius: Params, present: Params) -> Params:
    """Return a point scaled back, unit by unit, to where its sizes, ``present``, are at most ``radius``."""
    return {
        name: value * (radius[name] / present[name].clamp(min=torch.finfo(value.dtype).tiny)).clamp(max=1)
        for name, value in params.items()
    }
