"""Points that the equations of Yamada 2021 are tested at, and what is true there, by finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.adversary import worst_input
from robustscape.linear.norms import Norm
from robustscape.streams import Streams
from robustscape.studies.checks import Check, judged

ROUNDING = 1e-6
"""Relative error below which an equation holds: differences are good to about 1e-9."""

_STEP = 1e-3
_N, _D = 20, 7  # examples and features of a random problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """Data, weights and what changes the inputs, float64.

    Attributes:
        x: (N, d).
        y: (N,), -1 or 1.
        w: (d,), not 0.
        eps: Radius of the ball, or half the width of the noise, above 0.
        directions: (M, d), unit vectors that derivatives are compared along.
        norm: Norm of the adversary's ball.
        noise: (N, d), what is added to the inputs; None where an adversary is.
    """

    x: Tensor
    y: Tensor
    w: Tensor
    eps: float
    directions: Tensor
    norm: Norm = "l2"
    noise: Tensor | None = None

    def inputs(self, w: Tensor) -> Tensor:
        """Return what the weights w, (d,), are judged on, (N, d): the worst inputs for them, or the noisy ones."""
        if self.noise is not None:
            return self.x + self.noise
        return worst_input(w, self.x, self.y, norm=self.norm, eps=self.eps)

    def loss(self, w: Tensor) -> Tensor:
        """Return the mean loss at w, nats, attacked anew there."""
        return F.softplus(-self.y * (self.inputs(w) @ w)).mean()

    def gradient(self, w: Tensor) -> Tensor:
        """Return the gradient of the loss at w, (d,), attacked anew there and differentiated by autograd."""
        inputs, at = self.inputs(w), w.clone().requires_grad_()
        return torch.autograd.grad(F.softplus(-self.y * (inputs @ at)).mean(), at)[0]

    def slopes(self) -> Tensor:
        """Return the derivatives of the loss along the directions, (M,)."""
        return self._differences(self.loss)

    def bends(self) -> Tensor:
        """Return the derivatives of the gradient along the directions, (M, d): the rows of the true Hessian."""
        return self._differences(self.gradient)

    def _differences(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the central differences of fourth order of f along the directions."""
        step = _STEP * min(1.0, float(self.w.norm()))
        found = []
        for v in self.directions:
            near, far = (f(self.w + k * step * v) - f(self.w - k * step * v) for k in (1, 2))
            found.append((8 * near - far) / (12 * step))
        return torch.stack(found)


def units(rng: Streams, *shape: int) -> Tensor:
    """Return random unit vectors along the last dimension, float64."""
    return F.normalize(rng.normal(*shape, dtype=torch.float64), dim=-1)


def between(rng: Streams, low: float, high: float) -> float:
    """Return a number between two, uniform in its logarithm."""
    return low * (high / low) ** float(rng.uniform(dtype=torch.float64))


def random_points(rng: Streams, count: int, *, norm: Norm = "l2") -> list[Point]:
    """Return random problems of 20 examples in 7 dimensions; no weight is near 0, where L-infinity has its kinks."""
    points = []
    for number in range(count):
        of = rng.tag(number)
        w = of.tag("w").normal(_D, dtype=torch.float64)
        points.append(
            Point(
                x=of.tag("x").normal(_N, _D, dtype=torch.float64),
                y=of.tag("y").sign(_N, dtype=torch.float64),
                w=(w.sign() * (w.abs() + 0.1)) * between(of.tag("scale"), 0.1, 1),
                eps=between(of.tag("eps"), 0.05, 2),
                directions=torch.eye(_D, dtype=torch.float64),
                norm=norm,
            )
        )
    return points


def meeting(point: Point, eps: float | None = None) -> Point:
    """Return a point of the same labels and weights that meets the condition of Theorem 1: y x = eps w / ||w||."""
    eps = point.eps if eps is None else eps
    return replace(point, x=point.y[:, None] * (eps * F.normalize(point.w, dim=0)), eps=eps, norm="l2")


def noisy(rng: Streams, point: Point) -> Point:
    """Return the point with noise uniform in the L-infinity box of half-width eps, one draw for each example."""
    noise = rng.uniform(*point.x.shape, low=-1, high=1, dtype=torch.float64)
    return replace(point, noise=point.eps * noise)


def compared(
    claim: str, form: str, tested: str, pairs: Iterable[tuple[Tensor, Tensor]], *, expected: bool | None = True
) -> Check:
    """Return a check of an equation: of each pair (what it says, what is true) the error in parts of the largest."""
    errors = torch.stack([(said - true).abs().max() / true.abs().max() for said, true in pairs])
    return judged(claim, form=form, tested=tested, errors=errors, tolerance=ROUNDING, expected=expected)
