"""The loss of every example at some weights: what means, their intervals and their parts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from robustscape.evaluation.judging import batches, inside, judge, search
from robustscape.evaluation.together import slots
from robustscape.runtime import TRUTH
from robustscape.runtime.memory import out_of_memory
from robustscape.runtime.together import Together
from robustscape.streams import Apart, Streams, joined
from robustscape.types import Attack, Params, Plain, Subject
from robustscape.weights.space import shifted

Tags = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Losses:
    """Cross-entropy of each example, float64 on the CPU, and whether it is misclassified, 0 or 1; all (N,).

    The robust ones are the worse of the clean and the attacked input: the clean input is inside the threat model.
    """

    clean_loss: Tensor
    clean_error: Tensor
    robust_loss: Tensor
    robust_error: Tensor

    def means(self) -> dict[str, float]:
        """Return the mean of each."""
        return {field.name: float(getattr(self, field.name).mean()) for field in fields(self)}


def part(subject: Subject, rows: slice) -> Subject:
    """Return the subject with some of its examples."""
    return replace(subject, x=subject.x[rows], y=subject.y[rows], index=subject.index[rows])


def groups(n: int, size: int | None) -> list[slice]:
    """Return n rows in groups of ``size``, the last one smaller where they do not divide; None: all as one."""
    size = size or n
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def losses(subject: Subject, attack: Attack, *tags: str | int) -> Losses:
    """Return the losses of every example at the weights that the model carries; see ``attacked``."""
    return attacked(subject, attack, *tags)[0]


def attacked(subject: Subject, attack: Attack, *tags: str | int) -> tuple[Losses, Tensor]:
    """Return the losses of every example, clean and under one attack, and what the attack found, (N, C, H, W).

    Args:
        subject: What is looked at, at its model's present weights.
        attack: Run on the fast view; judged by the model itself in its own precision.
        *tags: Purpose of the random numbers.

    Raises:
        Diverged: a loss is not finite.
    """
    found, inputs = [], []
    with subject.view as searched:
        for rows, count in batches(subject):
            clean = judge(subject.model, subject.x[rows], subject.y[rows], parts=subject.parts)
            made = search(subject, searched, attack, rows, *tags)
            found.append(_columns(*clean, made.loss, made.wrong)[:, :count])
            inputs.append(made.x_adv[:count])
    return _losses(torch.cat(found, dim=1)), torch.cat(inputs)


def losses_at(subject: Subject, attack: Attack, vs: Sequence[Params], tags: Sequence[Tags]) -> list[Losses]:
    """Return ``losses`` at w + v for several v: in one pass for narrow networks, and then equal but for rounding.

    Args:
        subject: What is looked at; is left without a trace.
        attack: Run in the subject's precision; judged in the model's own.
        vs: Perturbations v, of some or all parameters; empty for w itself.
        tags: For each, the purpose of its random numbers.

    Raises:
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
    found = []
    for v, tag in zip(vs, tags, strict=True):
        with shifted(subject.model, v) if v else nullcontext():
            found.append(losses(subject, attack, *tag))
    return found


def _in_one_pass(subject: Subject, attack: Attack, vs: Sequence[Params], tags: Sequence[Tags]) -> list[Losses]:
    count, size = len(vs), min(subject.batch, len(subject.x))
    points = [_moved(subject, v) for v in vs]
    searched = Together(subject.model, points, rows=size, runtime=subject.runtime)
    judged = Together(subject.model, points, rows=size, runtime=TRUTH)
    found = []
    for rows, meant in batches(subject):
        x, y = (value[rows].repeat(count, *[1] * (value.ndim - 1)) for value in (subject.x, subject.y))
        streams = joined([Streams(subject.seed, tag, subject.index[rows]) for tag in tags])
        clean = judge(judged, x, y)
        x_adv = attack(searched, x, y, rng=streams)
        loss, wrong = judge(judged, x_adv, y)
        allowed = inside(attack.threat, x_adv, x)
        columns = _columns(*clean, loss.masked_fill(~allowed, -torch.inf), wrong & allowed)
        found.append(columns.view(4, count, size)[:, :, :meant])
    return [_losses(columns) for columns in torch.cat(found, dim=2).unbind(dim=1)]


def _columns(clean_loss: Tensor, clean_wrong: Tensor, loss: Tensor, wrong: Tensor) -> Tensor:
    columns = (clean_loss, clean_wrong, torch.maximum(clean_loss, loss), clean_wrong | wrong)
    return torch.stack([column.double() for column in columns]).cpu()


def _losses(columns: Tensor) -> Losses:
    return Losses(**{field.name: column for field, column in zip(fields(Losses), columns, strict=True)})


def _moved(subject: Subject, v: Params) -> Params:
    with shifted(subject.model, v) if v else nullcontext():
        return {name: value.detach().clone() for name, value in subject.model.named_parameters()}


def joined_losses(parts: Sequence[Losses]) -> Losses:
    """Return the losses of several groups of examples, one after the other."""
    return Losses(**{f.name: torch.cat([getattr(one, f.name) for one in parts]) for f in fields(Losses)})


def stored(values: Tensor, cells: Sequence[Tensor]) -> Plain:
    """Return the mean of (N,) values over each cell of examples, as plain data."""
    return [float(values[cell].mean()) for cell in cells]
