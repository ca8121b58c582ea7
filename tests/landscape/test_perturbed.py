import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.perturbed import Perturbed
from robustscape.landscape.runner import measure
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput, Diverged
from robustscape.weights.rwp import RWP

EPS = 0.1
ATTACK = FGSM(threat=ThreatModel(eps=EPS))  # the exact adversary of a linear model


class Logistic(nn.Module):
    """Two classes, logits (0, w.x): under linf its robust loss is known exactly."""

    def __init__(self, *w):
        super().__init__()
        self.linear = nn.Linear(len(w), 1, bias=False, dtype=torch.float64)
        self.linear.weight.data = torch.tensor([w], dtype=torch.float64)

    def forward(self, x):
        z = self.linear(x.flatten(1))
        return torch.cat([torch.zeros_like(z), z], dim=1)


def looked_at(*w, n=9, **changes):
    generator = torch.Generator().manual_seed(n)
    x = 0.3 + 0.4 * torch.rand(n, 1, 1, len(w), generator=generator, dtype=torch.float64)
    return subject(Logistic(*w), x, torch.arange(n) % 2, **{"batch": 4, "runtime": TRUTH, **changes})


def rendered(made, w, at=None, eps=EPS):
    """Robust loss at w, and its gradient with the inputs of ``at`` held, by hand."""
    s = np.where(made.y.numpy() == 1, 1.0, -1.0)[:, None]
    x_adv = made.x.flatten(1).numpy() - eps * s * np.sign(w if at is None else at)
    lead = (s * x_adv) @ w
    return np.logaddexp(0, -lead).mean(), -(s * x_adv / (1 + np.exp(lead))[:, None]).mean(axis=0)


def test_closed_form_of_logistic_regression():
    made = looked_at(1.5, -0.5, 0.8)
    settings = Perturbed(attack=ATTACK, adversarial=(0.3, 0.1), random=(0.2, 1.0), samples=4)
    found = measure(settings, made)
    w = made.model.linear.weight.detach()[0].numpy()
    loss, slope = rendered(made, w)
    assert found.reference_robust_loss == pytest.approx(loss, rel=1e-12)
    assert found.reference_clean_loss == pytest.approx(rendered(made, w, eps=0)[0], rel=1e-12)
    for level, gamma in zip(found.adversarial, (0.1, 0.3), strict=True):
        moved = w + gamma * np.linalg.norm(w) * slope / np.linalg.norm(slope)
        assert (level.gamma, level.rise.n, level.rise_over_both) == (gamma, 1, None)
        assert level.robust_loss == pytest.approx(rendered(made, moved)[0], rel=1e-12)
        assert level.clean_loss == pytest.approx(rendered(made, moved, eps=0)[0], rel=1e-12)
        assert level.rise.value == pytest.approx(rendered(made, moved)[0] - loss, rel=1e-9)
        assert level.rise.low < level.rise.value < level.rise.high
    for level in found.random:
        draws = [
            RWP(gamma=level.gamma)(made.model, None, rng=Streams(0, ("perturbed", "random", sample)))
            for sample in range(4)
        ]
        losses = [rendered(made, w + v["linear.weight"][0].numpy())[0] for v in draws]
        assert level.robust_losses == pytest.approx(losses, rel=1e-12)
        assert level.rise.value == pytest.approx(np.mean(losses) - loss, rel=1e-9)
        deviation = np.std(losses, ddof=1) / 2
        assert level.rise.high - level.rise.value == pytest.approx(3.1824463 * deviation, rel=1e-6)  # t, 3 degrees
        assert level.rise_over_both.high >= level.rise.high


def test_reference_two_rounds_attack_anew_at_the_moved_weights():
    made = looked_at(1.5, -0.5, -0.01)  # the small weight changes its sign, and with it the worst inputs
    found = measure(Perturbed(attack=ATTACK, adversarial=(0.4,), random=(), alternations=2), made)
    w = made.model.linear.weight.detach()[0].numpy()
    radius = 0.4 * np.linalg.norm(w)
    _, slope = rendered(made, w)
    v = radius * slope / np.linalg.norm(slope)
    assert (np.sign(w + v) != np.sign(w)).any()
    _, slope = rendered(made, w + v)
    v = v + radius * slope / np.linalg.norm(slope)
    v = v * min(1, radius / np.linalg.norm(v))
    assert found.adversarial[0].robust_loss == pytest.approx(rendered(made, w + v)[0], rel=1e-12)
    assert found.random == () and found.alternations == 2


def test_closed_form_no_random_perturbation_of_a_small_size_is_worse_than_the_adversarial_one():
    found = measure(
        Perturbed(attack=ATTACK, adversarial=(0.01,), random=(0.01,), samples=20), looked_at(1.5, -0.5, 0.8)
    )
    assert max(found.random[0].robust_losses) <= found.adversarial[0].robust_loss * (1 + 1e-6)
    assert found.random[0].rise.value < found.adversarial[0].rise.value / 2


def test_contract_refuses_what_cannot_be_meant():
    for change, words in (
        ({"adversarial": (), "random": ()}, "there must be a gamma"),
        ({"adversarial": (2.5,)}, r"in \(0, 2\]"),
        ({"random": (0.0,)}, "above 0"),
        ({"random": (float("inf"),)}, "above 0"),
        ({"adversarial": (0.1, 0.1)}, "stands twice"),
        ({"samples": 1}, "at least 2"),
        ({"steps": 0}, "at least 1 step"),
        ({"alternations": 0}, "1 alternation"),
    ):
        with pytest.raises(BadInput, match=words):
            Perturbed(**change)


@pytest.mark.parametrize("together", [True, False])
def test_contract_says_where_the_loss_is_not_finite(together):
    one = looked_at(1e10, 1e10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double() if together else one.model
    with torch.no_grad():
        next(model.parameters()).fill_(1e10)
    made = subject(model, one.x, one.y, batch=4, runtime=TRUTH)
    settings = Perturbed(attack=ATTACK, adversarial=(), random=(0.1, 1e308), samples=2)
    assert (settings.at_once(made) > 1) == together
    with pytest.raises(Diverged, match=r"^at gamma 1e\+308: .* not finite for . of 4 inputs; a smaller gamma\?$"):
        measure(settings, made)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.inf)
    with pytest.raises(Diverged, match=r"^the model's loss is not finite"):
        measure(settings, made)


def test_contract_says_where_an_adversary_of_the_weights_is_lost(monkeypatch):
    def lost(self, names):
        raise Diverged("the gradient is not finite")

    monkeypatch.setattr("robustscape.landscape.perturbed._Robust.gradient", lost)
    with pytest.raises(Diverged, match=r"^at gamma 0.02: the gradient is not finite; a smaller gamma"):
        measure(Perturbed(attack=ATTACK, adversarial=(0.02,), random=()), looked_at(1.5, -0.5))
