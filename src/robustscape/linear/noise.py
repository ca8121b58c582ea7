"""Binary logistic regression under random noise on its inputs: expected loss, gradient and Hessian.

    F(w, b) = mean_n E_eta log(1 + exp(-y_n (w.(x_n + eta) + b))),   y_n in {-1, 1}.

Noise of rotation-invariant law meets w along one axis only: w.eta = r Z with r = scale ||w|| and Z a number of
known density, so that the expectation is one-dimensional. With f(m) = log(1 + exp(-m)), m_n = y_n (w.x_n + b) and
E[Z f'(m + r Z)] = r E[h(Z) f''(m + r Z)] (integration by parts; h = 1 for a standard normal Z,
h = (1 - Z^2) / (d + 1) for one coordinate of a point uniform in the unit ball of d dimensions):

    dF/dw    = mean [ y x E f' ] + scale^2 w mean E[h f'']
    d2F/dw2  = mean [ x x^T E f'' + scale y (x v^T + v x^T) E[Z f''] ] + scale^2 v v^T mean E[(Z^2 - h) f'']
               + scale^2 I mean E[h f''],   v = w / ||w||.

The sums over Z are the trapezoidal rule, after z = tanh(u) for the ball: it converges geometrically for
integrands as smooth as these, and its step follows the poles of f'', so that it is exact to about 1e-13.
Noise uniform in the L-infinity box has no such form and is sampled: see ``box_noise``.

Deviations:
    Yamada 2021 (https://arxiv.org/abs/2102.02950), section 3.2, Theorem 2, looks at one draw of noise per
    example. Its equation 13 has the wrong sign and lacks eta, the gradient of such a draw being
    mean [-y (g - 1) / g (x + eta)]; its equation 14 is right. It clips noisy inputs to the pixel range: not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.adversary import check_scores
from robustscape.linear.logistic import check_labels
from robustscape.types import BadInput

_AT_ONCE = 2**22
_DIGITS = 40.0  # nats by which quadrature errors are pushed down, poles of the integrand costing up to ten of them


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Normal noise of standard deviation ``sigma`` in every input.

    Attributes:
        sigma: Standard deviation in the unit of x, at least 0.
    """

    sigma: float

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 <= self.sigma < math.inf:
            raise BadInput(f"sigma must be finite and at least 0, not {self.sigma:g}")

    @property
    def scale(self) -> float:
        """What Z is multiplied by, along a unit vector."""
        return self.sigma

    def rule(self, r: float, d: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes z, weights and h, (Q,) each, float64, for f of (m + r z); d is not used."""
        del d
        end = math.sqrt(2 * _DIGITS)
        z = _grid(end, min(0.5, 2 * math.pi**2 / (_DIGITS * max(r, 1e-9))))
        weights = torch.exp(-z.square() / 2)
        return z, weights / weights.sum(), torch.ones_like(z)


@dataclass(frozen=True, kw_only=True)
class InBall:
    """Noise uniform in the L2 ball of radius ``eps``.

    Attributes:
        eps: Radius in the unit of x, at least 0.
    """

    eps: float

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 <= self.eps < math.inf:
            raise BadInput(f"eps must be finite and at least 0, not {self.eps:g}")

    @property
    def scale(self) -> float:
        """What Z is multiplied by, along a unit vector."""
        return self.eps

    def rule(self, r: float, d: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes z in (-1, 1), weights and h, (Q,) each, float64: density (1 - z^2)^((d - 1) / 2) in z."""
        end = 2 * math.asinh(math.sqrt(math.expm1(_DIGITS / (d + 1)) / 2))
        step = min(0.5 / math.sqrt(d + 1), math.pi**2 / (1.4 * _DIGITS), 2 * math.pi * math.atan(math.pi / r) / _DIGITS)
        u = _grid(end, step)
        log_cosh = torch.log1p(2 * torch.sinh(u / 2).square())
        weights = torch.exp(-(d + 1) * log_cosh)
        return torch.tanh(u), weights / weights.sum(), torch.exp(-2 * log_cosh) / (d + 1)


Noise: TypeAlias = Gaussian | InBall
"""Laws of noise with a one-dimensional form."""


def _grid(end: float, step: float) -> Tensor:
    """Return evenly spaced points from -end to end, symmetric, at most ``step`` apart."""
    half = math.ceil(end / step)
    return torch.arange(-half, half + 1, dtype=torch.float64) * (end / half)


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """The expected loss at one point: what its derivatives are made of. ``expected`` makes it.

    P is the number of parameters, d, or d + 1 with an intercept, which then comes last.

    Attributes:
        x: (N, d).
        y: (N,), -1 or 1, of x's dtype.
        w: (d,).
        intercept: Scalar, or None.
        scale: What Z is multiplied by along a unit vector.
        moments: (N, 6), of E f, E f', E f'', E[Z f''], E[(Z^2 - h) f''] and E[h f''].
    """

    x: Tensor
    y: Tensor
    w: Tensor
    intercept: Tensor | None
    scale: float
    moments: Tensor

    @property
    def loss(self) -> Tensor:
        """Expected loss, nats per example, a scalar."""
        return self.moments[:, 0].mean()

    def gradient(self) -> Tensor:
        """Return the gradient of the expected loss, (P,)."""
        N, c = len(self.y), self.y * self.moments[:, 1]
        total = self.x.T @ c / N + self.scale**2 * self.moments[:, 5].mean() * self.w
        return total if self.intercept is None else torch.cat([total, c.mean()[None]])

    def hessian(self) -> Tensor:
        """Return the Hessian of the expected loss, (P, P)."""
        N, d = len(self.y), len(self.w)
        x = self.x if self.intercept is None else F.pad(self.x, (0, 1), value=1.0)
        length = torch.linalg.vector_norm(self.w)
        v = x.new_zeros(x.shape[1])
        v[:d] = torch.where(length > 0, self.w / length, 0)
        rest, hf2 = self.moments[:, 4:].mean(dim=0)
        cross = torch.outer(x.T @ (self.y * self.moments[:, 3]) * (self.scale / N), v)
        total = x.T @ (self.moments[:, 2, None] * x) / N + cross + cross.T + self.scale**2 * rest * torch.outer(v, v)
        total.diagonal()[:d].add_(self.scale**2 * hf2)
        return total


def expected(w: Tensor, x: Tensor, y: Tensor, noise: Noise, *, intercept: Tensor | float | None = None) -> Expected:
    """Return expected loss, gradient and Hessian under noise on the inputs, by one-dimensional quadrature.

    Args:
        w: (d,), float32 or float64.
        x: (N, d), of the same dtype, finite.
        y: (N,), labels -1 or 1.
        noise: Its law.
        intercept: b; None where the model has none.

    Raises:
        BadInput: arguments that cannot be meant.
    """
    check_scores(w, x)
    check_labels(y, x)
    labels, b = y.to(x), None if intercept is None else torch.as_tensor(intercept, dtype=x.dtype, device=x.device)
    r = noise.scale * float(torch.linalg.vector_norm(w))
    z, weights, h = (t.to(x.device) for t in noise.rule(max(r, 1e-9), x.shape[1]))
    margin = (labels * (x @ w if b is None else x @ w + b)).double()
    moments = [_moments(part, r, z, weights, h) for part in margin.split(max(1, _AT_ONCE // len(z)))]
    return Expected(x=x, y=labels, w=w, intercept=b, scale=noise.scale, moments=torch.cat(moments).to(x))


def _moments(margin: Tensor, r: float, z: Tensor, weights: Tensor, h: Tensor) -> Tensor:
    """Return the six expectations of each margin, (N, 6), float64."""
    m = margin[:, None] + r * z
    s = torch.sigmoid(-m)
    curve = s * torch.sigmoid(m)
    by_curve = torch.stack([weights, weights * z, weights * (z.square() - h), weights * h], dim=1)
    return torch.cat([(-F.logsigmoid(m) @ weights)[:, None], (-s @ weights)[:, None], curve @ by_curve], dim=1)
