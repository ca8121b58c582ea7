"""The threat model: what an adversary may do to an input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.streams import Streams
from robustscape.types import BadInput

_LARGEST = {"linf": 1.0, "l2": 30.0, "l1": 1000.0}
_TINY = 1e-12


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Give (N,) values the trailing dimensions that broadcast over images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def l2_norm(x: Tensor) -> Tensor:
    """Return the L2 norm of each example of x, (N, ...), as (N,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def l1_norm(x: Tensor) -> Tensor:
    """Return the L1 norm of each example of x, (N, ...), as (N,)."""
    return torch.linalg.vector_norm(x.flatten(1), ord=1, dim=1)


def shrunk(delta: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """Return the nearest changes to ``delta`` that keep x in [0, 1] and whose L1 norm is at most ``radius``.

    Every change loses the same amount, until it is 0, and is then cut at the box: |d_i| becomes
    min(max(|d_i| - t, 0), room_i). The norm falls in t along straight pieces, which meet where a change becomes 0
    or leaves the edge of the box: one sort of these places finds t exactly. Computed in float64.

    Args:
        delta: (N, ...), changes of x.
        x: (N, ...), inputs in [0, 1].
        radius: (N,), at least 0.
    """
    size, inputs = delta.flatten(1).double().abs(), x.flatten(1).double()
    room = torch.where(delta.flatten(1) > 0, 1 - inputs, inputs)
    # From the largest t down: a change that is no longer 0 adds to the slope of the norm, one at the edge takes away.
    place, order = torch.cat([size, (size - room).clamp(min=0)], dim=1).sort(dim=1, descending=True)
    slope = torch.where(order < size.shape[1], 1, -1).cumsum(dim=1)
    norm = F.pad((place[:, :-1] - place[:, 1:]) * slope[:, :-1], (1, 0)).cumsum(dim=1)
    last = (norm <= radius[:, None]).sum(dim=1, keepdim=True).clamp(min=1) - 1
    place, slope, norm = (values.gather(1, last) for values in (place, slope, norm))
    t = (place - (radius[:, None] - norm) / slope.clamp(min=1)).clamp(min=0)
    kept = torch.minimum((size - t).clamp(min=0), room)
    return (kept * delta.flatten(1).sign()).view_as(delta).to(delta)


def refuse_l1(threat: ThreatModel, name: str) -> None:
    """Refuse the norm l1 on behalf of an attack of this name.

    Raises:
        BadInput: the threat model's norm is "l1".
    """
    if threat.norm == "l1":
        raise BadInput(f"{name} knows the norms linf and l2, not l1; APGD, FAB and Square search the l1 ball")


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """All inputs within ``eps`` of the clean one, pixels staying in [0, 1].

    Attributes:
        norm: Which norm measures the distance: "linf" (largest change of a pixel), "l2", or "l1" (sum of all
            changes; for the attacks that know it).
        eps: Radius in pixel units, where 1 is the whole range: 8/255, not 8. At least 0; at most 1 under
            linf, 30 under l2 and 1000 under l1.
    """

    norm: Literal["linf", "l2", "l1"] = "linf"
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
        return self.eps if eps is None else per_example(eps.to(x), x)

    def project(self, x_adv: Tensor, x: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return the point of ball and box that x_adv is moved to: first into the ball, then into [0, 1].

        Under l1 it is the nearest point of both.

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
        if self.norm == "l1":
            each = torch.full((len(x),), self.eps, dtype=x.dtype, device=x.device) if eps is None else eps
            return torch.clamp(x + shrunk(delta, x, each), 0, 1)
        scale = (radius / (per_example(l2_norm(delta), x) + _TINY)).clamp(max=1)
        return torch.clamp(x + delta * scale, 0, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the direction of unit norm that raises a linear loss most, (N, ...); 0 for a zero gradient."""
        if self.norm == "linf":
            return gradient.sign()
        if self.norm == "l1":
            place = gradient.flatten(1).abs().argmax(dim=1, keepdim=True)
            sign = gradient.flatten(1).gather(1, place).sign()
            return torch.zeros_like(gradient.flatten(1)).scatter(1, place, sign).view_as(gradient)
        largest = per_example(gradient.flatten(1).abs().amax(dim=1), gradient)
        scaled = torch.where(largest > 0, gradient / largest, 0)
        return scaled / per_example(l2_norm(scaled), gradient).clamp(min=1)

    def sample(self, x: Tensor, rng: Streams, eps: Tensor | None = None) -> Tensor:
        """Return a point drawn uniformly from the ball around each x, (N, ...), then clamped to [0, 1]."""
        shape = tuple(x.shape[1:])
        radius = self._radius(x, eps)
        if self.norm == "linf":
            return self.project(x + rng.tag("ball").uniform(*shape, low=-1, high=1, dtype=x.dtype) * radius, x, eps)
        if self.norm == "l1":  # exponential lengths over their sum are uniform on a simplex, the last one left over
            u = rng.tag("ball").uniform(math.prod(shape) + 1, dtype=x.dtype)
            length = -torch.log1p(-u)
            share = (length / length.sum(dim=1, keepdim=True))[:, :-1].view_as(x)
            return self.project(x + rng.tag("sign").sign(*shape, dtype=x.dtype) * share * radius, x, eps)
        direction = self.steepest(rng.tag("direction").normal(*shape, dtype=x.dtype))
        length = rng.tag("radius").uniform(dtype=x.dtype) ** (1 / math.prod(shape))
        return self.project(x + direction * radius * per_example(length, x), x, eps)

    def along(self, x: Tensor, rng: Streams, eps: Tensor | None = None) -> Tensor:
        """Return a point in a normal direction from each x, (N, ...), a uniform share of the radius away, in [0, 1].

        For the norms linf and l2.

        Source: the code of Stutz 2021 (https://arxiv.org/abs/2104.04448), whose attacks start there.
        """
        direction = rng.tag("direction").normal(*x.shape[1:], dtype=x.dtype)
        size = direction.flatten(1).abs().amax(dim=1) if self.norm == "linf" else l2_norm(direction)
        share = rng.tag("radius").uniform(dtype=x.dtype)
        return self.project(x + direction / per_example(size, x) * per_example(share, x) * self._radius(x, eps), x, eps)

    def nearby(self, x: Tensor, rng: Streams, radius: Tensor | float, eps: Tensor | None = None) -> Tensor:
        """Return a point drawn uniformly from another ball around each x, (N, ...), of its radius, moved to this one.

        Args:
            x: (N, ...), inputs in [0, 1].
            rng: Random numbers.
            radius: Of the ball that is drawn from, (N,) or one for all, in pixel units, at least 0.
            eps: As for ``project``.

        Source: the code of Liu 2020 (https://arxiv.org/abs/2006.08403), whose attacks start within a step of x.
        """
        if not isinstance(radius, Tensor):
            radius = torch.full((len(x),), radius, dtype=x.dtype, device=x.device)
        return self.project(self.sample(x, rng, radius), x, eps)
