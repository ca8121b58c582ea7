"""One training step: attack, find v, shift, backward, restore, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustscape.modes import InTrainMode, frozen_statistics, training
from robustscape.runtime import FastView, Lowered, PlainView, Runtime, fast, lowered
from robustscape.runtime.memory import Parts, Whole, checkpointed, undivided
from robustscape.runtime.ranks import mean_over_ranks, share, world
from robustscape.streams import Streams
from robustscape.training.settings import Training
from robustscape.types import Attack, Batch, Diverged, Loss, Objective, Params, WeightPerturbation
from robustscape.weights.space import gradient, norm, shifted

T = TypeVar("T")


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
        parts: How many examples are worked through at once.
        whole: Whether its forwards in train mode take a batch whole all the same: batch or running statistics.
        checkpointing: Whether its training forwards keep few activations.
    """

    model: nn.Module
    objective: Objective
    weights: WeightPerturbation | None
    settings: Training
    lowered: nn.Module
    view: FastView | PlainView
    parts: Parts
    whole: Whole
    checkpointing: bool


def method(
    model: nn.Module, objective: Objective, weights: WeightPerturbation | None, settings: Training, runtime: Runtime
) -> Method:
    """Return the method for a network that ``objective.prepare`` gave."""
    mine = share(settings.batch_size)
    rows = min(mine.stop - mine.start, runtime.micro_batch or settings.batch_size)  # of all batches but the last
    return Method(
        model=model,
        objective=objective,
        weights=weights,
        settings=settings,
        # What is checkpointed has other forwards at every step: nothing to compile.
        lowered=Lowered(model, runtime) if runtime.checkpointing else lowered(model, runtime, rows=rows),
        view=fast(model, runtime, rows=rows),
        parts=Parts(runtime.micro_batch) if runtime.micro_batch else Parts(),
        whole=Whole(model),
        checkpointing=runtime.checkpointing,
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

    def value(self) -> Tensor:
        """Return the mean loss at the present weights, a scalar."""
        model = self.how.model
        with torch.no_grad(), training(model), frozen_statistics(model):
            shares = _losses(self.how, self.batch, self.x_adv, lambda loss, share: share * loss.total)
            return mean_over_ranks([torch.stack(list(shares)).sum()], self.weight)[0]

    def gradient(self, names: Sequence[str]) -> Params:
        """Return its gradient at the present weights."""
        model = self.how.model
        slopes: Params = {}

        def slope_of(loss: Loss, share: float) -> Params:
            return gradient(share * loss.total, model, names)

        with training(model), frozen_statistics(model):
            for slope in _losses(self.how, self.batch, self.x_adv, slope_of):
                slopes = {name: slopes[name] + value if slopes else value for name, value in slope.items()}
        return dict(zip(slopes, mean_over_ranks(list(slopes.values()), self.weight), strict=True))

    def refresh(self) -> None:
        """Attack again at the present weights."""
        if self.attack is not None:
            self.refreshed += 1
            self.x_adv = attacked(self.how, self.batch, self.attack, self.rng.tag("refresh", self.refreshed))


def attacked(how: Method, batch: Batch, attack: Attack, rng: Streams) -> Tensor:
    """Return adversarial inputs at the present weights, in the mode that the settings ask for."""
    n = len(batch)

    def some(model: nn.Module, rows: slice) -> Tensor:
        return attack(model, batch.x[rows], batch.y[rows], rng=rng.of(batch.index[rows]))

    if how.settings.attack_mode == "eval":
        with how.view as view:
            return how.parts.run(lambda rows: some(view, rows), n)
    model = InTrainMode(how.lowered, how.settings.attack_statistics)
    with checkpointed(how.model) if how.checkpointing else nullcontext():
        if how.whole(batch.x):
            with undivided(n, checkpointing=how.checkpointing):
                return some(model, slice(n))
        return how.parts.run(lambda rows: some(model, rows), n)


def _losses(how: Method, batch: Batch, x_adv: Tensor, work: Callable[[Loss, float], T]) -> Iterable[T]:
    """Give what ``work`` makes of the loss of each part of a batch and of the part's share of the examples.

    So much is worked through at once as fits, which a loss or graph that ``work`` lets go of frees.
    """

    def one(rows: slice) -> T:
        part = _rows(batch, rows)
        with checkpointed(how.model) if how.checkpointing else nullcontext():
            return work(how.objective(how.lowered, part, x_adv[rows]), len(part) / len(batch))

    if not how.whole(batch.x):
        return how.parts.each(one, len(batch))
    with undivided(len(batch), checkpointing=how.checkpointing):
        return [one(slice(len(batch)))]


def _descended(how: Method, batch: Batch, x_adv: Tensor) -> Loss:
    """Leave the gradient of the loss of a batch in the weights' ``.grad``; returns the loss, without its graph."""
    slopes: Params = {}
    sums: dict[str, Tensor] = {}

    def add(loss: Loss, share: float) -> None:
        how.model.zero_grad(set_to_none=True)  # of a part that ran out of memory half way
        (share * loss.total).backward()
        for name, parameter in how.model.named_parameters():
            if parameter.grad is not None:
                slopes[name] = slopes[name].add_(parameter.grad) if name in slopes else parameter.grad
        for name, part in {**loss.parts, "total": loss.total}.items():
            sums[name] = sums.get(name, 0) + share * part.detach()

    for _ in _losses(how, batch, x_adv, add):
        pass
    for name, parameter in how.model.named_parameters():
        parameter.grad = slopes.get(name)
    return Loss(total=sums.pop("total"), parts=sums)


def step(
    how: Method,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    done: int,
    total: int,
    seed: int,
    *,
    x_adv: Tensor | None = None,
) -> StepLog:
    """Take step number ``done`` (from 0) of ``total``: changes weights, optimiser state and running statistics.

    Every rank is given the same batch and the same weights. It works on its share of the batch, BatchNorm by the
    statistics of that share, and has the same weights, running statistics and log as all others afterwards.

    Args:
        how: The method.
        optimizer: Over the parameters of ``how.model``.
        batch: The step's examples.
        done: Steps taken so far.
        total: Steps of the whole training.
        seed: Seed of every random number.
        x_adv: Adversarial inputs of the batch at the present weights, made by somebody else with this step's random
            numbers; None to make them here.

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
    eps, rng = None, Streams(seed=seed, tags=("train", done), index=batch.index)
    if attack is not None:
        eps = attack.threat.eps * settings.eps(done, total)
        attack = attack.at(eps)
        x_adv = attacked(how, batch, attack, rng) if x_adv is None else x_adv
    x_adv = batch.x if x_adv is None else x_adv
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
        outcome = _descended(how, batch, x_adv)
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
    return _rows(batch, rows), weight


def _rows(batch: Batch, rows: slice) -> Batch:
    return replace(batch, **{name: value[rows] for name, value in vars(batch).items() if value is not None})


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
