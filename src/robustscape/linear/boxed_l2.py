"""Linear scores under L2 inside the pixel box: the best one by loss, certified.

The worst margin of an example is concave in w, and its derivative is y times the worst input (Danskin): the mean loss
is convex and, where the ball binds, has a gradient. Newton's steps use the exact Hessian (``hessian``, total) of the
examples that make up nearly all of the loss's slope, and the gradient of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.boxed import Boxed
from robustscape.linear.certificate import convex_gap
from robustscape.linear.falls import l2_moves, rows_at_once
from robustscape.linear.hessian import hessian
from robustscape.linear.logistic import AdversarialLogistic, check_labels
from robustscape.linear.newton import descended
from robustscape.linear.norms import check_box, check_eps
from robustscape.types import BadInput

_TOLERANCE = 1e-6  # gap at which to stop, as a fraction of the loss
_SHORT = 1e-12  # of eps^2: what the squares of a worst perturbation may lack
_LEFT_OUT = 1e-3  # of the sum of s: of the examples whose curvature is not counted


@dataclass(frozen=True, kw_only=True, eq=False)
class _Point:
    """The loss at one w.

    Attributes:
        w: (d,).
        loss: Mean worst-case loss, nats per example.
        slope: (d,), its gradient.
        s: (N,), the probability of the wrong class at the worst input.
        separates: Whether all worst margins are above 0.
    """

    w: Tensor
    loss: float
    slope: Tensor
    s: Tensor
    separates: bool

    @property
    def gap(self) -> float:
        return convex_gap(self.loss, self.slope, self.w, unit=1.0)


def minimum_l2(x: Tensor, y: Tensor, *, eps: float, start: Tensor) -> Boxed:
    """Minimise the adversarial logistic loss in L2 ball and pixel box over all w, without an intercept.

    Args:
        x: (N, d), in [0, 1].
        y: (N,), labels -1 or 1.
        eps: Radius of the L2 ball, above 0.
        start: (d,), w to begin at, not 0 on all pixels that differ from 0 in some image.

    Raises:
        BadInput: labels, inputs, an eps or a start that cannot be meant.
    """
    check_labels(y, x)
    check_box((0.0, 1.0), x)
    check_eps(eps, x)
    if not eps > 0:
        raise BadInput("eps must be above 0: without a ball the box plays no part")
    used = x.any(dim=0)  # a weight on a pixel that is always 0 only helps the adversary
    if start.shape != x.shape[1:] or not bool(start[used].any()):
        raise BadInput(f"start must be one weight for each of the {x.shape[1]} pixels, not all 0 on those in use")
    pixels, labels = x[:, used].double().contiguous(), y.double()
    down = torch.where(labels[:, None] > 0, pixels, 1 - pixels)
    found = descended(
        _at(start[used].double(), pixels, labels, down, eps),
        at=lambda w: _at(w, pixels, labels, down, eps),
        curvature=lambda point: _curvature(point, pixels, labels, eps),
        done=lambda point: point.separates or point.gap <= _TOLERANCE * point.loss,
    )
    w = torch.zeros(len(start), dtype=torch.float64)
    w[used] = found.w
    return Boxed(w=w, loss=found.loss, gap=found.gap, separates=found.separates)


def _at(w: Tensor, x: Tensor, y: Tensor, down: Tensor, eps: float) -> _Point:
    """Return loss and gradient at w."""
    margin, slope, size = torch.empty_like(y), torch.zeros_like(w), rows_at_once(x.shape[1])
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        moves = l2_moves(w, down[part], eps, tolerance=_SHORT)
        margin[part] = y[part] * (x[part] @ w) - moves @ w.abs()
        s = torch.sigmoid(-margin[part])
        slope += w.sign() * (s @ moves) - (s * y[part]) @ x[part]
    return _Point(
        w=w,
        loss=float(-F.logsigmoid(margin).mean()),
        slope=slope / len(y),
        s=torch.sigmoid(-margin),
        separates=bool((margin > 0).all()),
    )


def _curvature(point: _Point, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return the Hessian of the examples that count, (d, d)."""
    order = point.s.argsort(descending=True)
    few = order[: int((point.s[order].cumsum(0) < (1 - _LEFT_OUT) * point.s.sum()).sum()) + 1]
    worst = AdversarialLogistic(x=x[few], y=y[few], norm="l2", eps=eps, box=(0.0, 1.0)).at(point.w)
    return hessian(worst) * (len(few) / len(y))
