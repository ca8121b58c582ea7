"""FGSM: a radius for each example, wanted classes, refusals. That it is exact on linear models is a contract test."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import KL, Margin
from robustscape.attacks.threat import ThreatModel
from robustscape.streams import numbered
from robustscape.types import BadInput


def _model(classes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 6), nn.Tanh(), nn.Linear(6, classes)).double()


def _images(n: int = 7) -> torch.Tensor:
    return torch.rand(n, 2, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_contract_each_example_moves_within_its_own_radius(norm, random_start):
    model, x = _model(3), _images()
    y, rng = torch.arange(7) % 3, numbered(x, "radii")
    eps = torch.linspace(0, 0.3, 7, dtype=torch.float64)
    attack = FGSM(threat=ThreatModel(norm=norm, eps=0.2), random_start=random_start)
    x_adv = attack(model, x, y, rng=rng, eps=eps)
    assert torch.equal(x_adv[0], x[0])
    for k, radius in enumerate(eps.tolist()):
        one = torch.tensor([k])
        assert torch.allclose(attack.at(radius)(model, x[one], y[one], rng=rng.of(one))[0], x_adv[k], atol=1e-12)


def test_closed_form_a_step_against_the_gradient_towards_the_class_that_is_wanted():
    model, x, y = _model(3), _images(), torch.arange(7) % 3
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    x_adv = FGSM(threat=ThreatModel(eps=0.1), targeted=True)(model, x, y)
    assert torch.equal(x_adv, (x - 0.1 * slope.sign()).clamp(0, 1))


def test_closed_form_to_reach_one_of_two_classes_is_to_leave_the_other():
    model, x, y = _model(2), _images(), torch.arange(7) % 2
    common = dict(threat=ThreatModel(norm="l2", eps=0.5), loss=Margin())
    assert torch.equal(FGSM(**common, targeted=True)(model, x, 1 - y), FGSM(**common)(model, x, y))


def test_contract_what_makes_no_sense_is_refused():
    with pytest.raises(BadInput, match="step must be above 0"):
        FGSM(step=0)
    with pytest.raises(BadInput, match="KL does not look at y"):
        FGSM(loss=KL(), targeted=True)
    with pytest.raises(BadInput, match="7 examples need one radius each"):
        FGSM()(_model(2), _images(), torch.zeros(7, dtype=torch.int64), eps=torch.tensor(0.1))
    assert FGSM(targeted=True).describe() == "targeted FGSM (linf 8/255)"
