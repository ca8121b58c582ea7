"""Convolutions and batch normalisations in eval mode whose gradients are cheap to differentiate once more.

torch's own second derivatives of both are right, but made of more and slower passes over the activations. Here each is
made of the operations that torch has for the first: equal up to rounding, in every precision and on every device. A
third derivative is not to be had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten


class Twice(TorchFunctionMode):
    """Makes the convolutions and batch normalisations of the forwards in its block such as are described above.

    What it does not know (other dimensions, padding by name, statistics of the batch) stays torch's.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call one of the functions of torch that the forward calls, or what takes its place."""
        given = kwargs or {}
        if torch.is_grad_enabled() and func is torch.conv2d:
            return _conv2d(*args, **given)
        if torch.is_grad_enabled() and func is F.batch_norm:
            return _batch_norm(*args, **given)
        return func(*args, **given)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Stand in for ``torch.conv2d``, by its arguments' names."""
    if isinstance(padding, str) or input.ndim != 4:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    shape = (*(_pair(value) for value in (stride, padding, dilation)), False, [0, 0], groups)
    return _Convolution.apply(input, weight, bias, shape)  # pyright: ignore[reportReturnType]


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Stand in for ``torch.nn.functional.batch_norm``, by its arguments' names."""
    if training or running_mean is None or running_var is None or weight is None or bias is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _Norm.apply(input, weight, bias, running_mean, running_var, eps)  # pyright: ignore[reportReturnType]


def _pair(value: Any) -> list[int]:
    """Return a number for height and width, which torch takes one of where both are equal."""
    both = [value] if isinstance(value, int) else list(value)
    return both * 2 if len(both) == 1 else both


def _laid(w: Tensor) -> Tensor:
    """Return a convolution's weights as they are multiplied fastest, which decides how activations are laid out too.

    Not a part of the graph: that is of the weights themselves, so that it is known when they move.
    """
    return w.contiguous(memory_format=torch.channels_last) if w.device.type == "cpu" else w


class _Convolution(torch.autograd.Function):
    """z = x * w + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, shape: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.shape = shape
        return _aten.convolution(x, _laid(w), b, *shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *_ConvolutionSlopes.apply(g, *ctx.saved_tensors, ctx.shape, ctx.needs_input_grad[:3]), None  # pyright: ignore[reportGeneralTypeIssues]


class _ConvolutionSlopes(torch.autograd.Function):
    """The gradient g of z to that of x, w and b; those of them that are wanted."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, shape: tuple[Any, ...], wanted: tuple[bool, ...]) -> Any:
        ctx.save_for_backward(g, x, w)
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        return _aten.convolution_backward(g, x, _laid(w), [len(w)] if wanted[2] else None, *shape, list(wanted))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_x: Tensor | None, to_w: Tensor | None, to_b: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (g, x, w), shape = ctx.saved_tensors, ctx.shape

        def slopes(x: Tensor, w: Tensor, *wanted: bool) -> tuple[Tensor, Tensor]:
            return _aten.convolution_backward(g, x, _laid(w), None, *shape, [*wanted, False])[:2]

        ways = [(a, b) for a, b in ((to_x, w), (x, to_w)) if a is not None and b is not None]
        of_g = _sum([_aten.convolution(a, _laid(b), None, *shape) for a, b in ways])
        if to_b is not None:
            of_g = to_b.view(-1, 1, 1).expand_as(g) if of_g is None else of_g.add_(to_b.view(-1, 1, 1))
        of_x = slopes(x, to_w, True, False)[0] if to_w is not None and ctx.needs_input_grad[1] else None
        of_w = slopes(to_x, w, False, True)[1] if to_x is not None and ctx.needs_input_grad[2] else None
        return of_g, of_x, of_w, None, None


def _sum(parts: Sequence[Tensor]) -> Tensor | None:
    """Return the sum of at most two tensors, in the place of the first."""
    return None if not parts else parts[0] if len(parts) == 1 else parts[0].add_(parts[1])


class _Norm(torch.autograd.Function):
    """z = (x - mean) r w + b, with r = 1 / sqrt(var + eps)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, w, mean, var)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, w, b, eps=eps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *_NormSlopes.apply(g, *ctx.saved_tensors, ctx.eps, ctx.needs_input_grad[:3]), None, None, None  # pyright: ignore[reportGeneralTypeIssues]


class _NormSlopes(torch.autograd.Function):
    """The gradient g of z to g r w of x, sum g (x - mean) r of w and sum g of b; those of them that are wanted."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, mean: Tensor, var: Tensor, eps: float, wanted: tuple[bool, ...]
    ) -> Any:
        ctx.save_for_backward(g, x, w, mean, var)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return _norm_backward(g, x, w, mean, var, eps, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_x: Tensor | None, to_w: Tensor | None, to_b: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (g, x, w, mean, var), eps = ctx.saved_tensors, ctx.eps
        to_w, to_b = (torch.zeros_like(w) if to is None else to for to in (to_w, to_b))
        of_g = F.batch_norm(x, mean, var, to_w, to_b, eps=eps)
        if to_x is None:
            to_x = torch.zeros_like(x)
        else:
            of_g.addcmul_(to_x, (w * torch.rsqrt(var + eps)).view(-1, *[1] * (x.ndim - 2)))
        # g r to_w and sum g to_x r are what the slopes of to_x, with to_w for a weight and no mean, would be.
        wanted = (*ctx.needs_input_grad[1:3], False)
        of_x, of_w, _ = _norm_backward(g, to_x, to_w, torch.zeros_like(mean), var, eps, wanted)
        return of_g, of_x, of_w, None, None, None, None


def _norm_backward(
    g: Tensor, x: Tensor, w: Tensor, mean: Tensor, var: Tensor, eps: float, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return _aten.native_batch_norm_backward(g, x, w, mean, var, None, None, False, eps, list(wanted))
