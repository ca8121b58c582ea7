"""How APGD moves, and when it halves its step: linf and l2."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscape.attacks.threat import ThreatModel, per_example
from robustscape.attacks.walk import State

_TINY = 1e-12


def windows(steps: int) -> tuple[int, int, int]:
    """Return the steps before the first look at the step size, by how much they shrink each time, and the fewest."""
    return max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)


def ends(state: State) -> State:
    """Return where ball and box end under linf, ``low`` and ``high``, (N, C, H, W) each."""
    x, eps = state["x"], per_example(state["eps"], state["x"])
    return {"low": (x - eps).clamp(0, 1), "high": (x + eps).clamp(0, 1)}


def begun(state: State, steps: int) -> State:
    """Return what the rule keeps of each example, before its first step."""
    zero = torch.zeros_like(state["eps"])
    return {
        "size": 2 * state["eps"],
        "last": zero,  # loss of the last step
        "risen": torch.zeros_like(state["step"]),  # steps that raised the loss, since the last look
        "window": torch.full_like(state["step"], windows(steps)[0]),  # steps between two looks, now
        "due": torch.full_like(state["step"], windows(steps)[0]),  # steps until the next look
        "halved": torch.ones_like(state["wrong"]),  # at the last look
        "seen": zero,  # largest loss at the last look
    }


def ruled(state: State, loss: Tensor, steps: int, rho: float, *, reference: bool) -> tuple[State, Tensor]:
    """Return what the rule keeps after a step, and whether each example goes back to its best point, (N,), bool.

    At a look the step is halved if at most ``rho`` of the steps since the last one raised the loss, or if the
    largest loss stayed and the step was not halved at the last look.

    Args:
        state: As it is after the step's loss was taken note of.
        loss: (N,), of this step.
        steps: Of the whole round.
        rho: Share of the steps.
        reference: Compare the first step's loss with 0 and not with that of the start, as the reference does.
    """
    start, (_, shorter, fewest) = state["step"] == 0, windows(steps)
    risen = state["risen"] + (~start & (loss > state["last"]))
    due = state["due"] - (~start).long()
    look = due == 0
    stuck = ~state["halved"] & (state["seen"] >= state["best_loss"])
    halve = look & ((risen <= state["window"] * rho) | stuck)
    window = torch.where(look, (state["window"] - shorter).clamp(min=fewest), state["window"])
    return {
        "size": torch.where(halve, state["size"] / 2, state["size"]),
        "last": torch.where(start, 0, loss) if reference else loss,
        "risen": torch.where(look, 0, risen),
        "window": window,
        "due": torch.where(look, window, due),
        "halved": torch.where(look, halve, state["halved"]),
        "seen": torch.where(look | start, state["best_loss"], state["seen"]),
    }, halve


def moved(threat: ThreatModel, state: State, slope: Tensor, *, reference: bool) -> Tensor:
    """Return where each example goes: a projected step along its gradient, mixed with its last move (Algorithm 1)."""
    here, x, eps = state["here"], state["x"], state["eps"]
    a = per_example(torch.where(state["step"] == 0, 1.0, 0.75).to(here), here)
    size = per_example(state["size"], here)

    def onto(x_adv: Tensor) -> Tensor:
        if threat.norm == "linf":  # what ``project`` does, in one pass
            return torch.clamp(x_adv, state["low"], state["high"])
        return _onto(x_adv, x, eps) if reference else threat.project(x_adv, x, eps)

    direction = unit(slope, "l2") if reference and threat.norm == "l2" else threat.steepest(slope)
    stepped = onto(direction.mul_(size).add_(here))
    return onto(stepped.sub_(here).mul_(a).add_(here).add_((here - state["old"]).mul_(1 - a)))


def unit(delta: Tensor, norm: str) -> Tensor:
    """Return delta over its norm, in the reference's order of operations."""
    flat = delta.flatten(1)
    length = flat.abs().amax(dim=1) if norm == "linf" else _length(delta)
    return delta / (per_example(length, delta) + _TINY)


def _length(delta: Tensor) -> Tensor:
    return (delta**2).flatten(1).sum(dim=1).sqrt()


def _onto(x_adv: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Project under l2, in the reference's order of operations."""
    delta = x_adv - x
    return (x + unit(delta, "l2") * per_example(torch.minimum(eps, _length(delta)), x)).clamp(0, 1)
