from itertools import permutations

import numpy as np
import pytest
import scipy.stats as st

from robustscape.evaluation.correlation import correlation
from robustscape.types import BadInput

X = np.array([0.1, 0.4, 0.35, 0.9, 0.7, 0.2, 0.5, 1.3, 0.05, 0.6, 0.8])
Y = np.array([1.0, 1.3, 1.1, 2.4, 1.7, 1.3, 1.2, 2.2, 1.05, 1.9, 1.6])  # 1.3 twice
CLEAN = np.array([0.80, 0.78, 0.83, 0.70, 0.75, 0.81, 0.79, 0.77, 0.82, 0.74, 0.76])


def as_far(statistic, x, y):
    """The share of all orders of x whose statistic is at least as far from 0, one by one."""
    here = abs(statistic(x, y).statistic)
    return np.mean([abs(statistic(np.array(other), y).statistic) >= here - 1e-9 for other in permutations(x)])


def test_reference_coefficients_and_p_values_are_those_of_scipy_with_ties():
    found = correlation(X, Y)
    for ours, theirs in (
        (found.pearson, st.pearsonr(X, Y)),
        (found.spearman, st.spearmanr(X, Y)),
        (found.kendall, st.kendalltau(X, Y)),
    ):
        assert ours.value == pytest.approx(theirs.statistic, abs=1e-12)
        assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
        assert ours.low <= ours.value <= ours.high
    assert (found.n, found.held, found.notes, found.partial) == (11, 0, (), None)


@pytest.mark.parametrize("y", [[3.0, 1.0, 4.0, 1.5, 9.0], [3.0, 1.0, 3.0, 1.0, 9.0]])
def test_reference_p_values_of_ranks_of_few_runs_count_every_order(y):
    x, y = [1.0, 2.0, 2.5, 4.0, 7.0], np.array(y)
    found = correlation(x, y)
    assert found.spearman.p_value == pytest.approx(as_far(st.spearmanr, x, y))
    assert found.kendall.p_value == pytest.approx(as_far(st.kendalltau, x, y))


def test_closed_form_equal_orders_never_have_probability_zero():
    """Student's t gives 0 for a rank correlation of 1, though 2 of n! orders are as far from 0."""
    assert correlation(range(6), [0, 1, 4, 9, 16, 25]).spearman.p_value == pytest.approx(2 / 720)
    many = correlation(range(9), np.arange(9) ** 3)
    assert (many.spearman.value, many.kendall.value) == (pytest.approx(1), pytest.approx(1))
    assert many.spearman.p_value == pytest.approx(2 / 362880)


def test_closed_form_partial_is_the_correlation_of_regression_residuals():
    found = correlation(X, Y, given=CLEAN)
    residuals = []
    for values in (X, Y):
        line = st.linregress(CLEAN, values)
        residuals.append(values - line.intercept - line.slope * CLEAN)
    r = st.pearsonr(*residuals).statistic
    assert found.partial.value == pytest.approx(r, abs=1e-12)
    freedom = 11 - 2 - 1  # one less than pearsonr of the residuals would take
    assert found.partial.p_value == pytest.approx(2 * st.t.sf(abs(r) * np.sqrt(freedom / (1 - r * r)), freedom))
    xy, xz, yz = (st.pearsonr(a, b).statistic for a, b in ((X, Y), (X, CLEAN), (Y, CLEAN)))
    assert found.partial.value == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))
    ranks = [st.rankdata(values) for values in (X, Y, CLEAN)]
    assert found.partial_ranks.value == pytest.approx(correlation(*ranks[:2], given=ranks[2]).partial.value)


def test_closed_form_partial_p_value_is_that_of_the_regression():
    """With two numbers held: the t-test of x in the regression of y on x and both, by the normal equations."""
    other = np.sin(np.arange(11.0))
    design = np.stack([np.ones(11), X, CLEAN, other], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    weights = inverse @ design.T @ Y
    left = Y - design @ weights
    t = weights[1] / np.sqrt(left @ left / (11 - 4) * inverse[1, 1])
    found = correlation(X, Y, given=np.stack([CLEAN, other], axis=1))
    assert found.held == 2
    assert found.partial.p_value == pytest.approx(2 * st.t.sf(abs(t), 11 - 4), rel=1e-9)
    twice = correlation(X, Y, given=np.stack([CLEAN, 3 - CLEAN], axis=1))  # one number, said twice
    assert twice.held == 1
    assert twice.partial.p_value == pytest.approx(correlation(X, Y, given=CLEAN).partial.p_value)


def test_contract_neither_unit_nor_offset_nor_the_seed_move_the_coefficients():
    first, second = correlation(X, Y, given=CLEAN, seed=3), correlation(1e200 * X, -2 * Y + 1e6, given=5 * CLEAN)
    for name in ("pearson", "spearman", "kendall", "partial", "partial_ranks"):
        a, b = getattr(first, name), getattr(second, name)
        assert (b.value, b.p_value) == (pytest.approx(-a.value, abs=1e-6), pytest.approx(a.p_value, rel=1e-4))
    assert correlation(X, Y, seed=3) == correlation(X, Y, seed=3) != correlation(X, Y, seed=4)


def test_closed_form_bootstrap_intervals_cover_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(100):
        x = rng.normal(size=25)
        found = correlation(x, 0.6 * x + 0.8 * rng.normal(size=25), draws=200)
        spearman = 6 / np.pi * np.arcsin(0.3)  # of a bivariate normal with correlation 0.6
        covered += [
            found.pearson.low <= 0.6 <= found.pearson.high,
            found.spearman.low <= spearman <= found.spearman.high,
        ]
    # Four standard errors of a share of 0.95 of 100 are 0.09; percentile intervals of 25 runs are a little short.
    assert (covered / 100 > 0.84).all() and (covered / 100 < 1).all()


def test_contract_what_cannot_be_said_is_noted():
    few = correlation(X[:5], Y[:5], given=[0.9, 0.9, 0.9, 0.9, 0.9])
    assert few.partial is None and few.held == 0
    assert "5 runs are few" in few.notes[0] and "the same in every run" in few.notes[1]
    assert "holds" not in correlation(X, Y).notes
    assert "decides x" in correlation(X, Y, given=3 * X + 1).notes[0]
    four = correlation(X[:4], Y[:4], given=np.stack([CLEAN[:4], Y[1:5]], axis=1))
    assert "4 runs are too few to hold 2 numbers" in four.notes[1]
    assert correlation([0, 0, 0, 1], [0, 0, 0, 5]).pearson.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "given", "words"),
    [
        ([1, 2, 3], [1, 2, 3], None, "at least 4 runs, not 3"),
        ([1, 2, 3, 4], [1, 2, 3], None, "x is of 4 runs and y of 3"),
        ([0.3, 0.3, 0.3, 0.3], [1, 2, 3, 4], None, r"x is 0\.3 in every run"),
        ([1, 2, 3, 4], [1, 2, np.nan, np.inf], None, "y is not finite in 2 of 4 runs"),
        ([[1, 2, 3, 4]], [1, 2, 3, 4], None, r"shape \(1, 4\)"),
        ([1, 2, 3, 4], [1, 2, 4, 3], [1, 2, 3], r"shape \(4,\)"),
        ([1, 2, 3, 4], [1, 2, 4, 3], [1, 2, 3, np.nan], "held is not finite"),
    ],
)
def test_contract_what_cannot_be_meant_is_refused(x, y, given, words):
    with pytest.raises(BadInput, match=words):
        correlation(x, y, given=given)
