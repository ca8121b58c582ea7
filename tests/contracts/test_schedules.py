"""What every schedule promises, whoever wrote it."""

import math
from dataclasses import replace

import pytest

from robustscape.types import Schedule


def test_contract_is_a_schedule(schedule):
    assert isinstance(schedule, Schedule)


@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_contract_finite_and_not_negative_from_first_to_last(schedule, total):
    factors = [schedule(done, total) for done in range(total + 1)]
    assert all(isinstance(factor, float) and math.isfinite(factor) and factor >= 0 for factor in factors)
    assert total == 1 or max(factors) > 0  # a cycle of one step has no place for its peak


def test_contract_pure(schedule):
    forwards = [schedule(done, 50) for done in range(51)]
    schedule(3, 7)
    assert [schedule(done, 50) for done in reversed(range(51))] == forwards[::-1]


def test_contract_warm_up_multiplies_by_a_rising_share(schedule):
    warm, total = replace(schedule, warmup=0.4), 50
    for done in range(total + 1):
        share = min(1.0, (done + 1) / (0.4 * total))
        assert warm(done, total) == pytest.approx(replace(schedule, warmup=0.0)(done, total) * share, rel=1e-12)
