"""What is known of the curvature at one eps: the parts of a ``CurvatureResult``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from robustscape.landscape.flatness import Estimate
from robustscape.types import Plain


@dataclass(frozen=True, kw_only=True)
class AtRadius:
    """Differences over w - h v and w + h v, v of length 1 in the coordinates.

    Attributes:
        radius: h.
        held: Second difference of the loss, (L(w + h v) - 2 L(w) + L(w - h v)) / h^2, inputs held; nats. Here and
            below the interval is by Student's t over the examples.
        total: The same where the inputs follow the weights. L(w) is then the largest of the loss at w and of those on
            the way back, where the inputs have followed to w + h v or w - h v and to w again.
        excess: total - held, example by example. At least 0, but for half of ``noise``.
        ratio: total / held; None where held is 0.
        noise: Estimate of how far ``total`` is off since ascents end too early: 4 times what the loss at w has gained
            on the way back, at least one unit in the last place of 1 nat, over h^2.
        held_by_gradients: v'(g(w + h v) - g(w - h v)) / (2 h), inputs held; g the gradient of the mean loss.
        total_by_gradients: The same where the inputs follow: more exact than ``total``, at small h above all.
        noise_by_gradients: Estimate of how far that is off: what v'g at w has changed by on the way back, over h.
    """

    radius: float
    held: Estimate
    total: Estimate
    excess: Estimate
    ratio: float | None
    noise: float
    held_by_gradients: float
    total_by_gradients: float
    noise_by_gradients: float


@dataclass(frozen=True, kw_only=True)
class Along:
    """Curvature along one direction v, of length 1 in the coordinates, in nats.

    Attributes:
        direction: "eigenvector 1" (of the held Hessian at this eps, the largest eigenvalue) or "random 1" (the same at
            every eps).
        converged: Whether an eigenvector's residual is within 1 % of its eigenvalue; true for random directions.
        held: v'H v, inputs held: what public codes compute. Never above the total.
        total: v'H v of the loss itself, by the implicit second term; None where that is not defined.
        reason: Why it is not, or "".
        residual: Of the equations of the implicit term, relative, the root of the mean square over the examples: above
            0.01 the total is a lower bound. None without a total.
        ratio: total / held; None without a total, or where held is 0.
        differences: At each radius.
    """

    direction: str
    converged: bool
    held: float
    total: float | None
    reason: str
    residual: float | None
    ratio: float | None
    differences: tuple[AtRadius, ...]


@dataclass(frozen=True, kw_only=True)
class Top:
    """The largest eigenvalue of the held and of the total Hessian.

    Attributes:
        held: Its value, nats.
        held_converged: Whether its residual is within 1 % of it.
        total: Its value, nats; as every Ritz value not above the true one.
        residual: ||H v - value v|| of its vector.
        converged: Whether that is within 5 % of the value.
        products: Products with the total Hessian.
        by: What these were: "implicit", "differences at radius 0.03", or "held" at eps 0, where the two are one.
        held_by_differences: The largest eigenvalue of the held Hessian by differences over the same radius, nats: what
            a total by differences is to be set beside, since over a radius the loss is not quadratic. None where the
            total is by other means, and in old files.
    """

    held: float
    held_converged: bool
    total: float
    residual: float
    converged: bool
    products: int
    by: str
    held_by_differences: float | None = None


@dataclass(frozen=True, kw_only=True)
class AtEps:
    """Curvature at one eps.

    Attributes:
        eps: Radius of the inputs' ball, in its norm.
        multiple: The same as a multiple of the attack's own.
        loss: Mean loss at the worst inputs, nats.
        pinned: Share of the pixels that cannot move, since an edge of box or, under linf, ball stops them.
        stationary: Share of the examples at a stationary point: of the slope no more than 1 % of its length is left
            within the directions that the input can move in, or so little that it would move by 1 % of the ball's
            radius.
        strict: Share of the examples whose loss curves downwards there, as far as the solutions have looked; the least
            over the directions. None where the implicit term was not tried (l1).
        along: Each direction.
        top: The largest eigenvalues; None where they were not asked for.
    """

    eps: float
    multiple: float
    loss: float
    pinned: float | None
    stationary: float | None
    strict: float | None
    along: tuple[Along, ...]
    top: Top | None


def at_eps(values: Sequence[Plain], *, eps: float, multiple: float) -> AtEps:
    """Return what the values of the points of one eps say."""
    tops = [value for value in values if "by" in value]
    strict = [value["strict"] for value in values if value["strict"] is not None]
    return AtEps(
        eps=eps,
        multiple=multiple,
        loss=values[0]["loss"],
        pinned=values[0]["pinned"],
        stationary=values[0]["stationary"],
        strict=min(strict, default=None),
        along=tuple(_along(value) for value in values if "by" not in value),
        top=Top(**{f.name: tops[0].get(f.name) for f in fields(Top)}) if tops else None,
    )


def _along(value: Plain) -> Along:
    held, total = value["held"], value["total"]
    return Along(
        direction=value["direction"],
        converged=value["converged"],
        held=held,
        total=total,
        reason=value["reason"],
        residual=None if total is None else value["residual"],
        ratio=total / held if total is not None and held else None,
        differences=tuple(_at_radius(one) for one in value["differences"]),
    )


def _at_radius(value: Plain) -> AtRadius:
    parts: dict[str, Plain] = {
        name: Estimate(**part) if isinstance(part, dict) else part for name, part in value.items()
    }
    return AtRadius(**parts)
