"""The exact adversary against brute force over corners and against a generic solver."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from robustscape.linear.adversary import least_eps, worst_input, worst_perturbation, worst_range, worst_rise
from robustscape.linear.norms import size
from robustscape.types import BadInput

NORMS = ["linf", "l2", "l1"]
BOX = (0.0, 1.0)


def _corners(norm, d):
    """Return the extreme points of the unit ball of L-infinity or L1, (M, d)."""
    if norm == "linf":
        return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=d)), dtype=torch.float64)
    return torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_closed_form_the_best_corner_of_the_ball(norm, problem):
    p = problem()
    best = (0.3 * _corners(norm, 5) @ p.w).max()
    assert torch.allclose(worst_rise(p.w, p.x, norm=norm, eps=0.3), best.expand(len(p.x)), atol=1e-14)
    delta = worst_perturbation(p.w, p.x, norm=norm, eps=0.3)
    assert torch.allclose(delta @ p.w, best.expand(len(p.x)), atol=1e-14)


def test_closed_form_the_best_corner_of_ball_and_box_under_linf(problem):
    p = problem()
    moved = (p.x[:, None] + 0.3 * _corners("linf", 5)).clamp(*BOX)
    best = ((moved - p.x[:, None]) @ p.w).amax(dim=1)
    assert torch.allclose(worst_rise(p.w, p.x, norm="linf", eps=0.3, box=BOX), best, atol=1e-14)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("box", [None, BOX])
def test_reference_a_generic_solver_finds_no_worse_input(norm, box, problem):
    p = problem(n=6, d=4)
    eps = torch.linspace(0.1, 1.6, 6, dtype=torch.float64)
    rise = worst_rise(p.w, p.x, norm=norm, eps=eps, box=box)
    w = np.concatenate([p.w.numpy(), -p.w.numpy()])  # delta = up - down, both at least 0
    for x, radius, mine in zip(p.x.numpy(), eps.tolist(), rise.tolist(), strict=True):
        low, high = (-np.inf, np.inf) if box is None else (0.0, 1.0)
        limits = [(0, h) for h in (high - x if box else np.full(4, radius))]
        limits += [(0, h) for h in (x - low if box else np.full(4, radius))]
        ball = (lambda t, r=radius: r**2 - t @ t) if norm == "l2" else (lambda t, r=radius: r - t.sum())
        found = minimize(
            lambda t: -w @ t,
            np.zeros(8),
            bounds=limits,
            constraints=[{"type": "ineq", "fun": ball}],
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 500},
        )
        assert abs(-found.fun - mine) < 1e-6  # SLSQP's accuracy with differences for gradients


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_contract_inside_ball_and_box_and_no_random_input_is_worse(norm, box, problem):
    p = problem(n=20)
    each = p.w * torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    delta = worst_perturbation(each, p.x, norm=norm, eps=0.4, box=box)
    assert bool((size(delta, norm) <= 0.4 + 1e-12).all())
    if box is not None:
        assert bool(((p.x + delta >= -1e-12) & (p.x + delta <= 1 + 1e-12)).all())
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        tried = torch.randn(20, 5, generator=generator, dtype=torch.float64)
        tried = 0.4 * tried / size(tried, norm)[:, None]
        tried = tried if box is None else (p.x + tried).clamp(*box) - p.x
        assert bool(((each * tried).sum(dim=1) <= (each * delta).sum(dim=1) + 1e-12).all())


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_a_box_that_is_far_away_changes_nothing(norm, problem):
    p = problem()
    free, boxed = (worst_perturbation(p.w, p.x, norm=norm, eps=0.3, box=box) for box in (None, (-9.0, 9.0)))
    assert torch.allclose(free, boxed, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_least_eps_is_where_the_rise_is_the_gain(norm, box, problem):
    p = problem()
    gain = torch.linspace(-0.5, 1.5, len(p.x), dtype=torch.float64)
    eps = least_eps(p.w, p.x, gain, norm=norm, box=box)
    within = torch.isfinite(eps)
    assert bool(within.any()) and not eps[gain <= 0].any()
    rise = worst_rise(p.w, p.x[within], norm=norm, eps=eps[within], box=box)
    assert torch.allclose(rise, gain[within].clamp(min=0), atol=1e-12)
    largest = worst_rise(p.w, p.x, norm=norm, eps=5.0, box=box)  # the whole box
    assert torch.equal(within, (gain <= largest) | (torch.tensor(box is None)))


def test_closed_form_worst_input_lowers_the_margin_of_both_labels(problem):
    p = problem()
    x_adv = worst_input(p.w, p.x, p.y, norm="l2", eps=0.2)
    assert torch.allclose(p.y * (x_adv @ p.w), p.y * (p.x @ p.w) - 0.2 * p.w.norm(), atol=1e-14)


def test_closed_form_range_of_the_maximisers():
    x = torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float64)
    w = torch.tensor([2.0, 0.0, -2.0], dtype=torch.float64)

    def ranges(norm, eps, box=None):
        return [end[0].tolist() for end in worst_range(w, x, norm=norm, eps=eps, box=box)]

    assert ranges("linf", 0.3) == [[0.3, -0.3, -0.3], [0.3, 0.3, -0.3]]
    assert ranges("linf", 0.6, BOX) == [[0.6, -0.5, -0.6], [0.6, 0.5, -0.6]]
    low, high = worst_range(w, x, norm="l2", eps=0.3)
    assert torch.equal(low, high)
    # The box stops both other pixels at 0.9: what the ball has left over is free.
    low, high = worst_range(w, x, norm="l2", eps=1.3, box=BOX)
    left = (1.3**2 - 2 * 0.9**2) ** 0.5
    assert torch.allclose(low[0], torch.tensor([0.9, -left, -0.9], dtype=torch.float64))
    assert torch.allclose(high[0], torch.tensor([0.9, left, -0.9], dtype=torch.float64))
    # Equal weights compete for eps under l1: either pixel may take all of it.
    assert ranges("l1", 0.3) == [[0.0, 0.0, -0.3], [0.3, 0.0, 0.0]]
    low, high = worst_range(w, x, norm="l1", eps=1.2, box=BOX)
    assert torch.allclose(low[0], torch.tensor([0.3, 0.0, -0.9], dtype=torch.float64))
    assert torch.allclose(high[0], torch.tensor([0.9, 0.0, -0.3], dtype=torch.float64))


@pytest.mark.parametrize(
    ("w", "x", "hint"),
    [
        (torch.zeros(3), torch.zeros(2, 4), "does not fit"),
        (torch.zeros(4), torch.zeros(2, 1, 2, 2), "flatten"),
        (torch.zeros(4).double(), torch.zeros(2, 4), "both"),
    ],
)
def test_contract_shapes_that_do_not_fit_are_refused(w, x, hint):
    with pytest.raises(BadInput, match=hint):
        worst_perturbation(w, x, norm="l2", eps=0.1)
