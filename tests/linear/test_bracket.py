"""The bracket of the worst-case cross-entropy against every corner, where the worst case is, and its derivatives."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from robustscape.linear.adversary import worst_rise
from robustscape.linear.bracket import classwise_bound, cross_entropy_bracket

NORMS = ["linf", "l2", "l1"]
BOX = (0.0, 1.0)


@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_every_corner_is_inside_the_bracket(box, four):
    p, eps = four, 0.2
    corners = eps * torch.tensor(list(itertools.product([-1.0, 1.0], repeat=5)), dtype=torch.float64)
    moved = p.x[:, None] + corners
    z = (moved if box is None else moved.clamp(*box)) @ p.weights.T + p.intercept
    # Cross-entropy is convex in the input: a corner is its worst case.
    worst = (
        F.cross_entropy(z.flatten(0, 1), p.y.repeat_interleave(z.shape[1]), reduction="none").view(30, -1).amax(dim=1)
    )
    bracket = cross_entropy_bracket(p.weights, p.x, p.y, norm="linf", eps=eps, box=box, intercept=p.intercept)
    assert bool((bracket.lower <= worst + 1e-12).all() and (worst <= bracket.upper + 1e-12).all())
    assert float((bracket.upper - bracket.lower).max()) > 0.01  # more than rounding: it is a bracket


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_two_classes_close_the_bracket(norm, box, problem):
    p = problem()
    weights, y = torch.stack([0 * p.w, p.w]), (p.y > 0).long()
    bracket = cross_entropy_bracket(weights, p.x, y, norm=norm, eps=0.3, box=box)
    rise = worst_rise(-p.y[:, None] * p.w, p.x, norm=norm, eps=0.3, box=box)
    exact = F.softplus(-p.y * (p.x @ p.w) + rise)
    assert torch.allclose(bracket.lower, exact, atol=1e-12)
    assert torch.allclose(bracket.upper, exact, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_autograd_of_the_classwise_bound_equals_differences(norm, box, four):
    p = four

    def bound(weights):
        return classwise_bound(weights, p.x, p.y, norm=norm, eps=0.2, box=box, intercept=p.intercept).mean()

    weights = p.weights.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(bound(weights), weights)
    h = 1e-6 * torch.eye(20, dtype=torch.float64).view(20, 4, 5)
    found = torch.stack([(bound(p.weights + step) - bound(p.weights - step)) / 2e-6 for step in h]).view(4, 5)
    assert torch.allclose(gradient, found, atol=1e-6)
