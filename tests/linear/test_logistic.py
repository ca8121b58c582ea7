"""Loss, gradient and subdifferential against autograd, finite differences, one-sided slopes and PGD."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from robustscape.attacks.losses import Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.linear.adversary import worst_input
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.models.linear import Linear
from robustscape.types import BadInput

NORMS = ["linf", "l2", "l1"]
Q = {"linf": 1, "l2": 2, "l1": math.inf}
BOX = (0.0, 1.0)


def _differences(f, v, h=1e-6):
    steps = h * torch.eye(len(v), dtype=v.dtype)
    return torch.stack([(f(v + step) - f(v - step)) / (2 * h) for step in steps])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("intercept", [None, 0.3])
def test_closed_form_loss_and_gradient_equal_autograd(norm, intercept, problem):
    p = problem()
    weight = torch.linspace(0.5, 2, len(p.x), dtype=torch.float64)
    worst = AdversarialLogistic(x=p.x, y=p.y, norm=norm, eps=0.2, weight=weight).at(p.w, intercept)
    full = torch.cat([p.w, torch.tensor([intercept or 0.0], dtype=torch.float64)]).requires_grad_()
    rise = 0.2 * torch.linalg.vector_norm(full[:5], ord=Q[norm])
    losses = F.softplus(-p.y * (p.x @ full[:5] + full[5]) + rise)
    loss = (weight * losses).sum() / weight.sum()
    (gradient,) = torch.autograd.grad(loss, full)
    assert torch.allclose(worst.loss, loss, atol=1e-12)
    assert torch.allclose(worst.gradient(), gradient[: 5 + (intercept is not None)], atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_gradient_equals_differences_of_the_loss(norm, box, problem):
    p = problem()
    made = AdversarialLogistic(x=p.x, y=p.y, norm=norm, eps=0.3, box=box)
    point = torch.cat([p.w, p.w[:1]])
    found = _differences(lambda v: made.at(v[:-1], v[-1]).loss, point)
    worst = made.at(point[:-1], point[-1])
    assert worst.subdifferential().differentiable
    assert torch.allclose(worst.gradient(), found, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_margin_is_that_of_the_worst_input(norm, box, problem):
    p = problem()
    worst = AdversarialLogistic(x=p.x, y=p.y, norm=norm, eps=0.3, box=box).at(p.w, 0.1)
    x_adv = worst_input(p.w, p.x, p.y, norm=norm, eps=0.3, box=box)
    assert torch.allclose(worst.x_adv, x_adv, atol=1e-14)
    assert torch.allclose(worst.margin, p.y * (x_adv @ p.w + 0.1), atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "w", "kinks"),
    [
        ("linf", [0.7, 0.0, -0.4], [False, True, False]),
        ("l2", [0.7, 0.0, -0.4], [False, False, False]),
        ("l2", [0.0, 0.0, 0.0], [True, True, True]),
        ("l1", [0.7, 0.0, -0.7], [True, False, True]),
        ("l1", [0.0, 0.0, 0.0], [True, True, True]),
    ],
)
@pytest.mark.parametrize("box", [None, BOX])
def test_closed_form_subdifferential_ends_are_the_one_sided_slopes(norm, w, kinks, box, problem):
    p = problem(n=9, d=3)
    made = AdversarialLogistic(x=p.x, y=p.y, norm=norm, eps=0.1, box=box)
    w = torch.tensor(w, dtype=torch.float64)
    found = made.at(w).subdifferential()
    assert found.kinks.tolist() == kinks
    h = 1e-7
    for i, step in enumerate(h * torch.eye(3, dtype=torch.float64)):
        right, left = (
            float(made.at(w + step).loss - made.at(w).loss) / h,
            float(made.at(w).loss - made.at(w - step).loss) / h,
        )
        assert abs(right - found.high[i]) < 1e-6
        assert abs(left - found.low[i]) < 1e-6
    value = made.at(w).gradient()
    assert bool(((value >= found.low - 1e-12) & (value <= found.high + 1e-12)).all())


def test_closed_form_a_weight_stays_at_zero_while_its_interval_holds_zero(problem):
    p = problem(d=1)
    clean = AdversarialLogistic(x=p.x, y=p.y, norm="linf", eps=0.0).at(torch.zeros(1, dtype=torch.float64)).gradient()
    for factor, stays in [(0.9, False), (1.1, True)]:
        eps = factor * float(2 * clean.abs())  # the mean of s is 1/2 at w = 0
        worst = AdversarialLogistic(x=p.x, y=p.y, norm="linf", eps=eps).at(torch.zeros(1, dtype=torch.float64))
        assert bool((worst.subdifferential().least() == 0).all()) == stays


def test_closed_form_the_loss_keeps_its_digits_far_from_the_margin():
    x = torch.tensor([[21.0], [-60.0]], dtype=torch.float64)
    worst = AdversarialLogistic(x=x, y=torch.tensor([-1, -1]), norm="l2", eps=1.0).at(
        torch.ones(1, dtype=torch.float64)
    )
    expected = (22 + math.log1p(math.exp(-22)) + math.log1p(math.exp(-59))) / 2
    assert abs(float(worst.loss) - expected) < 1e-14


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.2), ("linf", 0.3), ("l2", 0.8)])
def test_contract_pgd_reaches_the_exact_worst_case_in_the_box_and_never_beats_it(norm, eps, problem):
    p = problem(n=40, d=6)
    with torch.random.fork_rng():
        network = Linear(bias=True, outputs="one").build(image=(1, 2, 3), classes=2, seed=1).double()
    w, b = network.linear.weight.detach()[0], network.linear.bias.detach()[0]
    exact = AdversarialLogistic(x=p.x, y=p.y, norm=norm, eps=eps, box=BOX).at(w, b)
    attack = PGD(
        threat=ThreatModel(norm=norm, eps=eps),
        steps=200,
        relative_step=0.05,
        restarts=2,
        result="best_loss",
        loss=Margin(),
    )
    x_adv = attack(network, p.x.view(-1, 1, 2, 3), (p.y > 0).long()).flatten(1)
    found = p.y * (x_adv @ w + b)
    assert bool((found >= exact.margin - 1e-12).all())
    # The attack clamps the ball's nearest point into the box: under l2 it stops a little short of the exact one.
    assert torch.allclose(found, exact.margin, atol=1e-12 if norm == "linf" else 5e-3)
    sure = exact.margin.abs() > 5e-3
    assert torch.equal((found > 0)[sure], (exact.margin > 0)[sure])
    assert bool(sure.any())


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"y": torch.tensor([0, 1])}, r"did you mean 2 \* y - 1\?"),
        ({"y": torch.tensor([1, 2])}, "must be -1 and 1"),
        ({"y": torch.tensor([1])}, "one label each"),
        ({"x": torch.tensor([[0.0, math.nan], [0.0, 1.0]])}, "NaN"),
        ({"eps": -1.0}, "eps"),
        ({"norm": "l7"}, "norm"),
        ({"box": (0.0, 0.5)}, "outside the box"),
        ({"weight": torch.zeros(2)}, "not all 0"),
    ],
)
def test_contract_data_that_cannot_be_meant_are_refused(change, hint):
    given = {"x": torch.tensor([[0.0, 0.2], [0.3, 1.0]]), "y": torch.tensor([-1, 1]), "norm": "l2", "eps": 0.1}
    with pytest.raises(BadInput, match=hint):
        AdversarialLogistic(**{**given, **change})
