"""Convolutions of few input channels: output and gradient against those in float64."""

import pytest
import torch
from torch import Tensor, nn

from robustscape.runtime.rewriting import rewritten


def _slope(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    output = model(x)
    return output.detach(), torch.autograd.grad(output.square().sum(), x)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kernel, stride, padding", [(3, 1, 1), (5, 1, 2), (7, 2, 3), (3, 2, 0), ((3, 5), (2, 1), (0, 2))]
)
def test_closed_form_gradient_through_a_convolution_of_few_channels(kernel, stride, padding, dtype):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 8, kernel, stride=stride, padding=padding).requires_grad_(False)
    x = torch.rand(4, 3, 17, 14, generator=generator)
    truth = _slope(conv.double(), x.double())
    view, _ = rewritten(nn.Sequential(conv.to(dtype)), nn.Sequential(conv), fused=True)
    for found, exact in zip(_slope(view, x.to(dtype)), truth, strict=True):
        close = 1e-5 if dtype == torch.float32 else 0.02  # 8 bits of mantissa, a few roundings
        assert (found.double() - exact).abs().max() <= close * exact.abs().max()
