"""What speaks against a robust accuracy: masked gradients are caught, an honest network raises nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.config import from_plain, to_plain
from robustscape.data.digits import Digits
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.sanity import sanity
from robustscape.evaluation.subject import drained, subject
from robustscape.evaluation.suspicions import Finding
from robustscape.models.loading import load
from robustscape.runtime import Runtime
from robustscape.types import BadInput, Diverged

CHECKPOINTS = Path(__file__).resolve().parents[2] / "benchmarks" / "checkpoints" / "digits"
RUNTIME = Runtime(precision="float32", compile="no")
LINF = ThreatModel(eps=0.1)
QUICK = dict(steps=1, queries=1)


@pytest.fixture(scope="module")
def images():
    return Digits().load(seed=0).test.take(slice(0, 80))


@pytest.fixture(scope="module")
def trained():
    """The digits' networks by how they were trained."""
    return {name: load(str(CHECKPOINTS / name), checkpoint="last") for name in ("at", "natural")}


@pytest.fixture
def looked_at(images):
    """Makes a subject of a model on the digits: ``looked_at(model)``."""
    return lambda model, **more: subject(model, images.pixels(), images.y, runtime=RUNTIME, **more)


def _fired(findings):
    return {finding.name for finding in findings if finding.fired}


def _named(findings, name):
    (found,) = (finding for finding in findings if finding.name == name)
    return found


class _Around(nn.Module):
    """A model with something done to its inputs and its outputs."""

    def __init__(self, model, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)))


DEFENCES = {
    "quantised": dict(before=lambda x: (8 * x).round() / 8),
    "saturated": dict(after=lambda z: 1e4 * z),
    "random": dict(before=lambda x: x + 0.1 * torch.randn_like(x)),
}
CAUGHT = {
    "quantised": {"vanishing gradients", "black box", "large eps"},
    "saturated": {"vanishing gradients", "black box", "large eps"},
    "random": {"randomness"},
}


@pytest.mark.parametrize("kind", ["at", "natural"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_end_to_end_honest_networks_raise_nothing(kind, norm, trained, looked_at):
    threat = ThreatModel(norm=norm, eps={"linf": 0.1, "l2": 0.6}[norm])
    findings = sanity(looked_at(trained[kind]), threat)
    assert _fired(findings) == set()
    assert len(findings) == 12 and all(finding.evidence and finding.n in (4, 80) for finding in findings)


@pytest.mark.parametrize("defence", DEFENCES)
def test_end_to_end_defences_that_mask_gradients_are_caught(defence, trained, looked_at):
    """On the network without adversarial training, so that what they hide is much."""
    findings = sanity(looked_at(_Around(trained["natural"], **DEFENCES[defence])), LINF)
    assert CAUGHT[defence] <= _fired(findings)
    assert _fired(findings) <= CAUGHT[defence] | {"more effort", "robust above clean"}


@pytest.mark.slow
def test_end_to_end_under_l1_the_same_without_the_single_step(trained, looked_at):
    threat = ThreatModel(norm="l1", eps=1.0)
    honest = sanity(looked_at(trained["at"]), threat)
    assert _fired(honest) == set()
    assert {"FGSM", "catastrophic overfitting"}.isdisjoint(finding.name for finding in honest)
    masked = sanity(looked_at(_Around(trained["natural"], **DEFENCES["quantised"])), threat)
    assert {"vanishing gradients", "large eps"} <= _fired(masked)


@pytest.mark.slow
def test_end_to_end_what_a_surrogate_shows_is_caught(trained, looked_at):
    model = _Around(trained["natural"], **DEFENCES["quantised"])
    findings = sanity(looked_at(model), LINF, queries=1, surrogate=trained["natural"])
    found = _named(findings, "transfer")
    assert found.fired and found.value > 0.2
    own = sanity(looked_at(trained["natural"]), LINF, queries=1, surrogate=trained["at"])
    assert not _named(own, "transfer").fired


class _OneStep(nn.Module):
    """At the clean first pixel of 0.5 the gradient points up, to where nothing happens; class 1 wins below 0.43.

    Only on a ridge of 0.005 on both sides of 0.5 does it point up: searches by shorter steps leap over it.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        v = x.flatten(1)[:, 0] - 0.5
        ridge = (v.abs() < 0.005).to(x.dtype)
        lead = self.weight * (0.2 + 0.01 * v - 3 * (-0.005 - v).clamp(min=0) - ridge * 0.5 * v)
        return torch.stack([lead, torch.zeros_like(lead)], dim=1)


def test_closed_form_one_step_that_fails_where_many_succeed_is_caught():
    x, y = torch.full((200, 1, 2, 2), 0.5), torch.zeros(200, dtype=torch.int64)
    looked = subject(_OneStep(), x, y, runtime=RUNTIME, classes=("a", "b"))
    findings = sanity(looked, ThreatModel(eps=0.2), n=200, queries=1)
    found = _named(findings, "catastrophic overfitting")
    assert found.fired and "of 200 classified correctly, 200 withstand one step" in found.evidence
    assert not _named(findings, "FGSM").fired


class _Ditch(nn.Module):
    """Its margin falls with the first pixel to a ditch, wrong beyond eps, with a slope in between that leads back."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        v = x.flatten(1)[:, 0] - 0.5
        lead = torch.where(v > 0.0995, -self.weight, torch.where(v > 0.01, 1 + 20 * v, self.weight - v))
        return torch.stack([2 * lead, torch.zeros_like(lead)], dim=1)


@pytest.mark.parametrize("alone", [True, False])
def test_closed_form_one_step_that_succeeds_where_many_fail_is_caught_in_an_evaluation_with_fgsm_too(alone):
    x, y = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.int64)
    threat = ThreatModel(eps=0.1)
    many = PGD(threat=threat, steps=20, start="none", result="misclassified")
    attacks = (many,) if alone else (FGSM(threat=threat), many)
    settings = Evaluating(attacks=attacks, eps=0.1, loss_restarts=0, n=None, sanity=40)
    looked = subject(_Ditch(), x, y, runtime=RUNTIME, classes=("a", "b"))
    found = _named(drained(evaluating(settings, looked)).findings, "FGSM")
    assert found.fired and "fools 40 of 40" in found.evidence


def _linear(images, **changes):
    """A linear model of the digits' shape, each class by the likeness to its mean image."""
    x, y = images.pixels().flatten(1), images.y
    means = torch.stack([x[y == k].mean(dim=0) for k in range(10)])
    linear = nn.Linear(64, 10)
    with torch.no_grad():
        linear.weight.copy_(means)
        linear.bias.copy_(-(means**2).sum(dim=1) / 2)
    return _Around(nn.Sequential(nn.Flatten(), linear), **changes)


def test_contract_each_suspicion_of_outputs_and_pixels(images, looked_at):
    quiet = sanity(looked_at(_linear(images)), LINF, **QUICK)
    words = {"pixels", "train mode", "randomness", "probabilities", "chance", "vanishing gradients"}
    assert not words & _fired(quiet)
    for after in (torch.sigmoid, lambda z: 30 * z.softmax(dim=1)):
        assert "probabilities" in _fired(sanity(looked_at(_linear(images, after=after)), LINF, **QUICK))
    small = subject(_linear(images), images.pixels() / 255, images.y, runtime=RUNTIME)
    found = _named(sanity(small, LINF, **QUICK), "pixels")
    assert found.fired and "divided by 255 twice?" in found.evidence
    wrong = subject(_linear(images), images.pixels(), (images.y + 1) % 10, runtime=RUNTIME)
    assert "chance" in _fired(sanity(wrong, LINF, **QUICK))


class _Counting(nn.Module):
    """Moves a buffer with every forward."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


def test_contract_what_is_as_in_training_under_eval_mode_is_caught(images, looked_at):
    batchwise = nn.BatchNorm2d(1, track_running_stats=False)
    found = _named(sanity(looked_at(_linear(images, before=batchwise)), LINF, **QUICK), "train mode")
    assert found.fired and found.value > 0.01
    model = nn.Sequential(_Counting(), _linear(images))
    found = _named(sanity(looked_at(model), LINF, **QUICK), "train mode")
    assert found.fired and "1 buffers move" in found.evidence
    dropping = _linear(images, before=lambda x: nn.functional.dropout(x, 0.3))
    assert {"randomness"} == _fired(sanity(looked_at(dropping), LINF, **QUICK)) & {"randomness", "train mode"}


def test_contract_the_evaluations_flags_are_what_is_compared_with(images, looked_at):
    looked = looked_at(_linear(images))
    wrong = torch.ones(80, dtype=torch.bool)
    none = _named(sanity(looked, LINF, **QUICK, fooled=~wrong), "robust above clean")
    assert none.fired and "80 under the evaluation" in none.evidence
    everything = sanity(looked, LINF, **QUICK, fooled=wrong, followed=wrong)
    assert not _fired(everything) & {"robust above clean", "more effort", "black box", "FGSM"}
    guessed = sanity(looked, ThreatModel(eps=0.0), **QUICK, searched=wrong)
    assert "black box" in _fired(guessed) and "black box" not in _fired(sanity(looked, ThreatModel(eps=0.0), **QUICK))
    weak = sanity(looked, ThreatModel(eps=0.3), **QUICK)
    assert "0 of 80" not in _named(weak, "more effort").evidence
    assert (
        "fools 0 of 80" in _named(sanity(looked, ThreatModel(eps=0.3), **QUICK, fooled=wrong), "more effort").evidence
    )


def test_contract_deterministic_and_without_a_trace(trained, looked_at):
    model = _Around(trained["at"], **DEFENCES["random"])
    model.train()
    looked, other = looked_at(model), looked_at(model, seed=1)
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    first = sanity(looked, LINF, n=20, steps=2, queries=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert sanity(looked, LINF, n=20, steps=2, queries=3) == first
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.set_rng_state(before)
    assert sanity(other, LINF, n=20, steps=2, queries=3) != first
    assert all(isinstance(f, Finding) and from_plain(to_plain(f)) == f for f in first)


class _NanUnderAttack(nn.Module):
    def forward(self, x):
        v = x.flatten(1)[:, :2]
        return torch.where((v - 0.5).abs() > 1e-6, torch.nan, 4 * v)


def test_contract_what_cannot_be_meant_is_refused_and_nan_is_an_error(images, looked_at):
    looked = looked_at(_linear(images))
    with pytest.raises(BadInput, match="queries must be at least 1, not 0"):
        sanity(looked, LINF, queries=0)
    with pytest.raises(BadInput, match="80 examples need as many flags"):
        sanity(looked, LINF, fooled=torch.ones(79, dtype=torch.bool))
    with pytest.raises(BadInput, match="they look normalised"):
        sanity(replace(looked, x=looked.x * 4 - 2), LINF)
    with pytest.raises(BadInput, match="probabilities"):
        sanity(replace(looked, model=_linear(images, after=lambda z: z.softmax(dim=1))), LINF)
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(Diverged):
        sanity(subject(_NanUnderAttack(), x, y, runtime=RUNTIME, classes=("a", "b")), LINF, **QUICK)
