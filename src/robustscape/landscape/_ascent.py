"""Searches for the weights, or weights and inputs, of largest loss in a relative ball around a network's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from robustscape.attacks.threat import ThreatModel
from robustscape.modes import evaluating
from robustscape.runtime.memory import Parts
from robustscape.runtime.settings import exact_products
from robustscape.types import Diverged, Params
from robustscape.weights.space import layer_norms, normalised

_RISEN = 0.75  # share of the steps between two looks that must raise the loss, as in APGD
_MOMENTUM = 0.75


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Some examples, and the network whose weights move: in eval mode, in its own precision, never written to.

    Attributes:
        model: The network.
        weights: The layers that move, w.
        x: (N, C, H, W), clean inputs.
        y: (N,), labels.
        threat: What the inputs may do; None where they stay.
        size: Examples of one forward, at least 1.
        parts: How many of them are worked through at once.
    """

    model: nn.Module
    weights: Params
    x: Tensor
    y: Tensor
    threat: ThreatModel | None
    size: int
    parts: Parts

    def rows(self, some: slice) -> Problem:
        """Return the same of some examples."""
        return replace(self, x=self.x[some], y=self.y[some])

    def look(self, v: Params, x_adv: Tensor) -> Look:
        """Return loss and gradients at w + v and x_adv: one forward and one backward pass on every example.

        Raises:
            Diverged: the loss is not finite.
        """
        leaves = {name: (w + v[name]).requires_grad_() for name, w in self.weights.items()}
        total = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        loss = torch.zeros((), dtype=torch.float64)
        slopes = []
        own = torch.autocast(self.x.device.type, enabled=False)
        with evaluating(self.model), exact_products(self.x.device), own, torch.enable_grad():
            for start in range(0, len(self.x), self.size):
                x, y = x_adv[start : start + self.size], self.y[start : start + self.size]
                for some, slope, weights in self.parts.each(lambda r, x=x, y=y: self._some(leaves, x[r], y[r]), len(x)):
                    loss += some
                    slopes.append(slope)
                    torch._foreach_add_(list(total.values()), weights)
        if not bool(torch.isfinite(loss)):
            raise Diverged("the loss is not finite at the weights that its own gradient leads to; a smaller xi?")
        torch._foreach_div_(list(total.values()), len(self.x))
        return Look(v=v, x_adv=x_adv, loss=float(loss) / len(self.x), weights=total, inputs=torch.cat(slopes))

    def _some(self, leaves: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        x = x.detach().requires_grad_(self.threat is not None)
        loss = F.cross_entropy(functional_call(self.model, leaves, (x,)), y, reduction="none").double().sum()
        wanted = [*leaves.values(), *([x] if self.threat is not None else [])]
        slopes = torch.autograd.grad(loss, wanted, materialize_grads=True)
        return loss.detach().cpu(), slopes[-1] if self.threat is not None else x.detach(), list(slopes[: len(leaves)])

    def stepped(self, here: Look, step: float) -> Tensor:
        """Return the inputs after a step of steepest ascent of a length in pixel units; as they are where they stay."""
        if self.threat is None:
            return here.x_adv
        return self.threat.project(here.x_adv + step * self.threat.steepest(here.inputs), self.x)


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Where a search is, and what it sees.

    Attributes:
        v: Moves of the weights.
        x_adv: (N, C, H, W), inputs.
        loss: Mean cross-entropy there, nats.
        weights: Its gradient with respect to v.
        inputs: (N, C, H, W), the gradient of each example's loss with respect to its input.
    """

    v: Params
    x_adv: Tensor
    loss: float
    weights: Params
    inputs: Tensor


def projected(v: Params, weights: Params, xi: float) -> Params:
    """Return v with each layer's L2 norm at most xi ||w_l||."""
    norms, lengths = layer_norms(weights), layer_norms(v)
    return {
        name: value * (xi * norms[name] / lengths[name].clamp(min=torch.finfo(value.dtype).tiny)).clamp(max=1)
        for name, value in v.items()
    }


def climbed(problem: Problem, v: Params, x_adv: Tensor, *, xi: float, steps: int, input_step: float) -> Look:
    """Return the best place that a joint ascent over weights and inputs met, steps + 1 forwards and backwards.

    The weights move as APGD does (Croce 2020, Algorithm 1): normalised steps of 2 xi at first, momentum, and at
    looks that come ever more often the step is halved, and the search goes back to its best place, if too few steps
    raised the loss or nothing was gained. The inputs take a step of steepest ascent each time, that shrinks along.
    A layer with zero gradient gets no step.

    Args:
        problem: Network and examples.
        v: Where the weights begin, in the ball.
        x_adv: Where the inputs begin.
        xi: Radius of each layer's ball relative to ||w_l||.
        steps: At least 1.
        input_step: Length of the first step of the inputs, pixel units.
    """
    here = best = problem.look(v, x_adv)
    before, size, risen = v, 2.0, 0
    window, seen, halved = max(int(0.22 * steps), 1), here.loss, True
    due = window
    for step in range(steps):
        to = _stepped(problem.weights, here, before, xi=xi, size=size, momentum=step > 0)
        before, last = here.v, here.loss
        here = problem.look(to, problem.stepped(here, input_step * size / 2))
        best = here if here.loss > best.loss else best
        risen, due = risen + (here.loss > last), due - 1
        if due == 0:
            stuck = not halved and seen >= best.loss
            halved = risen <= _RISEN * window or stuck
            if halved:
                size, here, before = size / 2, best, best.v
            window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            due, risen, seen = window, 0, best.loss
    return best


def _stepped(weights: Params, here: Look, before: Params, *, xi: float, size: float, momentum: bool) -> Params:
    """Return a projected normalised step of size * xi * ||w_l||, mixed with the last move."""
    direction = normalised(here.weights, weights, "layer")
    ahead = projected({name: v + size * xi * direction[name] for name, v in here.v.items()}, weights, xi)
    if not momentum:
        return ahead
    mixed = {
        name: v + _MOMENTUM * (ahead[name] - v) + (1 - _MOMENTUM) * (v - before[name]) for name, v in here.v.items()
    }
    return projected(mixed, weights, xi)


def published(
    problem: Problem,
    some: Sequence[slice],
    v: Params,
    x_adv: Tensor,
    *,
    xi: float,
    steps: int,
    step: float,
    input_step: float,
) -> tuple[Params, Tensor]:
    """Return where the joint ascent of the code of Stutz 2021 ends: steps of one length, the last iterate.

    In each of ``steps`` passes the weights move once for every group of examples, by its gradient alone, and the
    inputs of the group with them.

    Args:
        problem: Network and examples.
        some: The groups of examples.
        v: Where the weights begin.
        x_adv: Where the inputs begin.
        xi: Radius of each layer's ball relative to ||w_l||.
        steps: Passes over the groups.
        step: Length of a step of the weights relative to ||w_l||.
        input_step: Length of a step of the inputs, pixel units.
    """
    x_adv = x_adv.clone()
    for _ in range(steps):
        for rows in some:
            group = problem.rows(rows)
            here = group.look(v, x_adv[rows])
            direction = normalised(here.weights, problem.weights, "layer")
            v = projected({name: v[name] + step * direction[name] for name in v}, problem.weights, xi)
            x_adv[rows] = group.stepped(here, input_step)
    return v, x_adv
