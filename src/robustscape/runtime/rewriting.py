"""Rewrite a derived copy of a model for eval mode: fewer and cheaper passes, the same function.

In every model, batch normalisations and convolutions of few input channels get a backward that is not slower than
their forward. In the networks of this library, whose forwards are known to be traced rightly, dropout goes, batch
normalisations go into the convolutions before them, and those that are left become one pass with the ReLU behind them.
Tracing anyone's model would lose hooks, backwards of its own, and whatever its Python decides as it runs.

A batch normalisation of this library is torch's, but for the factor that its ``scale`` gives in place of ``weight``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from robustscape.runtime.thin import Thin, is_thin

_OWN = "robustscape."
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
    if is_own(view):
        view = graph = fx.GraphModule(view, _Tracer().trace(view), type(view).__name__)
        _drop_dropout(graph)
        refreshes += [_folded(graph, conv, norm, source) for conv, norm in list(_foldable(graph))]
        if fused:
            _join_relus(graph)
        graph.delete_all_unused_submodules()
        graph.recompile()
    for module in view.modules():
        if "forward" in vars(module):
            continue
        if fused and _is_norm(module) and module.running_mean is not None:
            module.forward = _Affine(module)
        if isinstance(module, nn.Conv2d) and is_thin(module):
            module.forward = Thin(module)
    return view, refreshes


def is_own(view: nn.Module) -> bool:
    """Return whether every module is this library's or torch's, as they come: no hook, no forward of its own.

    The outermost one is this library's, or a plain sequence: a normalisation and a network.
    """
    known = type(view).__module__.startswith(_OWN) or type(view) is nn.Sequential
    return known and all(
        type(module).__module__.startswith((_OWN, "torch.nn.modules."))
        and "forward" not in vars(module)
        and not any(value for name, value in vars(module).items() if name.endswith("_hooks"))
        for module in view.modules()
    )


class _Tracer(fx.Tracer):
    """Leaves batch normalisations whole, this library's own too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_norm(m) or super().is_leaf_module(m, module_qualified_name)


def _is_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    own = isinstance(module, nn.BatchNorm2d) and type(module).__module__.startswith(_OWN)
    return own or type(module) is nn.BatchNorm2d


def _drop_dropout(graph: fx.GraphModule) -> None:
    """Take dropout out of the graph, which in eval mode does nothing but stand between other modules."""
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        if _is(node, modules, nn.Dropout):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.graph.erase_node(node)


# -- batch normalisation into the convolution before it -------------------------------------------------


def _foldable(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Give convolutions whose only use is a batch normalisation, with it; both are run once."""
    modules = dict(graph.named_modules())
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    for norm in graph.graph.nodes:
        if not _calls_norm(norm, modules) or modules[str(norm.target)].running_mean is None:
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


def _calls_norm(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    return node.op == "call_module" and _is_norm(modules[str(node.target)])


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
    slope, scale = torch.rsqrt(norm.running_var + norm.eps), _scale(norm)
    if scale is not None:
        slope = slope * scale
    offset = -norm.running_mean * slope
    return slope, offset if norm.bias is None else offset + norm.bias


def _scale(norm: nn.BatchNorm2d) -> Tensor | None:
    """Return the factor of the normalised channels, (C,), None for 1."""
    return norm.weight if type(norm) is nn.BatchNorm2d else norm.scale()  # pyright: ignore[reportCallIssue]


# -- batch normalisation and ReLU in one pass -----------------------------------------------------------


class _Affine:
    """The forward of a batch normalisation in eval mode, and of the ReLU behind it where there is one."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.norm = norm
        self.relu = bool(getattr(norm, _JOINED, False))

    def __call__(self, input: Tensor) -> Tensor:
        return _AffinePass.apply(input, self.norm, self.relu)  # pyright: ignore[reportReturnType]


_JOINED = "_robustscape_relu"  # marks a batch normalisation of a copy whose ReLU is gone from the graph


class _AffinePass(torch.autograd.Function):
    """torch's own forward, which is fast, and a backward that is one product and one mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.BatchNorm2d, relu: bool) -> Tensor:
        mean, var = norm.running_mean, norm.running_var
        out = torch.batch_norm(x, _scale(norm), norm.bias, mean, var, False, 0.0, norm.eps, False)
        ctx.save_for_backward(_map(norm)[0].view(1, -1, 1, 1), *([out.relu_()] if relu else []))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slope, *out = ctx.saved_tensors
        if out:
            return torch.ops.aten.threshold_backward(grad, out[0], 0).mul_(slope.to(grad.dtype)), None, None
        return grad * slope.to(grad.dtype), None, None


def _join_relus(graph: fx.GraphModule) -> None:
    """Take out every ReLU that alone uses a normalisation which is run once, and mark the normalisation."""
    modules = dict(graph.named_modules())
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    for norm in list(graph.graph.nodes):
        if not _calls_norm(norm, modules) or calls.count(str(norm.target)) > 1 or len(norm.users) != 1:
            continue
        relu = next(iter(norm.users))
        if modules[str(norm.target)].running_mean is not None and _is_relu(relu, modules):
            setattr(modules[str(norm.target)], _JOINED, True)
            relu.replace_all_uses_with(norm)
            graph.graph.erase_node(relu)


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_method":
        return node.target == "relu"
    return _is(node, modules, nn.ReLU) or (node.op == "call_function" and node.target in _RELUS)
