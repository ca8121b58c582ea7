"""Fits over a decade, and what memory a search takes."""

import pytest

from robustscape.benches.growth import FACTORS, GrowthBench, fit, peak
from robustscape.benches.harness import Rounds
from robustscape.benches.problem import TINY, attack_of
from robustscape.evaluation.subject import drained


def test_closed_form_a_power_law_is_fitted_exactly():
    slope, worst = fit(FACTORS, [3.0 * size**1.5 for size in FACTORS])
    assert slope == pytest.approx(1.5, abs=1e-12)
    assert worst == pytest.approx(0.0, abs=1e-12)


def test_closed_form_the_worst_residual_is_relative():
    slope, worst = fit((1, 2, 4), (1.0, 2.0 * 1.1**3, 4.0))  # the line goes 1.1 times above the outer two
    assert slope == pytest.approx(1.0, abs=1e-12)
    assert worst == pytest.approx(0.21, abs=1e-9)


def test_contract_a_peak_is_in_mebibytes():
    assert 1.0 <= peak(TINY, attack_of(0.1, 1), 4) < 10_000


@pytest.mark.slow
def test_end_to_end_memory_is_measured_in_fresh_processes():
    bench = GrowthBench(problem=TINY, rounds=Rounds(pairs=1, warmup=0))
    result = drained(bench.running())
    found = {name for name in result.costs if name.startswith("peak memory")}
    assert found == {f"peak memory, ten times the {what} over once" for what in ("steps", "restarts", "examples")}
    assert all(0 < result.costs[name].median < 10 for name in found)
