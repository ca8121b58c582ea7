"""The best linear score under random noise on the inputs, certified, also where its loss is too small to be computed.

For the noise of ``noise`` and for noise uniform in the L-infinity box, the even moments of v.eta are at most those of
a normal number of the same variance V, for every v of length 1: with (2k - 1)!! those of a standard normal number,

    E (v.eta)^2k = (2k - 1)!! eps^2k / ((d + 2)(d + 4)...(d + 2k)) <= (2k - 1)!! V^k,   V = eps^2 / (d + 2),

uniform in the L2 ball; the same with d = 1 for each input alone, and so for their sum, uniform in the box, V = eps^2 /
3. Hence E exp(-t v.eta) <= exp(t^2 V / 2). With log(1 + exp(-m)) <= exp(-m), weights of length t along a v that
classifies all examples with margin g have an expected loss of at most exp(-t g + t^2 V / 2), which is least at t =
g / V:

    0 <= minimum <= exp(-g^2 / (2 V)).

In many dimensions V is so small that this says all there is to say. Elsewhere Newton's steps minimise the expected
loss, which is convex. Noise in the box is taken for normal noise of its variance then: exchanging one input's noise
after the other (Lindeberg) changes the loss by at most eps^4 sum w_i^4 / 360, since the first three moments agree, the
fourth ones sum to 8 eps^4 / 15, and no fourth derivative of the loss is above 1/8. The certificate is that of the loss
under the noise itself: its gradient differs by no more than the same exchange gives, no fifth derivative being above
0.128.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from robustscape.linear.certificate import convex_gap
from robustscape.linear.logistic import check_labels
from robustscape.linear.newton import descended
from robustscape.linear.noise import Expected, Gaussian, InBall, expected
from robustscape.types import BadInput

_TOLERANCE = 1e-6  # gap at which to stop, as a fraction of the loss
_NOTHING = 1e-12  # nats: the quadrature cannot tell a loss of less from 0


@dataclass(frozen=True, kw_only=True)
class InBox:
    """Noise uniform in [-eps, eps] in every input.

    Attributes:
        eps: Half its width in the unit of x, at least 0.
    """

    eps: float

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 <= self.eps < math.inf:
            raise BadInput(f"eps must be finite and at least 0, not {self.eps:g}")

    def normal(self) -> Gaussian:
        """Return normal noise of the same variance."""
        return Gaussian(sigma=self.eps / 3**0.5)

    def normal_error(self, w: Tensor) -> float:
        """Return how far the expected loss at w, (d,), may be from that under ``normal``, nats."""
        return float((self.eps * w).double().pow(4).sum()) / 360

    def slope_error(self, w: Tensor, x: Tensor) -> float:
        """Return how far the gradient at w, (d,), may be from that under ``normal``, in length; x is (N, d)."""
        a = (self.eps * w).double().abs()
        exchanged = 0.128 / 45 * a.pow(4).sum() * (x.double().abs().mean(dim=0) + self.eps / 3**0.5)
        return float((exchanged + self.eps / 90 * a.pow(3)).norm())


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseMinimum:
    """Where the minimisation of the expected loss ended.

    Attributes:
        w: (d,), float64.
        loss: Expected loss there, nats per example; an upper bound of it where ``gap`` is the same.
        gap: How far the expected loss is above its minimum at most: of all weights where it is ``loss`` itself, which
            is nowhere below 0, else of weights of up to ten times the length, or of ten over the largest feature where
            that is more.
        error: How far ``loss`` may be off: 0 but for noise in the box.
    """

    w: Tensor
    loss: float
    gap: float
    error: float


def variance(noise: Gaussian | InBall | InBox, d: int) -> float:
    """Return V, the variance of the noise along any direction, in d dimensions."""
    if isinstance(noise, Gaussian):
        return noise.sigma**2
    return noise.eps**2 / (3 if isinstance(noise, InBox) else d + 2)


def noise_minimum(x: Tensor, y: Tensor, noise: Gaussian | InBall | InBox, *, start: Tensor) -> NoiseMinimum:
    """Minimise the expected logistic loss under noise over all w, without an intercept and without a pixel box.

    There is no minimum where some w classifies everything that the noise can reach: that is for the caller to know,
    from ``maximum_margin`` in the norm of the ball.

    Args:
        x: (N, d), finite.
        y: (N,), labels -1 or 1.
        noise: Its law, not without any noise.
        start: (d,), weights to begin at, best the direction of largest L2 margin, whose length does not count; one
            that does not classify all examples is begun at as it is.

    Raises:
        BadInput: arguments that cannot be meant.
    """
    check_labels(y, x)
    x, y, w = x.double(), y.double(), start.double()
    spread = variance(noise, x.shape[1])
    if not spread > 0:
        raise BadInput("there must be some noise: without it the loss is the clean one")
    if w.shape != x.shape[1:]:
        raise BadInput(f"start must be one weight for each of the {x.shape[1]} inputs, not {tuple(w.shape)}")
    length = float(w.norm())
    margin = float((y * (x @ w)).min()) / length if length else 0.0
    bounded = None
    if margin > 0:
        w = w * (margin / spread / length)
        most = math.exp(-(margin**2) / (2 * spread))
        bounded = NoiseMinimum(w=w, loss=most, gap=most, error=0.0)
        if most <= _NOTHING:
            return bounded
    law = noise.normal() if isinstance(noise, InBox) else noise
    unit = 1 / (float(x.abs().max()) or 1.0)
    found = descended(
        _Point(found=expected(w, x, y, law)),
        at=lambda w: _Point(found=expected(w, x, y, law)),
        curvature=lambda point: point.found.hessian(),
        done=lambda point: point.gap(unit) <= max(_TOLERANCE * point.loss, _NOTHING),
    )
    error, gap = 0.0, found.gap(unit)
    if isinstance(noise, InBox):
        error = noise.normal_error(found.w)
        off = noise.slope_error(found.w, x)
        gap = convex_gap(found.loss + error, found.slope, found.w, unit=unit, off=off)
    if bounded is not None and bounded.gap <= gap + error:
        return bounded
    return NoiseMinimum(w=found.w, loss=found.loss, gap=gap, error=error)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Point:
    """The expected loss at one w."""

    found: Expected

    @property
    def w(self) -> Tensor:
        return self.found.w

    @property
    def loss(self) -> float:
        return float(self.found.loss)

    @property
    def slope(self) -> Tensor:
        return self.found.gradient()

    def gap(self, unit: float) -> float:
        return convex_gap(self.loss, self.slope, self.w, unit=unit)
