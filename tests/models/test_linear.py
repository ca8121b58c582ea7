import pytest
import torch

from robustscape.models.linear import Linear
from robustscape.types import BadInput


def test_closed_form_is_one_matrix():
    model = Linear().build(image=(2, 3, 4), classes=5, seed=0)
    x = torch.rand(6, 2, 3, 4)
    expected = torch.einsum("ki,ni->nk", model.linear.weight, x.reshape(6, 24)) + model.linear.bias
    torch.testing.assert_close(model(x), expected)


def test_closed_form_without_bias_black_has_zero_logits():
    model = Linear(bias=False).build(image=(1, 3, 4), classes=5, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 12 * 5
    assert torch.equal(model(torch.zeros(2, 1, 3, 4)), torch.zeros(2, 5))


def test_closed_form_one_output_gives_the_logits_0_and_z():
    model = Linear(outputs="one").build(image=(1, 3, 4), classes=2, seed=0)
    x = torch.rand(6, 1, 3, 4)
    z = (x.flatten(1) * model.linear.weight).sum(1) + model.linear.bias
    logits = model(x)
    assert torch.equal(logits[:, 0], torch.zeros(6))
    torch.testing.assert_close(logits[:, 1], z)
    loss = torch.nn.functional.cross_entropy(logits, torch.ones(6, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(loss, torch.log1p(torch.exp(-z)))


def test_contract_one_output_is_for_two_classes():
    with pytest.raises(BadInput, match="2 classes, not 10; did you mean outputs='classes'"):
        Linear(outputs="one").build(image=(1, 8, 8), classes=10, seed=0)


def test_contract_refuses_other_outputs():
    with pytest.raises(BadInput, match="not 'two'"):
        Linear(outputs="two")  # pyright: ignore[reportArgumentType]
