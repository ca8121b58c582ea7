"""Rescalings that change a network's weights but not its function: a measure of sharpness should not see them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from robustscape.modes import evaluating
from robustscape.types import BadInput

_Layer = (nn.Linear, nn.modules.conv._ConvNd)
_BatchNorm = nn.modules.batchnorm._BatchNorm

_Changes = list[tuple[Tensor, Tensor]]
"""Tensors of a network, each with the values that it is to get."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescaled:
    """A network of the same function at other weights.

    Attributes:
        model: The rescaled copy, in the modes of the original.
        pairs: Names of the two modules of each rescaling, in the order in which they are called.
    """

    model: nn.Module
    pairs: tuple[tuple[str, str], ...]


def before_normalisation(model: nn.Module, x: Tensor, *, factor: float = 2.0, tolerance: float = 1e-5) -> Rescaled:
    """Return a copy in which every layer right before a BatchNorm is ``factor`` times as large.

    Weight and bias of the convolution or linear module are multiplied by c, BatchNorm's running mean too, and its
    running variance becomes c^2 (variance + eps) - eps. So the function in eval mode stays exactly, also where eps
    is not small beside the variance (c^2 variance alone would not do); below c = 1 the running variance may fall
    below 0, by less than eps. In train mode the function stays up to eps.

    A BatchNorm is right behind a layer if it is the next such module to be called and the logits of the probe
    inputs stay; so residual networks are rescaled within their branches only.

    Args:
        model: Is not changed.
        x: (N, C, H, W), probe inputs on which the function is compared, in [0, 1].
        factor: c, above 0 and not 1. Powers of two bring the least rounding.
        tolerance: Largest change of a logit relative to the largest logit.

    Raises:
        BadInput: a factor that cannot be meant, or the model has no such pair.
    """
    return _rescaled(model, x, factor, tolerance, _normalised, "no layer right before a BatchNorm")


def between_layers(model: nn.Module, x: Tensor, *, factor: float = 2.0, tolerance: float = 1e-5) -> Rescaled:
    """Return a copy in which of two successive layers the first is ``factor`` times as large, the second as much less.

    Dinh 2017 (https://arxiv.org/abs/1703.04933, section 4): ReLU, pooling and whatever else is positively homogeneous
    hands a factor on. Weight and bias of the first are multiplied by alpha, the weight of the second is divided by it,
    and its bias stays. The first may also be a BatchNorm, whose weight and bias are meant. Each module is
    rescaled once at most. Pairs are found as by ``before_normalisation``.

    Args:
        model: Is not changed.
        x: (N, C, H, W), probe inputs on which the function is compared, in [0, 1].
        factor: alpha, above 0 and not 1. Powers of two bring the least rounding.
        tolerance: Largest change of a logit relative to the largest logit.

    Raises:
        BadInput: a factor that cannot be meant, or the model has no such pair.
    """
    return _rescaled(model, x, factor, tolerance, _successive, "no two layers with but ReLU or pooling between them")


def _normalised(first: nn.Module, second: nn.Module, c: float) -> tuple[_Changes, _Changes] | None:
    """Return what multiplies a layer by c, and what BatchNorm makes up for it with."""
    own = _own(first)
    if not (isinstance(first, _Layer) and isinstance(second, _BatchNorm) and "weight" in own):
        return None
    mean, variance = second.running_mean, second.running_var
    if mean is None or variance is None:
        return None
    made_up = [(mean, c * mean), (variance, c**2 * (variance + second.eps) - second.eps)]
    return [(value, c * value) for value in own.values()], made_up


def _successive(first: nn.Module, second: nn.Module, c: float) -> tuple[_Changes, _Changes] | None:
    """Return what multiplies a layer by c, and what divides the next one by it."""
    one, other = _own(first), _own(second)
    if not (isinstance(first, (*_Layer, _BatchNorm)) and isinstance(second, _Layer)):
        return None
    if first is second or "weight" not in one or "weight" not in other:
        return None
    return [(value, c * value) for value in one.values()], [(other["weight"], other["weight"] / c)]


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's own parameters, none where they are computed from others."""
    return {name: value.detach() for name, value in module.named_parameters(recurse=False)}


def _rescaled(
    model: nn.Module,
    x: Tensor,
    factor: float,
    tolerance: float,
    changes: Callable[[nn.Module, nn.Module, float], tuple[_Changes, _Changes] | None],
    missing: str,
) -> Rescaled:
    if not 0 < factor < math.inf or factor == 1:
        raise BadInput(f"the factor of a rescaling must be above 0, finite and not 1, not {factor:g}")
    made = copy.deepcopy(model)
    names = _called(made, x)
    modules, logits = dict(made.named_modules()), _logits(made, x)
    pairs: list[tuple[str, str]] = []
    for first, second in dict.fromkeys(pairwise(names)):
        halves = changes(modules[first], modules[second], factor)
        used = {name for pair in pairs for name in pair}
        if halves and not used & {first, second} and _kept(made, x, logits, *halves, tolerance):
            pairs.append((first, second))
    if not pairs:
        raise BadInput(f"{type(model).__name__} has {missing} that it could be rescaled at")
    return Rescaled(model=made, pairs=tuple(pairs))


def _called(model: nn.Module, x: Tensor) -> list[str]:
    """Return the names of layers and BatchNorms in the order in which a forward calls them."""
    names: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: names.append(name))
        for name, module in model.named_modules()
        if isinstance(module, (*_Layer, _BatchNorm))
    ]
    try:
        _logits(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    return names


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), evaluating(model):
        return model(x)


def _kept(model: nn.Module, x: Tensor, logits: Tensor, first: _Changes, second: _Changes, tolerance: float) -> bool:
    """Make both halves of a change if together they keep the logits, and the first alone does not.

    A change that is not seen in the logits at all, as in a branch that is switched off, tells nothing.
    """
    most = tolerance * logits.abs().max()
    before = [(target, target.clone()) for target, _ in (*first, *second)]
    _write(first)
    alone = bool((_logits(model, x) - logits).abs().max() <= most)
    _write(second)
    if not alone and bool((_logits(model, x) - logits).abs().max() <= most):
        return True
    _write(before)
    return False


def _write(changes: Sequence[tuple[Tensor, Tensor]]) -> None:
    for target, value in changes:
        target.copy_(value)
