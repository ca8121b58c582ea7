import pytest
import torch

from robustscape.models.normalise import Normalise, PerImage, check_constants, normalise
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


def test_closed_form_per_image_gives_mean_0_and_deviation_1():
    x = torch.rand(3, 2, 15, 20, dtype=torch.float64)
    x[1] = 0.2 + 0.5 * x[0]
    out = normalise(None, None, 2, per_image=True)(x)
    for image, normal in zip(x, out, strict=True):
        mean = image.mean()
        torch.testing.assert_close(normal, (image - mean) / (image - mean).square().mean().sqrt())
    torch.testing.assert_close(out[0], out[1])


def test_closed_form_per_image_divides_by_no_less_than_one_over_the_root_of_the_numbers():
    x = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    x[0, 0, 0, 0] = 0.5 + 0.16  # mean 0.51, deviation 0.04 under the bound of 1 / 4
    torch.testing.assert_close(PerImage()(x), (x - 0.51) * 4)


def test_contract_per_image_has_a_finite_gradient_on_an_image_of_one_colour():
    x = torch.full((2, 3, 4, 4), 0.3, requires_grad=True)
    out = PerImage()(x)
    (slope,) = torch.autograd.grad(out.square().sum() + out[0, 0, 0, 0], x)
    assert not out.any() and bool(torch.isfinite(slope).all()) and bool(slope.any())


def test_contract_per_image_refuses_constants():
    with pytest.raises(BadInput, match="per_image takes each image's own mean and std"):
        normalise((0.5,), (0.5,), 1, per_image=True)
