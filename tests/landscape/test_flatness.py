import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import judge
from robustscape.evaluation.subject import subject
from robustscape.landscape._stutz import StutzPGD
from robustscape.landscape.flatness import AverageFlatness, t_interval
from robustscape.landscape.runner import measure
from robustscape.results import load, save
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput
from robustscape.weights.space import select, shifted

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
    code, paper = AverageFlatness.stutz_code(), AverageFlatness.stutz_paper()
    assert AverageFlatness.stutz() == code
    for settings in (code, paper):
        assert (settings.xi, settings.samples, settings.mode) == (0.5, 10, "as_published")
        assert (settings.attack.steps, settings.attack.restarts, settings.attack.step_size) == (20, 1, 0.007)
        assert settings.reference.restarts == 10 and settings.reference.threat.eps == 8 / 255
    assert (code.law, code.group, paper.law, paper.group) == ("sphere", None, "ball", 128)
    looked_at = subject(rescaled_layers(1.0), torch.rand(4, 1, 4, 4), torch.arange(4) % 3)
    found = measure(
        AverageFlatness(attack=ATTACK, reference=PGD(threat=ThreatModel(eps=0.0)), mode="as_published"), looked_at
    )
    assert found.reference_robust_loss == found.reference_clean_loss  # the reference had its own attack
    assert found.mode == "as published" and "reference" in found.attack


def images(n, size=4):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def convolution():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).double()


def naive_pgd(model, x, y, seed, index, tags, *, eps, step, steps):
    """One restart, for one example at a time: the best iterate's loss and its largest wrong probability."""
    losses, wrongs = [], []
    for i in range(len(x)):
        rng = Streams(seed, tags, index[i : i + 1])
        noise = rng.tag("gaussian").normal(*x.shape[1:], dtype=torch.float64)[0]
        delta = noise / noise.abs().max() * eps * float(rng.tag("length").uniform())
        best, wrong = -1.0, None
        for _ in range(steps + 1):
            delta = (x[i] + delta).clamp(0, 1) - x[i]
            delta = delta.clamp(-eps, eps).requires_grad_()
            logits = model((x[i] + delta)[None])[0]
            loss = -torch.log(torch.softmax(logits, 0)[y[i]] + 1e-12)
            (slope,) = torch.autograd.grad(loss, delta)
            if float(loss.detach()) > best:
                others = [float(p) for k, p in enumerate(torch.softmax(logits, 0).detach()) if k != y[i]]
                best, wrong = float(loss.detach()), max(others)
            delta = delta.detach() + step * slope.sign()
        losses.append(best)
        wrongs.append(wrong)
    return np.array(losses), np.array(wrongs)


def test_reference_stutz_code_is_a_naive_rendering_of_it():
    model = convolution().eval()
    x, y = 0.2 + 0.6 * images(5), torch.arange(5) % 3
    made = subject(model, x, y, batch=3, seed=4)
    attack = StutzPGD(threat=ThreatModel(eps=0.05), steps=4, step_size=0.02)
    settings = replace(
        AverageFlatness.stutz_code(), attack=attack, reference=replace(attack, restarts=3), samples=3, xi=0.3
    )
    found = measure(settings, made)
    sizes = {"eps": 0.05, "step": 0.02, "steps": 4}
    runs = [naive_pgd(model, x, y, 4, made.index, ("flatness", r), **sizes) for r in range(3)]
    chosen = np.argmax([wrong for _, wrong in runs], axis=0)
    reference = np.mean([runs[r][0][i] for i, r in enumerate(chosen)])
    assert found.reference_robust_loss == pytest.approx(reference, rel=1e-9)  # 1e-12 in the logarithm
    kept, rises = copy.deepcopy(model.state_dict()), []
    for sample in range(3):
        with torch.no_grad():
            for name, w in model.named_parameters():
                if not name.startswith("1."):
                    rng = Streams(4, ("flatness", "weights", sample))
                    v = rng.tag(name).normal(*w.shape, dtype=torch.float64)
                    w += 0.3 * w.norm() * v / v.norm()
        rises.append(naive_pgd(model, x, y, 4, made.index, ("flatness", "sample", sample, 0), **sizes)[0].mean())
        model.load_state_dict(kept)
    assert found.robust_losses == pytest.approx(np.array(rises), rel=1e-9)
    assert found.robust.value == pytest.approx(np.mean(rises) - reference, rel=1e-8)
    assert found.robust.value != 0


def test_contract_groups_have_draws_of_their_own():
    x, y = images(7), torch.arange(7) % 3
    made = subject(convolution(), x, y, batch=2)
    settings = AverageFlatness(attack=ATTACK, samples=4, group=3)
    found = measure(settings, made)
    weights = select(made.model, "layers")
    for sample in range(4):
        total = 0.0
        for number, rows in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
            with shifted(made.model, settings.draw(weights, 0, sample, group=number)):
                total += float(judge(made.model, x[rows], y[rows])[0].sum())
        assert found.clean_losses[sample] == pytest.approx(total / 7, rel=1e-10)
    assert settings.at_once(subject(rescaled_layers(1.0), x, y)) == 1


def test_closed_form_a_sweep_has_the_same_directions_at_every_radius():
    made = quadratic()
    A, w = made.model.A, made.model.w.detach()
    settings = AverageFlatness(attack=ATTACK, xi=0.2, sweep=(0.4, 0.1), samples=4)
    found = measure(settings, made)
    assert [at.xi for at in found.sweep] == [0.1, 0.4]
    v = [settings.draw({"w": w}, 0, s)["w"] for s in range(0, 4, 2)]
    curvature = np.mean([float(d @ A @ d / 2) for d in v])
    for at in found.sweep:
        assert at.robust.value == pytest.approx(curvature * (at.xi / 0.2) ** 2, rel=1e-9)
        assert at.clean.value == pytest.approx(curvature * (at.xi / 0.2) ** 2, rel=1e-9)
    alone = measure(replace(settings, sweep=()), made)
    assert alone.robust == found.robust and alone.sweep == ()


@pytest.mark.parametrize(("law", "dimension"), [("ball", 7), ("sphere", 5)])
def test_closed_form_expectation_over_the_draws_of_a_quadratic(law, dimension):
    made = quadratic()
    A, w = made.model.A, made.model.w.detach()
    settings = AverageFlatness(law=law, samples=400)
    v = torch.stack([settings.draw({"w": w}, 3, s)["w"] for s in range(0, 400, 2)])
    rises = ((v @ A) * v).sum(dim=1) / 2
    # E[v v'] = r^2 / (d + 2) I in the ball and r^2 / d I on the sphere: both within 4 standard errors
    truth = float(0.5**2 * w @ w * A.trace()) / 2 / dimension
    assert abs(float(rises.mean()) - truth) < 4 * float(rises.std()) / 200**0.5


class Logistic(nn.Module):
    """Two classes, logits (0, w.x): under linf its robust loss is known exactly."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.5, -0.5, 0.8, -1.1], dtype=torch.float64))

    def forward(self, x):
        z = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(z), z], dim=1)


def logistic_loss(w, x, y, eps):
    sign = np.where(y == 1, 1, -1)
    return float(np.mean(np.logaddexp(0, -sign * (x.reshape(len(x), -1) @ w) + eps * np.abs(w).sum())))


def test_closed_form_of_logistic_regression_on_the_given_draws():
    x, y = 0.2 + 0.6 * images(9, 2), torch.arange(9) % 2
    made = subject(Logistic(), x, y, batch=4)
    settings = AverageFlatness(attack=ATTACK, samples=6)  # 8 steps of eps / 4 reach the corner; the box is farther
    found = measure(settings, made)
    w = made.model.w.detach()
    truth = [
        logistic_loss((w + settings.draw({"w": w}, 0, s)["w"]).numpy(), x.numpy(), y.numpy(), 0.1) for s in range(6)
    ]
    assert found.robust_losses == pytest.approx(np.array(truth), rel=1e-10)
    assert found.reference_robust_loss == pytest.approx(logistic_loss(w.numpy(), x.numpy(), y.numpy(), 0.1), rel=1e-10)


def test_contract_an_interval_over_draws_and_examples_is_wider():
    x, y = images(9), torch.arange(9) % 3
    found = measure(AverageFlatness(attack=ATTACK, samples=8), subject(convolution(), x, y, batch=4))
    over = found.robust_over_both
    assert over.value == found.robust.value and over.low <= found.robust.low and over.high >= found.robust.high
    assert found.components.draws == 4 and found.components.examples == 9
    assert found.robust_rises.mean() == pytest.approx(found.robust.value, rel=1e-10)  # 9 cells of 1
    assert found.clean_rises.shape == (9,)


def test_contract_results_of_before_are_read(tmp_path):
    found = measure(AverageFlatness(attack=ATTACK, samples=2), quadratic())
    path = save(found, tmp_path / "flatness-last.json")
    stored = json.loads(path.read_text())
    for name in ("robust_over_both", "clean_over_both", "components", "robust_rises", "clean_rises", "sweep"):
        del stored["result"][name]
    path.write_text(json.dumps(stored))
    old = load(path)
    assert old.robust == found.robust and old.components is None and old.sweep == () and old.robust_rises.size == 0


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
        ({"xi": 50.0}, "at most 1"),
        ({"reference": ATTACK}, "as_published"),
        ({"law": "cube"}, "sphere"),
        ({"mode": "best"}, "sound"),
        ({"sweep": (0.25, -1.0)}, "at least 0"),
        ({"sweep": (0.25, 0.5)}, "twice"),
        ({"group": 0}, "group"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        AverageFlatness(**wrong)


@pytest.mark.parametrize(
    "settings",
    [
        AverageFlatness(attack=ATTACK, samples=4, sweep=(0.1,)),
        AverageFlatness(attack=ATTACK, samples=3, mode="as_published"),
        AverageFlatness(attack=StutzPGD(threat=ThreatModel(eps=0.1), steps=3), samples=3, mode="as_published"),
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
        alone = settings.at(made, point)
        assert value.keys() == alone.keys()
        assert all(value[name] == pytest.approx(alone[name], rel=1e-12) for name in value)
    assert settings.several(made, points[::-1])[0]["robust"] == pytest.approx(several[-1]["robust"], rel=1e-12)
    found = measure(settings, made)
    swept = [loss for at in found.sweep for loss in at.robust_losses]
    assert [found.reference_robust_loss, *found.robust_losses, *swept] == [value["robust_loss"] for value in several]


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
