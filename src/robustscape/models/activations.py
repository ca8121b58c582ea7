"""Activation functions by name."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from robustscape.config import nearest
from robustscape.types import BadInput

Activation = Literal["relu", "silu", "gelu", "mish", "softplus"]
"""Name of an activation function, as torch defines it with its default settings."""

_MODULES = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "mish": nn.Mish, "softplus": nn.Softplus}


def check_activation(name: str) -> None:
    """Refuse a name that no activation has.

    Raises:
        BadInput: an unknown name.
    """
    known = get_args(Activation)
    if name not in known:
        raise BadInput(f"there is no activation {name!r}{nearest(name, known)}; there are: {', '.join(known)}")


def activated_by(name: Activation) -> nn.Module:
    """Return a new module of the activation; it works out of place, so hooks see what layers returned."""
    check_activation(name)
    return _MODULES[name]()
