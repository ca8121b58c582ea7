import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.cli.measure import _numbers
from robustscape.evaluation.subject import subject
from robustscape.landscape.flatness import Estimate
from robustscape.landscape.headlines import further
from robustscape.landscape.pac_bayes import PACBayes
from robustscape.landscape.runner import measure
from robustscape.runtime import TRUTH
from robustscape.types import BadInput, Diverged
from robustscape.weights.rescaling import before_normalisation
from robustscape.weights.space import select

ATTACK = FGSM(threat=ThreatModel(eps=0.1))  # the exact adversary of a linear model


class Logistic(nn.Module):
    """Two classes, logits (0, w.x + b): under linf it is known which examples can be fooled."""

    def __init__(self, *w, bias=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([bias], dtype=torch.float64))

    def forward(self, x):
        z = x.flatten(1) @ self.w[0] + self.b
        return torch.stack([torch.zeros_like(z), z], dim=1)


def images(n, size=2):
    generator = torch.Generator().manual_seed(n)
    return 0.3 + 0.4 * torch.rand(n, 1, 1, size, generator=generator, dtype=torch.float64)


def looked_at(model, n=9, **changes):
    size = model.w.shape[1]
    return subject(model, images(n, size), torch.arange(n) % 2, **{"batch": 4, "runtime": TRUTH, **changes})


def errors(w, b, x, y, eps):
    lead = np.where(y == 1, 1, -1) * (x @ w + b)
    return float((lead - eps * np.abs(w).sum() <= 0).mean())


@pytest.mark.parametrize("spread", ["whole", "layer"])
def test_closed_form_of_logistic_regression_on_the_given_draws(spread):
    made = looked_at(Logistic(1.5, -1.0, bias=-0.2))
    settings = PACBayes(attack=ATTACK, alphas=(0.3, 0.1), samples=6, spread=spread)
    found = measure(settings, made)
    x, y, weights = made.x.flatten(1).numpy(), made.y.numpy(), select(made.model, "all")
    w, b = weights["w"][0].numpy(), float(weights["b"])
    assert found.robust_error == errors(w, b, x, y, 0.1) and found.clean_error == errors(w, b, x, y, 0)
    assert [level.alpha for level in found.levels] == [0.1, 0.3]
    for level in found.levels:
        draws = [settings.draw(weights, 0, sample, level.alpha) for sample in range(6)]
        moved = [(w + u["w"][0].numpy(), b + float(u["b"])) for u in draws]
        robust, clean = ([errors(*at, x, y, eps) for at in moved] for eps in (0.1, 0.0))
        assert level.errors == pytest.approx(robust) and level.clean.value == pytest.approx(np.mean(clean))
        assert level.expected.value == pytest.approx(np.mean(robust))
        assert level.rise.value == pytest.approx(np.mean(robust) - found.robust_error)
        assert level.expected_over_both.low <= level.expected.low <= level.expected.high
    assert found.size == 3 and np.std(found.levels[1].errors) > 0


def test_closed_form_the_expectation_for_one_weight():
    made = subject(Logistic(3.0), torch.full((3, 1, 1, 1), 0.5), torch.ones(3, dtype=torch.int64), runtime=TRUTH)
    found = measure(PACBayes(attack=ATTACK, alphas=(1.0,), samples=300, spread="layer"), made).levels[0]
    truth = 0.5 * math.erfc(1 / math.sqrt(2))  # the weight changes its sign; the bias, 0, has no noise
    error = math.sqrt(truth * (1 - truth) / 300)
    assert abs(found.expected.value - truth) < 4 * error
    assert found.expected.high - found.expected.value == pytest.approx(1.97 * error, rel=0.15)


def test_reference_the_divergence_is_that_of_two_gaussians():
    model = Logistic(1.5, -1.0, 0.5, bias=-0.2)
    weights = select(model, "all")
    w = torch.cat([value.flatten() for value in weights.values()])
    settings = PACBayes(attack=ATTACK, alphas=(0.2,), samples=2)
    for spread, sigma in (
        ("whole", torch.full_like(w, 0.2 * float(w.norm()))),
        ("layer", 0.2 * torch.cat([value.norm().expand(value.numel()) for value in weights.values()])),
    ):
        found = measure(replace(settings, spread=spread), looked_at(model)).levels[0]
        normal = torch.distributions.Normal
        divergence = torch.distributions.kl_divergence(normal(w, sigma), normal(torch.zeros_like(w), sigma)).sum()
        assert found.kl == pytest.approx(float(divergence), rel=1e-12)
        assert found.length == pytest.approx(float(sigma.square().sum().sqrt() / w.norm()), rel=1e-12)


def test_closed_form_the_bound_and_how_loose_it_is():
    made = looked_at(Logistic(1.5, -1.0, bias=-0.2))
    settings = PACBayes(attack=ATTACK, alphas=(0.5, 0.001), samples=4, delta=0.1, training_examples=10**4)
    found = measure(settings, made)
    small, large = found.levels
    for level in found.levels:
        for kl, loose, bound in (
            (1 / (2 * level.alpha**2), level.looseness, level.bound),
            (1 / (2 * level.alpha), level.looseness_as_printed, level.bound_as_printed),
        ):
            assert loose == pytest.approx(4 * math.sqrt((kl + math.log(2e4 / 0.1)) / 1e4), rel=1e-12)
            assert bound == pytest.approx(level.expected.value + loose)
            assert bound == pytest.approx(found.robust_error + level.rise.value + loose)  # the three terms
    assert small.vacuous and small.bound > 20 and not (large.vacuous and large.bound < 1)
    assert (found.bound.value, found.bound_alpha) == (pytest.approx(large.bound), 0.5)
    assert (found.delta, found.training_examples, found.n, found.spread) == (0.1, 10**4, 9, "whole")


def test_contract_a_bound_that_says_nothing_is_said_to_be_vacuous():
    found = measure(PACBayes(attack=ATTACK, samples=2), looked_at(Logistic(1.5, -1.0)))
    said = []
    for value in (89.62, 1.0, 0.99):
        (line,) = further(replace(found, bound=replace(found.bound, value=value)))
        said.append((line.name, line.value, line.of))
    name, vacuous = f"Bound on the robust error, alpha {found.bound_alpha:g}", "vacuous: 1 or more says nothing"
    assert said == [(name, 89.62, vacuous), (name, 1.0, vacuous), (name, 0.99, "")]
    told = _numbers(replace(found, bound=Estimate(value=89.62, low=-np.inf, high=np.inf, n=1)))
    assert told.endswith(f"; {name} ({vacuous}) 89.62 fraction")


def test_closed_form_noise_by_layer_is_scale_free():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, eps=0.0), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)
    ).double().eval()  # fmt: skip
    settings = PACBayes(attack=ATTACK, alphas=(0.1, 0.5), samples=4, spread="layer")
    x, y = images(12), torch.arange(12) % 2
    one, other = (
        measure(settings, subject(m, x, y, runtime=TRUTH)) for m in (model, before_normalisation(model, x).model)
    )
    assert [level.errors for level in one.levels] == [level.errors for level in other.levels]
    assert one.levels[1].kl == 5 / (2 * 0.5**2)  # of six layers BatchNorm's bias is 0, and has no noise
    assert len({*one.levels[0].errors, *one.levels[1].errors}) > 1


def test_contract_refuses_what_cannot_be_meant():
    for change, words in (
        ({"spread": "filter"}, "not one of whole, layer"),
        ({"alphas": ()}, "at least one"),
        ({"alphas": (0.1, 0.0)}, "above 0"),
        ({"alphas": (0.1, 0.1)}, "stands twice"),
        ({"samples": 1}, "at least 2"),
        ({"delta": 1.0}, r"in \(0, 1\)"),
        ({"training_examples": 0}, "did you mean none"),
    ):
        with pytest.raises(BadInput, match=words):
            PACBayes(**change)
    with pytest.raises(BadInput, match="for 5 training examples, but 9 are measured"):
        measure(PACBayes(attack=ATTACK, training_examples=5), looked_at(Logistic(1.0)))


@pytest.mark.parametrize("alphas", [(1e-3, 1e306), (1e306, 1e-3)])
def test_contract_says_where_the_loss_is_not_finite(alphas):
    made = looked_at(Logistic(1e3, 1e3))
    with pytest.raises(Diverged, match=r"^at alpha 1e\+306: .* not finite .*; a smaller alpha\?$"):
        measure(PACBayes(attack=ATTACK, alphas=alphas, samples=2), made)
