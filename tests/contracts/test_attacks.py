"""What every attack promises, whoever wrote it."""

from dataclasses import replace

import pytest
import torch

from robustscape.attacks.threat import ThreatModel
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput

THREATS = [ThreatModel(norm="linf", eps=8 / 255), ThreatModel(norm="linf", eps=0.3), ThreatModel(norm="l2", eps=0.5),
           ThreatModel(norm="l2", eps=3.0)]  # fmt: skip
IDS = [f"{threat.norm}-{threat.eps:.2g}" for threat in THREATS]


def test_contract_is_an_attack(attack):
    assert isinstance(attack, Attack)


@pytest.mark.parametrize("threat", THREATS, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract_inside_ball_and_box(attack, threat, dtype, network, batch):
    some = batch(8, dtype)
    x = some.x.clone()
    x_adv = replace(attack, threat=threat)(network(dtype=dtype), some.x, some.y)
    assert torch.equal(some.x, x)
    assert x_adv.dtype == dtype and x_adv.shape == x.shape and not x_adv.requires_grad
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    delta = (x_adv.double() - x.double()).flatten(1)
    ulp = torch.finfo(dtype).eps  # of pixels up to 1: what x + delta may be rounded by
    length = delta.abs().amax(dim=1) if threat.norm == "linf" else delta.norm(dim=1)
    slack = ulp if threat.norm == "linf" else ulp * delta.shape[1] ** 0.5
    assert float(length.max()) <= threat.eps + slack


@pytest.mark.parametrize("threat", THREATS[1:3], ids=IDS[1:3])
def test_contract_leaves_no_trace(attack, threat, marked, batch, trace):
    some = batch(8)
    seen = trace(marked)
    replace(attack, threat=threat)(marked, some.x, some.y, rng=Streams(3, ("x",), some.index))
    assert seen.found() == []
    with torch.no_grad():
        seen = trace(marked)
        replace(attack, threat=threat)(marked, some.x, some.y)
        assert seen.found() == []


def test_contract_works_without_gradients_switched_on(attack, network, batch):
    some, model = batch(8), network()
    x_adv = attack(model, some.x, some.y)
    with torch.no_grad():
        assert torch.equal(attack(model, some.x, some.y), x_adv)


@pytest.mark.parametrize("threat", THREATS[1:3], ids=IDS[1:3])
def test_contract_same_bits_in_any_order_and_company(attack, threat, network, batch):
    attack, model, some, rng = replace(attack, threat=threat), network(), batch(16), Streams(3, ("x",))
    first = attack(model, some.x[:8], some.y[:8], rng=rng.of(some.index[:8]))
    turned = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    again = attack(model, some.x[turned], some.y[turned], rng=rng.of(some.index[turned]))
    assert torch.equal(again, first[turned])
    mixed = torch.tensor([9, 3, 12, 0, 15, 6, 10, 11])
    other = attack(model, some.x[mixed], some.y[mixed], rng=rng.of(some.index[mixed]))
    assert torch.equal(other[[1, 3, 5]], first[[3, 0, 6]])


def test_contract_without_streams_numbers_the_examples(attack, network, batch):
    some, model = batch(8), network()
    before = torch.get_rng_state()
    first = attack(model, some.x, some.y)
    torch.manual_seed(99)
    assert torch.equal(attack(model, some.x, some.y), first)
    torch.set_rng_state(before)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_contract_eps_zero_returns_x(attack, norm, network, batch):
    some = batch(8)
    still = replace(attack, threat=ThreatModel(norm=norm, eps=0.1)).at(0.0)
    assert torch.equal(still(network(), some.x, some.y), some.x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_contract_refuses_half_precision(attack, dtype, network, batch):
    some = batch(4)
    with pytest.raises(BadInput, match="float32 or float64"):
        attack(network(dtype=dtype), some.x.to(dtype), some.y)


def test_contract_at_changes_eps_alone(attack):
    moved = attack.at(0.125)
    assert type(moved) is type(attack) and moved.threat.eps == 0.125 and moved.threat.norm == attack.threat.norm
    assert moved.at(attack.threat.eps) == attack
