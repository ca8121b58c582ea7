"""The performance of a narrow network at many points of its weights, several of them in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from robustscape.evaluation.judging import Performance, batches, columns, inside, judge, mean_of, worst_of
from robustscape.runtime import TRUTH
from robustscape.runtime.memory import out_of_memory
from robustscape.runtime.together import Together, at_once
from robustscape.streams import Apart, Streams, joined
from robustscape.types import Attack, Params, Subject
from robustscape.weights.space import shifted

Tags = tuple[str | int, ...]


def slots(subject: Subject, points: int) -> int:
    """Return how many points of the weights ``performances`` best takes in one pass; 1: one after the other.

    Args:
        subject: What is looked at.
        points: How many points there are in all.
    """
    batch = subject.x[: subject.batch]
    if subject.parts is not None and subject.parts.size < len(batch):
        return 1  # memory is short
    return at_once(subject.model, batch, subject.runtime, points)


def performances(subject: Subject, attack: Attack, vs: Sequence[Params], tags: Sequence[Tags]) -> list[Performance]:
    """Return ``performance`` at w + v for several v, equal to it but for rounding; see ``columns_at``."""
    return [mean_of(some) for some in columns_at(subject, attack, vs, tags)]


def columns_at(
    subject: Subject, attack: Attack, vs: Sequence[Params], tags: Sequence[Tags]
) -> list[tuple[Tensor, ...]]:
    """Return for each w + v the ``columns`` of its batches: of narrow networks from one pass, equal but for rounding.

    An attack that needs a network of its own, since fooled examples leave it, is run at one point after the other.

    Args:
        subject: What is looked at; is left without a trace.
        attack: Run in the subject's precision; judged in the model's own.
        vs: S perturbations v, of some or all parameters; empty for w itself.
        tags: For each, the purpose of its random numbers.

    Raises:
        BadInput: a v names a parameter that the model lacks, or has another shape.
        Diverged: a loss is not finite.
    """
    size = slots(subject, len(vs))
    if size > 1:
        try:
            some = [slice(start, start + size) for start in range(0, len(vs), size)]
            return [one for few in some for one in _in_one_pass(subject, attack, vs[few], tags[few])]
        except RuntimeError as error:
            if not isinstance(error, Apart) and not out_of_memory(error):
                raise
            # Outside the handler, which holds what the pass made.
    return [_alone(subject, attack, v, tag) for v, tag in zip(vs, tags, strict=True)]


def _alone(subject: Subject, attack: Attack, v: Params, tags: Tags) -> tuple[Tensor, ...]:
    with shifted(subject.model, v) if v else nullcontext():
        return tuple(some for some, _ in columns(subject, attack, *tags))


def _in_one_pass(
    subject: Subject, attack: Attack, vs: Sequence[Params], tags: Sequence[Tags]
) -> list[tuple[Tensor, ...]]:
    count, size = len(vs), min(subject.batch, len(subject.x))
    points = [_moved(subject, v) for v in vs]
    searched = Together(subject.model, points, rows=size, runtime=subject.runtime)
    judged = Together(subject.model, points, rows=size, runtime=TRUTH)
    found = []
    for rows, meant in batches(subject):
        x, y = (_repeated(value[rows], count) for value in (subject.x, subject.y))
        streams = joined([Streams(subject.seed, tag, subject.index[rows]) for tag in tags])
        clean = judge(judged, x, y)
        x_adv = attack(searched, x, y, rng=streams)
        allowed = inside(attack.threat, x_adv, x)
        loss, wrong = judge(judged, x_adv, y)
        both = worst_of(*clean, loss.masked_fill(~allowed, -torch.inf), wrong & allowed)
        found.append(both.view(4, count, size)[:, :, :meant].unbind(dim=1))
    return list(zip(*found, strict=True))


def _moved(subject: Subject, v: Params) -> Params:
    with shifted(subject.model, v) if v else nullcontext():
        return {name: value.detach().clone() for name, value in subject.model.named_parameters()}


def _repeated(value: Tensor, times: int) -> Tensor:
    return value.repeat(times, *[1] * (value.ndim - 1))
