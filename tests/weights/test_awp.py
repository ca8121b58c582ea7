"""AWP on losses whose worst weights are known."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from robustscape.types import BadInput
from robustscape.weights.awp import AWP
from robustscape.weights.space import gradient

spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)


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


def test_closed_form_it_acts_only_below_a_loss():
    net = _net()
    loss = _Loss(net, lambda model: sum(parameter.square().sum() for parameter in model.parameters()))
    value = float(loss.value())
    assert AWP(below=value)(net, loss) == {}
    acting, always = (AWP(below=below)(net, loss) for below in (value * (1 + 1e-9), None))
    assert list(acting) == list(always) == ["0.weight", "2.weight"]
    assert all(torch.equal(acting[name], always[name]) and always[name].any() for name in always)


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
    assert AWP.official_trades() == AWP(gamma=0.005, warmup=9, decay_at="w+v")
    assert AWP.stutz() == AWP(gamma=0.01, statistics="eval")
    for wrong in (dict(gamma=0), dict(gamma=2.5), dict(steps=0), dict(alternations=0), dict(warmup=-1), dict(below=0)):
        with pytest.raises(BadInput):
            AWP(**wrong)
    with pytest.raises(BadInput, match="AWP's unit is one of 'layer', 'filter', 'network', not 'channel'"):
        AWP(unit="channel")


# -- one step of training ------------------------------------------------------------------------------


def _by_layer(awp):
    """The paper's Algorithm 1, layer by layer; of several steps each is a part of the radius."""

    def search(now, w, x_adv):
        v = {name: torch.zeros_like(value) for name, value in w.items() if value.ndim > 1}
        for alternation in range(awp.alternations):
            x_adv = now.attacked(v, "refresh", alternation) if alternation else x_adv
            for _ in range(awp.steps):
                slope = now.slope(v, x_adv)
                for name in v:
                    radius = awp.gamma * w[name].norm()
                    v[name] = v[name] + radius / awp.steps * slope[name] / slope[name].norm()
                    v[name] = v[name] / max(1, v[name].norm() / radius)
        return v, x_adv

    return search


def _of_the_code(gamma):
    """The authors' code: the difference that a step of SGD on a copy makes, rescaled."""

    def search(now, w, x_adv):
        v = {}
        for name, slope in now.slope({}, x_adv).items():
            if w[name].ndim > 1:
                difference = (w[name] + 0.01 * slope) - w[name]
                v[name] = gamma * w[name].norm() / (difference.norm() + 1e-20) * difference
        return v, x_adv

    return search


@pytest.mark.parametrize("trades", [False, True])
@pytest.mark.parametrize("statistics", ["w+v", "w", "every", "eval"])
def test_reference_one_step_of_the_paper_float64(statistics, trades):
    awp = AWP(gamma=0.02, statistics=statistics)
    naive.assert_equal(awp, _by_layer(awp), trades=trades)


@pytest.mark.parametrize("statistics", ["w+v", "w", "every", "eval"])
def test_reference_several_steps_and_alternations_float64(statistics):
    awp = AWP(gamma=0.1, steps=2, alternations=2, statistics=statistics)
    naive.assert_equal(awp, _by_layer(awp))


@pytest.mark.parametrize(("awp", "trades"), [(AWP.official(), False), (AWP.official_trades(), True)])
def test_reference_one_step_of_the_authors_code_float64(awp, trades):
    naive.assert_equal(replace(awp, warmup=0), _of_the_code(awp.gamma), trades=trades)


def test_reference_what_is_frozen_does_not_move_float64():
    awp = AWP(gamma=0.02)
    naive.assert_equal(awp, _by_layer(awp), frozen=("0.weight", "1.bias", "4.bias"))


def test_reference_filter_wise_float64():
    def search(now, w, x_adv):
        v = {}
        for name, slope in now.slope({}, x_adv).items():
            if w[name].ndim > 1:
                rows = [0.02 * f.norm() * g / g.norm() for f, g in zip(w[name], slope, strict=True)]
                v[name] = torch.stack(rows)
        return v, x_adv

    naive.assert_equal(AWP(gamma=0.02, unit="filter"), search)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_reference_global_float64(norm):
    order = int(norm[1])

    def search(now, w, x_adv):
        slope = {name: value for name, value in now.slope({}, x_adv).items() if w[name].ndim > 1}
        of_w = torch.cat([w[name].flatten() for name in slope]).norm(order)
        of_slope = torch.cat([value.flatten() for value in slope.values()]).norm(order)
        return {name: 0.02 * of_w / of_slope * value for name, value in slope.items()}, x_adv

    naive.assert_equal(AWP(gamma=0.02, unit="network", norm=norm), search)


def test_reference_measured_by_l1_float64():
    def search(now, w, x_adv):
        slope = now.slope({}, x_adv)
        v = {n: 0.02 * w[n].abs().sum() * slope[n] / slope[n].abs().sum() for n in w if w[n].ndim > 1}
        return v, x_adv

    naive.assert_equal(AWP(gamma=0.02, norm="l1"), search)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("unit", ["layer", "filter", "network"])
def test_closed_form_no_unit_leaves_its_ball(unit, norm):
    net, order = _net(), int(norm[1])

    def curved(model):
        return _linear(model) - 300 * (model[0].weight ** 2).sum() - 300 * (model[2].weight ** 2).sum()

    v = AWP(gamma=0.3, steps=3, alternations=2, unit=unit, norm=norm)(net, _Loss(net, curved))
    w = {name: p.detach() for name, p in net.named_parameters() if name in v}
    cut = {
        "layer": lambda params: [p.flatten() for p in params.values()],
        "filter": lambda params: [row for p in params.values() for row in p],
        "network": lambda params: [torch.cat([p.flatten() for p in params.values()])],
    }[unit]
    ratios = [float(a.norm(order) / b.norm(order)) for a, b in zip(cut(v), cut(w), strict=True)]
    assert 0 < max(ratios) <= 0.3 * (1 + 1e-12)
