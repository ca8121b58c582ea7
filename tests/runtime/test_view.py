"""The fast view: the same function, the present weights, and no trace."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.models.lenet import LeNet
from robustscape.modes import evaluating
from robustscape.runtime import TRUTH, Lowered, Runtime, fast
from robustscape.weights.space import gaussian, select, shifted

LOW = Runtime(device="cpu", precision="bfloat16")


def _net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)
        )
        for _ in range(3):
            net.train()(torch.rand(16, 3, 8, 8))
    return net


X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_closed_form_the_view_computes_the_models_function_in_eval_mode(precision):
    net = _net()
    with evaluating(net), torch.no_grad():
        truth = net(X)
    with fast(net, Runtime(precision=precision)) as f:
        logits = f(X)
    assert logits.dtype == torch.float32
    # bfloat16 has 8 bits: a relative error of 2^-8 a product, of which the largest logit sees a few.
    assert (logits - truth).abs().max() <= (1e-5 if precision == "float32" else 0.03) * truth.abs().max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_contract_the_view_follows_moved_weights_and_buffers(precision):
    net = _net()
    view = fast(net, Runtime(precision=precision))
    with view as f:
        before = f(X).detach().clone()
    v = gaussian(select(net, "layers"), torch_streams())
    with shifted(net, v, 0.1), view as f:
        assert not torch.allclose(f(X), before)
    with view as f:
        assert torch.equal(f(X), before)
    net.train()(torch.rand(4, 3, 8, 8))
    with view as f:
        assert not torch.equal(f(X), before)


def torch_streams():
    from robustscape.streams import Streams

    return Streams(0, ("test",))


def test_contract_the_view_leaves_no_trace_on_the_model():
    net = _net().train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with fast(net, Runtime(precision="bfloat16")) as f:
        x_adv = PGD(steps=2)(f, X, Y)
    assert x_adv.dtype == torch.float32
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_contract_gradients_of_a_lowered_model_reach_its_own_float32_weights():
    net = _net()
    Lowered(net, Runtime(precision="bfloat16"))(X).square().sum().backward()
    low = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    net(X).square().sum().backward()
    for name, p in net.named_parameters():
        if p.ndim > 1:
            assert low[name].dtype == torch.float32
            assert torch.cosine_similarity(low[name].flatten(), p.grad.flatten(), dim=0) > 0.99, name


def test_contract_a_float64_model_is_used_as_it_is():
    net = _net().double()
    with fast(net, Runtime(precision="bfloat16")) as f:
        assert f is net


def test_contract_entering_twice_is_an_error():
    view = fast(_net(), TRUTH)
    with view, pytest.raises(AssertionError, match="entered already"), view:
        pass


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_contract_the_view_of_our_networks_works_on_channels_last_images(precision):
    """In bfloat16 pooling, for one, is ten times slower in the other format."""
    model = LeNet(width=2).build(image=(1, 28, 28), classes=10, seed=0)
    seen = []
    with fast(model, Runtime(device="cpu", precision=precision)) as f:
        for module in f.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _, taken, given: seen.append(given))
        f(torch.rand(4, 1, 28, 28))
    assert len(seen) >= 2 and all(given.is_contiguous(memory_format=torch.channels_last) for given in seen)
    assert all(given.dtype == getattr(torch, precision) for given in seen)


class _Mixes(nn.Module):
    """Puts what a layer gives into a float32 tensor of its own, which autocast does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), 2)
        out[torch.arange(len(x))] = self.layer(x.flatten(1))
        return out


def test_contract_a_model_that_does_not_run_in_bfloat16_runs_in_float32_and_says_so():
    net, x = _Mixes(), torch.rand(4, 3, 2, 2)
    for make in (lambda: fast(net, Runtime(device="cpu", precision="bfloat16")).__enter__(), lambda: Lowered(net, LOW)):
        with pytest.warns(UserWarning, match="_Mixes runs in float32, not in bfloat16: Index put"):
            assert torch.equal(make()(x), net(x))


def test_contract_a_model_that_cannot_be_copied_is_used_as_it_is():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    net.lock = threading.Lock()
    with pytest.warns(UserWarning, match="cannot be copied and runs as it is: cannot pickle"), fast(net, TRUTH) as f:
        assert f is net


def test_contract_the_callers_autocast_does_not_reach_float32():
    net, x = _net().eval(), torch.rand(4, 3, 8, 8)
    wanted = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Lowered(net, TRUTH)(x), wanted)
