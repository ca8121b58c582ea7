import pytest
import torch

from robustscape.models.normalise import Normalise, check_constants, normalise
from robustscape.types import BadInput


def test_closed_form_subtracts_and_divides_per_channel():
    x = torch.tensor([0.5, 1.0]).view(1, 2, 1, 1)
    out = Normalise((0.25, 0.5), (0.5, 0.25))(x)
    assert out.flatten().tolist() == [0.5, 2.0]


def test_closed_form_one_number_is_for_all_channels():
    out = normalise((0.5,), (0.25,), 3)(torch.ones(2, 3, 4, 4))
    assert torch.equal(out, torch.full((2, 3, 4, 4), 2.0))


def test_contract_without_constants_is_the_identity():
    x = torch.rand(2, 3, 4, 4)
    assert Normalise()(x) is x


def test_contract_constants_follow_the_type():
    model = Normalise((0.5,), (0.5,)).double()
    assert model(torch.ones(1, 1, 2, 2, dtype=torch.float64)).dtype == torch.float64
    assert model.state_dict() == {}


@pytest.mark.parametrize(
    "mean, std, says",
    [
        ((0.5,), None, "std is missing"),
        (None, (0.5,), "mean is missing"),
        ((0.5, 0.5), (0.5,), "not 2 and 1"),
        ((), (), "one number per channel"),
        ((0.5,), (0.0,), "std must be above 0"),
        ((0.5,), (-0.1,), "std must be above 0"),
        ((float("nan"),), (0.1,), "finite"),
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "divide mean and std by 255"),
    ],
)
def test_contract_refuses_constants_that_cannot_be_meant(mean, std, says):
    with pytest.raises(BadInput, match=says):
        check_constants(mean, std)
