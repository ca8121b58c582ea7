"""Several trainings of one method on one architecture, narrow networks of matrices, as one: seeds for example."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustscape.runtime import FastView, PlainView, Runtime
from robustscape.runtime.memory import out_of_memory
from robustscape.runtime.ranks import world
from robustscape.runtime.together import Together, alike, at_once
from robustscape.streams import Apart, Streams, joined
from robustscape.training.loop import (
    Epoch,
    State,
    Step,
    advance,
    end_epoch,
    is_over,
    settle,
    view_of_kept,
)
from robustscape.training.method import Method, method
from robustscape.training.rates import radius
from robustscape.training.settings import Training
from robustscape.training.step import batches_of_a_step
from robustscape.training.stopping import Score, check_score
from robustscape.types import BadInput, Batch, Batches, Diverged, Images, Objective, Staged, WeightPerturbation


def fits_together(
    models: Sequence[nn.Module], batch: Batch, *, objective: Objective, settings: Training, runtime: Runtime
) -> bool:
    """Return whether ``fit_together`` is faster than ``fit`` for one after the other.

    Args:
        models: The networks, as ``objective.prepare`` gave them.
        batch: A batch of the size that each of them is trained with.
        objective: What is minimised.
        settings: The training's settings.
        runtime: How the machine is used.
    """
    return (
        world() == 1
        and objective.attack is not None
        and not isinstance(objective, Staged)  # its attack is made for each step
        and settings.attack_mode == "eval"
        and batches_of_a_step(settings) == 1
        and len(models) > 1
        and alike(models)
        and at_once(models[0], batch.x, runtime, len(models)) > 1
    )


def fit_together(
    states: Sequence[State],
    batches: Sequence[Batches],
    *,
    objective: Objective,
    weights: WeightPerturbation | None,
    settings: Training,
    runtime: Runtime,
    seeds: Sequence[int],
    tracked: Sequence[Mapping[str, Images]],
    scores: Sequence[Score | None] = (),
) -> Iterator[tuple[int, Step | Epoch]]:
    """Train several networks, each as ``fit`` trains it; give (its number, step or epoch) as each is done.

    Networks go through their steps side by side, as many as are fastest; their adversarial inputs are made in one
    attack, and each then takes its own step. One that is behind, after a kill, goes alone until it has caught up,
    to the same bits.

    Args:
        states: From ``start``, or loaded; are changed. Networks that differ in nothing but their weights.
        batches: The training examples of each, batches of equal sizes.
        objective: What is minimised.
        weights: Weight perturbation under every step, or None.
        settings: The training's settings, which attack in eval mode.
        runtime: How to use the machine.
        seeds: Seed of every random number of each.
        tracked: Sets of each, as for ``fit``.
        scores: Score of each, as for ``fit``; () for none.

    Yields:
        The number of a network, in the order of ``states``, and what it has done.

    Raises:
        BadInput: the networks differ or are not suited, attacks are in train mode, the optimiser takes several batches
            a step, there are several ranks, epochs have different numbers of batches, or a score is missing.
        Diverged: a number that must be finite is not: says of which network, the epoch and the step.
    """
    models = [state.model for state in states]
    if settings.attack_mode != "eval":
        raise BadInput("networks are attacked together in eval mode, not in train mode; did you mean fit, one by one?")
    if batches_of_a_step(settings) > 1:
        kind = type(settings.optimizer).__name__
        raise BadInput(f"{kind} moves between the batches of a step; did you mean fit, one network by one?")
    if world() > 1:
        raise BadInput(f"networks train together in one process, not on {world()} ranks; did you mean fit, one by one?")
    if not alike(models):
        raise BadInput("only linear networks and MLPs that differ in nothing but their weights train together")
    if len({len(some) for some in batches}) > 1:
        raise BadInput(f"epochs must be equally long to train together, not {[len(some) for some in batches]} batches")
    seats: list[_Seat] = []
    scores = scores or [None] * len(states)
    for state, some, seed, sets, score in zip(states, batches, seeds, tracked, scores, strict=True):
        check_score(settings, score)
        how = method(state.model, objective, weights, settings, runtime)
        view = view_of_kept(state, how, runtime)
        given = {"batches": some, "seed": seed, "tracked": sets, "score": score}
        seats.append(_Seat(number=len(seats), state=state, how=how, view=view, **given))
    first = next(batches[0].epoch(0))
    size = at_once(models[0], first.x, runtime, len(seats))
    count = -(-len(seats) // size)
    for part in range(count):  # of nearly equal sizes
        some = seats[part * len(seats) // count : (part + 1) * len(seats) // count]
        yield from _side_by_side(some, runtime)


@dataclass(kw_only=True, eq=False)
class _Seat:
    """One of the trainings."""

    number: int
    state: State
    how: Method
    view: FastView | PlainView
    batches: Batches
    seed: int
    tracked: Mapping[str, Images]
    score: Score | None
    source: Iterator[Batch] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """How far it is."""
        return self.state.done, self.state.epoch

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.how.settings.epochs * len(self.batches)

    def next_batch(self) -> Batch | None:
        """Return the next batch, None at an epoch's end."""
        if self.source is None:
            epoch = self.state.epoch
            self.source = self.batches.epoch(epoch, self.state.done - epoch * len(self.batches))
        batch = next(self.source, None)
        if batch is None:
            self.source = None
        return batch

    def end(self, runtime: Runtime) -> Epoch:
        """End its epoch."""
        sets, seed = self.tracked, self.seed
        return end_epoch(self.state, self.how, self.view, self.batches, sets, seed, runtime, score=self.score)


def _side_by_side(seats: Sequence[_Seat], runtime: Runtime) -> Iterator[tuple[int, Step | Epoch]]:
    """Train some to their ends: those least far take the next step, or end their epoch."""
    while going := [seat for seat in seats if not is_over(seat.state, seat.how.settings)]:
        least = min(seat.place for seat in going)
        turn = [seat for seat in going if seat.place == least]
        clock = time.perf_counter()
        batches = [batch for seat in turn if (batch := seat.next_batch()) is not None]
        if not batches:
            for seat in turn:
                with _named(seat):
                    settle(seat.state, seat.how, seat.batches, seat.seed, runtime)
                    event = seat.end(runtime)
                yield seat.number, event
            continue
        made = _attacked(seats, turn, batches, runtime)
        each = (time.perf_counter() - clock) / len(turn)
        for seat, batch, x_adv in zip(turn, batches, made, strict=True):
            began = time.perf_counter() - each
            with _named(seat):
                event = advance(seat.state, seat.how, [batch], seat.total, seat.seed, began=began, x_adv=x_adv)
            yield seat.number, event


def _attacked(
    seats: Sequence[_Seat], turn: Sequence[_Seat], batches: Sequence[Batch], runtime: Runtime
) -> Sequence[Tensor | None]:
    """Return each one's adversarial inputs from one attack; None for each where they must make their own.

    Each has its own place in an attack on as many networks as there are seats, whoever's turn it is, so that its
    bits are the same: the first of the turn stands in for the others.
    """
    how, done, size = turn[0].how, turn[0].state.done, len(batches[0])
    attack = how.objective.attack
    alone = [None] * len(turn)
    if attack is None or len(seats) == 1 or any(len(batch) != size for batch in batches):
        return alone
    attack = attack.at(radius(how.settings, attack.threat.eps, done, turn[0].total))
    numbers = [turn.index(seat) if seat in turn else 0 for seat in seats]
    points = [dict(turn[n].how.model.named_parameters()) for n in numbers]
    x, y = (torch.cat([getattr(batches[n], name) for n in numbers]) for name in ("x", "goal"))
    rng = joined([Streams(seed=turn[n].seed, tags=("train", done), index=batches[n].index) for n in numbers])
    try:
        made = attack(Together(how.model, points, rows=size, runtime=runtime), x, y, rng=rng)
    except Diverged:
        return alone  # and the one that diverged says so itself
    except RuntimeError as error:
        if not isinstance(error, Apart) and not out_of_memory(error):
            raise
        return alone
    places = made.chunk(len(seats))
    return [places[seats.index(seat)] for seat in turn]


@contextmanager
def _named(seat: _Seat) -> Iterator[None]:
    try:
        yield
    except Diverged as error:
        raise Diverged(f"seed {seat.seed}: {error}") from None
