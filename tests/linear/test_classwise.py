"""The class-wise bound: its optimum by another solver, and from which eps on weights of 0 are best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from robustscape.linear.classwise import Classwise, solve_classwise

NORMS = ["linf", "l2", "l1"]
PAIRS = [(0, 1), (0, 2), (1, 2)]


def _three(norm, eps, *, intercept=True):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 4))
    y = (x @ rng.normal(size=(4, 3)) + rng.normal(size=(40, 3))).argmax(axis=1)
    cost = rng.uniform(0.5, 2, size=40)
    return Classwise(x=x, y=y, classes=3, cost=cost, ridge=1.0, norm=norm, eps=eps, intercept=intercept)


def _by_slsqp(problem):
    """The minimum over W, b and epigraph variables t, from the formula: its value and W."""
    x, cost, y = torch.from_numpy(problem.x), torch.from_numpy(problem.cost), torch.from_numpy(problem.y)
    rows, linf = torch.arange(len(y)), problem.norm == "linf"
    # v = w_j - w_k of all pairs, (12,), and what bounds it: under linf |v_i| <= t_i each, under l1 one t for a pair.
    differ = np.kron(np.array([np.eye(3)[j] - np.eye(3)[k] for j, k in PAIRS]), np.eye(4))
    spread = np.eye(12) if linf else np.kron(np.eye(3), np.ones((4, 1)))

    def value(z):
        z = torch.tensor(z, requires_grad=True)
        w, b, t = z[:12].reshape(3, 4), z[12:15] * problem.intercept, z[15:]
        r = t.reshape(3, 4).sum(dim=1) if linf else t
        exponent = x @ w.T + b
        exponent = exponent - exponent[rows, y][:, None]
        for number, (j, k) in enumerate(PAIRS):
            for wrong, right in ((j, k), (k, j)):
                exponent = exponent + problem.eps * r[number] * torch.outer(y == right, torch.eye(3)[wrong])
        total = cost @ torch.logsumexp(exponent, dim=1) + (w * w).sum() / 2
        return total.item(), torch.autograd.grad(total, z)[0].numpy()

    def lengths(z):
        return z[15:] - np.linalg.norm((differ @ z[:12]).reshape(3, 4), axis=1)

    def lengthening(z):
        v = (differ @ z[:12]).reshape(3, 4)
        along = np.kron(np.eye(3), np.ones(4)) * (v / np.linalg.norm(v, axis=1, keepdims=True)).ravel()
        return np.hstack([-along @ differ, np.zeros((3, 3)), np.eye(3)])

    begin = np.random.default_rng(0).normal(size=12) / 10
    begin = np.concatenate([begin, np.zeros(3), np.ones(spread.shape[1])])
    limits = [{"type": "ineq", "fun": lengths, "jac": lengthening}]
    if problem.norm != "l2":
        matrices = [np.hstack([sign * differ, np.zeros((12, 3)), spread]) for sign in (1, -1)]
        limits = [{"type": "ineq", "fun": lambda z, m=m: m @ z, "jac": lambda z, m=m: m} for m in matrices]
    found = minimize(
        value, begin, jac=True, method="SLSQP", constraints=limits, options={"ftol": 1e-12, "maxiter": 1000}
    )
    return found.fun, found.x[:12].reshape(3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("intercept", [True, False])
def test_reference_the_classwise_optimum_is_that_of_a_generic_convex_solver(norm, intercept):
    problem = _three(norm, 0.2, intercept=intercept)
    found = solve_classwise(problem, tolerance=1e-7, steps=20_000)
    value, w = _by_slsqp(problem)
    assert found.outcome == "optimal"
    assert abs(found.value - value) < 1e-6 * value
    assert np.abs(found.w - w).max() < 1e-2  # sqrt(2 * 1e-6 * value), value about 20: F is 1-strongly convex
    assert np.abs(w[0] - w[1]).max() > 0.1


# Of one feature that is -1, 0, 1 in classes of 4, 0 is a derivative where 4, 0, -4 can flow between the classes,
# 8/3 eps along each of the three pairs: half of it over the middle one, eps = 3/4.
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("ridge", [1.0, 0.0])
def test_closed_form_the_constant_is_told_from_the_eps_on_at_which_the_adversary_holds_every_class(norm, ridge):
    y = np.repeat(np.arange(3), 4)
    kept = {"x": y[:, None] - 1.0, "y": y, "classes": 3, "cost": np.ones(12), "ridge": ridge}
    at = {
        eps: solve_classwise(
            Classwise(**kept, norm=norm, eps=eps, intercept=True), tolerance=1e-5 if ridge else 1e-3, steps=5000
        )
        for eps in (0.7, 0.749, 0.751, 1.5)
    }
    assert [one.outcome for one in at.values()] == ["optimal", "optimal", "constant", "constant"]
    for eps in (0.751, 1.5):
        assert not at[eps].w.any()
        assert at[eps].gap == 0
        assert abs(at[eps].value - 12 * np.log(3)) < 1e-12
    assert at[0.7].value < 12 * np.log(3) - 1e-3


def test_contract_the_gap_is_never_more_than_the_value():
    problem = _three("linf", 0.2)
    found = solve_classwise(
        problem, start=(1e3 * np.ones((3, 4)) * [[1], [2], [3]], np.zeros(3)), tolerance=1e-9, steps=1
    )
    assert found.outcome == "unfinished"
    assert 0 < found.gap <= found.value
