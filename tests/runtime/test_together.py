"""Several networks as one module: each gives what it gives alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.models.lenet import LeNet
from robustscape.models.linear import Linear
from robustscape.runtime import Runtime
from robustscape.runtime.together import Together, alike, at_once, suited
from robustscape.streams import Apart, Streams, joined

S, N = 3, 5
EPS = ThreatModel(eps=0.1)


def linear(seed, **settings):
    return Linear(**settings).build(image=(2, 4, 4), classes=2, seed=seed)


def normalised_linear(seed):
    return linear(seed, outputs="one", bias=False, mean=(0.5, 0.25), std=(0.25,) * 2)


def mlp(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(32, 7), nn.ReLU(inplace=True), nn.Linear(7, 6, bias=False), nn.Softplus(), nn.Dropout()]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(6, 3))


def tied(seed):
    model = mlp(seed)
    layer = nn.Linear(32, 32)
    again = nn.Linear(32, 32)
    again.weight = layer.weight
    return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), again, *list(model)[1:])


NETWORKS = [linear, normalised_linear, mlp, tied]


def made(network, dtype=torch.float64):
    return [network(seed).to(dtype) for seed in range(S)]


def points(models):
    return [dict(model.named_parameters()) for model in models]


def images(dtype=torch.float64):
    return torch.rand(S * N, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_closed_form_outputs_and_slopes_are_each_networks_own(network, dtype, near):
    models, x = made(network, dtype), images(dtype).requires_grad_()
    assert alike(models)
    logits = Together(models[0].train(), points(models), rows=N)(x)
    (slope,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), x)
    assert models[0].training and all(p.requires_grad and p.grad is None for m in models for p in m.parameters())
    for s, model in enumerate(models):
        own = x[s * N : (s + 1) * N].detach().requires_grad_()
        expected = model.eval()(own)
        (own_slope,) = torch.autograd.grad(expected.logsumexp(dim=1).sum(), own)
        # float64 and float32 rounding of sums of at most 32 products
        torch.testing.assert_close(logits[s * N : (s + 1) * N], expected, atol=near, rtol=near)
        torch.testing.assert_close(slope[s * N : (s + 1) * N], own_slope, atol=near, rtol=near)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(threat=EPS, steps=4),
        PGD(threat=EPS, steps=3, result="best_loss", restarts=2, start="gaussian"),
        PGD(threat=ThreatModel(norm="l2", eps=0.5), steps=3, loss=Margin()),
        FGSM.wong(),
    ],
)
@pytest.mark.parametrize("network", NETWORKS)
def test_closed_form_one_attack_is_the_attack_on_each(network, attack):
    models, x = made(network), images()
    y = torch.arange(S * N) % 2
    runs = [Streams(s, ("train", s), torch.arange(N) + s) for s in range(S)]
    both = attack(Together(models[0], points(models), rows=N), x, y, rng=joined(runs))
    for s, model in enumerate(models):
        rows = slice(s * N, (s + 1) * N)
        expected = attack(model, x[rows], y[rows], rng=runs[s])
        torch.testing.assert_close(both[rows], expected, atol=1e-12, rtol=0)


def test_contract_weights_are_copied_and_the_models_own_for_names_left_out():
    model, x = mlp(0).double(), images()[:N].repeat(2, 1, 1, 1)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved[1].weight += 0.3
    expected = model.eval()(x[:N]), moved.eval()(x[:N])
    both = Together(model, [{}, {"1.weight": moved[1].weight}], rows=N)
    with torch.no_grad():
        model[1].weight += 7
        moved[1].weight -= 7
    torch.testing.assert_close(both(x), torch.cat(expected), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract_bits_do_not_depend_on_the_others(dtype):
    models, x = made(mlp, dtype), images(dtype)
    logits = Together(models[0], points(models), rows=N)(x).view(S, N, -1)
    order = [0, 1, 1]
    others = Together(models[0], [points(models)[s] for s in order], rows=N)(x.view(S, N, 2, 4, 4)[order].flatten(0, 1))
    assert torch.equal(others.view(S, N, -1)[:2], logits[:2])


def test_contract_another_number_of_rows_is_refused():
    models = made(mlp)
    both, x = Together(models[0], points(models), rows=N), images()
    for wrong in (x[:N], x[: S * (N - 1)], torch.cat([x, x])):
        with pytest.raises(Apart, match="3 networks were to be given 5 inputs each"):
            both(wrong)


def test_contract_precision_is_the_runtimes_and_float64_is_left():
    models, x = made(mlp, torch.float32), images(torch.float32)
    low, exact = (
        Together(models[0], points(models), rows=N, runtime=Runtime(precision=precision))(x)
        for precision in ("bfloat16", "float32")
    )
    assert low.dtype == torch.float32 and not torch.equal(low, exact)
    assert float((low - exact).detach().abs().max()) < 0.05  # bfloat16 has 8 bits, logits are of order 1
    double = Together(models[0].double(), points(made(mlp)), rows=N, runtime=Runtime(precision="bfloat16"))
    torch.testing.assert_close(double(x.double()), exact.double(), atol=1e-5, rtol=0)


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 2)

    def forward(self, x):
        return self.layer(x.flatten(1)) - x.mean()


def hooked():
    model = mlp(0)
    model[1].register_forward_hook(lambda module, args, output: output * 2)
    return model


def patched():
    model = mlp(0)
    model[2].forward = torch.tanh
    return model


@pytest.mark.parametrize(
    "other",
    [
        LeNet(width=1).build(image=(2, 4, 4), classes=2, seed=0),
        nn.Sequential(nn.Flatten(), nn.Linear(32, 2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(32, 2), nn.PReLU()),
        nn.Sequential(nn.Flatten(0), nn.Linear(32, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(32, 2), nn.Softmax(dim=0)),
        nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(32, 2))),
        nn.Flatten(),
        Foreign(),
        hooked(),
        patched(),
    ],
)
def test_contract_what_is_more_than_matrices_and_elementwise_functions_is_not_suited(other):
    assert not suited(other) and not alike([other, other])
    assert at_once(other, images(), Runtime(compile="no"), 10) == 1


def test_contract_networks_that_differ_in_more_than_their_weights_are_not_alike():
    assert not alike([linear(0), mlp(0)])
    assert not alike([linear(0), linear(1).double()])
    one, other = (linear(0, mean=(mean,), std=(0.5,)) for mean in (0.5, 0.4))
    assert alike([one, copy.deepcopy(one)]) and not alike([one, other])


def test_contract_as_many_at_once_as_are_worth_it():
    x, eager = torch.zeros(128, 1, 8, 8), Runtime(device="cpu", compile="no")
    model = Linear().build(image=(1, 8, 8), classes=2, seed=0)
    assert at_once(model, x, eager, 10) == 10 and at_once(model, x, eager, 1000) == 64
    assert at_once(model, torch.zeros(250, 1, 28, 28), eager, 10) == 1  # waits for memory
    assert at_once(model, torch.zeros(128, 1, 28, 28), eager, 10) == 5
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 2048), nn.Linear(2048, 2048))
    assert at_once(wide, x, eager, 10) == 1  # multiplies
    assert at_once(model, x, Runtime(device="cpu", compile="yes"), 10) == 1
    assert at_once(model, x, Runtime(device="cpu", compile="no", micro_batch=64), 10) == 1
