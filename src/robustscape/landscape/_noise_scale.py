"""Signal and noise of gradients from the squared norms of mini-batches', with errors by the jackknife."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from robustscape.landscape.flatness import Estimate


def noise_estimates(gram: np.ndarray, sizes: np.ndarray, squares: np.ndarray) -> tuple[Estimate, Estimate, Estimate]:
    """Return signal |G|^2, noise tr(Sigma) and noise scale tr(Sigma) / |G|^2, with 95 % intervals.

    Both are unbiased for independent examples, whatever the sizes of the mini-batches: |G|^2 from the products of
    different mini-batches, tr(Sigma) from their spread (McCandlish 2018, https://arxiv.org/abs/1812.06162, appendix
    A.1, with all examples as the larger batch). Errors come from leaving out one group of mini-batches after another,
    Student's t with K - 1 degrees of freedom; fewer than three groups have none.

    Args:
        gram: (K, K), scalar products of the groups' summed gradients; mini-batch j is in group j mod K.
        sizes: (m,), examples of each mini-batch, m >= 2.
        squares: (m,), squared L2 norm of each mini-batch's summed gradient.
    """
    groups, batches = len(gram), np.arange(len(sizes))
    signal, noise = _signal_and_noise(float(gram.sum()), sizes, squares)
    covariance = None
    if groups > 2:
        left = []
        for k in range(groups):
            there, others = batches % groups != k, np.arange(groups) != k
            left.append(_signal_and_noise(float(gram[np.ix_(others, others)].sum()), sizes[there], squares[there]))
        covariance = np.cov(np.array(left).T, bias=True) * (groups - 1)
    m = len(sizes)
    if covariance is None:
        scale = noise / signal if signal > 0 else math.inf
        return _unknown(signal, m), _unknown(noise, m), Estimate(value=scale, low=0.0, high=math.inf, n=m)
    t = _quantile(groups - 1)
    spread = _around(noise, t * math.sqrt(covariance[1, 1]), m)
    return (
        _around(signal, t * math.sqrt(covariance[0, 0]), m),
        replace(spread, low=max(spread.low, 0.0)),
        _ratio(noise, signal, covariance[1, 1], covariance[0, 0], covariance[0, 1], t, m),
    )


def _signal_and_noise(square: float, sizes: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
    """Return |G|^2 and tr(Sigma), from the squared norm of all gradients' sum and those of the mini-batches'."""
    n = int(sizes.sum())
    signal = (square - squares.sum()) / (n**2 - (sizes**2).sum())
    noise = ((squares / sizes).sum() - square / n) / (len(sizes) - 1)
    return float(signal), float(noise)


def _quantile(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _around(value: float, half: float, n: int) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=n)


def _unknown(value: float, n: int) -> Estimate:
    return Estimate(value=value, low=-math.inf, high=math.inf, n=n)


def _ratio(top: float, bottom: float, v_top: float, v_bottom: float, v_both: float, t: float, n: int) -> Estimate:
    """Return top / bottom, infinite where bottom is not above 0, with the positive part of Fieller's interval.

    It holds the ratios r for which top - r bottom is within t standard errors of 0: all r with a r^2 - 2 b r + c <= 0.
    """
    a, b, c = bottom**2 - t**2 * v_bottom, top * bottom - t**2 * v_both, top**2 - t**2 * v_top
    value = top / bottom if bottom > 0 else math.inf
    root = math.sqrt(max(b**2 - a * c, 0.0))
    if a > 0 and bottom > 0:
        return Estimate(value=value, low=max((b - root) / a, 0.0), high=(b + root) / a, n=n)
    # The bottom may be 0: no upper end; below, what is left of the positive ratios.
    low = (b - root) / a if a < 0 < c else 0.0
    return Estimate(value=value, low=max(low, 0.0), high=math.inf, n=n)
