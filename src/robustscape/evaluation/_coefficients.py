"""Coefficients of correlation, of many resamples at once, with their intervals and p-values.

x and y are (..., n) numbers of n runs, z (..., n, k) numbers that are held; a coefficient is NaN where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import permutations
from typing import TypeAlias

import numpy as np

Statistic: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(x, y, z) -> (...), coefficients."""

_ALL_ORDERS = 8  # up to so many runs a rank's p-value counts all orders: 8! = 40320
_CHUNK = 2**21  # numbers of resamples held at once
_SAME = 1e-9  # spread, relative to the largest, below which values are one value: what rounding leaves


def standard(values: np.ndarray) -> np.ndarray:
    """Return (n,) numbers with mean 0 and length 1, all 0 where they are one number."""
    scaled = values / max(float(np.abs(values).max(initial=0)), np.finfo(float).tiny)
    centred = scaled - scaled.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length > _SAME else np.zeros_like(values)


def pearson(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return Pearson's coefficients; z plays no part."""
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    return _cosine(x, y)


def spearman(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return Spearman's coefficients; z plays no part."""
    return pearson(ranks(x), ranks(y), z)


def kendall(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b; z plays no part."""
    first, second = np.triu_indices(x.shape[-1], 1)
    return _cosine(*(np.sign(values[..., first] - values[..., second]) for values in (x, y)))


def partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return Pearson's coefficients of what is left when z is held."""
    return _cosine(*left(x, y, z))


def partial_ranks(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return those of the ranks of all."""
    return partial(ranks(x), ranks(y), np.swapaxes(ranks(np.swapaxes(z, -1, -2)), -1, -2))


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    lengths = [np.linalg.norm(values, axis=-1) for values in (x, y)]
    there = np.minimum(*lengths) > _SAME
    product = np.einsum("...n,...n->...", x, y)
    return np.where(there, np.clip(product / np.where(there, lengths[0] * lengths[1], 1.0), -1, 1), np.nan)


def left(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what is left of x and y when a constant and z are subtracted by least squares; 0 for mere rounding."""
    z = z - z.mean(axis=-2, keepdims=True)
    inverse = np.linalg.pinv(z, rcond=_SAME)
    found = []
    for values in (x, y):
        centred = values - values.mean(axis=-1, keepdims=True)
        left = centred - np.einsum("...nk,...k->...n", z, np.einsum("...kn,...n->...k", inverse, centred))
        before, after = (np.linalg.norm(v, axis=-1, keepdims=True) for v in (centred, left))
        found.append(np.where(after > _SAME * before, left, 0.0))
    return found[0], found[1]


def rank(z: np.ndarray) -> int:
    """Return how many of the numbers that are held are independent of each other and of a constant."""
    return int(np.linalg.matrix_rank(z - z.mean(axis=0), rtol=_SAME)) if z.size and z.any() else 0


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks along the last axis, equal numbers sharing the mean of theirs."""
    from scipy.stats import rankdata

    return rankdata(values, axis=-1) if values.size else values


def interval(
    statistic: Statistic, value: float, x: np.ndarray, y: np.ndarray, z: np.ndarray, picked: np.ndarray
) -> dict[str, float | None]:
    """Return the 95 % percentile bootstrap; resamples without a coefficient do not count, nor most of them."""
    rows = max(1, _CHUNK // len(x) ** 2)
    parts = [picked[start : start + rows] for start in range(0, len(picked), rows)]
    found = np.concatenate([statistic(x[part], y[part], z[part]) for part in parts])
    found = found[np.isfinite(found)]
    if len(found) < len(picked) / 2:
        return {"low": None, "high": None}
    low, high = (float(q) for q in np.quantile(found, (0.025, 0.975)))
    return {"low": min(low, value), "high": max(high, value)}


# -- p-values ------------------------------------------------------------------------------------------


def student(x: np.ndarray, y: np.ndarray, freedom: int) -> float:
    """Return the p-value of Pearson's coefficient by Student's t with so many degrees of freedom."""
    from scipy.stats import t

    r = float(pearson(x, y, x[:, None]))
    return 0.0 if abs(r) == 1 else float(2 * t.sf(abs(r) * math.sqrt(freedom / (1 - r * r)), freedom))


def spearman_p(x: np.ndarray, y: np.ndarray) -> float:
    """Return the p-value of Spearman's coefficient: over all orders up to 8 runs, else by t, which is never 0."""
    x, y, n = ranks(x), ranks(y), len(x)
    if n > _ALL_ORDERS:
        return max(student(x, y, n - 2), 2 / math.factorial(n))  # t says 0 for equal orders
    return _share_as_far((x - x.mean())[_orders(n)] @ (y - y.mean()))


def kendall_p(x: np.ndarray, y: np.ndarray) -> float:
    """Return the p-value of Kendall's tau-b: over all orders up to 8 runs, else scipy's."""
    from scipy.stats import kendalltau

    n = len(x)
    if n > _ALL_ORDERS:
        return float(kendalltau(x, y).pvalue)  # pyright: ignore[reportAttributeAccessIssue] (scipy's type hides it)
    first, second = np.triu_indices(n, 1)
    orders, signs = _orders(n), np.sign(x[:, None] - x[None, :])
    return _share_as_far(signs[orders[:, first], orders[:, second]] @ np.sign(y[first] - y[second]))


def _share_as_far(found: np.ndarray) -> float:
    """Return the share of all orders whose statistic is as far from 0 as that of the first, the order there is."""
    return float((np.abs(found) >= np.abs(found[0]) * (1 - _SAME) - _SAME).mean())


@cache
def _orders(n: int) -> np.ndarray:
    return np.array(list(permutations(range(n))))
