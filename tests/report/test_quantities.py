from dataclasses import replace

import numpy as np
import pytest

from robustscape.report.quantities import Quantity, apart, gap, mean


def judged(fake, fooled, **changes):
    """An evaluation with the given flags."""
    fooled = np.asarray(fooled, dtype=bool)
    number = fake.wilson(int(fooled.sum()), len(fooled))
    return replace(
        fake.evaluation(0.02, 0.1), fooled=fooled, index=np.arange(len(fooled)), robust_error=number, **changes
    )


def test_closed_form_mean_over_runs():
    found = mean([Quantity(value=1.0, low=0.0, high=3.0), None, Quantity(value=3.0, low=2.0, high=5.0)])
    assert found == Quantity(value=2.0, low=1.0, high=4.0, spread=pytest.approx(2**0.5), runs=2)
    assert mean([Quantity(value=1.0)]) == Quantity(value=1.0)
    assert mean([None]) is None


def test_closed_form_gap_is_test_minus_train_in_points(fake):
    test, train = fake.evaluation(0.02, 0.12), fake.evaluation(0.02, 0.05, split="train")
    found = gap(test, train)
    assert found.value == pytest.approx(7)
    assert found.low < 7 < found.high
    assert gap(test, replace(train, eps=0.1)) is None


def test_closed_form_two_methods_on_the_same_images_are_compared_in_pairs(fake):
    some = np.arange(1000) < 100
    nested = np.arange(1000) < 110  # fooled wherever the other is, and on ten images more
    crossed = np.arange(1000) >= 890  # as many, all on other images
    assert apart([judged(fake, some)], [judged(fake, nested)])
    assert not apart([judged(fake, some)], [judged(fake, crossed)])
    elsewhere = replace(judged(fake, nested), index=np.arange(1000) + 5)
    assert not apart([judged(fake, some)], [elsewhere])


def test_closed_form_seeds_that_scatter_do_not_tell_methods_apart(fake):
    def group(*hits):
        return [judged(fake, np.arange(1000) < h) for h in hits]

    assert apart(group(100, 101), group(140, 141))
    assert not apart(group(60, 140), group(100, 180))
