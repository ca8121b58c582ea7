"""What decays, and what an optimiser computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.sgd import SGD
from robustscape.types import BadInput


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("kind", [SGD, Adam])
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
    "wrong",
    [
        lambda: SGD(lr=0),
        lambda: SGD(momentum=1),
        lambda: SGD(momentum=0, nesterov=True),
        lambda: SGD(weight_decay=-1),
        lambda: Adam(lr=-1),
        lambda: Adam(beta2=1),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(BadInput):
        wrong()
