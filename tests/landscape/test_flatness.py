from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import AverageFlatness, t_interval
from robustscape.landscape.runner import measure
from robustscape.runtime import TRUTH
from robustscape.types import BadInput
from robustscape.weights.space import select

ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=8, result="best_loss")


class Quadratic(nn.Module):
    """Logits whose cross-entropy for class 0 is exactly 1 + w'Aw / 2 + c mean(x), a quadratic of the weights."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        root = torch.randn(5, 5, generator=g, dtype=torch.float64)
        self.register_buffer("A", root @ root.T)
        self.w = nn.Parameter(torch.randn(5, generator=g, dtype=torch.float64))

    def forward(self, x):
        loss = 1 + self.w @ self.A @ self.w / 2 + 0.5 * x.flatten(1).mean(dim=1)
        z = loss + torch.log(-torch.expm1(-loss))  # log(exp(loss) - 1)
        return torch.stack([torch.zeros_like(z), z], dim=1)


def quadratic():
    g = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(6, 1, 2, 2, generator=g, dtype=torch.float64)
    return subject(Quadratic(), x, torch.zeros(6, dtype=torch.int64), batch=4)


@pytest.mark.parametrize("mode", ["sound", "as_published"])
def test_closed_form_of_a_quadratic_on_the_given_draws(mode):
    made = quadratic()
    settings = AverageFlatness(attack=ATTACK, samples=6, mode=mode)
    found = measure(settings, made)
    A, w, mean = made.model.A, made.model.w.detach(), float(made.x.mean())
    draws = [settings.draw(select(made.model, "layers"), made.seed, s)["w"] for s in range(6)]
    rises = np.array([float(w @ A @ v + v @ A @ v / 2) for v in draws])
    # the attack moves every pixel up by eps: a constant, which cancels
    assert found.reference_clean_loss == pytest.approx(float(1 + w @ A @ w / 2) + 0.5 * mean, rel=1e-12)
    assert found.reference_robust_loss == pytest.approx(found.reference_clean_loss + 0.05, rel=1e-12)
    assert found.clean_losses - found.reference_clean_loss == pytest.approx(rises, rel=1e-10)
    assert found.robust_losses - found.reference_robust_loss == pytest.approx(rises, rel=1e-10)
    assert found.robust.value == pytest.approx(rises.mean(), rel=1e-10)
    if mode == "sound":  # the slope cancels in each pair: the curvature alone is left
        curvature = [float(v @ A @ v / 2) for v in draws[::2]]
        assert found.robust.value == pytest.approx(np.mean(curvature), rel=1e-10)
        assert found.robust.high - found.robust.value == pytest.approx(
            t_interval(np.array(curvature), n=6).high - np.mean(curvature)
        )


@pytest.mark.parametrize("law", ["ball", "sphere"])
def test_closed_form_draws_are_relative_to_each_layer(law):
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 1)).double()
    weights = select(model, "layers")
    settings = AverageFlatness(xi=0.25, law=law, samples=200, mode="as_published")
    draws = [settings.draw(weights, 0, s) for s in range(200)]
    assert set(draws[0]) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    for name, w in weights.items():
        radii = np.array([float(v[name].norm() / w.norm()) for v in draws]) / 0.25
        if law == "sphere":
            assert radii == pytest.approx(np.ones(200), rel=1e-6)
        else:  # the d-th power of the radius is uniform: mean 1/2, error 0.29 / sqrt(200) = 0.02
            assert radii.max() <= 1 + 1e-6
            assert (radii ** w.numel()).mean() == pytest.approx(0.5, abs=0.08)


def test_contract_pairs_are_opposite_and_differ_from_each_other():
    weights = {"w": torch.ones(3, 2)}
    draw = [AverageFlatness().draw(weights, 0, s)["w"] for s in range(4)]
    assert torch.equal(draw[0], -draw[1]) and torch.equal(draw[2], -draw[3])
    assert not torch.equal(draw[0], draw[2])


def test_closed_form_no_radius_no_rise():
    found = measure(AverageFlatness(attack=ATTACK, xi=0.0, samples=4), quadratic())
    assert found.robust.value == found.robust.low == found.robust.high == found.clean.value == 0.0


def rescaled_convolution(c):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=0.0), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
        model[0].weight *= c
        model[0].bias *= c
        model[1].running_mean *= c
        model[1].running_var *= c**2
    return model


def rescaled_layers(c):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    with torch.no_grad():
        model[1].weight *= c
        model[3].weight /= c
    return model


@pytest.mark.parametrize("network", [rescaled_convolution, rescaled_layers])
def test_closed_form_rescaling_that_keeps_the_function_keeps_its_flatness(network):
    x, y = torch.rand(8, 1, 4, 4, dtype=torch.float64), torch.arange(8) % 3
    settings = AverageFlatness(attack=ATTACK, samples=4)
    one, other = (measure(settings, subject(network(c), x, y)) for c in (1.0, 7.3))
    assert other.reference_robust_loss == pytest.approx(one.reference_robust_loss, rel=1e-12)
    assert abs(one.robust.value) > 1e-3
    # float64 rounding, amplified by gradient signs that are never this close to 0
    assert other.robust_losses == pytest.approx(one.robust_losses, rel=1e-9)
    assert other.clean_losses == pytest.approx(one.clean_losses, rel=1e-9)


def test_contract_published_budgets():
    settings = AverageFlatness.stutz()
    assert (settings.xi, settings.samples, settings.law, settings.mode) == (0.5, 10, "sphere", "as_published")
    assert (settings.attack.steps, settings.attack.restarts, settings.attack.step_size) == (20, 1, 0.007)
    assert settings.reference.restarts == 10 and settings.reference.threat.eps == 8 / 255
    looked_at = subject(rescaled_layers(1.0), torch.rand(4, 1, 4, 4), torch.arange(4) % 3)
    found = measure(
        AverageFlatness(attack=ATTACK, reference=PGD(threat=ThreatModel(eps=0.0)), mode="as_published"), looked_at
    )
    assert found.reference_robust_loss == found.reference_clean_loss  # the reference had its own attack
    assert found.mode == "as published" and "reference" in found.attack


def test_reference_t_interval_is_scipys():
    from scipy import stats

    draws = np.array([0.3, 0.5, 0.1, 0.9])
    found = t_interval(draws, n=8)
    theirs = stats.t.interval(0.95, 3, loc=draws.mean(), scale=stats.sem(draws))
    assert (found.low, found.high) == pytest.approx(theirs, rel=1e-9) and found.n == 8
    assert t_interval(draws[:1], n=2).high == np.inf


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"samples": 5}, "pairs"),
        ({"samples": 1, "mode": "as_published"}, "at least 2"),
        ({"xi": -0.5}, "xi"),
        ({"reference": ATTACK}, "as_published"),
        ({"law": "cube"}, "sphere"),
        ({"mode": "best"}, "sound"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        AverageFlatness(**wrong)


@pytest.mark.parametrize(
    "settings",
    [
        AverageFlatness(attack=ATTACK, samples=4),
        AverageFlatness(attack=ATTACK, samples=3, mode="as_published"),
        AverageFlatness(attack=ATTACK, samples=3, mode="as_published", reference=replace(ATTACK, restarts=3)),
    ],
)
def test_closed_form_several_points_in_one_pass_are_what_each_is_alone(settings):
    x, y = torch.rand(8, 1, 4, 4, dtype=torch.float64), torch.arange(8) % 3
    made = subject(rescaled_layers(1.0), x, y, batch=5)
    points = settings.points()
    assert settings.at_once(made) == len(points)
    several = settings.several(made, points)
    for point, value in zip(points, several, strict=True):
        assert value == pytest.approx(settings.at(made, point), rel=1e-12)
    assert settings.several(made, points[::-1])[0] == pytest.approx(several[-1], rel=1e-12)
    found = measure(settings, made)
    assert [found.reference_robust_loss, *found.robust_losses] == [value["robust_loss"] for value in several]


def test_contract_other_networks_are_measured_at_one_point_after_the_other():
    made = subject(rescaled_convolution(1.0), torch.rand(4, 1, 4, 4, dtype=torch.float64), torch.arange(4) % 3)
    settings = AverageFlatness(attack=ATTACK, samples=2)
    assert settings.at_once(made) == 1
    assert settings.several(made, [0]) == [settings.at(made, 0)]


def test_closed_form_no_radius_no_rise_of_several_either():
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    made = subject(rescaled_layers(1.0).float(), x, y, runtime=TRUTH)
    found = measure(AverageFlatness(attack=ATTACK, xi=0.0, samples=4), made)
    assert found.robust.value == found.robust.low == found.clean.value == 0.0
