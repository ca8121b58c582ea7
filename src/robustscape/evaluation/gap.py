"""The generalisation gap between two evaluations of one model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustscape.evaluation.result import Evaluation, Number
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much worse a model does on test than on training examples: positive where it overfits.

    The gap of an accuracy is train minus test, that of an error or a loss test minus train, so the gaps of
    accuracy and error are one number. ``n`` is the number of test examples.

    Attributes:
        clean_error: Fraction, in [-1, 1]; also the gap of clean accuracy.
        robust_error: Fraction, in [-1, 1]; also the gap of robust accuracy.
        clean_loss: Nats per example.
        robust_loss: Nats per example.
    """

    clean_error: Number
    robust_error: Number
    clean_loss: Number
    robust_loss: Number


def difference(first: Number, second: Number) -> Number:
    """Return the first minus the second, of other examples: the squares of the intervals' arms add.

    Newcombe 1998 (Statistics in Medicine 17, pages 873-890, method 10). ``n`` is that of the first.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Number(value=value, low=value - below, high=value + above, n=first.n)


def gap(train: Evaluation, test: Evaluation) -> Gap:
    """Return the gap between training and test examples, with intervals.

    The intervals take the two sets of examples as independent and join the intervals of both evaluations by
    the squares of their arms: for fractions Newcombe 1998 (Statistics in Medicine 17, pages 873-890, method 10),
    for means Zou and Donner 2008 (https://doi.org/10.1002/sim.3095).

    Raises:
        BadInput: the two were attacked under different threat models, or with different attacks.
    """
    for what, a, b in (
        ("norm", train.norm, test.norm),
        ("eps", train.eps, test.eps),
        ("attack", train.attack, test.attack),
    ):
        if a != b:
            raise BadInput(f"the gap of two evaluations with different {what} ({a} and {b}) means nothing")
    return Gap(
        clean_error=difference(test.clean_error, train.clean_error),
        robust_error=difference(test.robust_error, train.robust_error),
        clean_loss=difference(test.clean_loss, train.clean_loss),
        robust_loss=difference(test.robust_loss, train.robust_loss),
    )
