import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustscape.models.preact_resnet import PreActResNet
from robustscape.types import BadInput


def _count(width: int, channels: int, classes: int, blocks: tuple[int, ...]) -> int:
    """Parameters by the definition: convolutions 9io (projections io), two per BatchNorm channel, no other biases."""
    total, i = 9 * channels * width, width
    for stage, number in enumerate(blocks):
        for block in range(number):
            o = width * 2**stage
            total += 2 * i + 9 * i * o + 2 * o + 9 * o * o
            total += i * o if block == 0 and stage > 0 else 0
            i = o
    return total + 2 * i + i * classes + classes


@pytest.mark.parametrize(
    "depth, width, channels, classes, blocks",
    [(18, 64, 3, 10, (2, 2, 2, 2)), (18, 3, 1, 2, (2, 2, 2, 2)), (34, 4, 3, 10, (3, 4, 6, 3))],
)
def test_closed_form_parameter_count(depth, width, channels, classes, blocks):
    model = PreActResNet(depth=depth, width=width).build(image=(channels, 32, 32), classes=classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == _count(width, channels, classes, blocks)


def test_reference_parameter_count_of_the_published_network():
    assert _count(64, 3, 10, (2, 2, 2, 2)) == 11_172_170


def _batch_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def _naive(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Evaluate the network from its state dict alone, as Rice et al.'s code defines it."""
    h = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            a = F.relu(_batch_norm(h, state, f"{name}.bn1"))
            projection = state.get(f"{name}.shortcut.0.weight")
            around = h if projection is None else F.conv2d(a, projection, stride=stride)
            a = F.conv2d(a, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            a = F.relu(_batch_norm(a, state, f"{name}.bn2"))
            h = F.conv2d(a, state[f"{name}.conv2.weight"], padding=1) + around
    h = F.relu(_batch_norm(h, state, "bn"))
    return F.linear(F.avg_pool2d(h, 4).flatten(1), state["linear.weight"], state["linear.bias"])


def test_reference_is_the_network_of_robust_overfitting():
    model = PreActResNet(width=2).build(image=(3, 32, 32), classes=4, seed=0).double()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    model.train()(x)  # running statistics of their own
    model.eval()
    torch.testing.assert_close(model(x), _naive(x, model.state_dict()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (33, 20)])
def test_contract_takes_any_image_size(size):
    model = PreActResNet(width=2).build(image=(1, *size), classes=3, seed=0)
    assert model(torch.rand(4, 1, *size)).shape == (4, 3)


@pytest.mark.parametrize(
    "fields, says",
    [({"depth": 50}, "one of 18, 34, not 50"), ({"width": 0}, "width"), ({"activation": "rleu"}, "did you mean relu")],
)
def test_contract_refuses_fields_that_cannot_be_meant(fields, says):
    with pytest.raises(BadInput, match=says):
        PreActResNet(**fields)
