"""The exact adversary of many weights at once, in ball and pixel range: what a slice of the loss is made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

_AT_ONCE = 2**18  # numbers that the L2 adversary is solved for at once: they stay in the cache


def worst_falls(x: Tensor, y: Tensor, *, norm: Literal["linf", "l2"], eps: float) -> Callable[[Tensor], Tensor]:
    """Return what gives the most that the adversary in ball and pixel range takes off each margin y w.x.

    The same numbers as ``adversary.worst_rise``, for many weights and all images: under L-infinity two products
    of matrices, under L2 a few Newton steps for the level at which pixels stop, in place of sorting them.

    Args:
        x: (N, d), in [0, 1].
        y: (N,), -1 or 1.
        norm: Of the ball.
        eps: Its radius, above 0.

    Returns:
        A function of (P, d) weights to (P, N) falls, at least 0.
    """
    down = torch.where(y[:, None] > 0, x, 1 - x)  # how far a pixel of positive weight may move
    if norm == "linf":
        low, high = down.clamp(max=eps), (1 - down).clamp(max=eps)
        return lambda w: (low @ w.clamp(min=0).T + high @ (-w).clamp(min=0).T).T
    parts = down.split(rows_at_once(x.shape[1]))
    return lambda w: torch.stack([torch.cat([l2_moves(each, part, eps) @ each.abs() for part in parts]) for each in w])


def rows_at_once(d: int) -> int:
    """Return how many examples of d pixels the L2 adversary is best solved for at once."""
    return max(1, _AT_ONCE // d)


def l2_moves(w: Tensor, down: Tensor, eps: float, *, tolerance: float = 1e-6) -> Tensor:
    """Return how far each pixel moves against the margin: the t of largest |w| . t, 0 <= t <= room, ||t|| <= eps.

    Args:
        w: (d,).
        down: (N, d), in [0, 1]: the room of a pixel of positive weight; 1 - down is that of another.
        eps: Radius of the ball, above 0.
        tolerance: By how much of eps^2 the squares of t may fall short.

    Returns:
        t, (N, d), at least 0, 0 where w is 0.

    It is at t_i^2 = min(room_i^2, w_i^2 u) with sum t_i^2 = eps^2: concave and piecewise linear in u, so that Newton's
    steps from below end at the solution. Where the room ends before the ball, t is the room.
    """
    squared = torch.where(w > 0, down, 1 - down).square_()
    rate, tiny = w.square(), torch.finfo(w.dtype).tiny
    u = eps**2 / ((squared > 0).to(w) @ rate).clamp(min=tiny)
    while True:
        t = torch.minimum(squared, rate * u[:, None])
        free = (t < squared).to(w) @ rate
        short = torch.where(free > 0, eps**2 - t.sum(dim=1), 0)
        if not bool((short > tolerance * eps**2).any()):
            return t.sqrt_()
        u = u + short.clamp(min=0) / free.clamp(min=tiny)
