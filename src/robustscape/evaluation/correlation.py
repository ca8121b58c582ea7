"""Whether two numbers of several runs go together: Pearson, Spearman and Kendall, also with others held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robustscape.evaluation import _coefficients as of
from robustscape.streams import Streams
from robustscape.types import BadInput

LEAST = 4
"""Fewest runs that a correlation is given for: three points lie near a line too easily."""

_FEW = 10  # runs below which a note says so


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """A correlation coefficient over runs.

    Attributes:
        value: In [-1, 1].
        low: Lower end of the 95 % interval, None where too few resamples have a coefficient.
        high: Its upper end.
        p_value: Probability of one at least as far from 0 where the two are independent, two-sided, in [0, 1].
    """

    value: float
    low: float | None
    high: float | None
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How two numbers go together over n runs.

    Attributes:
        pearson: Of the numbers: how near they are to a line.
        spearman: Of their ranks; equal numbers share the mean of their ranks.
        kendall: Kendall's tau-b: pairs of runs in the same order minus those in opposite orders, ties discounted.
        partial: Pearson's of what is left of both when what is held is subtracted, by least squares; None without.
        partial_ranks: The same of the ranks of all.
        n: Number of runs.
        held: How many independent numbers are held; 0 for none.
        notes: What must be said beside the numbers, a clause each.
    """

    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient
    partial: Coefficient | None
    partial_ranks: Coefficient | None
    n: int
    held: int
    notes: tuple[str, ...]


def correlation(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    *,
    given: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
    draws: int = 2000,
) -> Correlation:
    """Correlate two numbers over runs that are independent of each other.

    Intervals are percentile bootstraps over the runs (Efron and Tibshirani 1993, section 13.3). Pearson's p-value is
    that of Student's t with n - 2 degrees of freedom, partial ones have n - 2 - k with k numbers held. Those of the
    ranks count all orders up to 8 runs; above they are scipy's (Spearman: t; Kendall: exact without ties).

    Args:
        x: (n,), finite, at least 4.
        y: (n,), finite, of the same runs.
        given: (n,) or (n, k), what is held fixed in the partial coefficients, for example the clean accuracy.
        seed: Seed of the bootstrap.
        draws: Resamples of n runs with replacement.

    Raises:
        BadInput: fewer than 4 runs, numbers that are missing or not finite, x or y the same in every run, or of other
            lengths.
    """
    x, y = _checked("x", x), _checked("y", y)
    n = len(x)
    if n != len(y):
        raise BadInput(f"x is of {n} runs and y of {len(y)}; did you mean those that have both?")
    if n < LEAST:
        raise BadInput(f"a correlation needs at least {LEAST} runs, not {n}")
    for name, values in (("x", x), ("y", y)):
        if not of.standard(values).any():
            raise BadInput(f"{name} is {values[0]:g} in every run, so nothing can go with it")
    x, y, z = of.standard(x), of.standard(y), _held(given, n)
    held = of.rank(z)
    picked = Streams(seed, ("correlation", "bootstrap"), torch.arange(draws)).integers(n, n).numpy()

    def made(statistic: of.Statistic, p_value: float) -> Coefficient:
        value = float(statistic(x[None], y[None], z[None])[0])
        return Coefficient(value=value, **of.interval(statistic, value, x, y, z, picked), p_value=p_value)

    notes = [f"{n} runs are few: one run can decide a coefficient, and intervals are rough"] if n < _FEW else []
    reason = "" if given is None else _no_partial(x, y, z)
    notes += [f"no partial correlation: {reason}"] if reason else []
    wanted, ranks = given is not None and not reason, (of.ranks(x), of.ranks(y), of.ranks(z.T).T)
    return Correlation(
        pearson=made(of.pearson, of.student(x, y, n - 2)),
        spearman=made(of.spearman, of.spearman_p(x, y)),
        kendall=made(of.kendall, of.kendall_p(x, y)),
        partial=made(of.partial, of.student(*of.left(x, y, z), n - 2 - held)) if wanted else None,
        partial_ranks=made(of.partial_ranks, of.student(*of.left(*ranks), n - 2 - of.rank(ranks[2])))
        if wanted and not _no_partial(*ranks)
        else None,
        n=n,
        held=held,
        notes=tuple(notes),
    )


# -- what is refused -----------------------------------------------------------------------------------


def _checked(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise BadInput(f"{name} must be one number a run, not of shape {found.shape}")
    if bad := int((~np.isfinite(found)).sum()):
        raise BadInput(f"{name} is not finite in {bad} of {len(found)} runs; did you mean to leave those out?")
    return found


def _held(given: Sequence[float] | np.ndarray | None, n: int) -> np.ndarray:
    """Return what is held, (n, k), each column of mean 0 and length 1, or 0 where it is constant."""
    if given is None:
        return np.empty((n, 0))
    found = np.asarray(given, dtype=np.float64)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != n:
        raise BadInput(f"what is held must be of shape ({n},) or ({n}, k), not {np.shape(given)}")
    if not np.isfinite(found).all():
        raise BadInput("what is held is not finite in every run; did you mean to leave those runs out?")
    return np.stack([of.standard(column) for column in found.T], axis=1)


def _no_partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> str:
    """Return why nothing is left to correlate when z is held, "" where something is."""
    held, n = of.rank(z), len(x)
    if not held:
        return "what is held is the same in every run"
    if n - 2 - held < 1:
        return f"{n} runs are too few to hold {held} number{'s' * (held > 1)}"
    determined = [name for name, left in zip("xy", of.left(x, y, z), strict=True) if not left.any()]
    return f"what is held decides {' and '.join(determined)}" if determined else ""
