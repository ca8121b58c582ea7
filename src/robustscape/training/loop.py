"""The training loop: a generator of steps and epochs. Whoever iterates logs, evaluates, checkpoints, measures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor, nn

from robustscape.runtime import FastView, PlainView, Runtime, fast
from robustscape.training.averaging import (
    average_of,
    estimate_statistics,
    normalisations,
    take_into_average,
    update_average,
)
from robustscape.training.guards import noticed
from robustscape.training.log import EpochLog, Tracked, TrackedStep
from robustscape.training.method import Method, method
from robustscape.training.regularising import check_clipping
from robustscape.training.settings import Training
from robustscape.training.step import StepLog, batches_of_a_step, is_tracked, long_step, network_draws, step
from robustscape.training.stopping import Score, check_choice, check_score, chosen_by, impatience, score_of
from robustscape.training.tracking import track
from robustscape.types import (
    Attack,
    BadInput,
    Batch,
    Batches,
    Diverged,
    Exploring,
    Images,
    Objective,
    Params,
    WeightPerturbation,
)
from robustscape.weights.space import copied, norm, select


@dataclass
class State:
    """All that a training changes: with it saved, it goes on to the same bits.

    Attributes:
        model: The network that is trained.
        optimizer: Its optimiser.
        average: The averaged network, None without averaging.
        initial: The parameters at the start.
        done: Batches used: steps taken, unless the optimiser takes several a step.
        epoch: Epochs ended, tracked and logged.
        examples: Training examples seen in the present epoch.
        seconds: Wall-clock seconds of the present epoch's steps.
        sums: Sums over the present epoch's steps of what its line reports as means.
        best: Best selection score so far, minus infinity before the first.
        best_on_test: The same on the test set; chooses nothing but the checkpoint of that name.
        best_epoch: The epoch that it is of, 0 before the first.
        stopped: Why the training has ended before its time, "" where it has not.
        steps: What is logged of the present epoch's steps one by one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    initial: Params
    done: int = 0
    epoch: int = 0
    examples: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    best: float = -math.inf
    best_on_test: float = -math.inf
    best_epoch: int = 0
    stopped: str = ""
    steps: list[TrackedStep] = field(default_factory=list)

    @property
    def kept(self) -> nn.Module:
        """The network that is tracked, chosen and kept: the averaged one where there is one, without further heads."""
        network = self.model if self.average is None else self.average
        return vars(network).get("without_heads", network)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step is done: ``done`` of ``total`` batches, in epoch ``epoch`` (from 1); ``log`` says what it did."""

    epoch: int
    done: int
    total: int
    log: StepLog


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch is done; ``log`` is its line. ``best_on_test``: no epoch before it was better on test."""

    log: EpochLog
    best_on_test: bool


def start(model: nn.Module, objective: Objective, settings: Training) -> State:
    """Return the state before the first step. The model is trained in place, as ``objective.prepare`` gives it.

    Raises:
        BadInput: the settings do not fit the network or the objective.
    """
    trained = objective.prepare(model)
    if settings.statistics in ("clean", "adversarial") and not normalisations(trained):
        raise BadInput(
            f"training.statistics is {settings.statistics!r}, but the network has no BatchNorm to estimate them for; "
            "leave it out"
        )
    if settings.statistics == "adversarial" and objective.attack is None:
        raise BadInput("training.statistics is 'adversarial', but the objective has no attack; did you mean clean?")
    check_choice(settings, objective)
    check_clipping(trained, settings)
    return State(
        model=trained,
        optimizer=settings.optimizer.build(trained),
        average=None if settings.ema is None and settings.swa_start is None else average_of(trained),
        initial=copied(select(trained, "all")),
    )


def fit(
    state: State,
    batches: Batches,
    *,
    objective: Objective,
    weights: WeightPerturbation | None,
    settings: Training,
    runtime: Runtime,
    seed: int,
    tracked: Mapping[str, Images],
    score: Score | None = None,
) -> Iterator[Step | Epoch]:
    """Train, going on from ``state``, which is changed; give every step and every epoch as it is done.

    Between two items nothing is held: weights, modes and state may be read, saved and measured.

    Args:
        state: From ``start``, or loaded.
        batches: The training examples.
        objective: What is minimised.
        weights: Weight perturbation under every step, or None.
        settings: The training's settings.
        runtime: How to use the machine.
        seed: Seed of every random number.
        tracked: Set name to images; "validation" chooses the best epoch, "test" only ``best_on_test``.
        score: What the best epoch has most of, of the network that is kept, where ``settings.scored``.

    Raises:
        BadInput: the settings ask for a score and there is none.
        Diverged: a number that must be finite is not: says the epoch, the step and the part of the loss.
    """
    check_score(settings, score)
    how = method(state.model, objective, weights, settings, runtime)
    view = view_of_kept(state, how, runtime)
    total = settings.epochs * len(batches)
    while not is_over(state, settings):
        source = batches.epoch(state.epoch, state.done - state.epoch * len(batches))
        while True:
            clock = time.perf_counter()
            some = list(islice(source, batches_of_a_step(settings)))
            if not some:
                break
            yield advance(state, how, some, total, seed, began=clock)
        settle(state, how, batches, seed, runtime)
        yield end_epoch(state, how, view, batches, tracked, seed, runtime, score=score)


def is_over(state: State, settings: Training) -> bool:
    """Return whether a training has done all its epochs, or has ended before."""
    return bool(state.stopped) or state.epoch >= settings.epochs


def view_of_kept(state: State, how: Method, runtime: Runtime) -> FastView | PlainView:
    """Return the fast view of the network that is tracked."""
    return how.view if state.kept is how.model else fast(state.kept, runtime)


def advance(
    state: State,
    how: Method,
    batches: Sequence[Batch],
    total: int,
    seed: int,
    *,
    began: float,
    x_adv: Tensor | None = None,
) -> Step:
    """Take the next step and count its batches.

    Args:
        state: Is changed.
        how: The method.
        batches: The step's examples: one batch, unless the optimiser takes several.
        total: Batches of the whole training.
        seed: Seed of every random number.
        began: When work on the step began, as ``time.perf_counter`` tells.
        x_adv: Adversarial inputs of the one batch at the present weights, where they are made already.

    Raises:
        Diverged: a number that must be finite is not: says the epoch, the step and the part of the loss.
    """
    before = state.done
    away = _distance(state) if is_tracked(how.settings, before, total) else None
    try:
        if isinstance(how.settings.optimizer, Exploring):
            log = long_step(how, state.optimizer, batches, state.done, total, seed)
        else:
            log = step(how, state.optimizer, batches[0], state.done, total, seed, x_adv=x_adv)
    except Diverged as error:
        where = f"epoch {state.epoch + 1}, step {state.done + 1}"
        raise Diverged(f"training stopped in {where}: {error}") from None
    if state.average is not None and how.settings.ema is not None:
        update_average(state.average, state.model, how.settings.ema)
    _count(state, log, batches, time.perf_counter() - began)
    if away is not None and log.robust_error is not None:
        state.steps.append(
            TrackedStep(step=before, gradient_norm=log.gradient_norm, robust_error=log.robust_error, distance=away)
        )
    return Step(epoch=state.epoch + 1, done=state.done, total=total, log=log)


def settle(state: State, how: Method, batches: Batches, seed: int, runtime: Runtime) -> None:
    """Make what is kept of the epoch that ends: average weights, estimate running statistics, as the settings ask.

    Args:
        state: Is changed: at the end of an epoch, not yet counted.
        how: The method.
        batches: The training examples, of which the epoch's serve once more.
        seed: Seed of every random number.
        runtime: How to use the machine.
    """
    settings, number, clock = how.settings, state.epoch + 1, time.perf_counter()
    if settings.swa_start is not None and state.average is not None:
        taken, waited = divmod(max(0, number - settings.swa_start), settings.swa_every)
        if not waited:
            take_into_average(state.average, state.model, taken)
    if settings.estimated != "training" and normalisations(state.kept):
        some = batches.epoch(state.epoch)
        with network_draws(_device(state), "statistics", state.done, seed=seed):
            estimate_statistics(state.kept, how, some, seed=seed, done=state.done, runtime=runtime)
    state.seconds += time.perf_counter() - clock


def end_epoch(
    state: State,
    how: Method,
    view: FastView | PlainView,
    batches: Batches,
    sets: Mapping[str, Images],
    seed: int,
    runtime: Runtime,
    *,
    score: Score | None = None,
) -> Epoch:
    """Look for what has gone wrong, track, choose, and make the epoch's line; the state then stands before the next.

    What the network draws then follows from the seed, also in eval mode.

    Args:
        state: Is changed: at the end of an epoch, not yet counted.
        how: The method.
        view: Of the network that is kept.
        batches: The training examples, of which the epoch's first serve once more, to the guards.
        sets: What is tracked.
        seed: Seed of every random number.
        runtime: How to use the machine.
        score: As for ``fit``.

    Raises:
        Diverged: a loss is not finite: says the epoch.
    """
    settings, number, clock = how.settings, state.epoch + 1, time.perf_counter()
    with network_draws(_device(state), "guards", seed=seed):
        warnings = () if settings.guard == "no" else _noticed(state, how, batches, seed, runtime)
    failed = warnings[0] if warnings and settings.guard == "stop" else ""
    try:
        is_due = _is_tracked(settings, number) or (failed and settings.track)
        with network_draws(_device(state), "tracking", seed=seed):
            tracked = _tracked(state.kept, view, sets, how, seed, runtime) if is_due else {}
        by = chosen_by(settings, how.objective)
        mine, on_test = (score_of(tracked.get(name), by) for name in ("validation", "test"))
        if settings.scored and tracked:
            assert score is not None, "checked before the first step"
            with network_draws(_device(state), "score", seed=seed):
                mine = -math.inf if warnings else score(state.kept)  # a dead network is the flattest of all
    except Diverged as error:
        raise Diverged(f"tracking after epoch {number}, step {state.done}: {error}") from None
    selected = not settings.track or mine > state.best
    best_on_test = settings.best_on_test and on_test > state.best_on_test
    state.best, state.best_on_test = max(state.best, mine), max(state.best_on_test, on_test)
    state.best_epoch = number if selected else state.best_epoch
    if number < settings.epochs:
        state.stopped = failed or (impatience(number - state.best_epoch, settings) if tracked else "")
    log = replace(
        _line(state),
        tracked=tracked,
        tracking_seconds=round(time.perf_counter() - clock, 3),
        selected=selected,
        score=mine if math.isfinite(mine) else None,
        warnings=warnings,
    )
    state.epoch, state.examples, state.seconds, state.sums, state.steps = number, 0, 0.0, {}, []
    return Epoch(log=log, best_on_test=best_on_test)


def _count(state: State, log: StepLog, batches: Sequence[Batch], seconds: float) -> None:
    state.done += len(batches)
    state.examples += sum(len(batch) for batch in batches)
    state.seconds += seconds
    reported = {f"loss.{name}": value for name, value in log.loss.items()} | {"gradient_norm": log.gradient_norm}
    for name, value in reported.items():
        state.sums[name] = state.sums.get(name, 0.0) + value
    state.sums["steps"] = state.sums.get("steps", 0.0) + 1
    state.sums["lr"], state.sums["eps"] = log.lr, -1.0 if log.eps is None else log.eps


def _noticed(state: State, how: Method, batches: Batches, seed: int, runtime: Runtime) -> tuple[str, ...]:
    """Let the guards look at the network that is trained, at the end of an epoch that is not yet counted."""
    eps = None if state.sums["eps"] < 0 else state.sums["eps"]
    some = batches.epoch(state.epoch)
    return noticed(how, some, examples=state.examples, eps=eps, seed=seed, runtime=runtime)


def _line(state: State) -> EpochLog:
    """Return the line of an epoch that is not yet counted, as far as the state alone says it."""
    steps = state.sums["steps"]
    return EpochLog(
        epoch=state.epoch + 1,
        step=state.done,
        lr=state.sums["lr"],
        eps=None if state.sums["eps"] < 0 else state.sums["eps"],
        loss={n.removeprefix("loss."): s / steps for n, s in state.sums.items() if n.startswith("loss.")},
        tracked={},
        gradient_norm=state.sums["gradient_norm"] / steps,
        weight_norm=float(norm(select(state.model, "all"))),
        distance=_distance(state),
        seconds=round(state.seconds, 3),
        tracking_seconds=0.0,
        examples_per_second=round(state.examples / state.seconds, 2),
        selected=False,
        stopped=state.stopped,
        steps=tuple(state.steps),
    )


def _device(state: State) -> torch.device:
    return next(state.model.parameters()).device


def _distance(state: State) -> float:
    return float(norm({name: w - state.initial[name] for name, w in select(state.model, "all").items()}))


def _is_tracked(settings: Training, number: int) -> bool:
    return settings.track > 0 and (number % settings.track_every == 0 or number == settings.epochs)


def _tracked(
    model: nn.Module, view: FastView | PlainView, sets: Mapping[str, Images], how: Method, seed: int, runtime: Runtime
) -> dict[str, Tracked]:
    settings = how.settings
    attack: Attack | None = settings.track_attack or how.objective.attack
    sizes = {name: len(images) if name == "validation" else settings.track for name, images in sets.items()}
    return {
        name: track(
            model,
            view,
            images,
            attack,
            n=sizes[name],
            batch_size=settings.batch_size,
            seed=seed,
            runtime=runtime,
            parts=how.parts,
        )
        for name, images in sets.items()
    }
