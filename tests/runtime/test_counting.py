"""How often a model is run."""

from dataclasses import replace

import torch
from torch import nn

from robustscape.attacks.friendly import Friendly
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.runtime.counting import forwards, passes

X = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def _net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


def test_closed_form_passes_of_an_attack():
    y = torch.tensor([0, 1, 2, 0])
    assert passes(PGD(steps=7), _net(), X, y) == 7
    assert passes(PGD(steps=7, restarts=3, result="best_loss"), _net(), X, y) == 24


def test_closed_form_an_attack_that_ends_with_a_success_is_counted_as_if_it_found_none():
    net = _net()
    y = net(X).argmax(dim=1)
    for attack, most in ((PGD(steps=6, restarts=2, result="misclassified"), 14), (Friendly(steps=5), 5)):
        assert passes(replace(attack, threat=ThreatModel(eps=1.0)), net, X, y) == most


def test_closed_form_forwards_of_a_loss():
    net = nn.Sequential(_net(), nn.BatchNorm1d(3)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert forwards(lambda model: (model(X), model(X), model(X)), net, 4) == 3
    assert forwards(lambda model: model(torch.cat([X, X])), net, 4) == 2
    assert forwards(lambda model: None, net, 4) == 0
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
