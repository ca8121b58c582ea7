"""Bezier curves between two networks in weight space: points, speed, training, BatchNorm along them.

A network is a ``Params`` that holds its floating-point buffers too. A curve is its n + 1 control points, the two
ends included; buffers of the inner ones stay on the segment between the ends, so they are interpolated linearly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from robustscape.landscape.alignment import Placed
from robustscape.modes import evaluating, frozen_statistics, training
from robustscape.runtime.settings import exact_products
from robustscape.streams import Streams
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.types import Attack, BadInput, Batch, Diverged, Params, Schedule
from robustscape.weights.space import norm, shifted

Statistics = Literal["re_estimate", "interpolate"]
"""BatchNorm's statistics on a curve: estimated anew on clean images at every point, or on the line between the ends'
own."""


@dataclass(frozen=True, kw_only=True)
class CurveTraining:
    """How the inner control points are trained; the defaults but for epochs are those of Liu 2020, appendix C.2.5.

    Attributes:
        epochs: Passes over the training examples, at least 1; Liu's 200.
        batch_size: Examples per step, and per estimate of BatchNorm's statistics.
        lr: Learning rate of SGD, above 0.
        schedule: Multiplies the learning rate.
        momentum: Of SGD, in [0, 1).
        l2: Coefficient of half the squared norm of the weights at the curve's point, at least 0.
    """

    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.1
    schedule: Schedule = field(default_factory=Piecewise)
    momentum: float = 0.9
    l2: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} of a curve's training must be at least 1, not {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise BadInput(f"lr of a curve's training must be above 0, not {self.lr:g}")
        if not 0 <= self.momentum < 1:
            raise BadInput(f"momentum of a curve's training must be in [0, 1), not {self.momentum:g}")
        if not 0 <= self.l2 < math.inf:
            raise BadInput(f"l2 of a curve's training must be at least 0, not {self.l2:g}")


# -- geometry ------------------------------------------------------------------------------------------


def bernstein(order: int, t: float) -> list[float]:
    """Return the weights C(n, i) (1 - t)^(n - i) t^i of the order + 1 control points at t in [0, 1]; their sum is 1."""
    return [math.comb(order, i) * (1 - t) ** (order - i) * t**i for i in range(order + 1)]


def segment(start: Params, end: Params, order: int) -> list[Params]:
    """Return the order + 1 control points that are evenly spaced from start to end: the straight line."""
    inner = [
        {name: value + (end[name] - value) * (i / order) for name, value in start.items()} for i in range(1, order)
    ]
    return [start, *inner, end]


def point(controls: Sequence[Params], t: float) -> Params:
    """Return the curve's point B(t), the sum of the control points by their ``bernstein`` weights; exact at 0 and 1."""
    if t in (0.0, 1.0):
        return dict(controls[0 if t == 0 else -1])
    made: Params = {}
    for weight, control in zip(bernstein(len(controls) - 1, t), controls, strict=True):
        for name, value in control.items():
            made[name] = made[name] + weight * value if name in made else weight * value
    return made


def speed(controls: Sequence[Params], ts: Sequence[float], names: Sequence[str]) -> list[float]:
    """Return the L2 norm of B'(t) over the named parameters at some t: what arc length is the integral of."""
    steps = [{n: after[n] - before[n] for n in names} for before, after in pairwise(controls)]
    order = len(steps)
    return [order * float(norm(point(steps, t))) for t in ts]


# -- networks on the curve -------------------------------------------------------------------------------


@contextmanager
def placed(model: nn.Module, state: Params) -> Iterator[None]:
    """Run the block with a network's parameters and buffers in the model; it gets its old bits back, on error too."""
    parameters = dict(model.named_parameters())
    back = {name: -value.detach() for name, value in parameters.items()}
    there = {name: state[name] for name in parameters}
    # By way of 0, where adding does not round.
    with shifted(model, back), shifted(model, there), frozen_statistics(model):
        for name, buffer in model.named_buffers():
            if name in state:
                buffer.data.copy_(state[name])
        yield


def normalisations(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm modules that keep running statistics."""
    found = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return [m for m in found if m.running_mean is not None and m.running_var is not None]


def estimated(model: nn.Module, state: Params, x: Tensor, batch_size: int) -> Params:
    """Return a network with BatchNorm's statistics estimated on clean images; all else is as it was.

    The means over batches of the batches' means and variances, weighted by their sizes, in one pass in which
    BatchNorm is in train mode and everything else in eval mode. The model itself is left without a trace.

    Args:
        model: Whose architecture it is.
        state: The network.
        x: (N, C, H, W), clean images.
        batch_size: Examples per forward at most; batches are as equal in size as can be.
    """
    found = normalisations(model)
    if not found:
        return state
    made = {name: value.clone() for name, value in _whole(model, state).items()}
    momenta, seen = [m.momentum for m in found], 0
    try:
        with torch.no_grad(), _counting(model, found), _exact(x):
            for part in x.tensor_split(-(-len(x) // batch_size)):
                seen += len(part)
                for m in found:
                    m.momentum = len(part) / seen
                functional_call(model, made, (part,))
    finally:
        for m, momentum in zip(found, momenta, strict=True):
            m.momentum = momentum
    return {name: made[name] for name in state}


def _whole(model: nn.Module, state: Params) -> Params:
    """Return the network with copies of the buffers that it does not hold: counters, above all."""
    return {name: b.detach().clone() for name, b in model.named_buffers() if name not in state} | state


@contextmanager
def _counting(model: nn.Module, found: Sequence[_BatchNorm]) -> Iterator[None]:
    """Run the block with the given BatchNorm modules in train mode and all else in eval mode."""
    with evaluating(model), ExitStack() as stack:
        for module in found:
            stack.enter_context(training(module))
        yield


@contextmanager
def _exact(x: Tensor) -> Iterator[None]:
    with exact_products(x.device), torch.autocast(x.device.type, enabled=False):
        yield


# -- training --------------------------------------------------------------------------------------------


def train_curve(
    model: nn.Module,
    controls: Sequence[Params],
    examples: Batch,
    *,
    settings: CurveTraining,
    attack: Attack | None,
    statistics: Statistics,
    rng: Streams,
) -> list[Params]:
    """Train the inner control points of a Bezier curve: minimise E over t ~ U(0, 1) of L(B(t)), one t a step.

    Garipov 2018 (https://arxiv.org/abs/1802.10026, section 3.3) for the clean loss, Liu 2020
    (https://arxiv.org/abs/2006.08403, appendix C.2.5) for the robust one.

    A step under "re_estimate": BatchNorm's statistics of the batch's clean images at B(t), the attack in eval mode
    with these, the loss of what it found with its batch's own. Under "interpolate" all is in eval mode. Dropout
    is in eval mode always.

    Args:
        model: Whose architecture it is; its own weights play no part, and it is left without a trace.
        controls: The curve to start from, at least two points, the ends included: see ``segment``.
        examples: What is trained on.
        settings: How.
        attack: The inner maximisation; None to minimise the clean loss.
        statistics: What BatchNorm normalises by.
        rng: Streams without an index: of the times, the order and the attack.

    Returns:
        The control points of the trained curve; the ends are the ones that were given.

    Raises:
        Diverged: a loss is not finite.
    """
    n, order = len(examples), len(controls) - 1
    if order < 2:
        return list(controls)
    inner = [{name: value.clone() for name, value in control.items()} for control in controls[1:-1]]
    curve = [controls[0], *inner, controls[-1]]
    names = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD([c[name] for c in inner for name in names], lr=settings.lr, momentum=settings.momentum)
    batches = -(-n // settings.batch_size)
    total = settings.epochs * batches
    rows: Sequence[Tensor] = ()
    for done in range(total):
        epoch, batch = divmod(done, batches)
        if batch == 0:
            rows = rng.tag("order", epoch).order(n).to(examples.x.device).tensor_split(batches)
        t = float(rng.tag("t", done).uniform())
        x, y, index = (part[rows[batch]] for part in (examples.x, examples.y, examples.index))
        some = Batch(x=x, y=y, index=index)
        here = point(curve, t)
        slope = _slope(model, here, some, attack, statistics, rng.tag("attack", done).of(index), done)
        for weight, control in zip(bernstein(order, t)[1:-1], inner, strict=True):
            for name, g in slope.items():
                control[name].grad = weight * (g + settings.l2 * here[name])
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * settings.schedule(done, total)
        optimizer.step()
    return [{name: value.detach() for name, value in control.items()} for control in curve]


def _slope(
    model: nn.Module,
    state: Params,
    batch: Batch,
    attack: Attack | None,
    statistics: Statistics,
    rng: Streams,
    step: int,
) -> Params:
    """Return the gradient of the loss at a network with respect to its parameters."""
    norms = normalisations(model) if statistics == "re_estimate" else []
    if norms:
        state = estimated(model, state, batch.x, len(batch))
    x = batch.x
    with _exact(x):
        if attack is not None:
            x = attack(Placed(model, state), x, batch.y, rng=rng)
        leaves = {name: state[name].detach().requires_grad_() for name, _ in model.named_parameters()}
        with torch.enable_grad(), _counting(model, norms):
            logits = functional_call(model, {**_whole(model, state), **leaves}, (x,))
            loss = F.cross_entropy(logits, batch.y)
            found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    if not math.isfinite(float(loss.detach())):
        raise Diverged(f"the loss on the curve became {float(loss.detach())} in step {step}; a smaller lr?")
    return dict(zip(leaves, found, strict=True))
