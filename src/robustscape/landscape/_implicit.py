"""The Hessian of the loss whose worst inputs follow the weights, by how they respond to first order.

Of an example with worst input d, A the second derivative of the Lagrangian within the directions that d can move in,

    H = g_ww - g_wd A^{-1} g_dw,

which is defined where A is negative definite there: d is then a strict maximum and moves smoothly. Under linf d can
move in the pixels that no edge stops, and A = g_dd. Under l2 it can move across itself, and A = g_dd - mu I with the
multiplier mu of the ball. Products alone are made; A^{-1} is by conjugate gradients, all examples of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustscape import modes
from robustscape.attacks.threat import ThreatModel, l2_norm, per_example
from robustscape.landscape._following import units
from robustscape.landscape.operator import HessianOperator, each_cross_entropy
from robustscape.runtime.memory import Parts
from robustscape.runtime.predicting import available, bytes_per_example, fitting
from robustscape.runtime.settings import exact_products
from robustscape.types import Subject

_GRAPH = 6.0  # bytes of a graph of both gradients, differentiated again, over those of one that is differentiated once
_SMALL = 1e-2  # share of the slope's length, or of the ball's radius, that may be left at a worst input
_AT_EDGE = 1e3  # units in the last place: so near its radius is on the ball
_ROUNDING = 16.0  # the same: a curvature that small beside the product that it is of is none


@dataclass(frozen=True, kw_only=True, eq=False)
class Tangent:
    """The directions that worst inputs can move in, to first order.

    Attributes:
        free: (N, ...), bool, pixels that neither box nor, under linf, ball stops.
        normal: (N, ...), unit vectors out of the l2 ball within these pixels; 0 where it does not stop the input.
        multiplier: (N,), mu, at least 0.
    """

    free: Tensor
    normal: Tensor
    multiplier: Tensor

    def within(self, v: Tensor) -> Tensor:
        """Return the part of (N, ...) vectors within these directions."""
        v = v * self.free
        return v - self.normal * per_example(_dot(v, self.normal), v)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def tangent(x_adv: Tensor, x: Tensor, slope: Tensor, threat: ThreatModel) -> Tangent:
    """Return where worst inputs can move to under linf or l2, from the loss's slope there, all (N, ...)."""
    low, high = torch.zeros_like(x), torch.ones_like(x)
    if threat.norm == "linf":
        low, high = (x - threat.eps).clamp(min=0), (x + threat.eps).clamp(max=1)
    free = ~(((x_adv <= low) & (slope <= 0)) | ((x_adv >= high) & (slope >= 0)))
    normal, multiplier = torch.zeros_like(x), torch.zeros_like(slope.flatten(1)[:, 0])
    tiny, ulp = torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).eps
    if threat.norm == "l2":
        delta = (x_adv - x) * free
        length = l2_norm(delta).clamp(min=tiny)
        multiplier = _dot(slope, delta) / length**2
        stopped = (l2_norm(x_adv - x) >= threat.eps * (1 - _AT_EDGE * ulp)) & (multiplier > 0)
        multiplier = torch.where(stopped, multiplier, 0)
        normal = delta * per_example(stopped / length, x)
    return Tangent(free=free, normal=normal, multiplier=multiplier)


def _stationary(where: Tangent, slope: Tensor, downwards: Callable[[Tensor], Tensor], threat: ThreatModel) -> Tensor:
    """Return whether inputs are at a stationary point, (N,), bool.

    That is, whether the slope within the directions that they can move in is a small share of the whole slope, or
    would, from the curvature along it, move them by a small share of the ball's radius.
    """
    left = where.within(slope)
    length = l2_norm(left)
    curvature = _dot(left, downwards(left)) / (length**2).clamp(min=torch.finfo(slope.dtype).tiny)
    width = where.free.flatten(1).sum(dim=1).sqrt() if threat.norm == "linf" else 1.0
    return length <= _SMALL * torch.maximum(l2_norm(slope), curvature * threat.eps * width)


@dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
    """What is known of every example of one product, all (N,), on the CPU.

    Attributes:
        strict: Whether the loss curves downwards in every direction that the solution has met.
        stationary: Whether it is at a stationary point, to within 1 %.
        residual: What is left of the equation, relative to its right side; 0 where the example is left out.
        pinned: Share of its pixels that are not free.
    """

    strict: Tensor
    stationary: Tensor
    residual: Tensor
    pinned: Tensor

    @property
    def lacking(self) -> float:
        """Share of the examples that are left out, since they are not both."""
        return 1 - float((self.strict & self.stationary).double().mean())


def solved(
    times: Callable[[Tensor], Tensor], c: Tensor, *, tolerance: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve B z = c for every row by conjugate gradients, B symmetric and block by block.

    Args:
        times: (N, ...) to B times it.
        c: (N, ...).
        tolerance: Residual, relative to c, that ends a row.
        most: Products.

    Returns:
        z, (N, ...); whether no direction without positive curvature was met, (N,); relative residuals, (N,). A row
        stays where it met one. c.z never exceeds its value at the solution where B is positive.
    """
    z, r, p = torch.zeros_like(c), c.clone(), c.clone()
    rr = start = _dot(c, c)
    strict = torch.ones_like(rr, dtype=torch.bool)
    rounding = _ROUNDING * torch.finfo(c.dtype).eps
    for _ in range(most):
        active = strict & (rr > tolerance**2 * start)
        if not bool(active.any()):
            break
        q = times(p)
        curvature = _dot(p, q)
        strict = strict & ~(active & (curvature <= rounding * l2_norm(p) * l2_norm(q)))
        active = active & strict
        length = torch.where(active, rr / torch.where(active, curvature, 1), 0)
        z, r = z + per_example(length, c) * p, r - per_example(length, c) * q
        left = torch.where(active, _dot(r, r), rr)
        turned = r + per_example(left / torch.where(active, rr, 1), c) * p
        p, rr = torch.where(per_example(active, c), turned, p), left
    return z, strict, (rr / torch.where(start > 0, start, 1)).sqrt()


class Total:
    """H v for H the Hessian of the mean loss whose worst inputs follow the weights.

    Each product makes, batch by batch, one graph of both gradients, differentiates it once for each conjugate gradient
    and twice more. The model is left without a trace.

    Args:
        subject: What is looked at.
        x_adv: (N, C, H, W), worst inputs: as near to stationary as they can be had.
        threat: Ball, of norm linf or l2, and box.
        held: The Hessian at held inputs, ``x_adv``, whose coordinates are meant.
        tolerance: Of the conjugate gradients.
        most: Of them.

    Attributes:
        last: What is known of the examples since the last product. Those that are at no strict maximum are left out.
        lacking: Largest share of them that a product left out so far.
    """

    last: Solved
    lacking: float

    def __init__(
        self,
        subject: Subject,
        x_adv: Tensor,
        threat: ThreatModel,
        held: HessianOperator,
        *,
        tolerance: float = 1e-4,
        most: int = 50,
    ) -> None:
        self.subject, self.x_adv, self.threat, self.held = subject, x_adv, threat, held
        self.tolerance, self.most = tolerance, most
        self.lacking = 0.0
        self._units = units(held)
        with modes.evaluating(subject.model):
            each = _GRAPH * bytes_per_example(subject.model, x_adv)
        size = min(subject.batch, len(x_adv), (subject.parts or Parts()).size)
        self._size = fitting(size, each, available(subject.runtime) / 2)

    def __call__(self, v: Tensor) -> Tensor:
        """Return H v, (D,), for v of (D,), but for the examples that are left out.

        Raises:
            Diverged: a loss is not finite.
        """
        from torch.nn.attention import SDPBackend, sdpa_kernel

        along = list(self.held.params(v).values())
        total, known = torch.zeros_like(v), []
        own = torch.autocast(v.device.type, enabled=False)
        model = self.subject.model
        for first in range(0, len(self.x_adv), self._size):
            rows = slice(first, first + self._size)
            twice = sdpa_kernel(SDPBackend.MATH)  # fused attention cannot be differentiated twice
            with modes.evaluating(model), modes.frozen_statistics(model), exact_products(v.device), own, twice:
                response, found = self._some(rows, along)
            total += response
            known.append(found)
        self.last = Solved(**{name: torch.cat([getattr(one, name) for one in known]).cpu() for name in vars(known[0])})
        self.lacking = max(self.lacking, self.last.lacking)
        return self.held(v) + total * self._units / len(self.x_adv)

    def _some(self, rows: slice, along: list[Tensor]) -> tuple[Tensor, Solved]:
        """Return the sum over some examples of - g_wd A^{-1} g_dw v, (D,), and what is known of them."""
        x, y = self.subject.x[rows], self.subject.y[rows]
        fixed = {name: value.detach() for name, value in self.subject.model.named_parameters()}
        leaves = {name: value.detach().requires_grad_() for name, value in self.held.weights.items()}
        weights = list(leaves.values())
        with torch.enable_grad():
            d = self.x_adv[rows].detach().requires_grad_()
            losses = each_cross_entropy(torch.func.functional_call(self.subject.model, {**fixed, **leaves}, (d,)), y)
            slope, *slopes = torch.autograd.grad(losses.sum(), [d, *weights], create_graph=True, materialize_grads=True)
        where = tangent(d.detach(), x, slope.detach(), self.threat)
        pairs = [(g, v) for g, v in zip(slopes, along, strict=True) if g.requires_grad]
        outputs, directions = zip(*pairs, strict=True)
        (mixed,) = torch.autograd.grad(outputs, d, directions, retain_graph=True, materialize_grads=True)

        def downwards(p: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(slope, d, p, retain_graph=True, materialize_grads=True)
            return where.within(per_example(where.multiplier, p) * p - product)

        z, strict, residual = solved(downwards, where.within(mixed), tolerance=self.tolerance, most=self.most)
        stationary = _stationary(where, slope.detach(), downwards, self.threat)
        good = strict & stationary
        z = torch.where(per_example(good, z), z, 0)
        back = torch.autograd.grad(slope, weights, z, materialize_grads=True)
        pinned = 1 - where.free.flatten(1).double().mean(dim=1)
        residual = torch.where(good, residual, 0)
        found = Solved(strict=strict, stationary=stationary, residual=residual, pinned=pinned)
        return torch.cat([part.reshape(-1) for part in back]), found
