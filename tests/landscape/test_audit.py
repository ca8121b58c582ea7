import math

import numpy as np
import pytest

from robustscape.landscape._audit import audited, bias, table


def test_closed_form_the_audit_estimates_the_mean_bias_without_a_bias_of_its_own():
    values = np.random.default_rng(0).random((6, 7))
    full = values + np.linspace(0, 1, 42).reshape(6, 7) ** 2
    cells = [(r, c) for r in range(6) for c in range(7)]
    found = []
    for seed in range(400):
        chosen = audited(seed, "slices", cells, 0.1)
        assert len(set(chosen)) == 5 and chosen == sorted(chosen)
        kept = np.full_like(full, math.nan)
        for cell in chosen:
            kept[cell] = full[cell]
        estimate = bias(values, kept)
        assert estimate.n == 5
        found.append(estimate.value)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - (values - full).mean()) < 4 * error
    everything = bias(values, full)
    assert everything.value == pytest.approx((values - full).mean(), rel=1e-12)


def test_contract_an_audit_of_nothing_is_none_and_one_of_little_has_an_interval():
    assert audited(0, "slices", [1, 2, 3], 0.0) == []
    assert len(audited(0, "slices", list(range(50)), 0.01)) == 5
    assert audited(0, "slices", [1, 2, 3], 0.01) == [1, 2, 3]
    assert bias(np.zeros(3), np.full(3, math.nan)) is None
    # points that overflowed are left out
    assert bias(np.array([math.inf, 1.0, 2.0]), np.array([1.0, 1.5, 3.0])).value == -0.75


def test_contract_tables_have_a_value_where_there_is_none():
    rows = [[{"a": 1.0}, {"a": None}], [{}, {"a": 2}]]
    np.testing.assert_array_equal(table(rows, "a", math.inf), [[1, math.inf], [math.inf, 2]])
