"""The three Hessians against autograd, differences of re-attacked gradients, and the papers' statements."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from robustscape.linear.adversary import worst_input
from robustscape.linear.hessian import eigenvalues, hessian, hessian_vector
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.types import BadInput

NORMS = ["linf", "l2", "l1"]
FORMS = ["total", "held", "liu"]
Q = {"linf": 1, "l2": 2, "l1": math.inf}
BOX = (0.0, 1.0)


def _autograd(loss, point):
    return torch.autograd.functional.hessian(loss, point)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form", FORMS)
def test_closed_form_hessians_equal_autograd(norm, form, problem):
    p = problem()
    point = torch.cat([p.w, torch.tensor([0.3], dtype=torch.float64)])
    worst = AdversarialLogistic(x=p.x, y=p.y, norm=norm, eps=0.2).at(p.w, 0.3)
    rise = 0.2 * torch.linalg.vector_norm(p.w, ord=Q[norm])

    def loss(v):
        inputs, extra = (worst.x_adv, 0.0) if form == "held" else (p.x, rise)
        extra = 0.2 * torch.linalg.vector_norm(v[:5], ord=Q[norm]) if form == "total" else extra
        return F.softplus(-p.y * (inputs @ v[:5] + v[5]) + extra).mean()

    assert torch.allclose(hessian(worst, form=form), _autograd(loss, point), atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
@pytest.mark.parametrize("eps", [0.2, 0.7])
def test_closed_form_total_curvature_equals_differences_of_reattacked_gradients(norm, box, eps, problem):
    p = problem(n=15)
    h = 1e-5

    def reattacked(w):
        x_adv = worst_input(w, p.x, p.y, norm=norm, eps=eps, box=box)
        v = w.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.softplus(-p.y * (x_adv @ v)).mean(), v)
        return gradient

    steps = h * torch.eye(5, dtype=torch.float64)
    found = torch.stack([(reattacked(p.w + step) - reattacked(p.w - step)) / (2 * h) for step in steps])
    worst = AdversarialLogistic(x=p.x, y=p.y, norm=norm, eps=eps, box=box).at(p.w)
    assert torch.allclose(hessian(worst), found, atol=1e-6)
    gap = (hessian(worst) - hessian(worst, form="held")).abs().max()
    assert (gap > 1e-3) == (norm == "l2")  # the movement counts under l2 alone


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("box", [None, BOX])
@pytest.mark.parametrize("intercept", [None, -0.2])
def test_closed_form_products_and_eigenvalues_are_those_of_the_matrix(norm, form, box, intercept, problem):
    for n, d in [(12, 5), (3, 9)]:
        p = problem(n=n, d=d)
        weight = torch.linspace(0.5, 2, n, dtype=torch.float64)
        worst = AdversarialLogistic(x=p.x, y=p.y, norm=norm, eps=0.3, box=box, weight=weight).at(p.w, intercept)
        matrix = hessian(worst, form=form)
        v = torch.linspace(-1, 1, len(matrix), dtype=torch.float64)
        assert torch.allclose(hessian_vector(worst, v, form=form), matrix @ v, atol=1e-12)
        values = eigenvalues(worst, len(matrix), form=form)
        assert torch.allclose(values.values, torch.linalg.eigvalsh(matrix).flip(0), atol=1e-12)
        assert values.differentiable


def test_closed_form_yamada_equation_9_holds_where_every_adversary_erases_its_image():
    direction = torch.tensor([0.6, 0.0, 0.8, 0.0], dtype=torch.float64)
    y = torch.tensor([1, -1, 1])
    x = 0.5 * y[:, None] * direction  # ||x|| = eps, x along w
    worst = AdversarialLogistic(x=x, y=y, norm="l2", eps=0.5).at(3 * direction)
    printed = 0.5 / (2 * 3) * (torch.eye(4, dtype=torch.float64) - torch.outer(direction, direction))
    assert torch.allclose(hessian(worst), printed, atol=1e-12)
    assert hessian(worst, form="held").abs().max() < 1e-12
    top = eigenvalues(worst, 4).values
    assert torch.allclose(top, torch.tensor([1 / 12, 1 / 12, 1 / 12, 0], dtype=torch.float64), atol=1e-12)


def test_closed_form_yamada_equation_9_drops_the_held_part_elsewhere(problem):
    p = problem()
    worst = AdversarialLogistic(x=p.x, y=p.y, norm="l2", eps=0.4).at(p.w)
    unit = p.w / p.w.norm()
    printed = 0.4 / (2 * p.w.norm()) * (torch.eye(5, dtype=torch.float64) - torch.outer(unit, unit))
    kept = 2 * worst.s.mean() * printed
    assert torch.allclose(hessian(worst) - hessian(worst, form="held"), kept, atol=1e-12)


def test_closed_form_liu_theorem_3_holds_for_equation_29s_form_alone(problem):
    p = problem(n=30)
    w = p.w / p.w.norm()
    x = p.x - 0.5
    y = torch.where(x @ w > 0, 1, -1)
    x = x + 0.3 * y[:, None] * w  # separable with margin 0.3 at least
    grows = dict.fromkeys(FORMS, True)
    for form in FORMS:
        at = [hessian(AdversarialLogistic(x=x, y=y, norm="l2", eps=e).at(w), form=form) for e in (0.0, 0.15, 0.3)]
        grows[form] = all(bool(torch.linalg.eigvalsh(b - a).min() >= -1e-12) for a, b in itertools.pairwise(at))
    assert grows == {"liu": True, "held": False, "total": False}


def test_contract_a_zero_weight_under_linf_is_told(problem):
    p = problem()
    w = p.w.clone()
    w[2] = 0
    worst = AdversarialLogistic(x=p.x, y=p.y, norm="linf", eps=0.2).at(w)
    assert not eigenvalues(worst).differentiable
    # The piece on which that weight stays 0: its input is not moved.
    assert torch.allclose(worst.x_adv[:, 2], p.x[:, 2])


def test_contract_no_hessian_at_zero_and_no_unknown_form(problem):
    p = problem()
    made = AdversarialLogistic(x=p.x, y=p.y, norm="l2", eps=0.2)
    with pytest.raises(BadInput, match="w = 0"):
        hessian(made.at(0 * p.w))
    with pytest.raises(BadInput, match="total, held, liu"):
        hessian(made.at(p.w), form="frozen")
    with pytest.raises(BadInput, match="from 1 to 5"):
        eigenvalues(made.at(p.w), 6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_contract_float32_gives_float32_and_the_same_numbers(norm, box, problem):
    p = problem()
    found = []
    for dtype in (torch.float32, torch.float64):
        made = AdversarialLogistic(x=p.x.to(dtype), y=p.y, norm=norm, eps=0.3, box=box)
        worst = made.at(p.w.to(dtype), 0.1)
        found.append((worst.loss, worst.gradient(), hessian(worst), eigenvalues(worst).values))
    for single, double in zip(*found, strict=True):
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), double, atol=1e-5)
