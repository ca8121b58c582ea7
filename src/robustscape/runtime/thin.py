"""Convolutions of images, of few input channels, with a backward that is not slower than their forward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_THIN = 4  # input channels up to which a convolution's backward is faster as a matrix product and shifted sums


def is_thin(module: nn.Conv2d) -> bool:
    """Return whether the faster backward is for this convolution."""
    return (
        type(module) is nn.Conv2d
        and module.in_channels <= _THIN
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
        and module.weight.device.type == "cpu"
    )


class Thin:
    """The forward of a convolution of few input channels, with a faster backward: to the input alone.

    Args:
        conv: One that ``is_thin``.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv

    def __call__(self, input: Tensor) -> Tensor:
        """Return what the convolution makes of its input, (N, C, H, W)."""
        conv = self.conv
        return _ThinPass.apply(input, conv.weight, conv.bias, conv.stride, conv.padding)  # pyright: ignore[reportReturnType]


class _ThinPass(torch.autograd.Function):
    """The gradient to the input: one matrix product gives what each tap sends back, summed in float32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding, ctx.dtype = x.shape, stride, padding, x.dtype
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        (n, channels, height, width), (down, right), (top, left) = ctx.shape, ctx.stride, ctx.padding
        out, _, rows, columns = weight.shape
        _, _, high, wide = grad.shape
        taps = weight.to(grad.dtype).permute(1, 2, 3, 0).reshape(-1, out)
        sent = torch.mm(taps, grad.permute(0, 2, 3, 1).reshape(-1, out).t())
        sent = sent.view(channels, rows, columns, n, high, wide)
        wanted = torch.float64 if grad.dtype == torch.float64 else torch.float32
        sums = grad.new_zeros(channels, n, height + 2 * top, width + 2 * left, dtype=wanted)
        for i in range(rows):
            for j in range(columns):
                sums[:, :, i : i + high * down : down, j : j + wide * right : right].add_(sent[:, i, j])
        inner = sums[:, :, top : top + height, left : left + width].transpose(0, 1)
        return inner.to(ctx.dtype).contiguous(memory_format=torch.channels_last), None, None, None, None
