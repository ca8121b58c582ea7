"""Intervals of means over examples, in float64: Wilson's for fractions, the bootstrap's for losses."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch

from robustscape.evaluation.result import Number
from robustscape.streams import Streams
from robustscape.types import BadInput

_CHUNK = 2**20  # resampled values held at once


def _check(n: int, level: float) -> None:
    if n < 1:
        raise BadInput("an interval needs at least one example, and there are none")
    if not 0 < level < 1:
        raise BadInput(f"level={level:g} is not a probability in (0, 1); did you mean 0.95?")


def wilson(successes: int, n: int, level: float = 0.95) -> Number:
    """Return a fraction with its score interval (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        successes: How many of the n examples, in [0, n].
        n: Number of examples, at least 1.
        level: Coverage, in (0, 1).

    Returns:
        successes / n and the interval, within [0, 1].

    Raises:
        BadInput: no examples, more successes than examples, or a level that is no probability.
    """
    _check(n, level)
    if not 0 <= successes <= n:
        raise BadInput(f"{successes} successes among {n} examples cannot be")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Number(value=p, low=max(0.0, min(p, centre - half)), high=min(1.0, max(p, centre + half)), n=n)


def bootstrap_mean(values: np.ndarray, seed: int, level: float = 0.95, draws: int = 2000) -> Number:
    """Return a mean with its percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3).

    Args:
        values: (n,), finite, of any unit.
        seed: Seed of the resampling.
        level: Coverage, in (0, 1).
        draws: Resamples of n values with replacement.

    Returns:
        The mean and the interval, in the unit of ``values``.

    Raises:
        BadInput: no values, or a level that is no probability.
    """
    n = len(values)
    _check(n, level)
    values = np.asarray(values, dtype=np.float64)
    rows = max(1, _CHUNK // n)
    means = np.empty(draws)
    for start in range(0, draws, rows):
        draw = torch.arange(start, min(start + rows, draws))
        picked = Streams(seed, ("bootstrap",), draw).integers(n, n).numpy()
        means[start : start + rows] = values[picked].mean(axis=1)
    mean = float(values.mean())
    low, high = (float(q) for q in np.quantile(means, [(1 - level) / 2, (1 + level) / 2]))
    return Number(value=mean, low=min(low, mean), high=max(high, mean), n=n)
