"""RWP: norms, repeatability."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.streams import Streams
from robustscape.types import BadInput
from robustscape.weights.rwp import RWP


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
    with pytest.raises(BadInput, match="above 0"):
        RWP(gamma=0)
