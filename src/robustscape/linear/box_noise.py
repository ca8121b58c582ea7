"""Binary logistic regression under noise uniform in the L-infinity box: expected loss and derivatives by sampling.

w.eta is a sum of d uniform numbers of differing widths: its law has no form that a quadrature could be made for
once and for all, unlike those of ``noise``. Every noise vector is added to every example, so that an estimate costs
little more than its noise vectors, and the standard errors count the noise vectors alone.

Per draw of noise these are the gradient and Hessian that Yamada 2021 (https://arxiv.org/abs/2102.02950), equations
13 and 14, print.

Deviations:
    Equation 13 has the wrong sign and lacks eta: see ``noise``. The noise is not clipped to the pixel range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.adversary import check_scores
from robustscape.linear.logistic import check_labels
from robustscape.streams import Streams
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """A mean over random noise with its standard error, entry by entry.

    Attributes:
        loss: Expected loss, nats per example, a scalar.
        loss_error: Its standard error.
        gradient: (P,).
        gradient_error: (P,), standard errors.
        hessian: (P, P).
        hessian_error: (P, P), standard errors.
        draws: How many noise vectors there were; each was added to every example.
    """

    loss: Tensor
    loss_error: Tensor
    gradient: Tensor
    gradient_error: Tensor
    hessian: Tensor
    hessian_error: Tensor
    draws: int


def sampled(
    w: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    draws: int = 1024,
    blocks: int = 16,
    intercept: Tensor | float | None = None,
    rng: Streams | None = None,
) -> Sampled:
    """Return expected loss, gradient and Hessian under noise uniform in [-eps, eps] in every input, by sampling.

    The draws come in antithetic pairs eta, -eta and in ``blocks`` equal groups; the standard errors are those of
    the groups' means, and are themselves known to 1 part in sqrt(2 (blocks - 1)).

    Args:
        w: (d,), float32 or float64.
        x: (N, d), of the same dtype, finite.
        y: (N,), labels -1 or 1.
        eps: Half the width of the noise in the unit of x, at least 0.
        draws: Noise vectors, a multiple of 2 * blocks.
        blocks: Groups, at least 2.
        intercept: b; None where the model has none.
        rng: Random numbers, without an index; seed 0 by default.

    Raises:
        BadInput: arguments that cannot be meant.
    """
    check_scores(w, x)
    check_labels(y, x)
    if not 0 <= eps < math.inf:
        raise BadInput(f"eps must be finite and at least 0, not {eps:g}")
    if blocks < 2 or draws < 1 or draws % (2 * blocks):
        raise BadInput(f"draws must be a multiple of 2 * blocks with at least 2 blocks, not {draws} and {blocks}")
    rng = rng or Streams(tags=("noise",))
    labels, b = y.to(x), None if intercept is None else torch.as_tensor(intercept, dtype=x.dtype, device=x.device)
    found = [_block(w, x, labels, b, eps * _pairs(rng.tag(k), draws // blocks, x)) for k in range(blocks)]
    loss, gradient, hessian = (torch.stack(part) for part in zip(*found, strict=True))
    error = [part.std(dim=0) / blocks**0.5 for part in (loss, gradient, hessian)]
    return Sampled(
        loss=loss.mean(dim=0),
        loss_error=error[0],
        gradient=gradient.mean(dim=0),
        gradient_error=error[1],
        hessian=hessian.mean(dim=0),
        hessian_error=error[2],
        draws=draws,
    )


def _pairs(rng: Streams, count: int, x: Tensor) -> Tensor:
    """Return antithetic numbers uniform in [-1, 1], (count, d)."""
    half = rng.uniform(count // 2, x.shape[1], low=-1, high=1, dtype=x.dtype, device=x.device)
    return torch.cat([half, -half])


def _block(w: Tensor, x: Tensor, y: Tensor, b: Tensor | None, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, gradient and Hessian, means over N examples and S noise vectors, (S, d)."""
    N, S = len(x), len(eta)
    if b is not None:
        x, eta, w = F.pad(x, (0, 1), value=1.0), F.pad(eta, (0, 1)), torch.cat([w, b[None]])
    margin = y[:, None] * ((x @ w)[:, None] + eta @ w)
    s = torch.sigmoid(-margin)
    slope, curve = -y[:, None] * s / (N * S), s * torch.sigmoid(margin) / (N * S)
    gradient = x.T @ slope.sum(dim=1) + eta.T @ slope.sum(dim=0)
    cross = (x.T @ curve) @ eta
    own = x.T @ (curve.sum(dim=1)[:, None] * x) + eta.T @ (curve.sum(dim=0)[:, None] * eta)
    return -F.logsigmoid(margin).mean(), gradient, own + cross + cross.T
