"""Maximum margins with their certificates, and the threshold of the constant classifier, bracketed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from robustscape.linear.logistic import AdversarialLogistic
from robustscape.linear.norms import dual_norm, size
from robustscape.linear.separability import constant_threshold, maximum_margin
from robustscape.types import BadInput

NORMS = ["linf", "l2", "l1"]


def _blobs(n=60, d=4, distance=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.where(torch.arange(n) < n // 3, 1, -1)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x + distance * y[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)[:d] + 2.0, y


@pytest.mark.parametrize(("norm", "half"), [("linf", 4.0), ("l2", 5.0), ("l1", 7.0)])
def test_closed_form_the_margin_of_two_points_is_half_their_distance(norm, half):
    x = torch.tensor([[1.0, 2.0], [9.0, 8.0]], dtype=torch.float64)
    found = maximum_margin(x, torch.tensor([-1, 1]), norm=norm, intercept=True)
    assert abs(found.value - half) < 1e-8
    assert abs(found.gap) < 1e-8


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("intercept", [True, False])
def test_closed_form_the_certificate_closes_and_no_random_plane_is_better(norm, intercept):
    x, y = _blobs()
    found = maximum_margin(x, y, norm=norm, intercept=intercept)
    assert found.separable
    assert abs(float(dual_norm(found.w, norm)) - 1) < 1e-9
    reached = (y * (x @ found.w + (found.intercept or 0.0))).min()
    assert abs(float(reached) - found.value) < 1e-9
    assert abs(float(found.alpha.sum()) - 1) < 1e-12 and bool((found.alpha >= 0).all())
    bound = size((found.alpha * y) @ x, norm)
    assert abs(float(bound) - found.upper) < 1e-12
    assert -1e-12 < found.gap < 1e-7
    generator = torch.Generator().manual_seed(1)
    for spread in (0.01, 0.1, 1.0):
        for _ in range(50):
            w = found.w + spread * torch.randn(4, generator=generator, dtype=torch.float64)
            score = x @ (w / dual_norm(w, norm))
            other = (score[y > 0].min() - score[y < 0].max()) / 2 if intercept else (y * score).min()
            assert float(other) <= found.value + 1e-9


def test_reference_the_l2_margin_is_that_of_scikit_learns_machine():
    from sklearn.svm import SVC

    x, y = _blobs(distance=2.5)
    machine = SVC(kernel="linear", C=1e6, tol=1e-9).fit(x.numpy(), y.numpy())
    found = maximum_margin(x, y, norm="l2", intercept=True)
    assert abs(1 / np.linalg.norm(machine.coef_) - found.value) < 1e-6


def test_contract_more_examples_than_the_first_working_set():
    x, y = _blobs(n=1500, distance=4.0)
    for norm in NORMS:
        found = maximum_margin(x, y, norm=norm, intercept=True)
        assert found.separable and found.gap < 1e-7


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("intercept", [True, False])
def test_closed_form_data_that_no_plane_separates(norm, intercept):
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    found = maximum_margin(x, torch.tensor([1, 1, -1, -1]), norm=norm, intercept=intercept)
    assert not found.separable and found.value == 0 and not found.w.any()
    assert found.upper < 1e-7


def _best(x, y, norm, eps, intercept, weight):
    """Return the loss that a search over weights of any size finds, less that of the constant classifier."""
    made = AdversarialLogistic(x=x, y=y, norm=norm, eps=eps, weight=weight)
    d = x.shape[1]
    # The largest of |w_1|, |w_2| has its kinks on the diagonals: a search along axes sees them once they are turned.
    turn = torch.tensor([[0.5, 0.5], [0.5, -0.5]] if norm == "l1" else [[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def loss(v):
        v = torch.from_numpy(np.asarray(v))
        return float(made.at(turn @ v[:d], v[d] if intercept else None).loss)

    share = float((weight * (y > 0)).sum() / weight.sum()) if intercept else 0.5
    b = [np.log(share / (1 - share))] if intercept else []
    starts = [np.concatenate([w, b]) for w in itertools.product([-0.3, 0.0, 0.3], repeat=d) if any(w)]
    constant = loss(np.concatenate([np.zeros(d), b]))
    options = {"xtol": 1e-9, "ftol": 1e-15}
    return min(minimize(loss, start, method="Powell", options=options).fun for start in starts) - constant


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("intercept", [True, False])
def test_closed_form_the_constant_threshold_is_bracketed(norm, intercept):
    x, y = _blobs(n=30, d=2, distance=0.6)
    weight = torch.linspace(0.2, 3, 30, dtype=torch.float64)
    threshold = constant_threshold(x, y, norm=norm, intercept=intercept, weight=weight)
    assert _best(x, y, norm, 0.97 * threshold, intercept, weight) < -1e-5
    assert _best(x, y, norm, 1.001 * threshold, intercept, weight) > -1e-12


def test_contract_one_class_is_refused():
    x = torch.zeros(3, 2)
    for call in (maximum_margin, constant_threshold):
        with pytest.raises(BadInput, match="two classes"):
            call(x, torch.ones(3), norm="l2", intercept=True)
