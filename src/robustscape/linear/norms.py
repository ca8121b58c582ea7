"""The norms of the closed forms: a perturbation's size, its dual on the weights, the steepest direction.

A threat of norm p is ``||delta||_p <= eps``; the largest rise of a linear score w.x inside it is
``eps ||w||_q`` with 1/p + 1/q = 1 (Liu 2020, https://arxiv.org/abs/2006.08403, equation 6). So the weights of a
linear model meet the L1 norm under "linf", the L2 norm under "l2" and the largest magnitude under "l1".
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from robustscape.types import BadInput

Norm: TypeAlias = Literal["linf", "l2", "l1"]
"""The norm p that measures a perturbation of the inputs."""

Box: TypeAlias = tuple[float, float]
"""Lowest and highest value of every input, (0.0, 1.0) for pixels."""

P: dict[Norm, float] = {"linf": math.inf, "l2": 2, "l1": 1}
"""The exponent of each norm, which measures perturbations."""

Q: dict[Norm, float] = {"linf": 1, "l2": 2, "l1": math.inf}
"""The exponent of its dual, which measures weights."""


def check_norm(norm: str) -> None:
    """Refuse a norm that has no closed form here.

    Raises:
        BadInput: ``norm`` is not one of linf, l2, l1.
    """
    if norm not in get_args(Norm):
        raise BadInput(f"norm {norm!r} is not one of {', '.join(get_args(Norm))}")


def check_eps(eps: float | Tensor, x: Tensor) -> Tensor:
    """Return eps as (N,) of x's dtype, one for each example.

    Args:
        eps: At least 0 and finite: one number, or (N,). There is no upper limit: features need not be pixels.
        x: (N, d).

    Raises:
        BadInput: eps is negative, not finite, or of another length.
    """
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    if radius.ndim > 1 or (radius.ndim == 1 and len(radius) != len(x)):
        raise BadInput(f"eps has shape {tuple(radius.shape)}; one number or one for each of {len(x)} examples is meant")
    if not bool((torch.isfinite(radius) & (radius >= 0)).all()):
        raise BadInput(f"eps must be finite and at least 0, not {radius.min().item():g}")
    return radius.expand(len(x))


def check_box(box: Box | None, x: Tensor) -> None:
    """Refuse a box that is empty, or inputs outside it.

    Raises:
        BadInput: low is not below high, or an input is outside [low, high].
    """
    if box is None:
        return
    low, high = box
    if not low < high:
        raise BadInput(f"the box [{low:g}, {high:g}] is empty: low must be below high")
    if len(x) and not (float(x.min()) >= low and float(x.max()) <= high):
        meant = "; did you mean x / 255?" if float(x.max()) > 1 == high else ""
        raise BadInput(
            f"inputs reach from {float(x.min()):g} to {float(x.max()):g}, outside the box [{low:g}, {high:g}]{meant}"
        )


def dual_norm(w: Tensor, norm: Norm) -> Tensor:
    """Return ||w||_q, the largest rise w . delta over perturbations of norm 1, (...) for w of (..., d)."""
    return torch.linalg.vector_norm(w, ord=Q[norm], dim=-1)


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Return ||delta||_p, a perturbation's size in the threat's own norm, (...) for delta of (..., d)."""
    return torch.linalg.vector_norm(delta, ord=P[norm], dim=-1)


def steepest(w: Tensor, norm: Norm) -> Tensor:
    """Return a perturbation of norm 1 that raises w . delta most, (..., d): a subgradient of ||w||_q at w.

    Where it is not the only one: 0 for every zero weight under linf, the first of the largest weights under
    l1; and 0 altogether for w = 0.
    """
    if norm == "linf":
        return w.sign()
    if norm == "l1":
        first = w.abs().argmax(dim=-1, keepdim=True)
        return torch.zeros_like(w).scatter(-1, first, w.gather(-1, first).sign())
    largest = w.abs().amax(dim=-1, keepdim=True)
    scaled = torch.where(largest > 0, w / largest, 0)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp(min=1)
