import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustscape.models.resnet import ResNet
from robustscape.types import BadInput

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def _count(depth: int, width: int, channels: int, classes: int) -> int:
    """Parameters by the definition: convolutions 9io (projections io), two per BatchNorm channel."""
    total, i = 9 * channels * width + 2 * width, width
    for stage, number in enumerate(BLOCKS[depth]):
        for block in range(number):
            o = width * 2**stage
            total += 9 * i * o + 2 * o + 9 * o * o + 2 * o
            total += i * o + 2 * o if block == 0 and stage > 0 else 0
            i = o
    return total + i * classes + classes


@pytest.mark.parametrize("depth, width, channels, classes", [(18, 8, 3, 10), (34, 3, 1, 2)])
def test_closed_form_parameter_count(depth, width, channels, classes):
    model = ResNet(depth=depth, width=width).build(image=(channels, 32, 32), classes=classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == _count(depth, width, channels, classes)


def test_reference_parameter_counts_of_the_usual_networks():
    assert _count(18, 64, 3, 10) == 11_173_962
    assert _count(34, 64, 3, 10) == 21_282_122


def _batch_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def _naive(x: Tensor, state: dict[str, Tensor], depth: int) -> Tensor:
    """Evaluate the network from its state dict alone, as Zhang et al.'s code defines it."""
    h = F.relu(_batch_norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"))
    for stage, number in enumerate(BLOCKS[depth], start=1):
        for block in range(number):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            around = h
            if f"{name}.shortcut.0.weight" in state:
                around = F.conv2d(h, state[f"{name}.shortcut.0.weight"], stride=stride)
                around = _batch_norm(around, state, f"{name}.shortcut.1")
            h = F.conv2d(h, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            h = F.conv2d(F.relu(_batch_norm(h, state, f"{name}.bn1")), state[f"{name}.conv2.weight"], padding=1)
            h = F.relu(_batch_norm(h, state, f"{name}.bn2") + around)
    return F.linear(F.avg_pool2d(h, 4).flatten(1), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("depth", [18, 34])
def test_reference_is_the_network_of_trades(depth):
    model = ResNet(depth=depth, width=2).build(image=(3, 32, 32), classes=4, seed=0).double()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    model.train()(x)  # running statistics of their own
    model.eval()
    torch.testing.assert_close(model(x), _naive(x, model.state_dict(), depth), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (33, 20)])
def test_contract_takes_any_image_size(size):
    model = ResNet(width=2).build(image=(1, *size), classes=3, seed=0)
    assert model(torch.rand(4, 1, *size)).shape == (4, 3)


@pytest.mark.parametrize(
    "fields, says",
    [({"depth": 50}, "one of 18, 34, not 50"), ({"width": 0}, "width"), ({"activation": "rleu"}, "did you mean relu")],
)
def test_contract_refuses_fields_that_cannot_be_meant(fields, says):
    with pytest.raises(BadInput, match=says):
        ResNet(**fields)
