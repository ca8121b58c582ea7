import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape._ascent import Problem, published
from robustscape.landscape._stutz import StutzPGD
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.runner import measure
from robustscape.landscape.worst_flatness import WorstFlatness
from robustscape.runtime.memory import Parts
from robustscape.types import BadInput, Diverged
from robustscape.weights.space import select

ATTACK = PGD(threat=ThreatModel(eps=0.1), steps=8, result="best_loss")


class Quadratic(nn.Module):
    """Logits whose cross-entropy for class 0 is exactly 1 + (w - c)'A(w - c) / 2 + mean(x) / 2."""

    def __init__(self, away):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        root = torch.randn(5, 5, generator=g, dtype=torch.float64)
        self.register_buffer("A", root @ root.T)
        self.w = nn.Parameter(torch.randn(5, generator=g, dtype=torch.float64))
        self.register_buffer("c", self.w.detach() - away * torch.randn(5, generator=g, dtype=torch.float64))

    def forward(self, x):
        d = self.w - self.c
        loss = 1 + d @ self.A @ d / 2 + 0.5 * x.flatten(1).mean(dim=1)
        z = loss + torch.log(-torch.expm1(-loss))  # log(exp(loss) - 1)
        return torch.stack([torch.zeros_like(z), z], dim=1)


def images(n, size=2):
    generator = torch.Generator().manual_seed(n)
    return 0.3 + 0.4 * torch.rand(n, 1, size, size, generator=generator, dtype=torch.float64)


def quadratic(away, **changes):
    return subject(Quadratic(away), images(6), torch.zeros(6, dtype=torch.int64), **{"batch": 4, **changes})


def truth(model, radius):
    """The largest rise of the quadratic in the ball, by the multiplier of its sphere."""
    values, vectors = np.linalg.eigh(model.A.numpy())
    slope = vectors.T @ (model.A @ (model.w.detach() - model.c)).numpy()
    if not slope.any():
        return radius**2 * values[-1] / 2
    low, high = values[-1], values[-1] + np.linalg.norm(slope) / radius
    for _ in range(200):  # |v| = |slope / (multiplier - values)| falls to the radius
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(slope / (middle - values)) > radius else (low, middle)
    v = slope / (high - values)
    return float(slope @ v + (values * v) @ v / 2)


@pytest.mark.parametrize("away", [0.0, 1.0])
@pytest.mark.parametrize("scope", ["set", "batch"])
def test_closed_form_of_a_quadratic(away, scope):
    made = quadratic(away)
    settings = WorstFlatness(attack=ATTACK, xi=0.2, steps=60, restarts=2, scope=scope, group=4)
    found = measure(settings, made)
    expected = truth(made.model, 0.2 * float(made.model.w.detach().norm()))
    for rise in (found.robust, found.clean):  # the attack adds a constant, which cancels
        assert rise.value <= expected * (1 + 1e-9)
        assert rise.value == pytest.approx(expected, rel=1e-4)  # halved steps end near the maximum, not on it
    assert abs(found.spread) < 1e-3 * expected and abs(found.doubling_gain) < 1e-3 * expected
    assert abs(found.again_gain) < 1e-9  # the inputs that were found with v are the attack's
    assert (found.scope, found.mode, found.robust.n) == (scope, "sound", 2)


class Logistic(nn.Module):
    """Two classes, logits (0, w.x): under linf its robust loss is known exactly."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.5, -0.5], dtype=torch.float64))

    def forward(self, x):
        z = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(z), z], dim=1)


def test_closed_form_of_logistic_regression_on_the_circle():
    x, y = images(9, 2)[:, :, :1], torch.arange(9) % 2
    found = measure(WorstFlatness(attack=ATTACK, xi=0.3, steps=40, restarts=3), subject(Logistic(), x, y, batch=4))
    angle = np.linspace(0, 2 * np.pi, 20001)
    w = np.array([1.5, -0.5])
    moved = w + 0.3 * np.linalg.norm(w) * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def loss(at, eps):
        lead = np.where(y == 1, 1, -1) * (at @ x.flatten(1).numpy().T)
        return np.logaddexp(0, -lead + eps * np.abs(at).sum(axis=1, keepdims=True)).mean(axis=1)

    for eps, rise in ((0.1, found.robust), (0.0, found.clean)):  # the loss is convex: its largest is on the circle
        assert rise.value == pytest.approx(loss(moved, eps).max() - loss(w[None], eps)[0], rel=1e-4)


def network(c=1.0):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=0.0), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3, bias=False)
    ).double()
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
        model[0].weight *= c
        model[0].bias *= c
        model[1].running_mean *= c
        model[1].running_var *= c**2
    return model


def look_at(model, n=10, **changes):
    return subject(model, images(n, 4), torch.arange(n) % 3, **{"batch": 4, **changes})


@pytest.mark.parametrize("xi", [0.01, 0.3])
def test_closed_form_no_sampled_perturbation_is_worse(xi):
    made = look_at(network())
    worst = measure(WorstFlatness(attack=ATTACK, xi=xi, restarts=2, steps=10), made)
    sampled = measure(AverageFlatness(attack=ATTACK, xi=xi, samples=8, law="sphere"), made)
    assert worst.reference_robust_loss == pytest.approx(sampled.reference_robust_loss, abs=0.02)  # other starts
    assert worst.robust.value > (sampled.robust_losses - sampled.reference_robust_loss).max() + 1e-6
    assert worst.clean.value > (sampled.clean_losses - sampled.reference_clean_loss).max() + 1e-6


@pytest.mark.slow
def test_closed_form_the_rise_never_falls_with_the_radius():
    radii = (0.0, 0.01, 0.3)
    for scope in ("set", "batch"):
        settings = WorstFlatness(attack=ATTACK, xi=0.05, sweep=radii, steps=6, restarts=2, scope=scope, group=4)
        found = measure(settings, look_at(network()))
        assert [at.xi for at in found.sweep] == list(radii)
        every = sorted([*found.sweep, found], key=lambda at: at.xi)
        for of in ("robust", "clean"):
            values = [getattr(at, of).value for at in every]
            assert values[0] == pytest.approx(0, abs=1e-12) and values == sorted(values) and values[-1] > 1e-3


@pytest.mark.slow
def test_contract_a_v_for_each_group_is_worse_than_one_for_all():
    settings = WorstFlatness(attack=ATTACK, xi=0.05, steps=10, restarts=2, group=2)
    one, each = (measure(replace(settings, scope=scope), look_at(network())) for scope in ("set", "batch"))
    assert each.robust.value > one.robust.value and each.clean.value > one.clean.value
    assert math.isfinite(each.robust.low) and each.robust.low < each.robust.value


@pytest.mark.parametrize(
    "settings",
    [
        WorstFlatness(attack=ATTACK, xi=0.05, steps=6, restarts=2),
        WorstFlatness(attack=ATTACK, xi=0.05, steps=3, restarts=2, step=0.02, mode="as_published", group=4),
    ],
)
def test_closed_form_rescaling_that_keeps_the_function_keeps_its_flatness(settings):
    one, other = (measure(settings, look_at(network(c))) for c in (1.0, 7.3))
    assert one.robust.value > 1e-3
    assert other.robust.value == pytest.approx(one.robust.value, rel=1e-7)
    assert other.clean.value == pytest.approx(one.clean.value, rel=1e-7)


def test_contract_the_value_is_that_of_any_batch_size():
    settings = WorstFlatness(attack=ATTACK, xi=0.05, steps=6, restarts=2)
    one, other = (measure(settings, look_at(network(), batch=batch)) for batch in (10, 3))
    assert other.robust.value == pytest.approx(one.robust.value, rel=1e-8)
    assert other.clean.value == pytest.approx(one.clean.value, rel=1e-8)


class Dead(nn.Module):
    """A network whose output does not depend on its one layer where w is above 0: zero gradients."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.zero = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        z = x.flatten(1).mean(dim=1) + torch.relu(-self.w).sum() + 0 * self.zero.sum()
        return torch.stack([torch.zeros_like(z), z], dim=1)


@pytest.mark.parametrize("mode", [{}, {"mode": "as_published", "step": 0.01}])
def test_contract_zero_gradients_and_layers_of_zeros_are_no_trouble(mode):
    made = subject(Dead(), images(4).float(), torch.arange(4) % 2)
    found = measure(WorstFlatness(attack=ATTACK, xi=0.1, steps=4, restarts=2, **mode), made)
    assert found.clean.value == 0 and np.isfinite(found.robust_rises).all()


def test_contract_weights_without_a_limit_say_so():
    class Pole(Dead):
        def forward(self, x):
            z = x.flatten(1).mean(dim=1) + torch.where(self.w > 1.01, torch.inf, self.w).sum()
            return torch.stack([torch.zeros_like(z), z], dim=1)

    made = subject(Pole(), images(4).float(), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(Diverged, match="finite"):
        measure(WorstFlatness(attack=ATTACK, xi=0.5, restarts=1), made)


def test_reference_the_published_ascent_is_a_naive_rendering_of_it():
    model = network().eval()
    x, y, eps = images(7, 4), torch.arange(7) % 3, 0.1
    weights = {name: w.clone() for name, w in select(model, "layers").items()}
    problem = Problem(
        model=model, weights=select(model, "layers"), x=x, y=y, threat=ThreatModel(eps=eps), size=2, parts=Parts(2)
    )
    v_0 = {name: 0.01 * torch.ones_like(w) * w.norm() / w.numel() for name, w in weights.items()}
    sizes = {"xi": 0.05, "steps": 3, "step": 0.04, "input_step": 0.03}
    v, x_adv = published(problem, [slice(0, 4), slice(4, 7)], v_0, x, **sizes)
    assert all(torch.equal(model.get_parameter(name), w) for name, w in weights.items())

    nu, delta = {name: value.clone() for name, value in v_0.items()}, torch.zeros_like(x)
    for _ in range(3):
        for rows in (slice(0, 4), slice(4, 7)):
            with torch.no_grad():
                for name, w in weights.items():
                    model.get_parameter(name).copy_(w + nu[name])
            model.zero_grad()
            d = delta[rows].clone().requires_grad_()
            nn.functional.cross_entropy(model(x[rows] + d), y[rows]).backward()
            for name, w in weights.items():
                g = model.get_parameter(name).grad
                nu[name] = nu[name] + 0.04 * g / g.norm() * w.norm()
                if nu[name].norm() > 0.05 * w.norm():
                    nu[name] = nu[name] * 0.05 * w.norm() / nu[name].norm()
            stepped = (d.detach() + 0.03 * d.grad.sign()).clamp(-eps, eps)
            delta[rows] = (x[rows] + stepped).clamp(0, 1) - x[rows]
    for name in nu:
        assert v[name] == pytest.approx(nu[name], rel=1e-9, abs=1e-12)
    assert x_adv == pytest.approx(x + delta, abs=1e-12)


def test_contract_published_budgets():
    code, paper = WorstFlatness.stutz_code(), WorstFlatness.stutz_paper()
    for settings in (code, paper):
        assert (settings.xi, settings.steps, settings.restarts, settings.group) == (0.00075, 20, 10, 128)
        assert (settings.mode, settings.input_step, settings.reference.restarts) == ("as_published", 0.007, 10)
    assert (code.step, code.scope, paper.step, paper.scope) == (0.01, "set", 0.001, "batch")
    assert "doubled" not in code.points() and WorstFlatness(restarts=2).points() == ["reference", 0, 1, "doubled"]


@pytest.mark.parametrize("scope", ["set", "batch"])
def test_contract_published_values_are_those_of_the_worst_restart(scope):
    attack = StutzPGD(threat=ThreatModel(eps=0.1), steps=3)
    settings = WorstFlatness(
        attack=attack, reference=replace(attack, restarts=2), xi=0.05, steps=2, step=0.02, restarts=3, group=4,
        mode="as_published", scope=scope,
    )  # fmt: skip
    found = measure(settings, look_at(network()))
    if scope == "set":
        assert found.robust.value == pytest.approx(found.robust_rises.max(), rel=1e-9)
        assert found.clean.value == pytest.approx(found.clean_rises.max(), rel=1e-9)
    else:  # the worst of each group
        assert found.robust.value >= found.robust_rises.max() - 1e-12
    assert found.doubling_gain is None and found.mode == "as published" and "reference" in found.attack


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"xi": -0.1}, "at least 0"),
        ({"xi": 3.0}, "at most 1"),
        ({"sweep": (0.1, 2.0)}, "at most 1"),
        ({"sweep": (0.00075,)}, "twice"),
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"group": 0}, "group"),
        ({"scope": "layer"}, "set, batch"),
        ({"mode": "best"}, "sound"),
        ({"step": 0.01}, "as_published"),
        ({"reference": ATTACK}, "as_published"),
        ({"mode": "as_published"}, "0.001"),
        ({"input_step": 2.0}, "input_step"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        WorstFlatness(**wrong)
