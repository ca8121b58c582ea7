"""The nearest point of a hyperplane inside the pixel box, exactly.

With a = |w| and ``room`` what each pixel may move in its useful direction, the move of least p-norm that lowers
<w, x> by c takes the steps t = min(room, s) under linf, t = min(room, s a) under l2, for one number s that solves the
piecewise linear equation a . t = c; under l1 the pixels of largest a are moved first, as far as they can.

Rows are problems of their own. The equation is solved by one sort and cumulative sums, without waiting for the
device; on the CPU, where sorting costs more than a small network, by Newton's method, which ends at the solution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""The norm in which a gradient measures what a step of unit length can do."""


def length(delta: Tensor, norm: str) -> Tensor:
    """Return the p-norm of each example of delta, (N, ...), as (N,)."""
    flat = delta.flatten(1)
    if norm == "l2":
        return (flat**2).sum(dim=1).sqrt()
    return flat.abs().amax(dim=1) if norm == "linf" else flat.abs().sum(dim=1)


def onto_hyperplane(x: Tensor, w: Tensor, value: Tensor, norm: str) -> Tensor:
    """Return the shortest delta with <w, delta> = -value and x + delta in [0, 1], (N, d).

    Where the box has no such point, every pixel goes as far as the box lets it. Pixels with w = 0 stay.

    Args:
        x: (N, d), in [0, 1], float32 or float64.
        w: (N, d), normal vectors, of any scale.
        value: (N,), <w, x> - b for the hyperplane <w, .> = b: how far x is from it, in units of w.
        norm: Which p measures delta: "linf", "l2" or "l1".
    """
    # <w, x> changes the right way where pixels go against ``down``; arithmetic, since masks are slow on the CPU
    down = w.sign() * torch.where(value < 0, -1, 1)[:, None]
    room = (x - (-down).clamp(min=0)).abs()
    size = w.abs()
    top = size.amax(dim=1).clamp(min=torch.finfo(w.dtype).tiny)
    size, amount = size / top[:, None], value.abs() / top
    if norm == "l1":
        return -down * _filled(size, room, amount)
    solve = _climbed if x.device.type == "cpu" else _sorted
    s = solve(size * room, size if norm == "linf" else size.square(), amount)[:, None]
    return -down * torch.minimum(room, s if norm == "linf" else s * size)


def _take(values: Tensor, place: Tensor) -> Tensor:
    return values.gather(1, place[:, None]).squeeze(1)


def _before(values: Tensor) -> Tensor:
    """Return the sum of the values in front of each, (N, d)."""
    return F.pad(values.cumsum(dim=1)[:, :-1], (1, 0))


def _sorted(full: Tensor, rate: Tensor, amount: Tensor) -> Tensor:
    """Return the s with sum_i min(full_i, rate_i s) = amount, (N,); the largest number where the sum stays below."""
    full_at, order = torch.where(rate > 0, full / rate, 0).sort(dim=1)
    rate = rate.gather(1, order)
    before = _before(rate * full_at)
    growing = rate.flip(1).cumsum(dim=1).flip(1)
    count = (before + full_at * growing < amount[:, None]).sum(dim=1)
    place = count.clamp(max=full.shape[1] - 1)
    tiny = torch.finfo(full.dtype).tiny
    s = (amount - _take(before, place)).clamp(min=0) / _take(growing, place).clamp(min=tiny)
    return s.masked_fill(count == full.shape[1], torch.finfo(s.dtype).max)


def _climbed(full: Tensor, rate: Tensor, amount: Tensor) -> Tensor:
    """Return what ``_sorted`` returns, by Newton's method from below.

    The sum is concave in s, so no step goes too far, and each but the last finds more terms to be full: a row's steps
    are its own, and it is at its end when s stays. Made in two buffers, which takes a third of the time.
    """
    largest, tiny = torch.finfo(full.dtype).max, torch.finfo(full.dtype).tiny
    s = torch.zeros_like(amount).masked_fill(full.sum(dim=1) < amount, largest)
    grows, part = torch.empty_like(full), torch.empty_like(full)
    while True:
        torch.gt(full, torch.mul(rate, s[:, None], out=part), out=grows)
        growing = torch.mul(rate, grows, out=part).sum(dim=1).clamp(min=tiny)
        stuck = torch.sub(full, torch.mul(full, grows, out=part), out=part).sum(dim=1)
        after = torch.maximum(s, ((amount - stuck) / growing).clamp(max=largest))
        if not bool((after > s).any()):  # NaN included
            return after
        s = after


def _filled(size: Tensor, room: Tensor, amount: Tensor) -> Tensor:
    """Return the steps t <= room, the largest sizes first, with size . t = amount, (N, d); 0 where size is 0."""
    size, order = size.sort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    left = (amount[:, None] - _before(size * room)).clamp(min=0)
    step = torch.where(size > 0, torch.minimum(room, left / size), 0)
    return torch.empty_like(step).scatter(1, order, step)
