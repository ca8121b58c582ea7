"""Rewrite a derived copy of a model for eval mode: fewer and cheaper passes, the same function.

Batch normalisations go into the convolutions before them; those that are left become one affine pass together
with the ReLU behind them; convolutions of few input channels get a backward that is not slower than their
forward. What cannot be traced keeps its structure, and only its modules are replaced one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

_THIN = 4  # input channels up to which a convolution's backward is faster as a matrix product and shifted sums
_RELUS = (torch.relu, F.relu)

Refresh = Callable[[], None]


def rewritten(view: nn.Module, source: nn.Module, *, fused: bool) -> tuple[nn.Module, list[Refresh]]:
    """Rewrite a copy of a model that is in eval mode and needs no gradients of its weights.

    Args:
        view: The copy, which is consumed. Its parameters and buffers stay the objects that they are.
        source: The model whose weights are folded.
        fused: Also replace what a compiler would fuse by itself.

    Returns:
        The rewritten module, and what must be called after every copy of weights into ``view``, in order.
    """
    refreshes: list[Refresh] = []
    graph = _traced(view)
    if graph is not None:
        view = graph
        refreshes += [_folded(graph, conv, norm, source) for conv, norm in list(_foldable(graph))]
    if fused:
        affine = _affine_of_graph(graph) if graph is not None else _affine_of_modules(view)
        refreshes += [module.refresh for module in affine]
    if next(view.parameters(), torch.empty(0)).device.type == "cpu":
        _replace_thin(view)
    if graph is not None:
        graph.delete_all_unused_submodules()
        graph.recompile()
    return view, refreshes


def _traced(module: nn.Module) -> fx.GraphModule | None:
    """Return the module as a graph; None for one whose Python decides, or draws numbers, as it runs."""
    try:
        first, second = fx.symbolic_trace(module), fx.symbolic_trace(module)
    except Exception:  # tracing runs the model's own Python, which may raise anything
        return None
    drawn = any(name.startswith("_tensor_constant") for name in first.__dict__ | dict(first.named_buffers()))
    return None if drawn or first.code != second.code else first


# -- batch normalisation into the convolution before it -------------------------------------------------


def _foldable(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Give convolutions whose only use is a batch normalisation, with it; both are run once."""
    modules = dict(graph.named_modules())
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    for norm in graph.graph.nodes:
        if not _is(norm, modules, nn.BatchNorm2d) or modules[str(norm.target)].running_mean is None:
            continue
        conv = norm.args[0]
        if (
            isinstance(conv, fx.Node)
            and _is(conv, modules, nn.Conv2d)
            and len(conv.users) == 1
            and calls.count(str(conv.target)) == calls.count(str(norm.target)) == 1
        ):
            yield conv, norm


def _is(node: fx.Node, modules: Mapping[str, nn.Module], kind: type) -> bool:
    return node.op == "call_module" and type(modules[str(node.target)]) is kind


def _folded(graph: fx.GraphModule, conv: fx.Node, norm: fx.Node, source: nn.Module) -> Refresh:
    """Take the normalisation out of the graph; return what puts its map into the convolution's weights."""
    target = graph.get_submodule(str(conv.target))
    conv_of = source.get_submodule(str(conv.target))
    norm_of = source.get_submodule(str(norm.target))
    assert isinstance(target, nn.Conv2d) and isinstance(conv_of, nn.Conv2d) and isinstance(norm_of, nn.BatchNorm2d)
    if target.bias is None:
        target.bias = nn.Parameter(torch.zeros_like(target.weight[:, 0, 0, 0]), requires_grad=False)
    weight, bias = target.weight, target.bias
    norm.replace_all_uses_with(conv)
    graph.graph.erase_node(norm)

    def refresh() -> None:
        slope, offset = _map(norm_of)
        weight.copy_(conv_of.weight * slope.view(-1, 1, 1, 1))
        bias.copy_(offset if conv_of.bias is None else offset + conv_of.bias * slope)

    return refresh


def _map(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return slope and offset of the map that the normalisation is in eval mode, (C,) each."""
    assert norm.running_mean is not None and norm.running_var is not None
    slope = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        slope = slope * norm.weight
    offset = -norm.running_mean * slope
    return slope, offset if norm.bias is None else offset + norm.bias


# -- batch normalisation and ReLU in one pass -----------------------------------------------------------


class _Affine(nn.Module):
    """A batch normalisation in eval mode, and the ReLU behind it where there is one."""

    slope: Tensor

    def __init__(self, norm: nn.BatchNorm2d, *, relu: bool) -> None:
        super().__init__()
        self.norm = norm
        self.relu = relu
        self.register_buffer("slope", _map(norm)[0].detach().view(1, -1, 1, 1))

    def refresh(self) -> None:
        """Compute the slope from the present weights."""
        self.slope.copy_(_map(self.norm)[0].view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, (N, C, H, W)."""
        return _AffinePass.apply(x, self.norm, self.slope, self.relu)  # pyright: ignore[reportReturnType]


class _AffinePass(torch.autograd.Function):
    """torch's own forward, which is fast, and a backward that is one product and one mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.BatchNorm2d, slope: Tensor, relu: bool) -> Tensor:
        mean, var = norm.running_mean, norm.running_var
        out = torch.batch_norm(x, norm.weight, norm.bias, mean, var, False, 0.0, norm.eps, False)
        ctx.save_for_backward(slope, *([out.relu_()] if relu else []))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slope, *out = ctx.saved_tensors
        if out:
            return torch.ops.aten.threshold_backward(grad, out[0], 0).mul_(slope.to(grad.dtype)), None, None, None
        return grad * slope.to(grad.dtype), None, None, None


def _affine_of_graph(graph: fx.GraphModule) -> list[_Affine]:
    """Put one pass for every normalisation that is left, and for the ReLU that alone uses it."""
    made: list[_Affine] = []
    modules = dict(graph.named_modules())
    for norm in list(graph.graph.nodes):
        if not _is(norm, modules, nn.BatchNorm2d) or modules[str(norm.target)].running_mean is None:
            continue
        relu = next(iter(norm.users)) if len(norm.users) == 1 else None
        relu = relu if relu is not None and _is_relu(relu, modules) else None
        name = f"affine_{len(made)}"
        module = _Affine(graph.get_submodule(str(norm.target)), relu=relu is not None)  # pyright: ignore[reportArgumentType]
        graph.add_submodule(name, module)
        made.append(module)
        norm.target = name
        if relu is not None:
            relu.replace_all_uses_with(norm)
            graph.graph.erase_node(relu)
    return made


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_method":
        return node.target == "relu"
    return _is(node, modules, nn.ReLU) or (node.op == "call_function" and node.target in _RELUS)


def _affine_of_modules(view: nn.Module) -> list[_Affine]:
    """Put one pass for every normalisation of a model that could not be traced."""
    made: list[_Affine] = []
    for parent, name, module in list(_children(view)):
        if type(module) is nn.BatchNorm2d and module.running_mean is not None:
            made.append(_Affine(module, relu=False))
            setattr(parent, name, made[-1])
    return made


def _children(view: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in view.modules():
        for name, module in parent.named_children():
            yield parent, name, module


# -- convolutions of images -----------------------------------------------------------------------------


class _Thin(nn.Module):
    """A convolution of few input channels with the same forward and a faster backward."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved x, (N, O, H', W')."""
        conv = self.conv
        return _ThinPass.apply(x, conv.weight, conv.bias, conv.stride, conv.padding)  # pyright: ignore[reportReturnType]


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


def _replace_thin(view: nn.Module) -> None:
    """Replace the convolutions of few input channels that the faster backward is for."""
    for parent, name, module in list(_children(view)):
        if (
            type(module) is nn.Conv2d
            and module.in_channels <= _THIN
            and module.groups == 1
            and module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and isinstance(module.padding, tuple)
        ):
            setattr(parent, name, _Thin(module))
