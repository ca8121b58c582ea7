"""Numbers with their uncertainty: over examples, over random draws, over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from robustscape.evaluation.gap import gap as gap_between
from robustscape.evaluation.result import Evaluation, Number
from robustscape.landscape.flatness import FlatnessResult
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number with its uncertainty, in the unit of its column.

    Attributes:
        value: The number; the mean over the runs where there are several.
        low: Lower end of the 95 % interval (the mean of the runs' lower ends), None where unknown.
        high: Its upper end.
        spread: Sample standard deviation over the runs' seeds, None for a single run.
        runs: Number of runs.
    """

    value: float
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    runs: int = 1


def mean(found: Iterable[Quantity | None]) -> Quantity | None:
    """Return the mean over runs with their spread; intervals are averaged, None is left out. None for no runs."""
    quantities = [quantity for quantity in found if quantity is not None]
    if not quantities:
        return None
    values = np.array([q.value for q in quantities])
    lows = [q.low for q in quantities if q.low is not None]
    highs = [q.high for q in quantities if q.high is not None]
    return Quantity(
        value=float(values.mean()),
        low=float(np.mean(lows)) if len(lows) == len(values) else None,
        high=float(np.mean(highs)) if len(highs) == len(values) else None,
        spread=float(values.std(ddof=1)) if len(values) > 1 else None,
        runs=len(values),
    )


def gap(test: Evaluation, train: Evaluation) -> Quantity | None:
    """Return the gap of robust error, test minus train, in points; None where the attacks differ."""
    try:
        found = gap_between(train, test).robust_error
    except BadInput:
        return None
    return Quantity(value=100 * found.value, low=100 * found.low, high=100 * found.high)


def flatness(result: FlatnessResult) -> Quantity:
    """Return the rise of the robust loss, nats, with its interval."""
    return Quantity(value=result.robust.value, low=result.robust.low, high=result.robust.high)


def number(of: Number) -> Quantity:
    """Return a number of an evaluation as it is."""
    return Quantity(value=of.value, low=of.low, high=of.high)


def percent(numbers: Sequence[Number]) -> Quantity | None:
    """Return the mean of fractions over runs, in %; None for no runs."""
    return mean([Quantity(value=100 * n.value, low=100 * n.low, high=100 * n.high) for n in numbers])


def apart(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> bool:
    """Return whether the robust errors of two methods differ by more than 1.96 standard errors.

    The error of the difference comes from the images (pairwise, where both were judged on the same ones)
    and from the seeds of methods that have several.
    """
    rates = [float(np.mean([e.robust_error.value for e in group])) for group in (a, b)]
    if all(np.array_equal(e.index, a[0].index) for e in (*a, *b)):
        fooled = [np.mean([e.fooled for e in group], axis=0, dtype=float) for group in (a, b)]
        images = float(np.var(fooled[0] - fooled[1])) / len(a[0].fooled)
    else:
        images = sum(rate * (1 - rate) / group[0].robust_error.n for rate, group in zip(rates, (a, b), strict=True))
    seeds = sum(np.var([e.robust_error.value for e in g], ddof=1) / len(g) for g in (a, b) if len(g) > 1)
    return bool(abs(rates[0] - rates[1]) > 1.96 * np.sqrt(images + seeds))
