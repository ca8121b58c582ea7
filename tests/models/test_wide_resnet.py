import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustscape.models.wide_resnet import WideResNet
from robustscape.types import BadInput


def _count(depth: int, width: int, channels: int, classes: int) -> int:
    """Parameters by the definition: convolutions 9io (projections io), two per BatchNorm channel."""
    total, i = 9 * channels * 16, 16
    for stage in range(3):
        for _ in range((depth - 4) // 6):
            o = 16 * width * 2**stage
            total += 2 * i + 9 * i * o + 2 * o + 9 * o * o
            total += i * o if i != o else 0
            i = o
    return total + 2 * i + i * classes + classes


@pytest.mark.parametrize("depth, width, channels, classes", [(10, 1, 1, 2), (16, 2, 3, 10)])
def test_closed_form_parameter_count(depth, width, channels, classes):
    model = WideResNet(depth=depth, width=width).build(image=(channels, 32, 32), classes=classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == _count(depth, width, channels, classes)


def test_reference_parameter_counts_of_the_published_networks():
    assert _count(34, 10, 3, 10) == 46_160_474
    assert _count(28, 10, 3, 10) == 36_479_194


def _batch_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def _naive(x: Tensor, state: dict[str, Tensor], depth: int, *, gowal: bool) -> Tensor:
    """Evaluate the network from its state dict alone, as the code of Zhang et al. or Gowal et al. defines it."""
    active = F.silu if gowal else F.relu
    h = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in range((depth - 4) // 6):
            name = f"block{stage}.layer.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            a = active(_batch_norm(h, state, f"{name}.bn1"))
            projection = state.get(f"{name}.convShortcut.weight")
            around = h if projection is None else F.conv2d(a, projection, stride=stride)
            if gowal:
                a = F.pad(a, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))
            a = F.conv2d(a, state[f"{name}.conv1.weight"], stride=stride, padding=0 if gowal else 1)
            a = active(_batch_norm(a, state, f"{name}.bn2"))
            h = F.conv2d(a, state[f"{name}.conv2.weight"], padding=1) + around
    h = F.avg_pool2d(active(_batch_norm(h, state, "bn1")), 8)
    return F.linear(h.flatten(1), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("gowal", [False, True])
@pytest.mark.parametrize("depth, width", [(10, 2), (16, 1)])
def test_reference_is_the_network_of_trades_and_of_gowal(depth, width, gowal):
    fields = {"padding": "same", "activation": "silu"} if gowal else {}
    model = WideResNet(depth=depth, width=width, **fields).build(image=(3, 32, 32), classes=4, seed=0).double()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    model.train()(x)  # running statistics of their own
    model.eval()
    torch.testing.assert_close(model(x), _naive(x, model.state_dict(), depth, gowal=gowal), rtol=1e-10, atol=1e-10)


def test_contract_the_preset_is_gowals():
    assert WideResNet.gowal() == WideResNet(depth=28, width=10, padding="same", activation="silu")


@pytest.mark.parametrize("padding", ["both", "same"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (33, 20)])
def test_contract_takes_any_image_size(size, padding):
    model = WideResNet(depth=10, width=1, padding=padding).build(image=(1, *size), classes=3, seed=0)
    assert model(torch.rand(4, 1, *size)).shape == (4, 3)


def test_closed_form_initial_weights_have_the_variance_of_their_fan_out():
    model = WideResNet(depth=10, width=4).build(image=(3, 32, 32), classes=3, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            wanted = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            # The standard deviation of n normal numbers is known to 1 / sqrt(2 n) of itself: 0.7 % at most here.
            assert float(module.weight.detach().std()) == pytest.approx(wanted, rel=0.03)
    assert torch.equal(model.fc.bias, torch.zeros(3))


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"depth": 32}, r"6 n \+ 4 and at least 10, not 32; did you mean 34\?"),
        ({"depth": 4}, r"not 4; did you mean 10\?"),
        ({"width": 0}, "width"),
        ({"padding": "after"}, "one of both, same, not 'after'"),
        ({"activation": "rleu"}, "did you mean relu"),
    ],
)
def test_contract_refuses_fields_that_cannot_be_meant(fields, says):
    with pytest.raises(BadInput, match=says):
        WideResNet(**fields)
