"""Two models on the same examples: which errs less, and by how much, the examples taken in pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robustscape.evaluation.intervals import bootstrap_mean, wilson
from robustscape.evaluation.result import Evaluation, Number
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The first model minus the second: below 0 where the first is the more robust.

    Attributes:
        robust_error: Difference of the fractions, in [-1, 1], 95 % interval of paired fractions.
        robust_loss: Difference of the mean robust losses, nats, interval by the paired bootstrap.
        only_first: Examples that only the first misclassifies under attack.
        only_second: Examples that only the second misclassifies.
        p_value: Of McNemar's exact test that these two are equally likely, two-sided, in (0, 1].
    """

    robust_error: Number
    robust_loss: Number
    only_first: int
    only_second: int
    p_value: float


def paired(first: Evaluation, second: Evaluation, *, seed: int = 0) -> Paired:
    """Compare two models by the robust errors and losses of the same examples.

    What both get right or wrong says nothing of their difference: leaving it out makes the comparison much sharper
    than one of two intervals.

    Args:
        first: An evaluation.
        second: Another, of the same examples under the same threat model and attack.
        seed: Seed of the bootstrap.

    Raises:
        BadInput: other examples, classes, data sets, threat models or attacks.

    Source:
        McNemar 1947 (https://doi.org/10.1007/BF02295996), in its exact binomial form. The interval of the difference is
        Newcombe 1998, Statistics in Medicine 17, pages 2635-2650, method 10; the losses' is a percentile bootstrap of
        the differences.
    """
    for what, a, b in (
        ("norms", first.norm, second.norm),
        ("eps", first.eps, second.eps),
        ("attacks", first.attack, second.attack),
        ("classes", first.classes, second.classes),
        ("data", first.provenance.data, second.provenance.data),
    ):
        if a != b:
            raise BadInput(f"two evaluations with different {what} ({a} and {b}) do not compare")
    if not np.array_equal(first.index, second.index):
        raise BadInput("the two evaluations are of different examples, so they do not pair")
    from scipy.stats import binomtest

    a, b = first.fooled.astype(bool), second.fooled.astype(bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    apart = only_first + only_second
    return Paired(
        robust_error=_difference(a, b),
        robust_loss=bootstrap_mean(first.losses.astype(np.float64) - second.losses.astype(np.float64), seed),
        only_first=only_first,
        only_second=only_second,
        p_value=float(binomtest(only_first, apart).pvalue) if apart else 1.0,
    )


def _difference(a: np.ndarray, b: np.ndarray) -> Number:
    """Return the difference of two paired fractions with Newcombe's interval (method 10)."""
    n = len(a)
    first, second = wilson(int(a.sum()), n), wilson(int(b.sum()), n)
    phi, value = _correlation(a, b), first.value - second.value
    down, up = first.value - first.low, second.high - second.value
    below = math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    up, down = first.high - first.value, second.value - second.low
    above = math.sqrt(max(0.0, up**2 - 2 * phi * up * down + down**2))
    return Number(value=value, low=max(-1.0, value - below), high=min(1.0, value + above), n=n)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the fourfold table's correlation, drawn towards 0 by Newcombe's continuity correction where positive."""
    n, both = len(a), int((a & b).sum())
    neither, only_a, only_b = int((~a & ~b).sum()), int((a & ~b).sum()), int((b & ~a).sum())
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    top = both * neither - only_a * only_b
    top = max(top - n / 2, 0.0) if top > 0 else top
    return top / math.sqrt(product) if product else 0.0
