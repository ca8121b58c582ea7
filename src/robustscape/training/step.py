"""One training step: attack, find v, shift, backward, restore, step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustscape.modes import InTrainMode, frozen_statistics, training
from robustscape.runtime import FastView, Lowered, PlainView, Runtime, fast
from robustscape.runtime.ranks import mean_over_ranks, share, world
from robustscape.streams import Streams
from robustscape.training.settings import Training
from robustscape.types import Attack, Batch, Diverged, Loss, Objective, Params, WeightPerturbation
from robustscape.weights.space import gradient, norm, shifted


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a step does, with the network it does it to.

    Attributes:
        model: The network that is trained, as ``objective.prepare`` gave it.
        objective: What is minimised.
        weights: Weight perturbation, or None.
        settings: The training's settings.
        lowered: The network in the runtime's precision, sharing its weights: trains.
        view: Its fast view: is attacked.
    """

    model: nn.Module
    objective: Objective
    weights: WeightPerturbation | None
    settings: Training
    lowered: nn.Module
    view: FastView | PlainView


def method(
    model: nn.Module, objective: Objective, weights: WeightPerturbation | None, settings: Training, runtime: Runtime
) -> Method:
    """Return the method for a network that ``objective.prepare`` gave."""
    return Method(
        model=model,
        objective=objective,
        weights=weights,
        settings=settings,
        lowered=Lowered(model, runtime),
        view=fast(model, runtime),
    )


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """What one step did: learning rate, eps (None without attack), loss by part in nats, gradient norm."""

    lr: float
    eps: float | None
    loss: dict[str, float]
    gradient_norm: float


class BatchLoss:
    """The objective over one batch as a function of the weights: a ``WeightLoss``.

    Forwards run in train mode, as training's own; what they do to running statistics is taken back. Of several
    ranks each is given its share of the batch, and all get the means over the whole, the same bits.

    Args:
        how: The method.
        batch: The examples.
        x_adv: Their adversarial inputs.
        attack: What makes them anew, None for nothing.
        rng: Random numbers of that.
        weight: How many examples this rank's means count as; None for as many as there are.
    """

    def __init__(
        self,
        how: Method,
        batch: Batch,
        x_adv: Tensor,
        attack: Attack | None,
        rng: Streams,
        *,
        weight: int | None = None,
    ) -> None:
        self.how = how
        self.batch = batch
        self.weight = len(batch) if weight is None else weight
        self.x_adv = x_adv
        self.attack = attack
        self.rng = rng
        self.refreshed = 0

    def _loss(self) -> Tensor:
        return self.how.objective(self.how.lowered, self.batch, self.x_adv).total

    def value(self) -> Tensor:
        """Return the mean loss at the present weights, a scalar."""
        with torch.no_grad(), training(self.how.model), frozen_statistics(self.how.model):
            return mean_over_ranks([self._loss()], self.weight)[0]

    def gradient(self, names: Sequence[str]) -> Params:
        """Return its gradient at the present weights."""
        with training(self.how.model), frozen_statistics(self.how.model):
            slopes = gradient(self._loss(), self.how.model, names)
        return dict(zip(slopes, mean_over_ranks(list(slopes.values()), self.weight), strict=True))

    def refresh(self) -> None:
        """Attack again at the present weights."""
        if self.attack is not None:
            self.refreshed += 1
            self.x_adv = attacked(self.how, self.batch, self.attack, self.rng.tag("refresh", self.refreshed))


def attacked(how: Method, batch: Batch, attack: Attack, rng: Streams) -> Tensor:
    """Return adversarial inputs at the present weights, in the mode that the settings ask for."""
    if how.settings.attack_mode == "train":
        return attack(InTrainMode(how.lowered, how.settings.attack_statistics), batch.x, batch.y, rng=rng)
    with how.view as model:
        return attack(model, batch.x, batch.y, rng=rng)


def step(how: Method, optimizer: torch.optim.Optimizer, batch: Batch, done: int, total: int, seed: int) -> StepLog:
    """Take step number ``done`` (from 0) of ``total``: changes weights, optimiser state and running statistics.

    Every rank is given the same batch and the same weights. It works on its share of the batch, BatchNorm by the
    statistics of that share, and has the same weights, running statistics and log as all others afterwards.

    Returns:
        What it did.

    Raises:
        Diverged: a part of the loss or the gradient is not finite; the weights are as before the step.
    """
    settings, model = how.settings, how.model
    batch, weight = _share(batch)
    buffers = [(buffer, buffer.clone()) for buffer in _moving(model)] if world() > 1 else []
    lr = settings.optimizer.lr * settings.lr(done, total)
    attack = how.objective.attack
    x_adv, eps, rng = batch.x, None, Streams(seed=seed, tags=("train", done), index=batch.index)
    if attack is not None:
        eps = attack.threat.eps * settings.eps(done, total)
        attack = attack.at(eps)
        x_adv = attacked(how, batch, attack, rng)
    v: Params = {}
    if how.weights is not None and done >= round(how.weights.warmup * total / settings.epochs):
        loss = BatchLoss(how, batch, x_adv, attack, rng, weight=weight)
        v = how.weights(model, loss, rng=Streams(seed=seed, tags=("weights", done)))
        x_adv = loss.x_adv
        if v and not math.isfinite(float(norm(v))):
            raise Diverged("the weight perturbation became NaN: the gradient that it follows is not finite")
    model.train()
    optimizer.zero_grad(set_to_none=True)
    with shifted(model, v) if v else nullcontext():
        outcome = how.objective(how.lowered, batch, x_adv)
        outcome.total.backward()
    outcome = _averaged(outcome, model, buffers, weight)
    gradient_norm = _norm_of_gradients(model)
    logged = _finite(outcome, gradient_norm)
    if v and how.weights is not None and how.weights.decay_at == "w+v":
        _decay_there(optimizer, model, v)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return StepLog(lr=lr, eps=eps, loss=logged, gradient_norm=float(gradient_norm))


def _share(batch: Batch) -> tuple[Batch, int]:
    """Return this rank's share of a batch and its number of examples; without one, another's example counts 0."""
    if world() == 1:
        return batch, len(batch)
    rows = share(len(batch))
    weight = rows.stop - rows.start
    rows = rows if weight else slice(0, 1)
    parts = {name: value[rows] for name, value in vars(batch).items() if value is not None}
    return replace(batch, **parts), weight


def _moving(model: nn.Module) -> list[Tensor]:
    """Return the buffers that a forward may move differently on every rank."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def _averaged(outcome: Loss, model: nn.Module, before: Sequence[tuple[Tensor, Tensor]], weight: int) -> Loss:
    """Average gradients, loss and what the step did to the buffers over the ranks; returns the averaged loss."""
    if world() == 1:
        return outcome
    slopes = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    moves = [buffer - old for buffer, old in before]
    named = {**outcome.parts, "total": outcome.total}
    means = mean_over_ranks([*slopes, *moves, *named.values()], weight)
    with torch.no_grad():
        for slope, mean in zip(slopes, means, strict=False):
            slope.copy_(mean)
        for (buffer, old), mean in zip(before, means[len(slopes) :], strict=False):
            buffer.copy_(old + mean)  # what has not moved keeps its bits
    parts = dict(zip(named, means[len(slopes) + len(moves) :], strict=True))
    return Loss(total=parts.pop("total"), parts=parts)


def _norm_of_gradients(model: nn.Module) -> Tensor:
    return norm({name: p.grad for name, p in model.named_parameters() if p.grad is not None})


def _finite(loss: Loss, gradient_norm: Tensor) -> dict[str, float]:
    """Return the loss by part as numbers; refuse what is not finite, naming the part that went first."""
    logged = {name: float(part.detach()) for name, part in {**loss.parts, "total": loss.total}.items()}
    for name, value in logged.items():
        if not math.isfinite(value):
            raise Diverged(f"the loss's part {name!r} became {value}")
    if not math.isfinite(float(gradient_norm)):
        raise Diverged(f"the gradient's norm became {float(gradient_norm)}, while the loss is {logged['total']:.4g}")
    return logged


def _decay_there(optimizer: torch.optim.Optimizer, model: nn.Module, v: Params) -> None:
    """Let weight decay read the weights at w + v: add its coefficient times v to the gradient at w."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if name in v and parameter.grad is not None:
                parameter.grad.add_(v[name], alpha=group["weight_decay"])
