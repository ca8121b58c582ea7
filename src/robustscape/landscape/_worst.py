"""What one restart of a worst-case search finds, for examples that share one perturbation of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustscape.evaluation.judging import batches, judge
from robustscape.landscape._ascent import Problem, climbed, published
from robustscape.landscape._losses import attacked, losses
from robustscape.landscape._stutz import gaussian_start
from robustscape.streams import Streams
from robustscape.types import Attack, Params, Subject
from robustscape.weights.space import shifted


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What was found at one radius: losses of each example, (N,), float64 on the CPU, nats.

    Attributes:
        robust: At the v found for the robust loss.
        clean: At the v found for the clean loss.
        gain: Mean loss of a new attack at the former v, minus that of the inputs that were found with it.
    """

    robust: Tensor
    clean: Tensor
    gain: float


def sound(
    subject: Subject,
    problem: Problem,
    attack: Attack,
    start: Params,
    radii: Sequence[float],
    *,
    steps: int,
    input_step: float,
    tag: str,
) -> list[Found]:
    """Return what is found at each radius; what is found at one never falls below what was at the last.

    Args:
        subject: The examples, as ``problem`` has them too.
        problem: Network and examples.
        attack: Judges the robust loss at w and at every v, from the same starts.
        start: Where v begins at the first radius above 0, as a multiple of it; later where it ended, drawn out.
        radii: Rising.
        steps: Steps of each search.
        input_step: Length of the inputs' first step, pixel units.
        tag: Purpose of the attack's random numbers.
    """
    at_w, x_adv = attacked(subject, attack, tag)
    kept, found = Found(robust=at_w.robust_loss, clean=at_w.clean_loss, gain=0.0), []
    still = replace(problem, threat=None)
    robust = clean = start
    for xi in radii:
        if xi > 0:
            best = climbed(problem, _times(robust, xi), x_adv, xi=xi, steps=steps, input_step=input_step)
            plain = climbed(still, _times(clean, xi), subject.x, xi=xi, steps=steps, input_step=input_step)
            robust, clean = _times(best.v, 1 / xi), _times(plain.v, 1 / xi)
            kept = _worse(kept, _judged(subject, attack, best.v, best.x_adv, plain.v, tag))
        found.append(kept)
    return found


def as_published(
    subject: Subject,
    problem: Problem,
    attack: Attack,
    start: Params,
    radii: Sequence[float],
    *,
    steps: int,
    step: float,
    input_step: float,
    groups: Sequence[slice],
    tags: tuple[str | int, ...],
) -> list[Found]:
    """Return where the published search ends at each radius, see ``published``; the loss is that of its own inputs.

    Args:
        subject: The examples, as ``problem`` has them too.
        problem: Network and examples.
        attack: Made anew at the final v, which ``Found.gain`` tells of.
        start: Where v begins, as a multiple of the radius.
        radii: Rising; each is searched alone.
        steps: Passes over the groups.
        step: Length of a step of the weights relative to ||w_l||.
        input_step: Length of a step of the inputs, pixel units.
        groups: Of examples, each of which moves the weights in turn.
        tags: Purpose of the random numbers of one restart.
    """
    assert problem.threat is not None
    x_0 = gaussian_start(problem.threat, subject.x, Streams(subject.seed, (*tags, "inputs"), subject.index))
    still, found = replace(problem, threat=None), []
    for xi in radii:
        sizes = {"xi": xi, "steps": steps, "step": step, "input_step": input_step}
        v, x_adv = published(problem, groups, _times(start, xi), x_0, **sizes)
        plain, _ = published(still, groups, _times(start, xi), subject.x, **sizes)
        with shifted(subject.model, v):
            robust = judged(subject, x_adv)
            again = losses(subject, attack, *tags).robust_loss
        with shifted(subject.model, plain):
            clean = judged(subject, subject.x)
        found.append(Found(robust=robust, clean=clean, gain=float(again.mean() - robust.mean())))
    return found


def judged(subject: Subject, x: Tensor) -> Tensor:
    """Return the cross-entropy of each input, (N,), float64 on the CPU, at the weights that the model carries."""
    parts = [
        judge(subject.model, x[rows], subject.y[rows], parts=subject.parts)[0][:count]
        for rows, count in batches(subject)
    ]
    return torch.cat(parts).double().cpu()


def _judged(subject: Subject, attack: Attack, v: Params, x_adv: Tensor, plain: Params, tag: str) -> Found:
    with shifted(subject.model, v):
        robust, joint = losses(subject, attack, tag).robust_loss, judged(subject, x_adv)
    with shifted(subject.model, plain):
        clean = judged(subject, subject.x)
    return Found(robust=robust, clean=clean, gain=float(robust.mean() - joint.mean()))


def _worse(old: Found, new: Found) -> Found:
    """Return the better search's of each loss: what a smaller ball holds, a larger one does too."""
    one = new if new.robust.mean() >= old.robust.mean() else old
    return replace(one, clean=new.clean if new.clean.mean() >= old.clean.mean() else old.clean)


def _times(v: Params, factor: float) -> Params:
    return {name: value * factor for name, value in v.items()}
