"""Newton's method for a convex loss that has a gradient: steps are shortened until the loss falls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

_STEPS = 60
_RIDGE = 1e-12  # of the Hessian's largest entry
_LEAST = 1e-6  # of a step


class Point(Protocol):
    """A loss at one w."""

    @property
    def w(self) -> Tensor:
        """The weights, (d,)."""
        ...

    @property
    def loss(self) -> float:
        """The loss there."""
        ...

    @property
    def slope(self) -> Tensor:
        """Its gradient, (d,)."""
        ...


T = TypeVar("T", bound=Point)


def descended(point: T, *, at: Callable[[Tensor], T], curvature: Callable[[T], Tensor], done: Callable[[T], bool]) -> T:
    """Return the first point that is done, or the last one: after 60 steps, or where the loss no longer falls.

    Args:
        point: Where to begin.
        at: (d,) weights to the point there.
        curvature: A point's Hessian, (d, d), or one near to it; positive semidefinite.
        done: Whether to stop at a point.
    """
    for _ in range(_STEPS):
        if done(point):
            break
        moved = _moved(point, at, curvature(point))
        if moved is None:
            break
        point = moved
    return point


def _moved(point: T, at: Callable[[Tensor], T], hessian: Tensor) -> T | None:
    """Return the point that a step leads to, None where the loss does not fall along it."""
    ridge = _RIDGE * float(hessian.abs().max())
    step = -torch.linalg.solve(hessian + ridge * torch.eye(len(hessian), dtype=hessian.dtype), point.slope)
    fall, t = float(point.slope @ step), 1.0
    while t > _LEAST and fall < 0:
        tried = at(point.w + t * step)
        if tried.loss <= point.loss + 1e-4 * t * fall and tried.loss < point.loss:
            return tried
        t /= 2
    return None
