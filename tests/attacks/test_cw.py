"""CW-infinity: its clamp, its settings, and that it is PGD on the margin."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from robustscape.attacks.cw import CW, Clamped
from robustscape.attacks.losses import Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.config import from_plain, to_plain
from robustscape.streams import numbered
from robustscape.types import BadInput


def _model(classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 6, classes)]
        model = nn.Sequential(*layers).double()
    with torch.no_grad():
        model[3].bias -= model(_images()).mean(dim=0)  # so that it does not give all images one class
    return model


def _images(n: int = 10) -> torch.Tensor:
    return torch.rand(n, 1, 5, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def test_closed_form_clamped_by_hand():
    logits = torch.tensor([[1.0, 4.0, 2.0], [5.0, 1.0, 0.0], [0.0, 9.0, 0.0]], requires_grad=True)
    y = torch.zeros(3, dtype=torch.int64)
    clamped = Clamped(kappa=5)(nn.Identity(), logits, y)
    assert clamped.tolist() == [3.0, -4.0, 5.0]
    (slope,) = torch.autograd.grad(clamped.sum(), logits)
    assert slope.tolist() == [[-1, 1, 0], [-1, 1, 0], [0, 0, 0]]
    assert Clamped(kappa=2, targeted=True)(nn.Identity(), logits, y).tolist() == [3.0, -2.0, 9.0]


def _naive(model, x, y, eps, step, steps, kappa):
    """The search as the papers have it, one example and one step at a time; the first success, else the best."""
    out = []
    for i in range(len(x)):
        clean, here, best, kept = x[i : i + 1], x[i : i + 1], -torch.inf, x[i : i + 1]
        for _ in range(steps + 1):
            leaf = here.clone().requires_grad_()
            z = model(leaf)[0]
            margin = torch.cat([z[: y[i]], z[y[i] + 1 :]]).max() - z[y[i]]
            loss = margin if kappa is None else -torch.relu(-margin + kappa)
            if float(margin.detach()) > best:
                best, kept = float(margin.detach()), here
            if best > 0:
                break
            (slope,) = torch.autograd.grad(loss, leaf)
            here = (clean + (here + step * slope.sign() - clean).clamp(-eps, eps)).clamp(0, 1)
        out.append(kept)
    return torch.cat(out)


@pytest.mark.parametrize("kappa", [None, 0.0, 50.0])
def test_reference_naive_rendering_float64(kappa):
    model, x = _model(), _images()
    y = model(x).argmax(dim=1)
    attack = CW(threat=ThreatModel(eps=0.06), steps=8, step_size=0.02, kappa=kappa, start="none")
    x_adv = attack(model, x, y)
    assert torch.allclose(x_adv, _naive(model, x, y, 0.06, 0.02, 8, kappa), atol=1e-12)
    assert 0 < int((model(x_adv).argmax(dim=1) != y).sum()) < len(x)


def test_closed_form_the_defaults_are_those_of_the_table():
    pgd = CW().pgd()
    assert (pgd.steps, pgd.step_size, pgd.restarts, pgd.loss, pgd.threat) == (100, 2 / 255, 1, Margin(), ThreatModel())
    assert CW(step_size=None, threat=ThreatModel(eps=0.2)).at(0.4).pgd()._step() == 0.1
    assert CW().describe() == "CW-100 (linf 8/255, step 2/255, 1 restart)"
    assert CW(kappa=50, steps=30).describe() == "CW-30 (linf 8/255, step 2/255, 1 restart, confidence 50)"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kappa", [None, 0.0])
def test_contract_targeted_reaches_what_is_wanted_and_stays_in_ball_and_box(norm, kappa):
    model, x = _model(), _images()
    wanted = (model(x).argmax(dim=1) + 1) % 4
    threat = ThreatModel(norm=norm, eps=0.2 if norm == "linf" else 1.0)
    attack = CW(threat=threat, steps=20, step_size=None, kappa=kappa, targeted=True)
    x_adv = attack(model, x, wanted)
    assert int((model(x_adv).argmax(dim=1) == wanted).sum()) > len(x) // 2
    assert bool(((x_adv >= 0) & (x_adv <= 1)).all())
    length = (x_adv - x).flatten(1).abs().amax(dim=1) if norm == "linf" else (x_adv - x).flatten(1).norm(dim=1)
    assert float(length.max()) <= threat.eps + 1e-12


@pytest.mark.parametrize("classes", [2, 3])
def test_contract_each_example_is_searched_within_its_own_radius(classes):
    model, x = _model(classes), _images()
    y, rng = model(x).argmax(dim=1), numbered(x, "radii")
    eps = torch.linspace(0, 0.3, len(x), dtype=torch.float64)
    attack = CW(steps=6, step_size=None, restarts=2)
    x_adv = attack(model, x, y, rng=rng, eps=eps)
    assert torch.equal(x_adv[0], x[0])
    for k, radius in enumerate(eps.tolist()):
        one = torch.tensor([k])
        assert torch.allclose(attack.at(radius)(model, x[one], y[one], rng=rng.of(one))[0], x_adv[k], atol=1e-12)


def test_contract_the_attack_and_its_loss_come_back_from_plain_data():
    for value in (CW(kappa=50.0, threat=ThreatModel(norm="l2", eps=0.5)), PGD(loss=Clamped(kappa=1.0))):
        assert from_plain(json.loads(json.dumps(to_plain(value)))) == value


def test_contract_what_makes_no_sense_is_refused():
    with pytest.raises(BadInput, match="kappa must be at least 0, not -1; did you mean None"):
        CW(kappa=-1)
    with pytest.raises(BadInput, match="did you mean 2/255"):
        CW(step_size=2)
    with pytest.raises(BadInput, match="CW knows the norms linf and l2"):
        CW(threat=ThreatModel(norm="l1", eps=12))
    with pytest.raises(BadInput, match="at least 1 step"):
        CW(steps=0)
    model, x = _model(), _images()
    with pytest.raises(BadInput, match="one label for each input"):
        CW(steps=1)(model, x, torch.rand(len(x), 4))
    with pytest.raises(BadInput, match="the model has 4 outputs"):
        CW(steps=1)(model, x, torch.full((len(x),), 4))
