import math

import numpy as np
import pytest

from robustscape.evaluation.intervals import bootstrap_mean, wilson
from robustscape.types import BadInput


def test_closed_form_wilson_ends():
    z2 = 1.959963984540054**2
    none, all_of = wilson(0, 10), wilson(10, 10)
    assert (none.value, none.low, all_of.value, all_of.high) == (0.0, 0.0, 1.0, 1.0)
    assert none.high == pytest.approx(z2 / (10 + z2), rel=1e-12)
    assert all_of.low == pytest.approx(10 / (10 + z2), rel=1e-12)


@pytest.mark.parametrize(("successes", "n", "level"), [(1, 3, 0.95), (437, 1000, 0.95), (9999, 10000, 0.99)])
def test_reference_wilson_is_scipys(successes, n, level):
    from scipy.stats import binomtest

    theirs = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    ours = wilson(successes, n, level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert ours.n == n


def test_closed_form_bootstrap_of_a_constant_has_no_width():
    number = bootstrap_mean(np.full(7, 2.5), seed=0)
    assert (number.value, number.low, number.high, number.n) == (2.5, 2.5, 2.5, 7)


def test_closed_form_bootstrap_of_many_is_the_normal_interval():
    values = np.arange(1500.0) % 30
    number = bootstrap_mean(values, seed=3)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert number.value == values.mean()
    # 2,000 draws give the ends to about 3 % of the half width
    assert number.high - number.value == pytest.approx(half, rel=0.1)
    assert number.value - number.low == pytest.approx(half, rel=0.1)


def test_contract_bootstrap_belongs_to_the_seed():
    values = np.linspace(0, 1, 50) ** 2
    one, other = bootstrap_mean(values, seed=0), bootstrap_mean(values, seed=1)
    assert one.value == other.value
    assert one.low != other.low


@pytest.mark.parametrize("wrong", [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 95.0)])
def test_contract_what_cannot_be_an_interval_is_refused(wrong):
    with pytest.raises(BadInput):
        wilson(*wrong)
    if wrong[1] == 0:
        with pytest.raises(BadInput, match="at least one example"):
            bootstrap_mean(np.empty(0), seed=0)
