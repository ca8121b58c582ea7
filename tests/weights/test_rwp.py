"""RWP against the formulas, its distributions, repeatability."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from robustscape.streams import Streams
from robustscape.types import BadInput
from robustscape.weights.rwp import RWP

spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)


def test_closed_form_each_layer_lies_on_its_sphere():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).double()
    v = RWP(gamma=0.5)(net, None, rng=Streams(1, ("w", 0)))
    assert list(v) == ["0.weight", "3.weight"]
    for name, value in v.items():
        assert torch.allclose(value.norm(), 0.5 * dict(net.named_parameters())[name].norm())


def test_contract_another_step_draws_another_direction():
    net = nn.Linear(3, 3)
    draws = [RWP()(net, None, rng=Streams(1, ("w", step)))["weight"] for step in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_contract_settings():
    for gamma in (0, float("inf"), float("nan")):
        with pytest.raises(BadInput, match="above 0"):
            RWP(gamma=gamma)
    with pytest.raises(BadInput, match="RWP's distribution is one of"):
        RWP(distribution="cube")


def _drawn(now, w):
    names = [name for name, p in w.items() if p.ndim > 1]
    return {n: Streams(naive.SEED, ("weights", now.done, n)).normal(*w[n].shape, dtype=torch.float64) for n in names}


def _on_the_sphere(gamma):
    def search(now, w, x_adv):
        return {n: gamma * w[n].norm() * d / d.norm() for n, d in _drawn(now, w).items()}, x_adv

    return search


@pytest.mark.parametrize("trades", [False, True])
@pytest.mark.parametrize("statistics", ["w+v", "w", "every", "eval"])
def test_reference_one_step_of_the_paper_float64(statistics, trades):
    naive.assert_equal(RWP(gamma=0.3, statistics=statistics), _on_the_sphere(0.3), trades=trades)


def test_reference_what_is_frozen_does_not_move_float64():
    naive.assert_equal(RWP(gamma=0.3), _on_the_sphere(0.3), frozen=("0.weight", "1.bias", "4.bias"))


def test_reference_one_step_filter_wise_float64():
    def search(now, w, x_adv):
        v = {}
        for name, d in _drawn(now, w).items():
            v[name] = torch.stack([0.3 * f.norm() * e / e.norm() for f, e in zip(w[name], d, strict=True)])
        return v, x_adv

    naive.assert_equal(RWP(gamma=0.3, unit="filter", decay_at="w+v"), search)


def test_reference_one_step_global_float64():
    def search(now, w, x_adv):
        drawn = _drawn(now, w)
        of_w = torch.cat([w[n].flatten() for n in drawn]).norm()
        of_d = torch.cat([d.flatten() for d in drawn.values()]).norm()
        return {n: 0.3 * of_w / of_d * d for n, d in drawn.items()}, x_adv

    naive.assert_equal(RWP(gamma=0.3, unit="network"), search)


def test_reference_one_step_of_gaussian_noise_float64():
    """sigma is the length of a layer over the root of its dimension, times gamma."""

    def search(now, w, x_adv):
        return {n: 0.3 * w[n].norm() / w[n].numel() ** 0.5 * d for n, d in _drawn(now, w).items()}, x_adv

    naive.assert_equal(RWP(gamma=0.3, distribution="gaussian"), search)


@pytest.mark.parametrize(("unit", "dimension"), [("layer", 6), ("filter", 2), ("network", 6)])
def test_closed_form_the_ball_is_filled_uniformly(unit, dimension):
    """The share of a ball of d dimensions within r of its centre is r^d: so (|v| / radius)^d is uniform."""
    net = nn.Linear(2, 3, bias=False).double()
    rwp = RWP(gamma=0.5, unit=unit, distribution="ball")
    w = net.weight.detach()
    parts = []
    for k in range(400):
        v = rwp(net, None, rng=Streams(k))["weight"]
        parts.append(v.norm() / (0.5 * w.norm()) if dimension == 6 else v[1].norm() / (0.5 * w[1].norm()))
    spread = torch.stack(parts).pow(dimension).sort().values
    expected = (torch.arange(400).double() + 0.5) / 400
    assert float((spread - expected).abs().max()) < 0.08  # Kolmogorov's statistic, 1 in 100 above 1.63 / sqrt(400)
    assert float(spread.max()) < 1


@pytest.mark.parametrize("unit", ["layer", "filter", "network"])
def test_closed_form_gaussian_noise_has_the_radius_on_average(unit):
    net = nn.Sequential(nn.Linear(20, 30, bias=False), nn.Linear(30, 25, bias=False)).double()
    v = RWP(gamma=0.5, unit=unit, distribution="gaussian")(net, None, rng=Streams(1))
    w = {name: p.detach() for name, p in net.named_parameters()}
    ratio = torch.cat([x.flatten() for x in v.values()]).norm() / torch.cat([x.flatten() for x in w.values()]).norm()
    assert abs(float(ratio) - 0.5) < 0.03  # of 1350 numbers: 0.5 / sqrt(2 * 1350) is one standard deviation
