"""The exact adversary of a linear score w.x: the worst input in the ball, and in ball and box together.

Without a box it is Hoelder's inequality (Liu 2020, https://arxiv.org/abs/2006.08403, equation 6): the score rises
by ``eps ||w||_q``. With a box [low, high] that every input must stay in, ``box.fill`` solves it exactly.

Throughout: x is (N, d), w is (d,) for all examples or (N, d) with one for each, eps is one number or (N,), in the
unit of x, box is None or (low, high) with x inside it, float32 or float64.

Deviations:
    Yamada 2021 (https://arxiv.org/abs/2102.02950) writes the L2 adversary by the angle between w and the
    perturbation eta. Its equation 7 and Lemma 1 hold as printed only if theta is the angle between w and -eta:
    for y = 1 the loss falls, not rises, with cos(w, eta). Its PGD stays in the pixel box, its theory does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustscape.linear.box import fill, reach
from robustscape.linear.norms import Box, Norm, check_box, check_eps, check_norm, dual_norm, size, steepest
from robustscape.types import BadInput

_AT_ONCE = 2**18  # numbers sorted at once: bounds the memory of the break points


def check_scores(w: Tensor, x: Tensor) -> Tensor:
    """Return w as (N, d) for x, (N, d), without copying.

    Raises:
        BadInput: shapes that do not fit, or dtypes that differ or are not float32 or float64.
    """
    if x.ndim != 2 or w.shape[-1:] != x.shape[1:] or w.ndim > 2 or (w.ndim == 2 and len(w) != len(x)):
        meant = "; did you mean x.flatten(1)?" if x.ndim > 2 else ""
        raise BadInput(f"x of shape {tuple(x.shape)} does not fit weights of shape {tuple(w.shape)}{meant}")
    if x.dtype not in (torch.float32, torch.float64) or w.dtype != x.dtype:
        names = " and ".join(str(t.dtype).removeprefix("torch.") for t in (x, w))
        raise BadInput(f"x and w must both be float32 or both float64, not {names}")
    return w.expand(len(x), -1)


def parts(n: int, d: int) -> Iterator[slice]:
    """Give the rows of (n, d) problems in parts small enough to sort."""
    rows = max(1, _AT_ONCE // max(d, 1))
    return (slice(start, start + rows) for start in range(0, n, rows))


def room(w: Tensor, x: Tensor, box: Box) -> Tensor:
    """Return how far each input may move in the direction that raises w.x, (N, d), at least 0."""
    low, high = box
    return torch.where(w > 0, high - x, x - low).clamp(min=0)


def worst_perturbation(w: Tensor, x: Tensor, *, norm: Norm, eps: float | Tensor, box: Box | None = None) -> Tensor:
    """Return a delta that raises w . (x + delta) most, (N, d).

    Args:
        w: (d,) or (N, d): what the score is linear in.
        x: (N, d), inputs.
        norm: Which p measures delta.
        eps: Largest ``||delta||_p``, one number or (N,), at least 0.
        box: (low, high) for every entry of x + delta; None for none.

    Returns:
        delta, (N, d), inside ball and box up to rounding; 0 where w is 0. Where several are equally good:
        see ``worst_range``.

    Raises:
        BadInput: shapes, dtypes, eps or norm that cannot be meant, or inputs outside the box.
    """
    check_norm(norm)
    each, radius = check_scores(w, x), check_eps(eps, x)
    if box is None:
        return radius[:, None] * steepest(w, norm).expand_as(x)
    check_box(box, x)
    moved = [
        each[part].sign() * fill(each[part].abs(), room(each[part], x[part], box), radius[part], norm)
        for part in parts(*x.shape)
    ]
    return torch.cat(moved) if moved else torch.zeros_like(x)


def worst_rise(w: Tensor, x: Tensor, *, norm: Norm, eps: float | Tensor, box: Box | None = None) -> Tensor:
    """Return the largest w . delta of each example, (N,), at least 0; arguments as in ``worst_perturbation``.

    Raises:
        BadInput: as there.
    """
    if box is None:
        check_norm(norm)
        check_scores(w, x)
        return check_eps(eps, x) * dual_norm(w, norm)
    return (w * worst_perturbation(w.detach(), x, norm=norm, eps=eps, box=box)).sum(dim=1)


def worst_input(w: Tensor, x: Tensor, y: Tensor, *, norm: Norm, eps: float | Tensor, box: Box | None = None) -> Tensor:
    """Return the x_adv that lowers y w . x most, (N, d): the exact attack on a binary linear classifier.

    Args:
        w: (d,), weights.
        x: (N, d), inputs.
        y: (N,), labels -1 or 1.
        norm: Which p measures the perturbation.
        eps: Its largest size, one number or (N,), at least 0.
        box: (low, high) for every entry; None for none.

    Raises:
        BadInput: as in ``worst_perturbation``.
    """
    toward = -y.to(x)[:, None] * w
    x_adv = x + worst_perturbation(toward, x, norm=norm, eps=eps, box=box)
    return x_adv if box is None else x_adv.clamp(*box)


def least_eps(w: Tensor, x: Tensor, gain: Tensor, *, norm: Norm, box: Box | None = None) -> Tensor:
    """Return the smallest eps at which w . x can be raised by ``gain``, (N,).

    Exact in the box too: the same break points are solved for the radius.

    Args:
        w: (d,) or (N, d).
        x: (N, d), inputs.
        gain: (N,), the rise asked for; where it is not above 0 the answer is 0.
        norm: Which p measures the perturbation.
        box: (low, high) for every entry; None for none.

    Returns:
        (N,), at least 0; inf where no perturbation is enough.

    Raises:
        BadInput: as in ``worst_perturbation``.
    """
    check_norm(norm)
    each = check_scores(w, x)
    if box is None:
        return torch.where(gain > 0, gain / dual_norm(each, norm), 0)
    check_box(box, x)
    found = [reach(each[part].abs(), room(each[part], x[part], box), gain[part], norm) for part in parts(*x.shape)]
    return torch.cat(found) if found else torch.zeros_like(gain)


def worst_range(
    w: Tensor, x: Tensor, *, norm: Norm, eps: float | Tensor, box: Box | None = None, delta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of each entry of delta among all maximisers, both (N, d).

    They differ in two cases only. Where w_i = 0, delta_i may be anything that the ball has left over: all of eps
    under linf, nothing under l2 and l1 unless the box stops every other pixel first (or w = 0). And under l1,
    where pixels of equal |w_i| compete for the last of eps. Under linf the maximisers are exactly the product of
    these intervals; under l2 and l1 they lie inside it.

    Args:
        w: (d,) or (N, d).
        x: (N, d), inputs.
        norm: Which p measures delta.
        eps: Largest ``||delta||_p``, one number or (N,), at least 0.
        box: (low, high) for every entry of x + delta; None for none.
        delta: What ``worst_perturbation`` returned, where it is at hand.

    Raises:
        BadInput: as in ``worst_perturbation``.
    """
    each, radius = check_scores(w, x), check_eps(eps, x)
    delta = worst_perturbation(w, x, norm=norm, eps=eps, box=box) if delta is None else delta
    up, down = (torch.full_like(x, torch.inf),) * 2 if box is None else (box[1] - x, x - box[0])
    a, t = each.abs(), delta.abs()
    if norm == "linf":
        left = radius
    elif norm == "l2":
        left = (radius.square() - size(t, norm).square()).clamp(min=0).sqrt()
    else:
        left = (radius - size(t, norm)).clamp(min=0)
    # What rounding leaves over is nothing: the ball binds.
    rounding = 4 * torch.finfo(x.dtype).eps ** 0.5
    left = torch.where(left > radius * rounding, left, 0)[:, None]
    low = torch.where(a > 0, delta, -torch.minimum(down, left))
    high = torch.where(a > 0, delta, torch.minimum(up, left))
    if norm != "l1":
        return low, high
    full = torch.minimum(torch.where(each > 0, up, down), radius[:, None])
    last = torch.where(t > 0, a, torch.inf).amin(dim=1, keepdim=True)
    tied = (a == last) & (a > 0)
    spent, offered = (torch.where(tied, value, 0).sum(dim=1, keepdim=True) for value in (t, full))
    tied &= (tied.sum(dim=1, keepdim=True) > 1) & (spent < offered * (1 - rounding))
    least, most = (spent - (offered - full)).clamp(min=0), torch.minimum(full, spent)
    ends = each.sign() * least, each.sign() * most
    low = torch.where(tied, torch.minimum(*ends), low)
    return low, torch.where(tied, torch.maximum(*ends), high)
