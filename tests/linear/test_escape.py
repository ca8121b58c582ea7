"""Data whose loss has its infimum at infinity, told from those with a minimum."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from robustscape.linear.escape import escaping
from robustscape.linear.objective import Objective
from robustscape.linear.solve import solve

NORMS = ["linf", "l2", "l1"]
X = np.array([[1.0], [2.0], [0.0], [0.0], [0.0]])
Y = np.array([1.0, 1.0, 1.0, 1.0, -1.0])


def _objective(x, y, *, norm="l2", eps=0.0, intercept=True):
    return Objective(x=x, y=y, cost=np.ones(len(y)), ridge=0.0, norm=norm, eps=eps, intercept=intercept)


def _overlapping(n=60, d=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    return x, np.where(x[:, 0] + rng.normal(size=n) > 0, 1.0, -1.0)


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
@pytest.mark.parametrize("intercept", [True, False])
def test_closed_form_examples_beside_the_tied_ones_escape(intercept, kind):
    assert escaping(_objective(kind(X), Y, intercept=intercept)) == 2


def test_closed_form_a_feature_of_one_class_alone_lets_its_examples_escape():
    x, y = _overlapping()
    assert escaping(_objective(x, y)) == 0
    rare = np.flatnonzero(y > 0)[:3]
    assert escaping(_objective(np.append(x, np.isin(np.arange(60), rare)[:, None], axis=1), y)) == 3
    both = np.append(rare, np.flatnonzero(y < 0)[0])
    assert escaping(_objective(np.append(x, np.isin(np.arange(60), both)[:, None], axis=1), y)) == 0


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1.0, 1e6])
def test_closed_form_the_unit_of_a_feature_does_not_matter(scale):
    x, y = _overlapping()
    rare = scale * np.isin(np.arange(60), np.flatnonzero(y > 0)[:3])
    assert escaping(_objective(np.append(x, rare[:, None], axis=1), y)) == 3


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_with_an_adversary_only_eps_at_the_margin_lets_examples_escape(norm):
    x, y = np.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0]]), np.array([1.0, 1.0, -1.0])
    assert escaping(_objective(x, y, norm=norm, eps=1.0)) == 1
    assert escaping(_objective(x, y, norm=norm, eps=1.001)) == 0


def test_contract_one_class_and_too_many_features_are_left_alone():
    assert escaping(_objective(X, np.ones(5))) == 0
    wide = csr_array(([1.0, -1.0], ([0, 1], [0, 1])), shape=(2, 2**23 + 1))
    assert escaping(_objective(wide, np.array([1.0, -1.0]))) == 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("intercept", "infimum"), [(False, 3 * np.log(2)), (True, 3 * np.log(3) - 2 * np.log(2))])
def test_closed_form_the_solve_says_that_its_infimum_is_not_attained(norm, intercept, infimum):
    """The tied examples keep their own minimum: log 2 each, or the entropy of one in three."""
    problem = _objective(X, Y, norm=norm, intercept=intercept)
    found = solve(problem)
    assert (found.outcome, found.escaping) == ("unattained", 2)
    assert infimum < found.value <= infimum + found.gap
    assert found.gap <= 1e-6 * found.value
    again = solve(problem, start=(found.w, found.b))
    assert (again.outcome, again.escaping) == ("unattained", 2)
    assert solve(problem, steps=3).outcome == "unfinished"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_reference_a_minimum_is_not_taken_for_one_at_infinity(norm, eps):
    x, y = _overlapping()
    for scale in (1e-3, 1.0, 1e3):
        assert solve(_objective(scale * x, y, norm=norm, eps=scale * eps)).outcome == "optimal"


def test_reference_one_contrary_example_far_out_gives_a_minimum():
    """Without it the feature would let its examples escape."""
    y = _overlapping()[1]
    feature = np.where(y > 0, 1.0, 0.0)
    assert solve(_objective(feature[:, None], y)).outcome == "separable"
    feature[np.flatnonzero(y < 0)[0]] = 1e-3
    feature[np.flatnonzero(y > 0)[:5]] = 0
    assert solve(_objective(feature[:, None], y, intercept=False)).outcome == "optimal"
