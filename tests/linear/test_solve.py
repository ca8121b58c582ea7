"""The solver's optimum against generic convex solvers, its certificate, and the parts that it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array

from robustscape.linear.bracket import classwise_bound
from robustscape.linear.classwise import Classwise, solve_classwise
from robustscape.linear.cones import in_ball, in_cone, length
from robustscape.linear.first_order import descended
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.linear.objective import Objective
from robustscape.linear.quadratic import cone_minimum
from robustscape.linear.separability import constant_threshold, maximum_margin
from robustscape.linear.solve import curvature, solve

NORMS = ["linf", "l2", "l1"]
P = {"linf": np.inf, "l2": 2, "l1": 1}


def _objective(norm, eps, *, intercept=True, strength=1.0, n=50, d=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 0.5
    y = np.where(x @ np.array([1.0, 0.5, -0.3, 0.0, *np.zeros(d - 4)]) + rng.normal(size=n) > 0.6, 1.0, -1.0)
    cost = rng.uniform(0.2, 2, size=n) * (strength if np.isfinite(strength) else 1)
    return Objective(x=x, y=y, cost=cost, ridge=float(np.isfinite(strength)), norm=norm, eps=eps, intercept=intercept)


def _epigraph(problem):
    """The minimum by SLSQP: parts w = u - v with u, v >= 0 under linf, and r >= |w_i| under l1."""
    d, intercept = problem.x.shape[1], problem.intercept

    def value(w, r, b):
        exponent = problem.eps * r - problem.y * (problem.x @ w + b)
        return problem.cost @ np.logaddexp(0, exponent) + problem.ridge * (w @ w) / 2

    if problem.norm == "linf":
        bounds = [(0, None)] * (2 * d) + [(None, None) if intercept else (0, 0)]
        begin, limits = np.full(2 * d + 1, 0.1), []

        def flat(z):
            return value(z[:d] - z[d : 2 * d], z[: 2 * d].sum(), z[-1])
    else:
        bounds = [(None, None)] * d + [(0, None), (None, None) if intercept else (0, 0)]
        begin = np.append(np.full(d, 0.1), [0.5, 0.0])
        if problem.norm == "l1":
            limits = [{"type": "ineq", "fun": lambda z, s=s: z[d] - s * z[:d]} for s in (1, -1)]
        else:
            limits = [{"type": "ineq", "fun": lambda z: z[d] - np.sqrt(z[:d] @ z[:d] + 1e-18)}]

        def flat(z):
            return value(z[:d], z[d], z[-1])

    options = {"ftol": 1e-13, "maxiter": 999}
    found = minimize(flat, begin, bounds=bounds, constraints=limits, method="SLSQP", options=options)
    return found.fun


# -- the optimum -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("strength", [0.1, 10.0, np.inf])
def test_reference_the_optimum_is_that_of_a_generic_solver(norm, intercept, strength):
    for eps in (0.05, 0.3):
        problem = _objective(norm, eps, intercept=intercept, strength=strength)
        found, other = solve(problem), _epigraph(problem)
        assert found.outcome == "optimal"
        # SLSQP differentiates by differences: it is good to about 1e-6 of the value.
        assert -1e-6 * other < other - found.value < 1e-5 * other
        assert 0 <= found.gap <= 1e-6 * found.value
        assert other >= found.value - found.gap - 1e-9 * other


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_the_value_is_the_exact_adversarial_loss(norm):
    problem = _objective(norm, 0.2)
    found = solve(problem)
    exact = AdversarialLogistic(
        x=torch.from_numpy(problem.x),
        y=torch.from_numpy(problem.y),
        norm=norm,
        eps=0.2,
        weight=torch.from_numpy(problem.cost),
    ).at(torch.from_numpy(found.w), found.b)
    assert abs(float(exact.loss) * problem.cost.sum() + found.w @ found.w / 2 - found.value) < 1e-10 * found.value


def test_closed_form_at_linf_zeros_are_exact_and_stationary():
    problem = _objective("linf", 0.2, d=20, n=200)
    found = solve(problem, tolerance=1e-9)
    zero = found.w == 0
    assert 5 < zero.sum() < 20
    point = problem.at(found.w, found.b)
    slope = point.gradient()
    assert (np.abs(slope[:20][zero]) < slope[20]).all()
    assert np.abs(slope[:20][~zero] + np.sign(found.w[~zero]) * slope[20]).max() < 1e-4


def test_closed_form_at_l1_the_largest_weights_are_equal():
    found = solve(_objective("l1", 1.5, d=20, n=200))
    size = np.abs(found.w)
    assert (size == size.max()).sum() >= 2


@pytest.mark.parametrize("norm", NORMS)
def test_reference_any_feasible_dual_point_is_below_any_primal_one(norm):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        problem = _objective(norm, 0.3, strength=2.0, seed=seed)
        least = solve(problem).value
        for spread in (0.01, 0.3, 3.0):
            point = problem.at(spread * rng.normal(size=4), rng.normal())
            assert point.value - point.gap <= least * (1 + 1e-9)
            assert point.gap >= 0


@pytest.mark.parametrize("norm", NORMS)
def test_reference_gradient_steps_reach_the_same_optimum(norm):
    problem = _objective(norm, 0.2, d=6)
    newton = solve(problem)
    point, taken = descended(problem.constant(), tolerance=1e-8, steps=5000)
    assert 0 < taken < 5000
    assert abs(point.value - newton.value) < 1e-7 * newton.value
    if norm == "linf":
        assert ((point.w == 0) == (newton.w == 0)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_reference_sparse_features_give_the_same(norm):
    problem = _objective(norm, 0.2, d=8, n=120)
    x = problem.x * (np.abs(problem.x) > 0.5)
    x[:, 5] = 0
    kept = {"y": problem.y, "cost": problem.cost, "ridge": 1.0, "norm": norm, "eps": 0.2, "intercept": True}
    dense, sparse = (solve(Objective(x=features, **kept), tolerance=1e-9) for features in (x, csr_array(x)))
    assert np.abs(dense.w - sparse.w).max() < 1e-7
    assert dense.w[5] == sparse.w[5] == 0


@pytest.mark.parametrize("norm", NORMS)
def test_reference_many_examples_begin_with_few_and_end_at_the_same(norm):
    problem = _objective(norm, 0.1, n=6000)
    found = solve(problem)
    whole = solve(problem, start=(np.full(4, 0.01), 0.0))
    assert found.outcome == whole.outcome == "optimal"
    assert abs(found.value - whole.value) < 1e-6 * whole.value


def test_contract_without_a_ridge_what_can_be_classified_has_no_minimum():
    x = np.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 0.5], [-2.0, 0.0]])
    kept = {"x": x, "y": np.array([1.0, 1, -1, -1]), "cost": np.ones(4), "ridge": 0.0, "norm": "linf"}
    assert solve(Objective(**kept, eps=0.5, intercept=True)).outcome == "separable"
    assert solve(Objective(**kept, eps=1.2, intercept=True)).outcome == "optimal"


def _apart(norm, share, x, y):
    """Return the objective without a ridge at a share of the data's margin."""
    margin = maximum_margin(torch.from_numpy(x), torch.from_numpy(y), norm=norm, intercept=True)
    assert margin.separable
    kept = {"x": x, "y": y, "cost": np.ones(len(y)), "ridge": 0.0, "norm": norm, "intercept": True}
    return Objective(**kept, eps=share * margin.value)


def _digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x[y < 2] / 16, np.where(y[y < 2], 1.0, -1.0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("share", "outcome"), [(0.9, "separable"), (0.99, "separable"), (0.999, "separable"), (1.001, "optimal")]
)
def test_closed_form_the_margin_decides_whether_there_is_a_minimum(norm, share, outcome):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    y = np.where(x[:, 0] + x[:, 1] > 0, 1.0, -1.0)
    assert solve(_apart(norm, share, x + y[:, None] * np.array([0.3, 0.2, 0, 0, 0]), y)).outcome == outcome


@pytest.mark.parametrize(("share", "outcome"), [(0.999, "separable"), (1.001, "optimal")])
def test_closed_form_the_margin_of_real_data_decides(share, outcome):
    assert solve(_apart("linf", share, *_digits())).outcome == outcome


def test_contract_many_features_below_the_margin_are_told_too():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2600))
    y = np.where(np.arange(20) < 10, 1.0, -1.0)
    problem = _apart("linf", 0.999, x, y)
    assert solve(problem, steps=1).outcome == "separable"


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_reference_a_bad_start_ends_where_none_does(norm):
    x, y = _digits()
    kept = {"y": y, "ridge": 1.0, "norm": norm, "intercept": True}
    large, small = np.full(len(y), 1e10), np.full(len(y), 1e4)
    plain = solve(Objective(x=x, eps=0.0, cost=large, **kept))
    for problem in (Objective(x=x, eps=0.4, cost=large, **kept), Objective(x=255 * x, eps=0.05, cost=small, **kept)):
        warm, cold = solve(problem, start=(plain.w, plain.b)), solve(problem)
        assert warm.outcome == cold.outcome == "optimal"
        assert abs(warm.value - cold.value) <= 2e-6 * cold.value


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_the_gap_is_at_most_the_objective(norm):
    rng = np.random.default_rng(0)
    for strength in (1e6, np.inf):
        problem = _objective(norm, 0.1, strength=strength)
        for _ in range(5):
            point = problem.at(5 * rng.normal(size=4), 0.3)
            assert 0 < point.gap <= point.value


def test_closed_form_where_every_probability_vanishes_there_is_no_gap():
    x = np.array([[1.0], [-1.0]])
    kept = {"y": np.array([1.0, -1.0]), "cost": np.ones(2), "norm": "l2", "eps": 0.1, "intercept": True}
    point = Objective(x=x, ridge=0.0, **kept).at(np.array([1e4]), 0.0)
    assert point.value == point.gap == 0


def test_reference_without_an_adversary_many_examples_end_where_newton_does():
    problem = _objective("linf", 0.0, n=6000)
    found, other = solve(problem, tolerance=1e-9), solve(problem, start=(np.full(4, 0.01), 0.0), tolerance=1e-9)
    assert found.outcome == other.outcome == "optimal"
    assert abs(found.value - other.value) <= 2e-9 * other.value


def test_contract_a_stall_is_told_from_too_few_steps():
    x, y = _digits()
    hard = Objective(x=255 * x, y=y, cost=np.full(len(y), 1e10), ridge=1.0, norm="l2", eps=0.05, intercept=True)
    found = solve(hard)
    assert found.outcome == "unfinished"
    assert found.stalled
    assert found.iterations < 100


def test_contract_too_few_steps_are_said():
    found = solve(_objective("linf", 0.1), steps=1)
    assert found.outcome == "unfinished"
    assert not found.stalled
    assert found.gap > 1e-6 * found.value


# -- the parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_projections_meet_their_optimality_conditions(norm):
    rng = np.random.default_rng(0)
    for _ in range(50):
        v, r = rng.normal(size=6) * 2, rng.normal() * 2
        near = in_ball(v, 1.0, norm)
        assert np.linalg.norm(near, ord=P[norm]) <= 1 + 1e-12
        # v - near is in the normal cone: its product with near is the largest over the ball.
        assert abs((v - near) @ near - length(v - near, norm)) < 1e-10 or np.abs(v - near).max() == 0
        w, height = in_cone(v, r, norm)
        assert length(w, norm) <= height + 1e-12
        rest, below = w - v, height - r  # in the dual cone, and orthogonal
        assert np.linalg.norm(rest, ord=P[norm]) <= below + 1e-12
        assert abs(rest @ w + below * height) < 1e-10


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("intercept", [True, False])
def test_closed_form_a_quadratic_over_the_cone_meets_its_optimality_conditions(norm, intercept):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(9, 9))
        H, g = root @ root.T + 0.01 * np.eye(9), 3 * rng.normal(size=9)
        z = cone_minimum(H, g, np.zeros(9), norm, intercept=intercept)
        slope = H @ z + g
        assert length(z[:7], norm) <= z[7] + 1e-9
        assert np.linalg.norm(slope[:7], ord=P[norm]) <= slope[7] + 1e-7
        assert abs(slope[:8] @ z[:8]) < 1e-6
        assert abs(slope[8]) < 1e-7 if intercept else z[8] == 0


@pytest.mark.parametrize("norm", NORMS)
def test_reference_gradient_and_curvature_are_those_of_autograd(norm):
    problem = _objective(norm, 0.3, strength=np.inf)
    w, b = np.array([0.3, -0.2, 0.1, 0.4]), 0.1
    point = problem.at(w, b)
    z = torch.tensor([*w, float(length(w, norm)), b], dtype=torch.float64, requires_grad=True)
    x, y, cost = (torch.from_numpy(value) for value in (problem.x, problem.y, problem.cost))

    def smooth(z):
        return cost @ torch.nn.functional.softplus(0.3 * z[4] - y * (x @ z[:4] + z[5]))

    (slope,) = torch.autograd.grad(smooth(z), z)
    assert np.abs(point.gradient() - slope.numpy()).max() < 1e-10
    assert np.abs(curvature(point) - torch.autograd.functional.hessian(smooth, z.detach()).numpy()).max() < 1e-10


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("intercept", [True, False])
def test_reference_the_threshold_is_that_of_separability(norm, intercept):
    problem = _objective(norm, 0.1, intercept=intercept)
    x, y, cost = (torch.from_numpy(value) for value in (problem.x, problem.y, problem.cost))
    other = constant_threshold(x, y, norm=norm, intercept=intercept, weight=cost)
    assert abs(problem.threshold() - other) < 1e-12


# -- several classes -------------------------------------------------------------------------------------


def _classwise(norm, eps=0.2, *, intercept=True, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4))
    y = (x @ rng.normal(size=(4, 3)) + rng.normal(size=(60, 3))).argmax(axis=1)
    cost = rng.uniform(0.5, 2, size=60)
    return Classwise(x=x, y=y, classes=3, cost=cost, ridge=1.0, norm=norm, eps=eps, intercept=intercept)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("intercept", [True, False])
def test_reference_the_classwise_optimum_is_certified_and_no_neighbour_is_better(norm, intercept):
    problem = _classwise(norm, intercept=intercept)
    found = solve_classwise(problem, tolerance=1e-5, steps=5000)
    assert found.outcome == "optimal"
    assert 0 <= found.gap <= 1e-5 * found.value
    rng = np.random.default_rng(1)
    for spread in (1e-3, 0.03, 1.0):
        for _ in range(30):
            w = found.w + spread * rng.normal(size=(3, 4))
            b = found.b + spread * rng.normal(size=3) * intercept
            assert problem.value(w, b) >= found.value - found.gap
    bound = classwise_bound(
        torch.from_numpy(found.w),
        torch.from_numpy(problem.x),
        torch.from_numpy(problem.y),
        norm=norm,
        eps=0.2,
        intercept=torch.from_numpy(found.b),
    )
    assert abs(problem.cost @ bound.numpy() + (found.w**2).sum() / 2 - found.value) < 1e-9 * found.value


@pytest.mark.parametrize("norm", NORMS)
def test_reference_with_two_classes_the_classwise_bound_is_the_binary_optimum(norm):
    problem = _objective(norm, 0.2)
    exact = solve(problem)
    labels = (problem.y > 0).astype(int)
    # W = (-v, v) with ||W||^2 = 2 ||v||^2 is w = 2 v at half the ridge: the features, times sqrt(2), make up for it.
    kept = {"y": labels, "classes": 2, "cost": problem.cost, "ridge": 1.0, "norm": norm, "intercept": True}
    two = Classwise(x=problem.x / 2**0.5, eps=0.2 / 2**0.5, **kept)
    found = solve_classwise(two, tolerance=1e-6, steps=5000)
    assert abs(found.value - exact.value) < 3e-6 * exact.value


def test_reference_without_an_adversary_it_is_scikit_learns_multinomial():
    from sklearn.linear_model import LogisticRegression

    problem = _classwise("linf", 0.0)
    found = solve_classwise(problem, tolerance=1e-9, steps=5000)
    other = LogisticRegression(tol=1e-9, max_iter=5000).fit(problem.x, problem.y, problem.cost)
    assert np.abs(found.w - other.coef_).max() < 1e-4


def test_contract_beyond_every_use_the_classwise_weights_are_0():
    found = solve_classwise(_classwise("l2", 50.0), tolerance=1e-6, steps=5000)
    assert found.outcome == "constant"
    assert not found.w.any()
