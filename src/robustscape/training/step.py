"""One training step: attack, find v, shift, backward, restore, step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.evaluation.judging import predicted
from robustscape.modes import frozen_statistics
from robustscape.runtime.ranks import mean_over_ranks, rank, world
from robustscape.streams import Streams, torch_draws
from robustscape.training.batch_loss import BatchLoss, attacked, foremost, losses, share_of
from robustscape.training.clean_pass import moving, pass_clean
from robustscape.training.method import Method
from robustscape.training.rates import learning_rate, radius
from robustscape.training.regularising import clip_gradient, clip_weights, penalised
from robustscape.training.settings import Training
from robustscape.types import (
    BadInput,
    Batch,
    Batches,
    Diverged,
    Exploring,
    Loss,
    Objective,
    Params,
    Selective,
    Staged,
    WeightPerturbation,
)
from robustscape.weights.space import norm, shifted


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """What one step did: learning rate, eps (None without attack), loss by part in nats, gradient norm.

    ``robust_error`` is the share of its inputs, as attacked for it, that the network misclassified before it; None for
    steps that are not tracked one by one.
    """

    lr: float
    eps: float | None
    loss: dict[str, float]
    gradient_norm: float
    robust_error: float | None = None


_COUNTED: dict[str, Literal["none", "first", "every"]] = {"w+v": "none", "w": "first", "every": "every", "eval": "none"}
"""Which evaluations of the loss in the search for v move the running statistics."""


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

    for _ in losses(how, batch, x_adv, add):
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
        BadInput: mixed images under an objective that cannot attack them.
        Diverged: a part of the loss or the gradient is not finite; the weights are as before the step.
    """
    with network_draws(batch.x.device, "step", done, seed=seed):
        log, v = _sloped(how, optimizer, batch, done, total, seed, x_adv)
        _moved(how, optimizer, log.lr, v)
        pass_clean(how, batch)
    return log


def network_draws(device: torch.device, *what: str | int, seed: int) -> AbstractContextManager[None]:
    """Let what a network draws from torch in the block, as dropout does, follow from the seed.

    Args:
        device: Where the network is.
        what: What the network is used for, and at which step, where this is to draw other numbers than the last one:
            all epochs are tracked with the same. Ranks draw different ones.
        seed: Of every random number.
    """
    return torch_draws(Streams(seed, ("network", rank(), *what)).torch_seed(), device)


def long_step(
    how: Method, optimizer: torch.optim.Optimizer, batches: Sequence[Batch], done: int, total: int, seed: int
) -> StepLog:
    """Take a step on several batches: the optimiser walks around the weights by each, then steps (``Exploring``).

    Each batch is attacked, perturbed and descended as in ``step``, at the weights that the walk has come to.

    Args:
        how: The method, its optimiser one that explores.
        optimizer: What that built over the parameters of ``how.model``.
        batches: The step's batches, at least one.
        done: Batches used so far.
        total: Batches of the whole training.
        seed: Seed of every random number.

    Returns:
        What it did: loss and gradient norm as means over the batches, eps of the last one.

    Raises:
        Diverged: a part of the loss or the gradient is not finite; the weights are as before the step.
    """
    exploring = how.settings.optimizer
    assert isinstance(exploring, Exploring), "this optimiser takes one batch a step"
    rng = Streams(seed=seed, tags=("walk", done))
    logs: list[StepLog] = []
    with network_draws(batches[0].x.device, "step", done, seed=seed):
        with exploring.walking(how.model, optimizer, steps=done / exploring.batches, rng=rng) as move:
            for number, batch in enumerate(batches):
                log, v = _sloped(how, optimizer, batch, done + number, total, seed, None)
                _decay_there(optimizer, how.model, v, beside=False)
                logs.append(log)
                move()
        _moved(how, optimizer, logs[0].lr, {})
        pass_clean(how, batches[-1])
    errors = [log.robust_error for log in logs if log.robust_error is not None]
    return StepLog(
        lr=logs[0].lr,
        eps=logs[-1].eps,
        robust_error=sum(errors) / len(errors) if errors else None,
        loss={name: sum(log.loss[name] for log in logs) / len(logs) for name in logs[0].loss},
        gradient_norm=sum(log.gradient_norm for log in logs) / len(logs),
    )


def _sloped(
    how: Method,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    done: int,
    total: int,
    seed: int,
    x_adv: Tensor | None,
) -> tuple[StepLog, Params]:
    """Leave the gradient in ``.grad``; returns what the step does, and v where weight decay reads w + v."""
    settings, model = how.settings, how.model
    _check_labels(how.objective, batch)
    batch, weight = share_of(batch)
    buffers = [(buffer, buffer.clone()) for buffer in moving(model)] if world() > 1 else []
    attack = how.objective.attack
    eps, rng = None, Streams(seed=seed, tags=("train", done), index=batch.index)
    if isinstance(how.objective, Staged):
        batch, attack = how.objective.stage(batch, rng, done, total)
        rng, x_adv = rng.of(batch.index), None
    if attack is not None:
        eps = radius(settings, attack.threat.eps, done, total)
        attack = attack.at(eps)
        x_adv = attacked(how, batch, attack, rng) if x_adv is None else x_adv
    x_adv = batch.x if x_adv is None else x_adv
    error = _error(how, batch, x_adv, weight) if is_tracked(settings, done, total) else None
    v: Params = {}
    moved_at_w = False
    if how.weights is not None and done >= round(how.weights.warmup * total / settings.epochs):
        of = how.weights.statistics
        mode: Literal["train", "eval"] = "eval" if of == "eval" else "train"
        loss = BatchLoss(how, batch, x_adv, attack, rng, weight=weight, counted=_COUNTED[of], mode=mode)
        v = _found(how.weights, loss, Streams(seed=seed, tags=("weights", done)))
        x_adv, moved_at_w = loss.x_adv, of in ("w", "eval")
    model.train()
    optimizer.zero_grad(set_to_none=True)
    with shifted(model, v) if v else nullcontext(), frozen_statistics(model) if moved_at_w else nullcontext():
        outcome = _descended(how, batch, x_adv)
    outcome = _averaged(outcome, model, buffers, weight)
    if terms := penalised(model, settings):
        outcome = Loss(total=outcome.total + sum(terms.values()), parts=outcome.parts | terms)
    gradient_norm = _norm_of_gradients(model)
    logged = _finite(outcome, gradient_norm)
    clip_gradient(model, settings)
    lr = learning_rate(settings, done, total)
    log = StepLog(lr=lr, eps=eps, loss=logged, gradient_norm=float(gradient_norm), robust_error=error)
    return log, v if how.weights is not None and how.weights.decay_at == "w+v" else {}


def _found(weights: WeightPerturbation, loss: BatchLoss, rng: Streams) -> Params:
    """Return v of the parameters that are trained; where running statistics are of a forward at w, it is made."""
    model, of = loss.how.model, weights.statistics
    found = weights(model, loss, rng=rng)
    if of == "eval" or (of == "w" and not loss.evaluated):
        BatchLoss(loss.how, loss.batch, loss.x_adv, None, loss.rng, weight=loss.weight, counted="every").value()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    v = {name: value for name, value in found.items() if name in trained}
    if v and not math.isfinite(float(norm(v))):
        raise Diverged("the weight perturbation became NaN: the gradient that it follows is not finite")
    return v


def is_tracked(settings: Training, done: int, total: int) -> bool:
    """Return whether the step is tracked by itself that the batch after ``done`` of ``total`` belongs to."""
    taken, epoch = batches_of_a_step(settings), max(1, total // settings.epochs)
    each = -(-epoch // taken)  # steps of an epoch
    step = done // epoch * each + done % epoch // taken
    return step < settings.track_first or step >= settings.epochs * each - settings.track_last


def batches_of_a_step(settings: Training) -> int:
    """Return how many batches a step takes; an epoch's last one has those that are left."""
    return settings.optimizer.batches if isinstance(settings.optimizer, Exploring) else 1


def check_walk(settings: Training, batches: Batches) -> None:
    """Refuse a step on more batches than an epoch has: none would ever be whole.

    Raises:
        BadInput: it is such a one.
    """
    each = batches_of_a_step(settings)
    if each > len(batches):
        raise BadInput(
            f"a step of {type(settings.optimizer).__name__} takes {each} batches, and an epoch has {len(batches)}, so "
            "every step would be cut short; lower training.optimizer.steps or training.batch_size"
        )


def _error(how: Method, batch: Batch, x_adv: Tensor, weight: int) -> float:
    """Return the share of adversarial inputs that are misclassified at the present weights, in eval mode."""
    network = vars(how.model).get("without_heads", how.model)
    wrong = predicted(network, x_adv, how.parts).argmax(dim=1) != foremost(batch)
    wrong = wrong[batch.y >= 0]  # the labels of further heads are negative
    return float(mean_over_ranks([wrong.float().mean()], weight)[0])


def _moved(how: Method, optimizer: torch.optim.Optimizer, lr: float, v: Params) -> None:
    """Step by ``.grad``, at a learning rate; weight decay reads w + v."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    _decay_there(optimizer, how.model, v, beside=False)
    optimizer.step()
    _decay_there(optimizer, how.model, v, beside=True)
    clip_weights(how.model, how.settings)


def _check_labels(objective: Objective, batch: Batch) -> None:
    """Refuse mixed images under an objective that would attack them by one label."""
    if batch.mixed is not None and isinstance(objective, Selective) and objective.takes != "mixed":
        raise BadInput(
            f"{type(objective).__name__}, as it is set, cannot attack images that are mixed; leave mixup out, or did "
            "you mean AT or TRADES?"
        )


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


@torch.no_grad()
def _decay_there(optimizer: torch.optim.Optimizer, model: nn.Module, v: Params, *, beside: bool) -> None:
    """Let weight decay read w + v where it is in the gradient; or, of a step that is done, beside it, as AdamW's."""
    names = {id(parameter): name for name, parameter in model.named_parameters()} if v else {}
    for group in optimizer.param_groups:
        if bool(group.get("decoupled_weight_decay")) != beside:
            continue
        for parameter in group["params"]:
            value = v.get(names.get(id(parameter), ""))
            if value is None or parameter.grad is None:
                continue
            if beside:
                parameter.sub_(value, alpha=group["lr"] * group["weight_decay"])
            else:
                parameter.grad.add_(value, alpha=group["weight_decay"])
