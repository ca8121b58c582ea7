"""Compiled code: one graph, used for one shape, and what happens where there can be none."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings

import pytest
import torch
from torch import Tensor, nn

from robustscape.runtime import Runtime, fast, graphs_compiled, lowered
from robustscape.runtime.preparing import compiled, graphed
from robustscape.streams import torch_draws

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's own compiler
]

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """What is compiled to does not matter here, so no C++ compiler is needed."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    torch._dynamo.reset()


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def test_contract_a_ragged_batch_and_a_forward_without_gradients_compile_nothing():
    net = _net()
    before = graphs_compiled()
    with fast(net, Runtime(device="cpu", precision="float32", compile="yes")) as f:
        for n in (4, 3, 1, 4):
            x = X[:n].clone().requires_grad_()
            torch.testing.assert_close(f(x), net(X[:n]))
            torch.autograd.grad(f(x).sum(), x)
        with torch.no_grad():
            torch.testing.assert_close(f(X), net(X))
    assert graphs_compiled() - before == 1


def test_contract_what_does_not_compile_runs_eagerly_and_says_why(monkeypatch):
    def broken(graph, inputs):
        raise NotImplementedError("no such instruction\nand a long story")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile.func, backend=broken))
    net = _net()
    module = compiled(net)
    with pytest.warns(UserWarning, match="Sequential does not compile and runs eagerly: .*") as told:
        first = module(X)
    assert torch.equal(first, net(X)) and len(told) == 1 and "long story" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(module(X), net(X))


def test_contract_the_models_own_error_is_raised_as_it_is():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiled(_net())(X[:, :2])


class _Counts(nn.Module):
    """Python state that changes with every call, and that the output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.scale = {"now": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        self.scale["now"] += 1.5
        return x * self.scale["now"]


def test_contract_code_that_is_compiled_anew_at_every_call_is_a_loud_failure():
    module = compiled(_Counts())
    x = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="_Counts is compiled anew at every call"):
        for _ in range(12):
            module(x)


class _Decides(nn.Module):
    """Python that branches on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.detach().sum()) > 0 else x * 3


def test_contract_a_model_that_decides_by_its_data_runs_eagerly_and_says_why():
    module = compiled(_Decides())
    with pytest.warns(UserWarning, match=r"^_Decides does not compile and runs eagerly: \S.*$"):
        assert torch.equal(module(X), X * 2)
    assert torch.equal(module(-X), X * -3)


def test_contract_compiling_moves_no_running_statistics_but_those_of_the_batch_itself():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).train()
    alike = copy.deepcopy(net)
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lowered(net, Runtime(device="cpu", precision="float32", compile="yes"))(x), alike(x))
    for moved, wanted in zip(net.buffers(), alike.buffers(), strict=True):
        torch.testing.assert_close(moved, wanted)


def test_contract_what_a_cuda_graph_gives_outlives_the_next_replay(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", _same_memory)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    module, net = graphed(_net()), _net()
    one, two = X.clone().requires_grad_(), X.flip(0).clone().requires_grad_()
    first = module(one)
    (slope,) = torch.autograd.grad(first.square().sum(), one)
    (other,) = torch.autograd.grad(module(two).square().sum(), two)
    assert torch.equal(first, net(X)) and not torch.equal(slope, other)
    (wanted,) = torch.autograd.grad(net(one).square().sum(), one)
    assert torch.equal(slope, wanted) and torch.equal(module(X[:2]), net(X[:2]))


def _same_memory(function, samples):
    """Do as torch's graphs do: every output and every gradient is in the same place as the last one."""
    with torch.no_grad():
        output, gradient = function(*samples).clone(), samples[0].detach().clone()

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x.detach())
            return output.copy_(function(x)).detach()

        @staticmethod
        def backward(ctx, slope):
            with torch.enable_grad():
                x = ctx.saved_tensors[0].requires_grad_()
                return gradient.copy_(torch.autograd.grad(function(x), x, slope)[0]).detach()

    return Replay.apply


def test_contract_every_network_has_compiled_code_of_its_own():
    """A process may train and measure any number of networks: torch's limit is on code, not on networks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            assert torch.equal(compiled(_net())(X), _net()(X))


def test_contract_a_small_batch_that_comes_first_is_not_prepared_for():
    before = graphs_compiled()
    with fast(_net(), Runtime(device="cpu", precision="float32", compile="yes"), rows=4) as f:
        torch.testing.assert_close(f(X[:3]), _net()(X[:3]))
        assert graphs_compiled() == before
        torch.testing.assert_close(f(X), _net()(X))
    assert graphs_compiled() - before == 1


@pytest.mark.parametrize("compile", ["yes", "no"])
def test_contract_the_first_forward_draws_as_any_other(compile):
    """A training that goes on in another process has its first forward there, in the middle of it."""
    net = nn.Sequential(_net(), nn.Dropout(0.5)).train()
    f = lowered(net, Runtime(device="cpu", precision="float32", compile=compile))
    outputs = []
    for _ in range(3):
        with torch_draws(1, torch.device("cpu")):
            outputs.append(f(X))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[1], outputs[2])
    assert not torch.equal(outputs[0], f(X))
