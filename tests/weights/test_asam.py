"""ASAM against the formulas, and its invariance."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from robustscape.types import BadInput
from robustscape.weights.asam import ASAM
from robustscape.weights.space import gradient

spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)


def _to_the_ellipsoid(asam):
    """v = rho T^2 g / |T g|, as one long vector."""

    def search(now, w, x_adv):
        slope = now.slope({}, x_adv)
        scaled = [asam.biases == "scaled" or "weight" in name for name in w]
        t = torch.cat(
            [(p.abs() + asam.eta if s else p * 0 + 1).flatten() for p, s in zip(w.values(), scaled, strict=True)]
        )
        g = torch.cat([slope[name].flatten() for name in w])
        v = (asam.rho * t**2 * g / ((t * g) @ (t * g)).sqrt()).split([p.numel() for p in w.values()])
        return {name: part.view_as(p) for part, (name, p) in zip(v, w.items(), strict=True)}, x_adv

    return search


@pytest.mark.parametrize(
    "asam", [ASAM(), ASAM.official(), ASAM.davda54(), ASAM(statistics="w+v", decay_at="w+v"), ASAM(statistics="eval")]
)
def test_reference_one_step_float64(asam):
    naive.assert_equal(asam, _to_the_ellipsoid(asam))


def test_reference_one_step_under_trades_float64():
    naive.assert_equal(ASAM(), _to_the_ellipsoid(ASAM()), trades=True)


def test_closed_form_what_rescaling_does_to_the_weights_it_does_to_v():
    """Of two linear layers one is 4 times as large and the other a quarter: v follows."""

    class Loss:
        def __init__(self, net):
            self.net = net

        def gradient(self, names):
            x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)
            return gradient(self.net(x).square().mean(), self.net, names)

    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 2, bias=False)).double()
    before = ASAM(eta=0.0)(net, Loss(net))
    with torch.no_grad():
        net[0].weight.mul_(4)
        net[1].weight.div_(4)
    after = ASAM(eta=0.0)(net, Loss(net))
    assert torch.allclose(after["0.weight"], 4 * before["0.weight"])
    assert torch.allclose(after["1.weight"], before["1.weight"] / 4)


def test_contract_settings():
    assert ASAM.official() == ASAM(biases="plain", statistics="every")
    assert ASAM.davda54() == ASAM(rho=2, eta=0)
    for wrong in (dict(rho=0), dict(eta=-0.1), dict(warmup=-1), dict(biases="none")):
        with pytest.raises(BadInput, match="ASAM's"):
            ASAM(**wrong)
