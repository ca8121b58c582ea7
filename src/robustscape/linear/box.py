"""Ball and box together: the largest a . t over 0 <= t <= room and ||t||_p <= eps, exactly, by sorting.

This is what the worst case of a linear score becomes inside a pixel box: a = |w|, t the length of each pixel's
move and ``room`` what is left up to the box. The optimality conditions give t = min(room, rate * level) for one
number, the level, which is eps under linf and the inverse multiplier of the ball under l2; under l1 the most
useful pixels are filled first. No iteration is involved: the level solves a piecewise linear equation whose
break points are sorted.

Everywhere a and room are (N, d), at least 0, and every row is a problem of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.norms import Norm


def _before(values: Tensor) -> Tensor:
    """Return the sum of the values in front of each, (N, d)."""
    return F.pad(values.cumsum(dim=1), (1, 0))[:, :-1]


def _take(values: Tensor, place: Tensor) -> Tensor:
    """Return one value of each row, (N,)."""
    return values.gather(1, place[:, None]).squeeze(1)


def level(full: Tensor, rate: Tensor, target: Tensor) -> Tensor:
    """Return the smallest s with sum_i min(full_i, rate_i s) = target, (N,); inf where the sum stays below.

    Args:
        full: (N, d), at least 0: what each term grows to.
        rate: (N, d), at least 0: how fast it grows; a term of rate 0 counts as 0.
        target: (N,), at least 0.
    """
    full = torch.where(rate > 0, full, 0)
    filled_at, order = torch.where(rate > 0, full / rate, 0).sort(dim=1)
    full, rate = full.gather(1, order), rate.gather(1, order)
    before, growing = _before(full), rate.flip(1).cumsum(dim=1).flip(1)
    filled = (before + filled_at * growing < target[:, None]).sum(dim=1)
    place = filled.clamp(max=full.shape[1] - 1)
    tiny = torch.finfo(full.dtype).tiny
    s = (target - _take(before, place)).clamp(min=0) / _take(growing, place).clamp(min=tiny)
    return s.masked_fill(filled == full.shape[1], torch.inf)


def l2_step(a: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Return s of the solution t = min(room, a s) under l2, (N,): inf where the ball does not bind.

    It is the inverse of twice the ball's multiplier, and the second derivative of the largest a . t along any
    direction of the pixels that are not at their room, across a.
    """
    top = a.amax(dim=1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    scaled = a / top
    return level(room.square(), scaled.square(), eps.square()).sqrt() / top.squeeze(1)


def _greedy(a: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a and room sorted by a, largest first, and the order."""
    sorted_a, order = a.sort(dim=1, descending=True, stable=True)
    return sorted_a, room.gather(1, order), order


def _climbed(a: Tensor, room: Tensor, s: Tensor) -> Tensor:
    """Return min(room, a s), which is room itself for s = inf."""
    return torch.where(torch.isinf(s)[:, None], room, torch.minimum(room, a * s[:, None]))


def fill(a: Tensor, room: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """Return the maximiser t of a . t over 0 <= t <= room, ||t||_p <= eps, (N, d); 0 where a is 0.

    Args:
        a: (N, d), at least 0.
        room: (N, d), at least 0.
        eps: (N,), at least 0.
        norm: Which p. Under l1, among equal a the earlier one is filled first.
    """
    room = torch.where(a > 0, room, 0)
    if norm == "linf":
        return torch.minimum(room, eps[:, None])
    if norm == "l2":
        return _climbed(a, room, l2_step(a, room, eps))
    _, ordered, order = _greedy(a, room)
    t = torch.minimum(ordered, (eps[:, None] - _before(ordered)).clamp(min=0))
    return torch.zeros_like(t).scatter(1, order, t)


def reach(a: Tensor, room: Tensor, gain: Tensor, norm: Norm) -> Tensor:
    """Return the smallest eps for which the largest a . t is ``gain``, (N,): inf where the whole room is not enough.

    Args:
        a: (N, d), at least 0.
        room: (N, d), at least 0.
        gain: (N,); where it is not above 0 the answer is 0.
        norm: Which p.
    """
    gain = gain.clamp(min=0)
    if norm == "linf":
        return level(a * room, a, gain)
    if norm == "l2":
        top = a.amax(dim=1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
        scaled = a / top
        s = level(scaled * room, scaled.square(), gain / top.squeeze(1))
        return torch.where(torch.isinf(s), s, torch.linalg.vector_norm(_climbed(scaled, room, s), dim=1))
    a, room, _ = _greedy(a, room)
    used = (a * room).cumsum(dim=1)
    filled = (used < gain[:, None]).sum(dim=1)
    place = filled.clamp(max=a.shape[1] - 1)
    missing = (gain - _take(_before(a * room), place)).clamp(min=0)
    eps = _take(_before(room), place) + missing / _take(a, place).clamp(min=torch.finfo(a.dtype).tiny)
    return eps.masked_fill(filled == a.shape[1], torch.inf)
