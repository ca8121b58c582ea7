"""The matrix work of a network alone."""

import torch
from torch import nn

from robustscape.benches import layers
from robustscape.benches.layers import matrix_work
from robustscape.runtime import Runtime


def _network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))


def test_contract_every_layer_runs_alone_in_the_runtimes_arithmetic(monkeypatch):
    model, calls = _network().eval(), []
    grad = torch.autograd.grad

    def noted(out, x, slope):
        calls.append((tuple(x.shape), tuple(out.shape), out.dtype, slope.dtype))
        return grad(out, x, slope)

    runtime = Runtime(device="cpu", precision="bfloat16")
    side = matrix_work(model, torch.rand(4, 2, 6, 6), runtime, passes=3, generator=torch.Generator())
    monkeypatch.setattr(layers.torch.autograd, "grad", noted)
    assert side() == 4
    low = torch.bfloat16
    assert calls == [((4, 2, 6, 6), (4, 3, 2, 2), low, low)] * 3 + [((4, 12), (4, 5), low, low)] * 3


def test_contract_the_network_is_left_as_it_was():
    model = _network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    runtime = Runtime(device="cpu", precision="bfloat16")
    matrix_work(model, torch.rand(4, 2, 6, 6), runtime, passes=1, generator=torch.Generator())()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
