"""Following the worst inputs while the weights move: an ascent without chance, from where they were."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustscape import modes
from robustscape.attacks.threat import ThreatModel, l2_norm, per_example
from robustscape.evaluation.judging import batches, judge
from robustscape.landscape._summed import summed_gradient
from robustscape.landscape.operator import HessianOperator, each_cross_entropy
from robustscape.runtime.memory import Parts
from robustscape.runtime.settings import exact_products
from robustscape.types import Subject
from robustscape.weights.space import shifted

_CLOSE = 100.0  # units in the last place: a change of the loss that small is rounding
_ROUNDS = 30  # of the projection into ball and box, each exact for the pixels that the box has stopped so far


def nearest(z: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Return the point of ball and box nearest to each z, (N, ...).

    Under l2 that is x + s (z - x) with pixels stopped by the box, s as large as the ball allows: with every round more
    pixels are stopped and s grows, until none is left to stop.
    """
    if threat.norm != "l2":
        return threat.project(z, x)
    delta, low, high = z - x, -x, 1 - x
    tiny = torch.finfo(x.dtype).tiny
    s = (threat.eps / l2_norm(delta).clamp(min=tiny)).clamp(max=1)
    for _ in range(_ROUNDS):
        moved = delta * per_example(s, x)
        stopped = (moved < low) | (moved > high)
        if not bool(stopped.any()):
            break
        edge = moved.clamp(low, high) * stopped
        left = (threat.eps**2 - l2_norm(edge) ** 2).clamp(min=0).sqrt()
        larger = (left / l2_norm(delta * ~stopped).clamp(min=tiny)).clamp(max=1)
        if not bool((larger > s).any()):
            break
        s = torch.maximum(s, larger)
    return (x + (delta * per_example(s, x)).clamp(low, high)).clamp(0, 1)


def climbed(subject: Subject, x_adv: Tensor, threat: ThreatModel, steps: int) -> Tensor:
    """Return where an ascent of the cross-entropy leads to from given inputs, (N, C, H, W): never to a lower loss.

    Steps along the slope, projected, each as long as the change of slope over the last one suggests (Barzilai and
    Borwein 1988) and taken only where it raises the loss. One forward and backward pass a step, of the model itself in
    its own precision. Nothing is drawn: the same start gives the same end.

    Args:
        subject: What is looked at, at its model's present weights.
        x_adv: (N, C, H, W), inside the threat model.
        threat: Ball and box.
        steps: At least 0.
    """
    if threat.eps == 0:
        return subject.x.clone()
    device = subject.x.device
    own = torch.autocast(device.type, enabled=False)
    parts = Parts(min(subject.batch, (subject.parts or Parts()).size))
    with modes.evaluating(subject.model), modes.frozen_statistics(subject.model), exact_products(device), own:
        return parts.run(
            lambda rows: _ascent(subject.model, subject.x[rows], subject.y[rows], x_adv[rows], threat, steps),
            len(subject.x),
        )


def _ascent(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, threat: ThreatModel, steps: int) -> Tensor:
    here = nearest(x_adv, x, threat)
    loss, slope = _sloped(model, here, y)
    reach = threat.eps * (x[0].numel() ** 0.5 if threat.norm == "linf" else 1.0)
    step = reach / l2_norm(slope).clamp(min=torch.finfo(x.dtype).tiny)
    rounding = _CLOSE * torch.finfo(x.dtype).eps
    for _ in range(steps):
        there = nearest(here + per_example(step, x) * slope, x, threat)
        further, slope_there = _sloped(model, there, y)
        way = there - here
        gain = further - loss
        # Of a change within rounding the slopes at both ends know more than the losses.
        by_slopes = _dot(way, slope + slope_there) / 2
        gain = torch.where(gain.abs() <= rounding * (1 + loss.abs()), by_slopes, gain)
        bend, length = -_dot(way, slope_there - slope), _dot(way, way)
        suggested = torch.where(bend > 0, length / bend.clamp(min=torch.finfo(x.dtype).tiny), torch.inf)
        better = gain > 0
        grown = torch.minimum(torch.maximum(suggested, step / 10), step * 10)
        shrunk = torch.minimum(torch.maximum(suggested, step / 20), step / 2)
        step = torch.where(better, grown, shrunk)
        chosen = per_example(better, x)
        here, slope = torch.where(chosen, there, here), torch.where(chosen, slope_there, slope)
        loss = torch.where(better, further, loss)
    return here


def _sloped(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each input, (N,), and its slope, (N, ...)."""
    fixed = {name: value.detach() for name, value in model.named_parameters()}
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = each_cross_entropy(torch.func.functional_call(model, fixed, (x,)), y)
        (slope,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), slope


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def each_loss(subject: Subject, x_adv: Tensor) -> Tensor:
    """Return the cross-entropy of each example at given inputs, (N,), float64 on the CPU.

    Raises:
        Diverged: a loss is not finite.
    """
    found = [
        judge(subject.model, x_adv[rows], subject.y[rows], parts=subject.parts)[0][:count]
        for rows, count in batches(subject)
    ]
    return torch.cat(found).double().cpu()


def flat_gradient(subject: Subject, x_adv: Tensor, held: HessianOperator) -> Tensor:
    """Return the gradient of the mean loss at given inputs, (D,), in the coordinates of an operator.

    Raises:
        Diverged: the loss is not finite.
    """
    _, slopes = summed_gradient(subject, x_adv, torch.arange(len(x_adv), device=x_adv.device))
    flat = torch.cat([slopes[name].reshape(-1) for name in held.weights]) / len(x_adv)
    return flat * units(held)


def units(held: HessianOperator) -> Tensor:
    """Return how far a step of 1 in each coordinate moves its weight, (D,)."""
    return torch.cat([part.reshape(-1) for part in held.params(torch.ones_like(held.like())).values()])


class Differences:
    """The Hessian of the loss whose worst inputs follow the weights, as differences of its gradients.

    H v is about (g(w + h v) - g(w - h v)) / (2 h), with g at the inputs that the ascent leads to from those at w, which
    by Danskin is the gradient of the loss itself. Two ascents and two gradients a product.

    Args:
        subject: What is looked at.
        x_adv: (N, C, H, W), the worst inputs at w.
        threat: Ball and box.
        held: Whose coordinates are meant.
        radius: h.
        steps: Of each ascent.
    """

    def __init__(
        self, subject: Subject, x_adv: Tensor, threat: ThreatModel, held: HessianOperator, *, radius: float, steps: int
    ) -> None:
        self.subject, self.x_adv, self.threat, self.held = subject, x_adv, threat, held
        self.radius, self.steps = radius, steps

    def __call__(self, v: Tensor) -> Tensor:
        """Return the product with v, (D,), of length 1."""
        slopes = []
        for h in (self.radius, -self.radius):
            with shifted(self.subject.model, self.held.params(v), h):
                there = climbed(self.subject, self.x_adv, self.threat, self.steps)
                slopes.append(flat_gradient(self.subject, there, self.held))
        return (slopes[0] - slopes[1]) / (2 * self.radius)
