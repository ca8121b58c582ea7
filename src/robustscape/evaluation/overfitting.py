"""Robust overfitting taken apart: the gap between training and test, and what the last epochs cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from robustscape.evaluation.gap import Gap, difference, gap
from robustscape.evaluation.intervals import wilson
from robustscape.evaluation.paired import Paired, paired
from robustscape.evaluation.result import Evaluation, Number
from robustscape.types import BadInput


class Seen(Protocol):
    """Performance on one tracked set at the end of an epoch, as ``training.log.Tracked``."""

    @property
    def n(self) -> int:
        """Number of examples."""
        ...

    @property
    def robust_accuracy(self) -> float | None:
        """Fraction, None where no attack was made."""
        ...


class Epoch(Protocol):
    """What is used of an epoch of a training log, as ``training.log.EpochLog``."""

    @property
    def epoch(self) -> int:
        """Its number, from 1."""
        ...

    @property
    def tracked(self) -> Mapping[str, Seen]:
        """Set name, such as "train" or "test", to the performance on it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Term:
    """One number, or why there is none.

    Attributes:
        value: In the unit that ``Overfitting`` names; None where something is missing.
        low: Lower end of the 95 % interval; None where there is none.
        high: Its upper end.
        meaning: What is subtracted from what.
        note: What is missing, or why there is no interval; "" where nothing is.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    meaning: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Overfitting:
    """The robust generalisation of one run, by each definition in use; all are positive where it overfits.

    The first four are differences of evaluations, those of one checkpoint on other images or of two on the same. At
    the last epoch test = train + gap, and test = test of the best checkpoint + (last minus best): Stutz 2021, figure 9,
    shows both parts against flatness. The others are accuracies from the training log, under the attack and on the
    images that were tracked: on "test", or on "validation" where that was not tracked.

    Attributes:
        gap_loss: Stutz 2021 (https://arxiv.org/abs/2104.04448): robust loss, test minus train, last epoch; nats.
        gap_error: The same of the robust error, a fraction.
        last_minus_best_loss: Robust loss on test, last minus best checkpoint; nats, interval over pairs of images.
        last_minus_best_error: The same of the robust error, a fraction.
        wu_last: Wu 2020 (https://arxiv.org/abs/2004.05884): robust accuracy, train minus test at the same epoch, the
            last; a fraction, as all that follow.
        wu_best: The same at the epoch that is best on test.
        yan: Yan 2022 (AT-AMP), figure 5: the best of train minus the best of test, each over all epochs.
        yamada: Yamada 2021 (https://arxiv.org/abs/2102.02950): train at the last epoch minus the best of test.
    """

    gap_loss: Term
    gap_error: Term
    last_minus_best_loss: Term
    last_minus_best_error: Term
    wu_last: Term
    wu_best: Term
    yan: Term
    yamada: Term


def overfitting(
    epochs: Sequence[Epoch] = (),
    *,
    train: Evaluation | None = None,
    test: Evaluation | None = None,
    best: Evaluation | None = None,
) -> Overfitting:
    """Take one run's robust overfitting apart; what cannot be had from what is given is None, with the reason.

    Args:
        epochs: The training log, in order.
        train: Evaluation of the last epoch on training images.
        test: The same on test images.
        best: Evaluation of the early-stopped checkpoint on the same test images.

    Deviations:
        Yamada's text leaves open at which epoch the training accuracy is taken. Its tables (63.81 % against 50.98 % at
        eps 8/255) look like both at the early-stopped one, which is ``wu_best``.
    """
    gaps, why_not = _gap(train, test)
    pairs, why_no_pairs = _last_minus_best(test, best)
    loss, error = "robust loss, test minus train, last epoch", "robust error, test minus train, last epoch"
    stopped = "on test, last epoch minus best checkpoint"
    return Overfitting(
        gap_loss=_term(gaps and gaps.robust_loss, loss, why_not),
        gap_error=_term(gaps and gaps.robust_error, error, why_not),
        last_minus_best_loss=_term(pairs and pairs.robust_loss, f"robust loss {stopped}", why_no_pairs),
        last_minus_best_error=_term(pairs and pairs.robust_error, f"robust error {stopped}", why_no_pairs),
        **_of_log(epochs),
    )


# -- from evaluations ----------------------------------------------------------------------------------


def _gap(train: Evaluation | None, test: Evaluation | None) -> tuple[Gap | None, str]:
    if train is None or test is None:
        return None, f"there is no evaluation of the last epoch on {'train' if train is None else 'test'}"
    try:
        return gap(train, test), ""
    except BadInput as error:
        return None, str(error)


def _last_minus_best(last: Evaluation | None, best: Evaluation | None) -> tuple[Paired | None, str]:
    if last is None or best is None:
        return None, f"there is no evaluation of the {'last' if last is None else 'best'} checkpoint on test"
    try:
        return paired(last, best), ""
    except BadInput as error:
        return None, str(error)


def _term(number: Number | None, meaning: str, reason: str) -> Term:
    if number is None:
        return Term(meaning=meaning, note=reason)
    return Term(value=number.value, low=number.low, high=number.high, meaning=meaning)


# -- from the log --------------------------------------------------------------------------------------

_CHOSEN = "no interval: an epoch was chosen by these very accuracies"


def _of_log(epochs: Sequence[Epoch]) -> dict[str, Term]:
    """Return Wu's, Yan's and Yamada's."""
    train = _curve(epochs, "train")
    held_out = next((name for name in ("test", "validation") if _curve(epochs, name)), "")
    test = _curve(epochs, held_out)
    both = [epoch for epoch in train if epoch in test]
    words = f"robust accuracy, train minus {held_out or 'test'}"
    if not both:
        missing = [name for name, curve in (("train", train), ("test or validation", test)) if not curve]
        note = f"robust accuracy was not tracked on {' and '.join(missing) or 'both sets at any one epoch'}"
        return {
            "wu_last": Term(meaning=f"{words}, both at the last epoch", note=note),
            "wu_best": Term(meaning=f"{words}, both at the best epoch", note=note),
            "yan": Term(meaning=f"{words}, each at its best epoch", note=note),
            "yamada": Term(meaning=f"{words}, the last epoch against the best", note=note),
        }
    last, stop, top = both[-1], _best(test), _best(train)
    same = _best({epoch: test[epoch] for epoch in both})
    at_last = difference(train[last], test[last])
    return {
        "wu_last": _term(at_last, f"{words}, both at epoch {last}, the last", ""),
        "wu_best": _chosen(train[same], test[same], f"{words}, both at epoch {same}, the best on {held_out}"),
        "yan": _chosen(train[top], test[stop], f"{words}, each at its best epoch, {top} and {stop}"),
        "yamada": _chosen(
            train[max(train)], test[stop], f"{words}, the last epoch, {max(train)}, against the best, {stop}"
        ),
    }


def _curve(epochs: Sequence[Epoch], name: str) -> dict[int, Number]:
    """Return the robust accuracy on a tracked set by epoch, with its Wilson interval."""
    found = {}
    for entry in epochs:
        seen = entry.tracked.get(name)
        if seen is not None and seen.robust_accuracy is not None:
            found[entry.epoch] = wilson(round(seen.robust_accuracy * seen.n), seen.n)
    return found


def _best(curve: Mapping[int, Number]) -> int:
    """Return the epoch of the highest accuracy, the first of equals."""
    return max(curve, key=lambda epoch: (curve[epoch].value, -epoch))


def _chosen(train: Number, test: Number, meaning: str) -> Term:
    return Term(value=train.value - test.value, meaning=meaning, note=_CHOSEN)
