import pytest
import torch
from torch.nn import functional as F

from robustscape.models.lenet import LeNet
from robustscape.types import BadInput


@pytest.mark.parametrize("w", [1, 16])
def test_closed_form_parameter_count_on_mnist(w):
    model = LeNet(width=w).build(image=(1, 28, 28), classes=10, seed=0)
    conv1, conv2 = (25 * 1 + 1) * 2 * w, (25 * 2 * w + 1) * 4 * w
    fc1, fc2 = (196 * w + 1) * 64 * w, (64 * w + 1) * 10
    assert sum(p.numel() for p in model.parameters()) == conv1 + conv2 + fc1 + fc2


def test_closed_form_is_the_papers_order_for_relu():
    model = LeNet(width=2).build(image=(3, 10, 13), classes=4, seed=0).double()
    x = torch.rand(5, 3, 10, 13, dtype=torch.float64)
    h = F.max_pool2d(F.relu(F.conv2d(x, model.conv1.weight, model.conv1.bias, padding=2)), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, model.conv2.weight, model.conv2.bias, padding=2)), 2)
    assert h.shape == (5, 8, 2, 3)
    h = F.relu(F.linear(h.flatten(1), model.fc1.weight, model.fc1.bias))
    torch.testing.assert_close(model(x), F.linear(h, model.fc2.weight, model.fc2.bias), rtol=1e-12, atol=1e-12)


def test_contract_the_activation_is_a_field():
    x = torch.rand(2, 1, 8, 8)
    relu, silu = (LeNet(width=2, activation=a).build(image=(1, 8, 8), classes=3, seed=0) for a in ("relu", "silu"))
    assert all(torch.equal(p, q) for p, q in zip(relu.parameters(), silu.parameters(), strict=True))
    assert not torch.allclose(relu(x), silu(x))


def test_contract_refuses_images_that_cannot_be_pooled_twice():
    with pytest.raises(BadInput, match="at least 4x4 pixels, not 3x8"):
        LeNet().build(image=(1, 3, 8), classes=3, seed=0)


@pytest.mark.parametrize("fields, says", [({"width": 0}, "width"), ({"activation": "tanh"}, "no activation 'tanh'")])
def test_contract_refuses_fields_that_cannot_be_meant(fields, says):
    with pytest.raises(BadInput, match=says):
        LeNet(**fields)
