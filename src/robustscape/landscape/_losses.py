"""The loss of every example at some weights: what means, their intervals and their parts are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from robustscape.evaluation.judging import columns
from robustscape.evaluation.together import Tags, columns_at
from robustscape.types import Attack, Diverged, Params, Plain, Subject


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
    some, inputs = zip(*columns(subject, attack, *tags), strict=True)
    return _losses(some), torch.cat(inputs)


def losses_at(subject: Subject, attack: Attack, vs: Sequence[Params], tags: Sequence[Tags]) -> list[Losses]:
    """Return ``losses`` at w + v for several v, none for w itself; see ``evaluation.together.columns_at``."""
    return [_losses(some) for some in columns_at(subject, attack, vs, tags)]


@contextmanager
def so_far(size: str, value: float) -> Iterator[None]:
    """Run the block so that a loss in it that is not finite is said to be at one value of a size of the perturbation.

    Raises:
        Diverged: a loss is not finite: says the value.
    """
    try:
        yield
    except Diverged as error:
        raise Diverged(f"at {size} {value:g}: {error}; a smaller {size}?") from None


def _losses(some: Sequence[Tensor]) -> Losses:
    return Losses(
        **{field.name: column for field, column in zip(fields(Losses), torch.cat(list(some), 1), strict=True)}
    )


def joined_losses(parts: Sequence[Losses]) -> Losses:
    """Return the losses of several groups of examples, one after the other."""
    return Losses(**{f.name: torch.cat([getattr(one, f.name) for one in parts]) for f in fields(Losses)})


def stored(values: Tensor, cells: Sequence[Tensor]) -> Plain:
    """Return the mean of (N,) values over each cell of examples, as plain data."""
    return [float(values[cell].mean()) for cell in cells]
