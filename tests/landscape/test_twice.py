"""The second derivatives that Hessian products are made of are those of the same functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from robustscape.landscape._twice import Twice


def numbers(*shape, seed=0, wanted=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).add_(0.1).requires_grad_(wanted)


def twice(function):
    def inside(*inputs):
        with Twice():
            return function(*inputs)

    return inside


CONVOLUTIONS = {
    "plain": ({}, (3, 2, 3, 3)),
    "strided": ({"stride": (2, 1), "padding": 1}, (3, 2, 3, 3)),
    "dilated": ({"dilation": 2, "padding": (1,)}, (3, 2, 2, 2)),
    "grouped": ({"groups": 2}, (4, 1, 2, 2)),
    "of points": ({}, (3, 2, 1, 1)),
    "padded by name": ({"padding": "same"}, (3, 2, 3, 3)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_closed_form_derivatives_of_convolutions_are_differences(kind):
    options, shape = CONVOLUTIONS[kind]
    x, w, b = numbers(2, 2, 5, 4), numbers(*shape, seed=1), numbers(shape[0], seed=2)
    made = twice(lambda x, w, b: F.conv2d(x, w, b, **options))
    torch.testing.assert_close(made(x, w, b), F.conv2d(x, w, b, **options), rtol=1e-12, atol=0)
    assert gradcheck(made, (x, w, b)) and gradgradcheck(made, (x, w, b))


@pytest.mark.parametrize(
    "wanted", [(True, True, False), (True, False, True), (False, True, True), (False, False, True)]
)
def test_closed_form_derivatives_with_respect_to_some_inputs_alone(wanted):
    x, w, b = (
        numbers(*shape, wanted=one) for shape, one in zip([(2, 2, 4, 4), (3, 2, 3, 3), (3,)], wanted, strict=True)
    )
    made = twice(lambda x, w, b: F.conv2d(x, w, b) ** 2)
    assert gradcheck(made, (x, w, b)) and gradgradcheck(made, (x, w, b))
    mean, var, w = numbers(2, wanted=False), numbers(2, seed=1, wanted=False), numbers(2, wanted=wanted[1])
    b = numbers(2, wanted=wanted[2])
    norm = twice(lambda x, w, b: F.batch_norm(x, mean, var, w, b) ** 2)
    assert gradcheck(norm, (x, w, b)) and gradgradcheck(norm, (x, w, b))


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (5, 3)])
def test_closed_form_derivatives_of_batch_normalisation_are_differences(shape):
    x, w, b = numbers(*shape), numbers(3, seed=1), numbers(3, seed=2)
    mean, var = numbers(3, seed=3, wanted=False), numbers(3, seed=4, wanted=False)
    made = twice(lambda x, w, b: F.batch_norm(x, mean, var, w, b, eps=1e-3))
    assert torch.equal(made(x, w, b), F.batch_norm(x, mean, var, w, b, eps=1e-3))
    assert gradcheck(made, (x, w, b)) and gradgradcheck(made, (x, w, b))


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False).eval(), nn.BatchNorm2d(2, track_running_stats=False)]
)
def test_contract_other_normalisations_stay_torchs(layer):
    x = numbers(3, 2, 2, 2).float()
    with Twice():
        there = layer(x)
    assert type(there.grad_fn).__name__ == type(layer(x).grad_fn).__name__ == "NativeBatchNormBackward0"


def test_contract_without_gradients_and_outside_the_block_nothing_is_replaced():
    x, w = numbers(1, 2, 3, 3), numbers(2, 2, 3, 3)
    with Twice(), torch.no_grad():
        assert F.conv2d(x, w).grad_fn is None
    with Twice():
        assert "_Convolution" in type(F.conv2d(x, w).grad_fn).__name__
    assert type(F.conv2d(x, w).grad_fn).__name__ == "ConvolutionBackward0"
