"""What the rewriting of a view changes: the number of passes, never the function or its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.models.lenet import LeNet
from robustscape.models.preact_resnet import PreActResNet
from robustscape.models.stutz_resnet import ReparametrisedBatchNorm2d, StutzResNet
from robustscape.runtime import Lowered, Runtime, fast
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


class _Round(torch.autograd.Function):
    """Rounds, and passes gradients straight through: what a trace would forget."""

    @staticmethod
    def forward(ctx, x):
        return (x * 16).round() / 16

    @staticmethod
    def backward(ctx, grad):
        return grad


class _Straight(nn.Module):
    """A layer with a backward of its own before a network of the library."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MODELS["preact_resnet"]()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(_Round.apply(x))


class _Viewed(nn.Module):
    """Flattens by ``view``, which channels-last activations do not allow, looks at its layers, names arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.out = nn.Linear(4 * 8 * 7, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.to(self.conv.weight.dtype) if mask is None else x * mask
        h = F.relu(self.bn(input=self.conv(input=x)), inplace=True)
        return self.out(h.view(len(h), -1))


def _hooked() -> nn.Module:
    """A network of the library with a normalisation hooked in before it, and another behind a layer."""
    model = MODELS["preact_resnet"]()
    model.register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 0.4) / 0.2,))
    model.layer1[0].conv1.register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def _replaced() -> nn.Module:
    """A network of the library with a forward of its own."""
    model = MODELS["lenet"]()
    forward = model.forward
    model.forward = lambda x: -forward(1 - x)
    return model


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
    "stutz_resnet": lambda: StutzResNet(width=4, per_image=True).build(image=(3, 10, 9), classes=4, seed=0),
    "reparametrised": lambda: nn.Sequential(
        ReparametrisedBatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 8 * 7, 4)
    ),
    "branches": _Branches,
    "decides": _Decides,
    "straight": _Straight,
    "viewed": _Viewed,
    "hooked": _hooked,
    "replaced": _replaced,
}


@pytest.mark.parametrize("compiled", [False, True], ids=["fused", "for a compiler"])
@pytest.mark.parametrize("name", MODELS)
def test_closed_form_the_same_function_and_gradient(name, compiled):
    import copy

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _settled(MODELS[name]())
    x = torch.rand(5, 3, 10, 9, generator=torch.Generator().manual_seed(1))
    made = copy.deepcopy(model) if "forward" not in vars(model) else model
    view, refreshes = rewritten(made.requires_grad_(False), model, fused=not compiled)
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
    assert len(refreshes) == 8
    left = [module for module in view.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) == 8 + 1 and all(module.forward.relu for module in left)  # the first of a block, and the last


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_closed_form_every_normalisation_of_a_postactivation_network_is_folded(dropout):
    model, source = (
        StutzResNet(width=2, dropout=dropout).build(image=(3, 8, 8), classes=4, seed=0).eval() for _ in range(2)
    )
    view, refreshes = rewritten(model.requires_grad_(False), source, fused=True)
    assert len(refreshes) == 1 + 2 * 8 + 3
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout) for module in view.modules())


def test_contract_a_model_that_flattens_by_view_is_searched_and_left_as_it_is():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _settled(_Viewed())
    x = torch.rand(5, 3, 10, 9, generator=torch.Generator().manual_seed(1))
    for precision in ("float32", "bfloat16"):
        with fast(model, Runtime(device="cpu", precision=precision)) as f:
            found = _slope(f, x)
        close = 1e-4 if precision == "float32" else 0.1
        for value, truth in zip(found, _slope(model, x), strict=True):
            assert (value - truth).norm() <= close * truth.norm()
    assert torch.equal(Lowered(model, PLAIN)(x.contiguous(memory_format=torch.channels_last)), model(x))


class _Reassigns(nn.Module):
    """A norm written by hand, that puts a new tensor into its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean((0, 2, 3))[:, None, None]
        return (x - self.mean).sum((2, 3))


def test_contract_a_buffer_that_is_put_in_anew_is_followed():
    model, x = _Reassigns(), torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    view = fast(model, PLAIN)
    for _ in range(2):
        model.train()(x)
        with view as f:
            torch.testing.assert_close(f(x), model.eval()(x))


@pytest.mark.parametrize("tensor", [False, True])
def test_contract_a_model_that_draws_as_it_runs_is_not_frozen(tensor):
    model = _Draws(tensor).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with fast(model, PLAIN) as f, torch.no_grad():
        first, second = f(x), f(x)
    assert not torch.equal(first, second)
