"""Compiled code: one graph, used for one shape, and what happens where there can be none."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import Tensor, nn

from robustscape.runtime import Runtime, fast, graphs_compiled
from robustscape.runtime.view import Compiled

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
    compiled = Compiled(net)
    with pytest.warns(UserWarning, match="Sequential does not compile and runs eagerly: .*") as told:
        first = compiled(X)
    assert torch.equal(first, net(X)) and len(told) == 1 and "long story" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(X), net(X))


def test_contract_the_models_own_error_is_raised_as_it_is():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Compiled(_net())(X[:, :2])


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
    compiled = Compiled(_Counts())
    x = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="_Counts is compiled anew at every call"):
        for _ in range(12):
            compiled(x)
