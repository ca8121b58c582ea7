"""The threat model: what an adversary may do to an input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustscape.streams import Streams
from robustscape.types import BadInput

_LARGEST = {"linf": 1.0, "l2": 30.0}
_TINY = 1e-12


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """Give (N,) values the trailing dimensions that broadcast over images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def l2_norm(x: Tensor) -> Tensor:
    """Return the L2 norm of each example of x, (N, ...), as (N,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """All inputs within ``eps`` of the clean one, pixels staying in [0, 1].

    Attributes:
        norm: Which norm measures the distance: "linf" (largest change of a pixel) or "l2".
        eps: Radius in pixel units, where 1 is the whole range: 8/255, not 8. At least 0; at most 1 under
            linf and 30 under l2.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 8 / 255

    def __post_init__(self) -> None:
        """Refuse an eps that cannot be meant."""
        if self.norm not in _LARGEST:
            raise BadInput(f"norm {self.norm!r} is not one of {', '.join(_LARGEST)}")
        if not 0 <= self.eps <= _LARGEST[self.norm]:
            meant = f"; did you mean {self.eps:g}/255?" if math.isfinite(self.eps) and self.eps > 0 else ""
            raise BadInput(
                f"eps={self.eps:g} is outside [0, {_LARGEST[self.norm]:g}] for {self.norm}: pixels are in [0, 1]{meant}"
            )

    def _radius(self, x: Tensor, eps: Tensor | None) -> Tensor | float:
        return self.eps if eps is None else _per_example(eps.to(x), x)

    def project(self, x_adv: Tensor, x: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return the point of ball and box that x_adv is moved to: first into the ball, then into [0, 1].

        Args:
            x_adv: (N, ...), anywhere.
            x: (N, ...), the clean inputs, in [0, 1].
            eps: Radius of each example, (N,); by default the threat model's own.

        Deviations:
            Under L2 this is not the nearest point of the intersection, but the ball's nearest point clamped, as
            AutoAttack and Rice 2020 do; clamping towards a box that holds x never leaves the ball.
        """
        radius = self._radius(x, eps)
        if self.norm == "linf":
            return torch.clamp(torch.minimum(torch.maximum(x_adv, x - radius), x + radius), 0, 1)
        delta = x_adv - x
        scale = (radius / (_per_example(l2_norm(delta), x) + _TINY)).clamp(max=1)
        return torch.clamp(x + delta * scale, 0, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the direction of unit norm that raises a linear loss most, (N, ...); 0 for a zero gradient."""
        if self.norm == "linf":
            return gradient.sign()
        largest = _per_example(gradient.flatten(1).abs().amax(dim=1), gradient)
        scaled = torch.where(largest > 0, gradient / largest, 0)
        return scaled / _per_example(l2_norm(scaled), gradient).clamp(min=1)

    def sample(self, x: Tensor, rng: Streams, eps: Tensor | None = None) -> Tensor:
        """Return a point drawn uniformly from the ball around each x, (N, ...), then clamped to [0, 1]."""
        shape = tuple(x.shape[1:])
        radius = self._radius(x, eps)
        if self.norm == "linf":
            return self.project(x + rng.tag("ball").uniform(*shape, low=-1, high=1, dtype=x.dtype) * radius, x, eps)
        direction = self.steepest(rng.tag("direction").normal(*shape, dtype=x.dtype))
        length = rng.tag("radius").uniform(dtype=x.dtype) ** (1 / math.prod(shape))
        return self.project(x + direction * radius * _per_example(length, x), x, eps)
