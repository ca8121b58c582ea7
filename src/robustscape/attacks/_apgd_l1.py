"""How APGD moves under l1: sparse steps, in three phases of falling radius."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustscape.attacks.threat import per_example, shrunk
from robustscape.attacks.walk import State

_RADII = (3.0, 2.0, 1.0)  # of the phases, times eps
_SHORTER = 1.5  # by which the step shrinks
_SHORTEST = 10.0  # part of the radius below which it does not fall


def lengths(steps: int) -> tuple[int, int, int]:
    """Return the steps of each phase."""
    first, second = math.ceil(0.3 * steps), math.ceil(0.3 * steps)
    return first, second, steps - first - second


def passes(steps: int) -> int:
    """Return the forwards of a round: each phase looks at its start, too."""
    return steps + len(_RADII)


def begun(state: State) -> State:
    """Return what the rule keeps of each example, before its first step."""
    one, zero = torch.ones_like(state["eps"]), torch.zeros_like(state["step"])
    return {
        "size": one,
        "share": one,  # of the pixels that a step changes
        "support": one,  # pixels that differed from x at the last look
        "phase": zero,
        "turn": zero,  # steps taken in the phase
    }


def radius(state: State) -> Tensor:
    """Return the radius of each example's phase, (N,)."""
    return _of_phase(_RADII, state["phase"]).to(state["eps"]) * state["eps"]


def largest(eps: Tensor) -> Tensor:
    """Return the radius of the first phase, (N,)."""
    return _RADII[0] * eps


def _of_phase(values: Sequence[float], phase: Tensor) -> Tensor:
    """Return the value of each example's phase; by comparisons, so that no table has to reach the device."""
    return torch.where(phase == 0, values[0], torch.where(phase == 1, values[1], values[2]))


def _support(delta: Tensor) -> Tensor:
    return (delta != 0).flatten(1).sum(dim=1).to(delta)


def ruled(state: State, steps: int) -> tuple[State, Tensor]:
    """Return what the rule keeps after a step, and whether each example goes back to its best point, (N,), bool.

    Every 4 % of a phase: where the best point has become sparser by 5 %, the step is as long as the radius again,
    else it shrinks.
    """
    x, turn, eps = state["x"], state["turn"], radius(state)
    pixels, counts = x[0].numel(), lengths(steps)
    start = turn == 0
    each = _of_phase([max(int(0.04 * count), 1) for count in counts], state["phase"])
    look = ~start & (turn % each == 0)
    support = _support(torch.where(per_example(start, x), state["here"], state["best"]) - x)
    sparser = look & (support / state["support"] < 0.95)
    size = torch.where(sparser, eps, state["size"] / _SHORTER)
    size = torch.minimum(torch.maximum(size, eps / _SHORTEST), eps)
    return {
        "size": torch.where(start, eps, torch.where(look, size, state["size"])),
        "share": torch.where(look | start, support / pixels / 1.5, state["share"]),
        "support": torch.where(look | start, support, state["support"]),
    }, sparser


def moved(state: State, slope: Tensor, steps: int, *, reference: bool) -> State:
    """Return where each example goes, and its phase.

    A step changes the pixels of the steepest slopes alone, all by the same amount; a phase's end leads to its best
    point, inside the next radius.
    """
    x, here, phase, turn = state["x"], state["here"], state["phase"], state["turn"]
    pixels = x[0].numel()
    steepest = slope.flatten(1).abs().sort(dim=1).values
    place = ((1 - state["share"]) * pixels).clamp(min=0, max=pixels - 1).long()
    least = steepest.gather(1, place[:, None]).squeeze(1)
    if not reference:  # the steepest pixels may all be at the wall of the box: one that is free moves, too
        free = slope.masked_fill(((here <= 0) & (slope < 0)) | ((here >= 1) & (slope > 0)), 0)
        least = torch.minimum(least, free.flatten(1).abs().amax(dim=1))
    sign = (slope * (slope.abs() >= per_example(least, x)).to(slope)).sign()
    count = sign.abs().flatten(1).sum(dim=1) + 1e-10
    step = here + per_example(state["size"], x) * sign / per_example(count, x)
    ended = (turn == _of_phase(lengths(steps), phase)) & (phase < len(_RADII) - 1)
    after = {"phase": phase + ended, "turn": torch.where(ended, 0, turn + 1)}
    goal = torch.where(per_example(ended, x), state["best"], step)
    return after | {"here": onto(goal, x, radius(state | after), reference=reference)}


def onto(x_adv: Tensor, x: Tensor, eps: Tensor, *, reference: bool) -> Tensor:
    """Project onto ball and box; the reference adds what is missing, which leaves roundings that are not 0."""
    delta = x_adv - x
    kept = shrunk(delta, x, eps)
    return (x + delta + (kept - delta) if reference else x + kept).clamp(0, 1)
