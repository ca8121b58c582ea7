"""What the rewriting of a view changes: the number of passes, never the function or its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.models.lenet import LeNet
from robustscape.models.preact_resnet import PreActResNet
from robustscape.runtime import Runtime, fast
from robustscape.runtime.rewriting import rewritten

PLAIN = Runtime(device="cpu", precision="float32")


class _Branches(nn.Module):
    """A convolution with two users, a shared one, a method's ReLU, normalisations with and without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=(2, 1))
        self.shared = nn.Conv2d(6, 6, 1)
        self.folded = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False)
        self.bns = nn.ModuleList(nn.BatchNorm2d(6, affine=i != 1) for i in range(4))
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + self.bns[0](h).relu()
        h = self.bns[1](self.shared(self.shared(h)))
        h = F.relu(self.bns[2](self.folded(h)))
        return self.out(self.bns[3](h).mean((2, 3)))


class _Decides(nn.Module):
    """Python that looks at the numbers: cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.bn = nn.BatchNorm2d(5)
        self.out = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(self.conv(x))
        return self.out((h if h.sum() > 0 else -h).relu().mean((2, 3)))


class _Draws(nn.Module):
    """A defence that pads at random places: what a trace would freeze."""

    def __init__(self, tensor: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.tensor = tensor
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = x + torch.rand(3, 1, 1) if self.tensor else F.pad(x, (self.calls, 0, 0, 0))
        return self.conv(x).mean((2, 3))


def _settled(model: nn.Module) -> nn.Module:
    """Give every normalisation statistics and weights of its own."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low, high in (
                ("running_mean", -1, 1),
                ("running_var", 0.3, 2),
                ("weight", -1, 1),
                ("bias", -1, 1),
            ):
                value = getattr(module, name)
                if value is not None:
                    value.data.uniform_(low, high, generator=generator)
    return model.eval()


def _slope(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


MODELS = {
    "lenet": lambda: LeNet(width=2).build(image=(3, 10, 9), classes=4, seed=0),
    "preact_resnet": lambda: PreActResNet(width=4).build(image=(3, 10, 9), classes=4, seed=0),
    "normalised": lambda: PreActResNet(width=4, mean=(0.4,), std=(0.2,)).build(image=(3, 10, 9), classes=4, seed=0),
    "branches": _Branches,
    "decides": _Decides,
}


@pytest.mark.parametrize("compiled", [False, True], ids=["fused", "for a compiler"])
@pytest.mark.parametrize("name", MODELS)
def test_closed_form_the_same_function_and_gradient(name, compiled):
    import copy

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _settled(MODELS[name]())
    x = torch.rand(5, 3, 10, 9, generator=torch.Generator().manual_seed(1))
    view, refreshes = rewritten(copy.deepcopy(model).requires_grad_(False), model, fused=not compiled)
    with torch.no_grad():
        for refresh in refreshes:
            refresh()
    for found, truth in zip(_slope(view, x), _slope(model, x), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5 * float(truth.abs().max()))


def test_contract_weights_that_move_are_folded_anew():
    model = _settled(MODELS["preact_resnet"]())
    x = torch.rand(5, 3, 10, 9, generator=torch.Generator().manual_seed(1))
    view = fast(model, PLAIN)
    with view:
        pass
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.mul_(1.5)
    with view as f:
        for found, truth in zip(_slope(f, x), _slope(model, x), strict=True):
            torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5 * float(truth.abs().max()))


def test_closed_form_every_second_normalisation_of_a_preactivation_network_is_folded_and_none_stays():
    model = MODELS["preact_resnet"]()
    view, refreshes = rewritten(model.requires_grad_(False), MODELS["preact_resnet"](), fused=True)
    assert len(refreshes) == 8 + 9  # a folded one in each of 8 blocks; the first of each and the last are passes
    assert not any(isinstance(module, nn.ReLU) for name, module in view.named_modules() if "bn1" in name)


@pytest.mark.parametrize("tensor", [False, True])
def test_contract_a_model_that_draws_as_it_runs_is_not_frozen(tensor):
    model = _Draws(tensor).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with fast(model, PLAIN) as f, torch.no_grad():
        first, second = f(x), f(x)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kernel, stride, padding", [(3, 1, 1), (5, 1, 2), (7, 2, 3), (3, 2, 0), ((3, 5), (2, 1), (0, 2))]
)
def test_closed_form_gradient_through_a_convolution_of_few_channels(kernel, stride, padding, dtype):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 8, kernel, stride=stride, padding=padding).requires_grad_(False)
    x = torch.rand(4, 3, 17, 14, generator=generator)
    truth = _slope(conv.double(), x.double())
    view, _ = rewritten(nn.Sequential(conv.to(dtype)), nn.Sequential(conv), fused=True)
    for found, exact in zip(_slope(view, x.to(dtype)), truth, strict=True):
        close = 1e-5 if dtype == torch.float32 else 0.02  # 8 bits of mantissa, a few roundings
        assert (found.double() - exact).abs().max() <= close * exact.abs().max()
