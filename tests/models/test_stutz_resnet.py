import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustscape.models.resnet import BasicBlock, ResNet
from robustscape.models.stutz_resnet import Clamp, ReparametrisedBatchNorm2d, StutzResNet
from robustscape.types import BadInput
from robustscape.weights.space import select


def _network(**fields) -> nn.Module:
    return StutzResNet(width=2, **fields).build(image=(3, 32, 32), classes=4, seed=0)


def _naive(x: Tensor, state: dict[str, Tensor], offset: int) -> Tensor:
    """Evaluate the network from its state dict alone, as Stutz et al.'s code defines it, whitening included."""

    def norm(h: Tensor, name: str) -> Tensor:
        shape = (1, -1, 1, 1)
        mean, var = (state[f"{name}.running_{kind}"].view(shape) for kind in ("mean", "var"))
        scale, shift = state[f"{name}.weight"].view(shape) + offset, state[f"{name}.bias"].view(shape)
        return (h - mean) / (var + 1e-5).sqrt() * scale + shift

    h = (x.clamp(min=0).clamp(max=1) - 0.375) / 0.25
    h = F.relu(norm(F.conv2d(h, state["conv1.weight"], state["conv1.bias"], padding=1), "bn1"))
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            around = h
            if stride == 2:
                down = f"{name}.shortcut"
                around = F.conv2d(h, state[f"{down}.0.weight"], state[f"{down}.0.bias"], stride=2)
                around = norm(around, f"{down}.1")
            h = F.relu(norm(F.conv2d(h, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            h = F.relu(norm(F.conv2d(h, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2") + around)
    return F.linear(h.mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("norm, offset", [("reparametrised", 1), ("batch", 0)])
def test_reference_is_the_network_of_stutz(norm, offset):
    model = _network(norm=norm, mean=(0.375,), std=(0.25,)).double()
    x = 1.4 * torch.rand(4, 3, 32, 32, dtype=torch.float64) - 0.2
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    model.train()(x)  # running statistics of their own
    model.eval()
    torch.testing.assert_close(model(x), _naive(x, model.state_dict(), offset), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width, channels, classes", [(2, 1, 3), (64, 3, 10)])
def test_closed_form_parameter_count_is_resnets_and_the_biases(width, channels, classes):
    ours, plain = (
        kind(width=width).build(image=(channels, 8, 8), classes=classes, seed=0) for kind in (StutzResNet, ResNet)
    )
    biases = width + (2 + 4 + 8) * width  # of the stem and of three projections
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, plain)]
    assert counts[0] == counts[1] + biases


def test_contract_initial_values_are_the_codes():
    model = _network()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(module, ReparametrisedBatchNorm2d)
            assert torch.equal(module.scale(), torch.ones(module.num_features)) and not module.bias.any()
    wide = StutzResNet(width=32).build(image=(3, 8, 8), classes=100, seed=0)
    assert float(wide.linear.weight.detach().std()) == pytest.approx(math.sqrt(2 / 256), rel=0.03)
    assert float(wide.conv1.weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.1)


def test_closed_form_under_batch_normalisation_every_block_starts_as_its_shortcut():
    model = _network(norm="batch").eval()
    block = model.layer1[0]
    assert isinstance(block, BasicBlock)
    x = torch.rand(2, 2, 8, 8)
    assert torch.equal(block(x), x)


def test_closed_form_dropout_is_between_the_second_convolution_and_its_normalisation():
    x = torch.rand(8, 3, 32, 32)
    model, plain = _network(dropout=0.1), _network()
    assert torch.equal(model.eval()(x), plain.eval()(x)), "the same weights, and none is dropped in eval mode"
    outputs, inputs = {}, {}
    for name, module in model.named_modules():
        if name.endswith("conv2"):
            module.register_forward_hook(lambda module, given, out, name=name: outputs.update({name: out}))
        if name.endswith("bn2"):
            module.register_forward_pre_hook(lambda module, given, name=name: inputs.update({name: given[0]}))
    model.train()(x)
    assert len(outputs) == len(inputs) == 8
    for name, out in outputs.items():
        given = inputs[name.replace("conv2", "bn2")]
        left = given != 0
        assert torch.allclose(given[left], out[left] / 0.9, rtol=1e-6)
        if out.numel() > 10_000:
            assert float(left.float().mean()) == pytest.approx(0.9, abs=0.015)


def test_contract_the_reparametrised_normalisation_is_batch_normalisation():
    ours, plain = ReparametrisedBatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([-0.5, 0.0, 2.0]))
        plain.weight.copy_(torch.tensor([0.5, 1.0, 3.0]))
        for norm in (ours, plain):
            norm.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    for training in (True, True, False):
        x = torch.rand(4, 3, 5, 5)
        assert torch.equal(ours.train(training)(x), plain.train(training)(x))
    for (name, mine), theirs in zip(ours.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


def test_contract_the_reparametrised_normalisation_is_not_among_the_weights():
    layers = select(_network(), "layers")
    assert "conv1.bias" in layers and not any("bn" in name or "shortcut.1" in name for name in layers)


def test_closed_form_clamping_keeps_the_gradient_of_black_and_white():
    x = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1], requires_grad=True)
    clamped = Clamp()(x)
    (slope,) = torch.autograd.grad(clamped.sum(), x)
    assert clamped.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0] and slope.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"depth": 50}, "one of 18, 34, not 50"),
        ({"width": 0}, "width"),
        ({"norm": "group"}, "batch, not 'group'"),
        ({"dropout": 1.0}, "in \\[0, 1\\), not 1"),
    ],
)
def test_contract_refuses_fields_that_cannot_be_meant(fields, says):
    with pytest.raises(BadInput, match=says):
        StutzResNet(**fields)
