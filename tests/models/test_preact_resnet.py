import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustscape.models.preact_resnet import PreActResNet
from robustscape.types import BadInput


def _count(width: int, channels: int, classes: int, blocks: tuple[int, ...], form: str = "rice") -> int:
    """Parameters by the definition: convolutions 9io (projections io), two per BatchNorm channel, the form's biases."""
    bias = int(form == "zheng")
    total, i = 9 * channels * width, width
    for stage, number in enumerate(blocks):
        for block in range(number):
            o = width * 2**stage
            total += 2 * i + 9 * i * o + 2 * o + 9 * o * o + bias * 2 * o
            total += i * o + bias * o if block == 0 and stage > 0 else 0
            i = o
    return total + (0 if form == "wong" else 2 * i) + i * classes + classes


@pytest.mark.parametrize(
    "depth, width, channels, classes, blocks",
    [(18, 64, 3, 10, (2, 2, 2, 2)), (18, 3, 1, 2, (2, 2, 2, 2)), (34, 4, 3, 10, (3, 4, 6, 3))],
)
def test_closed_form_parameter_count(depth, width, channels, classes, blocks):
    model = PreActResNet(depth=depth, width=width).build(image=(channels, 32, 32), classes=classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == _count(width, channels, classes, blocks)


FORMS = {"rice": PreActResNet(), "wong": PreActResNet.wong(), "zheng": PreActResNet.zheng()}


@pytest.mark.parametrize("form", FORMS)
def test_closed_form_parameter_count_of_the_forms(form):
    model = replace(FORMS[form], width=4).build(image=(3, 32, 32), classes=10, seed=0)
    assert sum(p.numel() for p in model.parameters()) == _count(4, 3, 10, (2, 2, 2, 2), form)


def test_reference_parameter_count_of_the_published_networks():
    assert _count(64, 3, 10, (2, 2, 2, 2)) == 11_172_170
    assert _count(64, 3, 10, (2, 2, 2, 2), "wong") == 11_171_146


def _batch_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def _naive(x: Tensor, state: dict[str, Tensor], form: str) -> Tensor:
    """Evaluate the network from its state dict alone, as the code of Rice, Wong or Zheng et al. defines it."""

    def conv(h: Tensor, name: str, stride: int, padding: int) -> Tensor:
        return F.conv2d(h, state[f"{name}.weight"], state.get(f"{name}.bias"), stride=stride, padding=padding)

    h = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            a = F.relu(_batch_norm(h, state, f"{name}.bn1"))
            if stride == 2:
                around = conv(h if form == "wong" else a, f"{name}.shortcut.0", 2, 0)
            else:
                around = a if form == "zheng" else h
            a = F.relu(_batch_norm(conv(a, f"{name}.conv1", stride, 1), state, f"{name}.bn2"))
            h = conv(a, f"{name}.conv2", 1, 1) + around
    if form != "wong":
        h = F.relu(_batch_norm(h, state, "bn"))
    return F.linear(F.avg_pool2d(h, 4).flatten(1), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("form", FORMS)
def test_reference_is_the_network_of_robust_overfitting_and_its_other_forms(form):
    model = replace(FORMS[form], width=2).build(image=(3, 32, 32), classes=4, seed=0).double()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    model.train()(x)  # running statistics of their own
    model.eval()
    torch.testing.assert_close(model(x), _naive(x, model.state_dict(), form), rtol=1e-10, atol=1e-10)


def _naive_gowal(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Evaluate the network from its state dict alone, as the code of Gowal et al. defines it."""
    h = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            around = (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)
            a = F.silu(_batch_norm(h, state, f"{name}.bn1"))
            if stride == 2:
                h = F.conv2d(F.pad(h, around), state[f"{name}.shortcut.0.weight"], stride=2)
            a = F.conv2d(F.pad(a, around), state[f"{name}.conv1.weight"], stride=stride)
            a = F.silu(_batch_norm(a, state, f"{name}.bn2"))
            h = F.conv2d(a, state[f"{name}.conv2.weight"], padding=1) + h
    h = F.avg_pool2d(F.silu(_batch_norm(h, state, "bn")), 4)
    return F.linear(h.flatten(1), state["linear.weight"], state["linear.bias"])


def test_reference_is_the_network_of_gowal():
    assert PreActResNet.gowal() == PreActResNet(shortcut="raw", projection=3, padding="same", activation="silu")
    model = replace(PreActResNet.gowal(), width=2).build(image=(3, 32, 32), classes=4, seed=0).double()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    model.train()(x)  # running statistics of their own
    model.eval()
    torch.testing.assert_close(model(x), _naive_gowal(x, model.state_dict()), rtol=1e-10, atol=1e-10)


def test_closed_form_zhengs_initial_weights_have_the_variance_of_their_fan_out():
    model = replace(FORMS["zheng"], width=32).build(image=(3, 8, 8), classes=3, seed=0)
    weight = model.layer4[1].conv2.weight.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)  # of 590,000 numbers
    assert not model.linear.bias.any()


@pytest.mark.parametrize("form", [PreActResNet(width=2), replace(PreActResNet.gowal(), width=2)])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (33, 20)])
def test_contract_takes_any_image_size(size, form):
    model = form.build(image=(1, *size), classes=3, seed=0)
    assert model(torch.rand(4, 1, *size)).shape == (4, 3)


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"projection": 2}, "projection must be one of 1, 3, not 2"),
        ({"padding": "after"}, "padding must be one of both, same, not 'after'"),
        ({"depth": 50}, "one of 18, 34, not 50"),
        ({"width": 0}, "width"),
        ({"activation": "rleu"}, "did you mean relu"),
        ({"shortcut": "none"}, "shortcut must be one of mixed, raw, activated, not 'none'"),
        ({"initial": "he"}, "initial must be one of torch, fan_out, not 'he'"),
    ],
)
def test_contract_refuses_fields_that_cannot_be_meant(fields, says):
    with pytest.raises(BadInput, match=says):
        PreActResNet(**fields)
