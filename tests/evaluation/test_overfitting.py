from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

from robustscape.evaluation.gap import gap
from robustscape.evaluation.overfitting import overfitting
from robustscape.evaluation.paired import paired


def epoch(number, **accuracies):
    tracked = {name: SimpleNamespace(n=200, robust_accuracy=accuracy) for name, accuracy in accuracies.items()}
    return SimpleNamespace(epoch=number, tracked=tracked)


LOG = [
    epoch(1, train=0.30, test=0.28, validation=0.9),
    epoch(2, train=0.50, test=0.45, validation=0.9),
    epoch(3),
    epoch(4, train=0.80, test=0.40, validation=0.9),
    epoch(5, train=0.75, test=0.35, validation=0.9),
]


def test_closed_form_each_definition_takes_its_epochs():
    found = overfitting(LOG)
    assert found.wu_last.value == pytest.approx(0.75 - 0.35)
    assert found.wu_best.value == pytest.approx(0.50 - 0.45)
    assert found.yan.value == pytest.approx(0.80 - 0.45)
    assert found.yamada.value == pytest.approx(0.75 - 0.45)
    assert "epoch 5" in found.wu_last.meaning and "4 and 2" in found.yan.meaning
    assert found.wu_last.low < 0.4 < found.wu_last.high and found.wu_last.note == ""
    for term in (found.wu_best, found.yan, found.yamada):
        assert term.low is term.high is None and "chosen" in term.note


def test_closed_form_the_interval_is_newcombes():
    """Of 150 and of 70 of 200, by the formula of Newcombe 1998, method 10."""

    def score(hits, n, z=1.959963984540054):
        p = hits / n
        centre, half = p + z * z / 2 / n, z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
        return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)

    (a, b), (c, d) = score(150, 200), score(70, 200)
    found = overfitting(LOG).wu_last
    assert found.low == pytest.approx(0.4 - np.hypot(0.75 - a, d - 0.35))
    assert found.high == pytest.approx(0.4 + np.hypot(b - 0.75, 0.35 - c))


def test_contract_validation_stands_in_for_test_and_says_so():
    log = [epoch(e.epoch, **{k: v.robust_accuracy for k, v in e.tracked.items() if k != "test"}) for e in LOG]
    found = overfitting(log)
    assert found.wu_last.value == pytest.approx(0.75 - 0.9)
    assert "validation" in found.wu_last.meaning


def test_closed_form_evaluations_are_subtracted_by_pairs_where_they_pair(fake):
    train, test, best = (
        fake.evaluation(0.02, 0.1, split="train"),
        fake.evaluation(0.02, 0.3),
        fake.evaluation(0.03, 0.2),
    )
    found = overfitting(train=train, test=test, best=best)
    between, pairs = gap(train, test), paired(test, best)
    for term, number in (
        (found.gap_loss, between.robust_loss),
        (found.gap_error, between.robust_error),
        (found.last_minus_best_loss, pairs.robust_loss),
        (found.last_minus_best_error, pairs.robust_error),
    ):
        assert (term.value, term.low, term.high) == (number.value, number.low, number.high)
    assert found.gap_error.value == pytest.approx(0.2) and found.last_minus_best_error.value == pytest.approx(0.1)
    # Both decompositions of the loss on test.
    assert train.robust_loss.value + found.gap_loss.value == pytest.approx(test.robust_loss.value)
    assert best.robust_loss.value + found.last_minus_best_loss.value == pytest.approx(test.robust_loss.value)


def test_contract_nothing_is_invented(fake):
    empty = overfitting()
    for field in fields(empty):
        term = getattr(empty, field.name)
        assert term.value is term.low is term.high is None and term.note and term.meaning
    clean = overfitting([epoch(1, train=None, test=None)])
    assert "not tracked on train and test or validation" in clean.yan.note
    apart = overfitting([epoch(1, train=0.5), epoch(2, test=0.4)])
    assert "any one epoch" in apart.wu_last.note
    test = fake.evaluation(0.02, 0.3)
    other = overfitting(
        train=replace(test, eps=0.1, split="train"), test=test, best=replace(test, index=test.index + 1)
    )
    assert "eps" in other.gap_loss.note and "different examples" in other.last_minus_best_error.note
    assert (
        "on train" in overfitting(test=test).gap_error.note
        and "best" in overfitting(test=test).last_minus_best_loss.note
    )
