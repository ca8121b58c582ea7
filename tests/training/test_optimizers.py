"""What decays, and what an optimiser computes."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from robustscape.streams import Streams
from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.adamw import AdamW
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.types import BadInput


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, EntropySGD])
def test_closed_form_decay_groups(kind):
    everything = kind(weight_decay=0.1).build(_net())
    assert [(g["weight_decay"], g["names"]) for g in everything.param_groups] == [
        (0.1, ["0.weight", "0.bias", "1.weight", "1.bias"])
    ]
    weights = kind(weight_decay=0.1, decay="weights").build(_net())
    assert [(g["weight_decay"], g["names"]) for g in weights.param_groups] == [
        (0.1, ["0.weight"]),
        (0.0, ["0.bias", "1.weight", "1.bias"]),
    ]


def test_closed_form_nesterov_step_by_hand():
    net = nn.Linear(1, 1, bias=False)
    w = float(net.weight.detach())
    optimizer = SGD(lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.0).build(net)
    net.weight.grad = torch.tensor([[2.0]])
    optimizer.step()
    # velocity 2, step of 2 + .5 * 2
    assert float(net.weight.detach()) == pytest.approx(w - 0.1 * 3, abs=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(lr=0.1, nesterov=True), lambda net: torch.optim.SGD(net, 0.1, 0.9, weight_decay=5e-4, nesterov=True)),
        (Adam(lr=0.01), lambda net: torch.optim.Adam(net, 0.01)),
        (AdamW(lr=0.01, weight_decay=0.1), lambda net: torch.optim.AdamW(net, 0.01, weight_decay=0.1)),
    ],
)
def test_reference_steps_are_those_of_torch_to_the_bit(ours, theirs):
    """Over an interruption as well."""
    trained = []
    for build in (ours.build, lambda net: theirs(net.parameters())):
        torch.manual_seed(0)
        net = _net()
        optimizer = build(net)
        for number in range(6):
            if number == 3:
                state, optimizer = optimizer.state_dict(), build(net)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            net(torch.randn(5, 2)).square().sum().backward()
            optimizer.step()
        trained.append(net.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.parametrize("kind", ["sgd.SGD", "adam.Adam", "adamw.AdamW", "entropy_sgd.EntropySGD"])
def test_end_to_end_stepping_does_not_import_the_compiler(kind):
    module, name = kind.split(".")
    program = f"""
import sys
import torch
from robustscape.training.optimizers.{module} import {name}

net = torch.nn.Linear(2, 2)
optimizer = {name}().build(net)
optimizer.zero_grad()
net(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SGD(lr=0),
        lambda: SGD(momentum=1),
        lambda: SGD(momentum=0, nesterov=True),
        lambda: SGD(weight_decay=-1),
        lambda: SGD(decay="weight"),
        lambda: AdamW(decay="none"),
        lambda: Adam(lr=-1),
        lambda: Adam(beta2=1),
        lambda: AdamW(beta1=-0.1),
        lambda: EntropySGD(steps=0),
        lambda: EntropySGD(step_size=0),
        lambda: EntropySGD(alpha=0),
        lambda: EntropySGD(gamma=-1),
        lambda: EntropySGD(noise=math.inf),
        lambda: EntropySGD(inner_momentum=1),
        lambda: EntropySGD(nesterov=True),
        lambda: EntropySGD(gamma=0, times_gamma=True),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(BadInput):
        wrong()


def test_closed_form_adamw_decays_beside_the_step():
    net = nn.Linear(1, 1, bias=False)
    w = float(net.weight.detach())
    optimizer = AdamW(lr=0.1, weight_decay=0.5).build(net)
    net.weight.grad = torch.tensor([[2.0]])
    optimizer.step()
    # the first step of Adam has length lr; lr * decay * w beside it
    assert float(net.weight.detach()) == pytest.approx(w - 0.1 * 0.5 * w - 0.1, abs=1e-6)


def _walked(optimizer: EntropySGD, slopes: list[float], steps: float = 0.0) -> tuple[float, list[float], float]:
    """Return where a single weight began, where it was on its walk, and the gradient after it."""
    net = nn.Linear(1, 1, bias=False).double()
    w, places = float(net.weight.detach()), []
    with optimizer.walking(net, optimizer.build(net), steps=steps, rng=Streams(0, ("walk",))) as move:
        for slope in slopes:
            net.weight.grad = torch.tensor([[slope]], dtype=torch.float64)
            move()
            places.append(float(net.weight.detach()))
    assert float(net.weight.detach()) == w
    return w, places, float(net.weight.grad)


def test_closed_form_entropy_sgd_walk_by_hand():
    optimizer = EntropySGD(steps=2, step_size=0.1, alpha=0.75, gamma=0.5, scoping=0.2, noise=0.0)
    w, places, slope = _walked(optimizer, [2.0, 3.0], steps=2.0)
    gamma = 0.5 * 1.2**2
    first = w - 0.1 * 2.0
    second = first - 0.1 * (3.0 - gamma * (w - first))
    assert places == pytest.approx([first, second], abs=1e-14)
    assert slope == pytest.approx(w - (0.25 * (0.25 * w + 0.75 * first) + 0.75 * second), abs=1e-14)


def test_closed_form_entropy_sgd_noise_and_scope():
    noise = Streams(0, ("walk", 0, "weight")).normal(1, 1, dtype=torch.float64)
    w, places, _ = _walked(EntropySGD(steps=1, noise=0.5, gamma=0.0), [0.0])
    assert places[0] == pytest.approx(w + 0.1**0.5 * 0.5 * float(noise), abs=1e-14)
    _, _, plain = _walked(EntropySGD(steps=1, noise=0.0, gamma=0.25), [1.0])
    _, _, scaled = _walked(EntropySGD(steps=1, noise=0.0, gamma=0.25, times_gamma=True), [1.0])
    assert scaled == pytest.approx(0.25 * plain, abs=1e-14) and plain > 0
    assert EntropySGD(scoping=1e-3).pull(10**7) == 1 / 0.1  # not beyond what overshoots


def test_contract_a_walk_that_fails_leaves_the_weights():
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()
    optimizer = EntropySGD(steps=2)
    with pytest.raises(ZeroDivisionError), optimizer.walking(net, optimizer.build(net), steps=0, rng=Streams()) as move:
        net.weight.grad = torch.ones_like(net.weight)
        move()
        assert not torch.equal(net.weight, before)
        raise ZeroDivisionError
    assert torch.equal(net.weight, before)


def test_contract_a_parameter_without_a_gradient_stays():
    net = nn.Linear(2, 1)
    optimizer = EntropySGD(steps=1, weight_decay=0.1)
    built = optimizer.build(net)
    before = net.bias.detach().clone()
    with optimizer.walking(net, built, steps=0, rng=Streams()) as move:
        net.weight.grad = torch.ones_like(net.weight)
        move()
    built.step()
    assert net.bias.grad is None and torch.equal(net.bias, before)
