"""The loss along a line in weight space: adversarial examples retaken, held, or gone on with from the neighbour's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape import modes
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import Performance, batches, judge, performance, search
from robustscape.runtime.memory import Parts
from robustscape.types import Attack, BadInput, Diverged, Plain, Subject

Examples: TypeAlias = Literal["retaken", "held", "neighbours"]
"""Where a point's adversarial examples are from: an attack of its own, the centre, or the point nearer the centre."""

_FIELDS = ("clean_loss", "clean_error", "robust_loss", "robust_error")
_STEP = 0.25  # of eps, as PGD's own default


@dataclass(frozen=True, kw_only=True)
class Line:
    """Positions on a line in weight space.

    Attributes:
        place: Puts the model at a position for the length of a block.
        alphas: (P,), the positions.
        centre: Number of the position where the line's own adversarial examples are made.
        must: Number of the position of the weights themselves, where a loss that is not finite is an error; None
            where the line does not pass through them.
    """

    place: Callable[[float], AbstractContextManager[None]]
    alphas: np.ndarray
    centre: int
    must: int | None


@dataclass(frozen=True, kw_only=True)
class Taking:
    """How the adversarial examples along a line are had.

    Attributes:
        attack: The full attack.
        examples: Where a point's examples are from.
        steps: Steps on from the neighbour's examples.
        name: Purpose of the random numbers: the same at every point.
    """

    attack: Attack
    examples: Examples
    steps: int
    name: str

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.examples not in ("retaken", "held", "neighbours"):
            raise BadInput(f"examples {self.examples!r} is not one of retaken, held, neighbours")
        if self.steps < 1:
            raise BadInput(f"neighbour_steps must be at least 1, not {self.steps}; did you mean examples=held?")
        if self.examples == "neighbours" and not isinstance(self.attack.threat, ThreatModel):
            raise BadInput("examples=neighbours needs an attack under a ThreatModel; did you mean retaken?")

    def words(self) -> str:
        """Return for captions where the examples are from."""
        if self.examples == "held":
            return "held from the centre: the robust loss elsewhere is underestimated"
        if self.examples == "neighbours":
            many = "s" * (self.steps > 1)
            return f"from the neighbour's in {self.steps} step{many}: the robust loss is underestimated"
        return "retaken at every point"


# -- a line --------------------------------------------------------------------------------------------


def along(subject: Subject, line: Line, taking: Taking, audited: Sequence[int] = ()) -> list[Plain]:
    """Return losses and errors at every position of a line.

    Each is a dict of clean_loss, clean_error, robust_loss, robust_error, all None where a loss is not finite.

    Args:
        subject: What is looked at; is left without a trace.
        line: Where.
        taking: How the adversarial examples are had.
        audited: Positions where a full attack is made besides: "full_loss" and "full_error" of these.

    Raises:
        Diverged: a loss is not finite at the weights themselves.
    """
    if taking.examples == "retaken":
        return [retaken(subject, line, taking, number) for number in range(len(line.alphas))]
    values = _held(subject, line, taking) if taking.examples == "held" else _chained(subject, line, taking)
    for number in audited:
        full = retaken(subject, line, taking, number)
        values[number] |= {"full_loss": full["robust_loss"], "full_error": full["robust_error"]}
    return values


def retaken(subject: Subject, line: Line, taking: Taking, number: int) -> dict[str, Plain]:
    """Return losses and errors at one position, of a full attack made there; None where a loss is not finite.

    Raises:
        Diverged: a loss is not finite at the weights themselves.
    """
    try:
        with line.place(float(line.alphas[number])):
            return dict(vars(performance(subject, taking.attack, taking.name)))
    except Diverged as error:
        return _overflowed(line, number, error)


def _overflowed(line: Line, number: int, error: Diverged) -> dict[str, Plain]:
    """Return the value of a point without a finite loss; raises the error at the weights themselves."""
    if number == line.must:
        raise error
    return dict.fromkeys(_FIELDS)


def _held(subject: Subject, line: Line, taking: Taking) -> list[dict[str, Plain]]:
    """Judge the examples of the weights themselves everywhere."""
    x_adv = made(subject, taking.attack, taking.name)
    values = []
    for number, alpha in enumerate(line.alphas):
        try:
            with line.place(float(alpha)):
                values.append(dict(vars(judged(subject, [x_adv])[0])))
        except Diverged as error:
            values.append(_overflowed(line, number, error))
    return values


def _chained(subject: Subject, line: Line, taking: Taking) -> list[dict[str, Plain]]:
    """Go on from the examples of the neighbour nearer the centre, from the centre outwards on both sides."""
    values: dict[int, dict[str, Plain]] = {}
    try:
        with line.place(float(line.alphas[line.centre])):
            first = made(subject, taking.attack, taking.name)
            values[line.centre] = dict(vars(judged(subject, [first])[0]))
    except Diverged as error:
        values[line.centre] = _overflowed(line, line.centre, error)
        first = subject.x  # nothing is found there to go on with
    for side in (range(line.centre + 1, len(line.alphas)), range(line.centre - 1, -1, -1)):
        x_adv = first
        for number in side:
            try:
                with line.place(float(line.alphas[number])):
                    further = stepped(subject, taking.attack, x_adv, taking.steps)
                    there, x_adv = judged(subject, [first, x_adv, further])
                values[number] = dict(vars(there))
            except Diverged as error:
                values[number] = _overflowed(line, number, error)
    return [values[number] for number in range(len(line.alphas))]


# -- adversarial examples of a whole subject -------------------------------------------------------------


def made(subject: Subject, attack: Attack, *tags: str | int) -> Tensor:
    """Return adversarial inputs at the weights that the model carries, (N, C, H, W), one for each example.

    The clean input where what the attack returned left the threat model.
    """
    x_adv = subject.x.clone()
    with subject.view as searched:
        for rows, count in batches(subject):
            found = search(subject, searched, attack, rows, *tags)
            good = torch.isfinite(found.loss)[:count]
            x_adv[rows[:count][good]] = found.x_adv[:count][good]
    return x_adv


def stepped(subject: Subject, attack: Attack, x_adv: Tensor, steps: int) -> Tensor:
    """Return the best of the given inputs and of some steps of steepest ascent from there, (N, C, H, W).

    Of a quarter of eps each, on the fast view; the best by the cross-entropy that the view computes.
    """
    threat = attack.threat
    assert isinstance(threat, ThreatModel)
    best = x_adv.clone()
    with subject.view as searched:
        for rows, count in batches(subject):

            def some(part: slice, rows: Tensor = rows, searched: nn.Module = searched) -> Tensor:
                x, y, start = subject.x[rows[part]], subject.y[rows[part]], x_adv[rows[part]]
                return _ascended(searched, threat, x, y, start, steps)

            best[rows[:count]] = (subject.parts or Parts()).run(some, len(rows))[:count]
    return best


def _ascended(model: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, start: Tensor, steps: int) -> Tensor:
    here = best = start
    highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    for step in range(steps + 1):
        further = step < steps
        with torch.set_grad_enabled(further), modes.evaluating(model):
            here = here.detach().requires_grad_(further)
            loss = F.cross_entropy(model(here), y, reduction="none")
            slope = torch.autograd.grad(loss.sum(), here)[0] if further else here
        better = loss.detach() > highest
        highest = torch.where(better, loss.detach(), highest)
        best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), here.detach(), best)
        if further:
            here = threat.project(here.detach() + _STEP * threat.eps * threat.steepest(slope), x)
    return best


def judged(subject: Subject, candidates: Sequence[Tensor]) -> tuple[Performance, Tensor]:
    """Return clean and robust loss and error of given adversarial inputs, and which of them is worst.

    The robust ones are the worst over the clean input and all candidates, example by example.

    Args:
        subject: What is looked at, at its model's present weights.
        candidates: (N, C, H, W) each, inside the threat model.

    Raises:
        Diverged: a loss is not finite.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    kept = candidates[0].clone()
    for rows, count in batches(subject):
        y = subject.y[rows]
        clean_loss, clean_wrong = judge(subject.model, subject.x[rows], y, parts=subject.parts)
        highest, wrong = torch.full_like(clean_loss, -torch.inf), clean_wrong
        for x_adv in candidates:
            loss, bad = judge(subject.model, x_adv[rows], y, parts=subject.parts)
            better = (loss > highest)[:count]
            kept[rows[:count][better]] = x_adv[rows[:count][better]]
            highest, wrong = torch.maximum(highest, loss), wrong | bad
        worst = torch.maximum(clean_loss, highest)
        columns = torch.stack([c.double() for c in (clean_loss, clean_wrong, worst, wrong)])
        sums += columns[:, :count].sum(dim=1).cpu()
    clean, error, robust, robust_error = (sums / len(subject.x)).tolist()
    return Performance(clean_loss=clean, clean_error=error, robust_loss=robust, robust_error=robust_error), kept
