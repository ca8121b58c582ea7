"""Modes and buffers come back as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustscape.modes import InTrainMode, evaluating, frozen_statistics, training


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 2))
    net.train()
    net[1].eval()  # mixed modes are somebody's choice, to be given back
    return net


def _flags(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


@pytest.mark.parametrize(("mode", "inside"), [(evaluating, False), (training, True)])
def test_contract_modes_are_restored_also_on_error(mode, inside):
    net = _net()
    before = _flags(net)
    with pytest.raises(RuntimeError, match="stop"), mode(net):
        assert _flags(net) == [inside] * len(before)
        raise RuntimeError("stop")
    assert _flags(net) == before


def test_contract_frozen_statistics_takes_back_what_a_forward_did_and_keeps_its_gradient():
    net = _net().train()
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    x = torch.rand(4, 1, 4, 4)
    with frozen_statistics(net):
        out = net(x).sum()
        moved = any(not torch.equal(buffers[name], buffer) for name, buffer in net.named_buffers())
        out.backward()
    assert moved
    assert all(torch.equal(buffers[name], buffer) for name, buffer in net.named_buffers())
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("statistics", ["frozen", "counted"])
def test_contract_a_model_attacked_in_train_mode_uses_batch_statistics(statistics):
    net = nn.Sequential(nn.BatchNorm1d(3)).eval()
    x = torch.rand(8, 3)
    expected = nn.functional.batch_norm(x, None, None, training=True, eps=net[0].eps)
    before = net[0].running_mean.clone()
    assert torch.allclose(InTrainMode(net, statistics).eval()(x), expected)
    assert not net.training
    assert torch.equal(net[0].running_mean, before) == (statistics == "frozen")


def test_contract_backward_through_frozen_train_mode_after_the_statistics_are_back():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).train()
    x = torch.rand(8, 3, requires_grad=True)
    InTrainMode(net, "frozen")(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()
