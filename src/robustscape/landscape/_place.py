"""Held and total curvature at one eps: along a direction, and at most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscape.attacks.threat import ThreatModel, per_example
from robustscape.landscape._following import Differences, climbed, each_loss, flat_gradient
from robustscape.landscape._implicit import Total
from robustscape.landscape._losses import so_far
from robustscape.landscape.flatness import t_interval
from robustscape.landscape.lanczos import Eigenpairs, Extremes, Times, extremes
from robustscape.landscape.operator import Coordinates, HessianOperator, hessian
from robustscape.streams import Streams
from robustscape.types import Plain, Subject
from robustscape.weights.space import shifted

_HELD = (1e-2, 100)  # relative residual of the held eigenvectors, and the most products for them
_TOP = 5e-2  # relative residual of the top eigenvalue of the total Hessian
_STILL = {"pinned": 1.0, "stationary": 1.0, "strict": 1.0}  # inputs that may not move


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """The weights w, and the worst inputs there for one eps.

    Attributes:
        subject: What is looked at; is left without a trace.
        threat: Ball and box.
        x_adv: (N, C, H, W), the worst inputs.
        coordinates: What a step of 1 is.
        follow: Steps of the ascent after a move of the weights.
        solves: Most conjugate gradients of the implicit term.
        leave_out: Largest share of the examples that the implicit term may do without.
        name: Purpose of the random numbers.
    """

    subject: Subject
    threat: ThreatModel
    x_adv: Tensor
    coordinates: Coordinates
    follow: int
    solves: int
    leave_out: float
    name: str

    def held(self) -> HessianOperator:
        """Return the Hessian at held inputs: for products before the weights are next moved."""
        return hessian(self.subject, self.x_adv, coordinates=self.coordinates)

    def about(self) -> dict[str, Plain]:
        """Return the mean loss."""
        return {"loss": float(each_loss(self.subject, self.x_adv).mean())}

    def eigenvectors(self, k: int) -> Eigenpairs:
        """Return the top eigenvectors of the held Hessian."""
        held, (tolerance, most) = self.held(), _HELD
        rng = Streams(self.subject.seed, (self.name, "lanczos"))
        most = min(max(most, k), held.size)
        return extremes(held, held.like(), k=k, tolerance=tolerance, most=most, rng=rng).top

    def random(self, number: int) -> Tensor:
        """Return a random direction of length 1, (D,): the same at every eps."""
        like = self.held().like()
        rng = Streams(self.subject.seed, (self.name, "direction", number))
        drawn = rng.normal(len(like), dtype=like.dtype, device=like.device)
        return drawn / torch.linalg.vector_norm(drawn)

    # -- by products at w ----------------------------------------------------------------------------------

    def products(self, v: Tensor) -> dict[str, Plain]:
        """Return v'H v, held and by the implicit term, and what is known of the latter."""
        held = self.held()
        along = float(v @ held(v))
        if self.threat.eps == 0:
            return {"held": along, "total": along, "reason": "", "residual": 0.0, **_STILL}
        total, reason, known = self.implicit(v, held)
        return {"held": along, "total": None if reason else float(v @ total), "reason": reason, **known}

    def implicit(self, v: Tensor, held: HessianOperator) -> tuple[Tensor, str, dict[str, Plain]]:
        """Return the total Hessian times v, (D,), why it is not defined or "", and what is known of the examples."""
        if self.threat.norm == "l1":
            reason = "not defined: the implicit term is for linf and l2; under l1 worst inputs sit at corners"
            return v, reason, dict.fromkeys(("residual", "pinned", "stationary", "strict"))
        times = Total(self.subject, self.x_adv, self.threat, held, most=self.solves)
        product, last = times(v), times.last
        strict, still = last.strict.double().mean(), last.stationary.double().mean()
        known = {
            "residual": float(last.residual.double().square().mean().sqrt()),
            "pinned": float(last.pinned.mean()),
            "stationary": float(still),
            "strict": float(strict),
        }
        if last.lacking <= self.leave_out:
            return product, "", known
        n = len(last.strict)
        reason = (
            f"not defined: of {n} examples {round(n * float(1 - strict))} are at no strict maximum, the loss curving "
            "upwards where the input can move (as of ReLU and max-pooling), and "
            f"{round(n * float(1 - still))} at no stationary point (a kink, or too few steps)"
        )
        return product, reason, known

    # -- by moving the weights -----------------------------------------------------------------------------

    def differences(self, v: Tensor, h: float) -> dict[str, Plain]:
        """Return second differences of the loss and differences of its slope along v over a radius.

        Raises:
            Diverged: a loss is not finite so far away.
        """
        with so_far("radius", h):
            return self._differences(v, h)

    def _differences(self, v: Tensor, h: float) -> dict[str, Plain]:
        held, subject = self.held(), self.subject
        here = each_loss(subject, self.x_adv)
        losses: dict[str, Tensor] = {"held": torch.zeros_like(here), "total": torch.zeros_like(here)}
        slopes = dict.fromkeys(losses, 0.0)
        best, highest = self.x_adv, here
        for sign in (1, -1):
            with shifted(subject.model, held.params(v), sign * h):
                followed = climbed(subject, self.x_adv, self.threat, self.follow)
                for what, x_adv in (("held", self.x_adv), ("total", followed)):
                    losses[what] = losses[what] + each_loss(subject, x_adv)
                    slopes[what] += sign * float(v @ flat_gradient(subject, x_adv, held))
            back = climbed(subject, followed, self.threat, self.follow)
            there = each_loss(subject, back)
            best = torch.where(per_example((there > highest).to(back.device), back), back, best)
            highest = torch.maximum(highest, there)
        losses = {"held": losses["held"] - 2 * here, "total": losses["total"] - 2 * highest}
        missed = float(v @ (flat_gradient(subject, best, held) - flat_gradient(subject, self.x_adv, held)))
        return {"radius": h, "noise_by_gradients": abs(missed) / h, **_told(losses, slopes, highest - here, h, v)}

    def top(self, start: Eigenpairs, products: int, h: float) -> dict[str, Plain]:
        """Return the largest eigenvalues of the held Hessian, which are known, and of the total one.

        Args:
            start: The top eigenvectors of the held one, at least one.
            products: Most products with the total one.
            h: Radius of the differences, for where there is no implicit term.
        """
        held = self.held()
        first: dict[str, Plain] = {"held": float(start.values[0]), "held_converged": bool(start.converged[0])}
        if self.threat.eps == 0:
            same = {"total": first["held"], "converged": first["held_converged"], "products": 0, "by": "held"}
            return {**_STILL, **first, **same, "residual": float(start.residuals[0])}
        _, reason, known = self.implicit(start.vectors[0], held)
        rng, most = Streams(self.subject.seed, (self.name, "total")), min(products, held.size)

        def largest(times: Times) -> Extremes:
            like, begin = held.like(), start.vectors[:1]
            return extremes(times, like, k=1, tolerance=_TOP, most=most, rng=rng, start=begin)

        found, by = None, "implicit"
        if not reason:
            total = Total(self.subject, self.x_adv, self.threat, held, most=self.solves)
            found = largest(total)
            found = found if total.lacking <= self.leave_out else None
        if found is None:
            by = f"differences at radius {h:g}"
            found, still = (
                largest(Differences(self.subject, self.x_adv, self.threat, held, radius=h, steps=steps))
                for steps in (self.follow, 0)
            )
            first["held_by_differences"] = float(still.top.values[0])
        one = found.top
        told = {"total": float(one.values[0]), "residual": float(one.residuals[0]), "converged": bool(one.converged[0])}
        return {**known, **first, **told, "products": found.products, "by": by}


def _told(losses: dict[str, Tensor], slopes: dict[str, float], gain: Tensor, h: float, v: Tensor) -> dict[str, Plain]:
    """Return what sums of losses, (N,), and of slopes make of differences over a radius."""
    losses = {**losses, "excess": losses["total"] - losses["held"]}
    bends = {what: t_interval(value.numpy() / h**2, n=len(value)) for what, value in losses.items()}
    held, total = bends["held"].value, bends["total"].value
    rounding = torch.finfo(v.dtype).eps
    return {
        **{what: vars(bend) for what, bend in bends.items()},
        "ratio": total / held if held else None,
        "noise": 4 * max(float(gain.mean()), rounding) / h**2,
        **{f"{what}_by_gradients": value / (2 * h) for what, value in slopes.items()},
    }
