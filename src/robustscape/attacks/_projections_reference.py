"""The projections of ``_projections`` under linf and l2 with the roundings of pyautoattack 0.2.0.

For FAB's reference mode alone: a search that bends at every step magnifies the last bit, so what is to be compared
with pyautoattack has to round as it does. Everything else uses ``_projections``, which is as exact and faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NEVER = 1e12  # how far a pixel is from its end, in units of its gradient, that cannot move
_IGNORED = 1e-8  # entries of w that count as 0 under l2


def onto_hyperplane(x: Tensor, w: Tensor, b: Tensor, norm: str) -> Tensor:
    """Return the shortest delta with <w, x + delta> = b and x + delta in [0, 1], (N, d).

    Args:
        x: (N, d), in [0, 1].
        w: (N, d), normal vectors.
        b: (N,), offsets.
        norm: Which p measures delta: "linf" or "l2".
    """
    value = (w * x).sum(dim=1) - b
    sign = torch.where(value >= 0, 1.0, -1.0).to(x)
    w = w * sign[:, None]
    return _linf(x, w, b * sign) if norm == "linf" else _l2(x, w, value * sign)


def _take(values: Tensor, place: Tensor) -> Tensor:
    return values.gather(1, place[:, None]).squeeze(1)


def _bisected(holds: Tensor) -> Tensor:
    """Return where a bisection ends that goes right where (N, d) says so; rounding may make it say so in patches."""
    low = torch.zeros(len(holds), dtype=torch.int64, device=holds.device)
    high = torch.full_like(low, holds.shape[1] - 1)
    for _ in range((holds.shape[1] - 1).bit_length()):
        middle = (low + high) // 2
        right = _take(holds, middle)
        low, high = torch.where(right, middle, low), torch.where(right, high, middle)
    return low


def _linf(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Lower <w, x> to b: the level is looked for from the largest room down."""
    up, moves = (w < 0).to(w), (w != 0).to(w)
    end, room = (up - x) * moves, up - x * (2 * up - 1)
    order = room.argsort(dim=1).flip(1)
    falls, whole = b - (w * x).sum(dim=1), (w * end).sum(dim=1)
    sorted_w = w.gather(1, order)
    kept = (-sorted_w * end.gather(1, order)).cumsum(dim=1) + whole[:, None]
    slope = sorted_w.abs().cumsum(dim=1)
    enough = falls[:, None] - (kept - slope * room.gather(1, order)) > 0
    place = _bisected(enough)
    level = ((falls - _take(kept, place)) / -_take(slope, place)).clamp(min=0)[:, None]
    cut = torch.minimum(level, end) * up + torch.maximum(-level, end) * (1 - up)
    level = ((falls - kept[:, -1]) / -slope[:, -1]).clamp(min=0)[:, None]
    reached = torch.where((falls - whole > 0)[:, None], cut, end)
    return torch.where(enough[:, -1:], (2 * up - 1) * level, reached) * moves


def _l2(x: Tensor, w: Tensor, value: Tensor) -> Tensor:
    """Lower <w, x> by ``value``: the multiple of w is looked for from the nearest end up."""
    moves, size = (w.abs() > _IGNORED).to(w), w.abs()
    reach = torch.maximum(x / w, (x - 1) / w).clamp(-_NEVER, _NEVER).masked_fill(size < _IGNORED, _NEVER)
    reach = reach.masked_fill(reach == -_NEVER, _NEVER)
    ends, order = reach.sort(dim=1)
    following = F.pad(ends[:, 1:], (0, 1))
    ends, following = ends.masked_fill(ends == _NEVER, 0), following.masked_fill(following == _NEVER, 0)
    squares = (w**2).gather(1, order)
    whole = squares.sum(dim=1, keepdim=True)
    left, first = whole - squares.cumsum(dim=1), -whole * ends[:, :1]
    falls = torch.cat([first, ((ends - following) * left).cumsum(dim=1) + first], dim=1)
    end = -(reach * w) * moves
    free, all_of_it = falls[:, 0] + value < 0, (end * w).sum(dim=1) + value > 0
    place = _bisected(falls[:, :-1] + value[:, None] > 0)
    rest = _take(left, place)
    multiple = ((_take(falls, place) + value) / rest + _take(ends, place)).masked_fill(rest == 0, 0)[:, None]
    at_end = (multiple > reach).to(w)
    cut = torch.where(all_of_it[:, None], end, end * at_end - multiple * w * (1 - at_end))
    return torch.where(free[:, None], -(value / whole.squeeze(1))[:, None] * w, cut) * moves
