"""AWP on losses whose worst weights are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.types import BadInput
from robustscape.weights.awp import AWP
from robustscape.weights.space import gradient


class _Loss:
    """A WeightLoss of a network's weights; counts refreshes and remembers where it was asked."""

    def __init__(self, model: nn.Module, of) -> None:
        self.model, self.of, self.refreshed = model, of, []

    def value(self):
        return self.of(self.model).detach()

    def gradient(self, names):
        return gradient(self.of(self.model), self.model, names)

    def refresh(self):
        self.refreshed.append(self.model[0].weight.detach().clone())


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)).double()


def _linear(model):
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for parameter in model.parameters():
        total = total + (parameter * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)).sum()
    return total


@pytest.mark.parametrize("steps", [1, 4])
def test_closed_form_a_linear_loss_is_worst_along_its_gradient_on_the_sphere(steps):
    net = _net()
    loss = _Loss(net, _linear)
    v = AWP(gamma=0.02, steps=steps)(net, loss)
    assert list(v) == ["0.weight", "2.weight"]
    slope = loss.gradient(list(v))
    for name, value in v.items():
        w = dict(net.named_parameters())[name].detach()
        expected = 0.02 * w.norm() * slope[name] / slope[name].norm()
        assert torch.allclose(value, expected, atol=1e-14)


def test_closed_form_several_steps_find_more_than_one_on_a_curved_loss():
    net = _net()

    def curved(model):
        w = model[0].weight
        return _linear(model) + 400 * (w[0] * w[1]).sum()

    loss = _Loss(net, curved)

    def risen(awp):
        v = awp(net, loss)
        from robustscape.weights.space import shifted

        with shifted(net, v):
            return float(loss.value())

    assert risen(AWP(gamma=0.3, steps=20)) > risen(AWP(gamma=0.3)) + 1e-6


def test_contract_alternations_attack_again_at_the_perturbed_weights():
    net = _net()
    loss = _Loss(net, _linear)
    before = net[0].weight.detach().clone()
    v = AWP(gamma=0.1, steps=2, alternations=3)(net, loss)
    assert len(loss.refreshed) == 2
    assert all(not torch.equal(there, before) for there in loss.refreshed)
    assert torch.equal(net[0].weight, before)
    assert all(value.norm() <= 0.1 * dict(net.named_parameters())[n].norm() * (1 + 1e-12) for n, value in v.items())


def test_closed_form_a_zero_gradient_gives_a_zero_perturbation():
    net = _net()
    v = AWP()(net, _Loss(net, lambda model: 0 * _linear(model)))
    assert all(torch.equal(value, torch.zeros_like(value)) for value in v.values())


def test_contract_settings():
    assert AWP.official() == AWP(gamma=0.01, decay_at="w+v")
    for wrong in (dict(gamma=0), dict(gamma=1.5), dict(steps=0), dict(alternations=0), dict(warmup=-1)):
        with pytest.raises(BadInput):
            AWP(**wrong)
