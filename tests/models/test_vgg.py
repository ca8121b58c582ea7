import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustscape.models.vgg import VGG
from robustscape.types import BadInput

PUBLISHED = {
    16: [4, 4, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M"],
    19: [4, 4, "M", 8, 8, "M", 16, 16, 16, 16, "M", 32, 32, 32, 32, "M", 32, 32, 32, 32, "M"],
}
"""The rows of Liu et al.'s table 4 in units of w, and VGG-19 in the same units."""


def _count(depth: int, width: float, channels: int, classes: int) -> float:
    """Parameters by the definition: 9io + o for a convolution, 2o for its BatchNorm, io + o for the linear layer."""
    total, i = 0.0, channels
    for row in PUBLISHED[depth]:
        if isinstance(row, int):
            o = row * width / 4
            total += 9 * i * o + o + 2 * o
            i = o
    return total + i * classes + classes


@pytest.mark.parametrize("depth, width, channels, classes", [(16, 8, 3, 10), (19, 4, 1, 3)])
def test_closed_form_parameter_count(depth, width, channels, classes):
    model = VGG(depth=depth, width=width).build(image=(channels, 32, 32), classes=classes, seed=0)
    assert sum(p.numel() for p in model.parameters()) == _count(depth, width, channels, classes)


def test_reference_parameter_counts_of_the_usual_networks():
    assert _count(16, 64, 3, 10) == 14_728_266
    assert _count(19, 64, 3, 10) == 20_040_522


def _naive(x: Tensor, state: dict[str, Tensor], depth: int) -> Tensor:
    """Evaluate the network from its parameters in their order, as Liu et al.'s code defines it."""
    values = iter([value for name, value in state.items() if "num_batches" not in name])
    for row in PUBLISHED[depth]:
        if row == "M":
            x = F.max_pool2d(x, 2)
            continue
        x = F.conv2d(x, next(values), next(values), padding=1)
        weight, bias, mean, var = (next(values) for _ in range(4))
        x = F.relu(F.batch_norm(x, mean, var, weight, bias))
    return F.linear(x.flatten(1), next(values), next(values))


@pytest.mark.parametrize("depth", [16, 19])
def test_reference_is_the_network_of_liu(depth):
    model = VGG(depth=depth, width=4).build(image=(3, 32, 32), classes=4, seed=0).double()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    model.train()(x)  # running statistics of their own
    model.eval()
    torch.testing.assert_close(model(x), _naive(x, model.state_dict(), depth), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size, last", [((1, 1), (1, 1)), ((8, 8), (1, 1)), ((28, 28), (1, 1)), ((64, 40), (2, 2))])
def test_contract_halves_any_image_size_five_times(size, last):
    model = VGG(width=2).build(image=(1, *size), classes=3, seed=0).eval()
    assert model.features(torch.rand(2, 1, *size)).shape == (2, 16, *last)


@pytest.mark.parametrize(
    "fields, says",
    [({"depth": 18}, "one of 16, 19, not 18"), ({"width": 0}, "width"), ({"activation": "rleu"}, "did you mean relu")],
)
def test_contract_refuses_fields_that_cannot_be_meant(fields, says):
    with pytest.raises(BadInput, match=says):
        VGG(**fields)
