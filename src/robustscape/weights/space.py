"""Weight space: which parameters, their norms, random directions, derivatives, and moving there and back.

Points and directions are ``Params``: parameter name to tensor. A *layer* is one parameter tensor: weight and
bias of one module are two layers (Stutz 2021, section 3). A *filter* is one slice along the first dimension:
an output channel of a convolution, an output row of a linear module (Li 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.streams import Streams
from robustscape.types import BadInput, NotApplicable, Params

Scope = Literal["weights", "layers", "all"]
"""Which parameters: "weights" are those of more than one dimension outside normalisation, "layers" also the
biases outside normalisation, "all" every parameter."""

NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def is_normalisation(module: nn.Module) -> bool:
    """Return whether a module normalises: by type; a foreign one that subclasses none of torch's by its class name."""
    return isinstance(module, NORMALISATION) or "Norm" in type(module).__name__.replace("Normal", "")


def select(model: nn.Module, scope: Scope) -> Params:
    """Return the parameters of a scope, in the model's order: the tensors themselves, not copies.

    Normalisation parameters are told by the type of their module, never by name.

    Raises:
        NotApplicable: the model has no parameter in the scope.
    """
    normalisation = {
        id(parameter)
        for module in model.modules()
        if is_normalisation(module)
        for parameter in module.parameters(recurse=False)
    }
    chosen = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if scope == "all" or (id(parameter) not in normalisation and (scope == "layers" or parameter.ndim > 1))
    }
    if not chosen:
        raise NotApplicable(f"{type(model).__name__} has no parameters of scope {scope!r} to perturb")
    return chosen


def copied(params: Params) -> Params:
    """Return the point with storage of its own."""
    return {name: value.detach().clone() for name, value in params.items()}


def norm(params: Params) -> Tensor:
    """Return the L2 norm of the whole point, a scalar."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(params.values()))))


def layer_norms(params: Params) -> dict[str, Tensor]:
    """Return the L2 norm of each layer, scalars."""
    return dict(zip(params, torch._foreach_norm(list(params.values())), strict=True))


def filter_norms(value: Tensor) -> Tensor:
    """Return the L2 norm of each filter of one parameter, shaped to broadcast over it: (F, 1, ...)."""
    flat = torch.linalg.vector_norm(value.flatten(1), dim=1)
    return flat.view(-1, *[1] * (value.ndim - 1))


def gaussian(params: Params, rng: Streams) -> Params:
    """Return standard normal numbers in the shape of a point; a function of the parameter's name."""
    return {
        name: rng.tag(name).normal(*value.shape, dtype=value.dtype, device=value.device)
        for name, value in params.items()
    }


def normalised(direction: Params, weights: Params, scheme: Literal["filter", "layer"]) -> Params:
    """Return the direction with the norms of the weights.

    "filter" (Li 2018, https://arxiv.org/abs/1712.09913, section 4): each filter of the direction gets the norm
    of the weights' filter; parameters of one dimension get 0. "layer" (Stutz 2021,
    https://arxiv.org/abs/2104.04448, equation 2): each layer gets the norm of the weights' layer.

    A filter or layer that is 0 in the direction stays 0.

    Deviations:
        Li's code leaves the direction of biases and normalisation parameters equal to the weights themselves
        unless told otherwise; here they are 0 under "filter". Stutz' pictures scale by a ratio of largest
        entries; his equation, and this, by a ratio of L2 norms.
    """
    if scheme == "layer":
        return {name: d * _ratio(weights[name].norm(), d.norm()) for name, d in direction.items()}
    return {
        name: d * _ratio(filter_norms(weights[name]), filter_norms(d)) if d.ndim > 1 else torch.zeros_like(d)
        for name, d in direction.items()
    }


def nothing_moves(model: nn.Module, unit: Literal["filter", "layer"]) -> NotApplicable:
    """Return the refusal of a model that has no filter, or no layer, but such as are 0: relative to them none moves."""
    meant = "; did you mean layer?" if unit == "filter" else ""
    return NotApplicable(
        f"{type(model).__name__} has no {unit} whose norm is above 0, so nothing moves relative to {unit}s{meant}"
    )


def _ratio(wanted: Tensor, present: Tensor) -> Tensor:
    return torch.where(present > 0, wanted / present.clamp(min=torch.finfo(present.dtype).tiny), 0)


def gradient(loss: Tensor, model: nn.Module, names: Sequence[str]) -> Params:
    """Return the gradient of a scalar with respect to the named parameters; writes no ``.grad``.

    A parameter that the loss does not use, or that is frozen, has gradient 0.
    """
    parameters = dict(model.named_parameters())
    moving = [name for name in names if parameters[name].requires_grad]
    slopes = torch.autograd.grad(loss, [parameters[name] for name in moving], allow_unused=True) if moving else ()
    found = {name: slope.detach() for name, slope in zip(moving, slopes, strict=True) if slope is not None}
    return {name: found[name] if name in found else torch.zeros_like(parameters[name]) for name in names}


def hessian_vector_product(loss: Callable[[], Tensor], model: nn.Module, v: Params) -> Params:
    """Return the Hessian of a scalar loss of the weights times v, for the parameters that v names.

    Args:
        loss: Computes the loss with a graph, at the weights that the model carries.
        model: The model.
        v: The direction.

    Returns:
        H v, in v's shape: two backward passes through one graph (reverse over reverse). Writes no ``.grad``.
    """
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in v]
    slopes = torch.autograd.grad(loss(), wanted, create_graph=True, materialize_grads=True)
    along = torch.stack([(slope * v[name]).sum() for name, slope in zip(v, slopes, strict=True)]).sum()
    products = torch.autograd.grad(along, wanted, materialize_grads=True)
    return dict(zip(v, products, strict=True))


@contextmanager
def shifted(model: nn.Module, v: Params, scale: float = 1.0) -> Iterator[None]:
    """Run the block with the weights at w + scale * v; they get their old bits back, on error too.

    The only place outside the optimiser that writes weights. A scale beyond the range of their precision is infinite.

    Raises:
        BadInput: v names a parameter that the model lacks, or has another shape.
    """
    parameters = dict(model.named_parameters())
    for name, value in v.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise BadInput(f"the perturbation of {name!r} does not fit the model: another architecture?")
    targets = [parameters[name].detach() for name in v]
    if any(abs(scale) > torch.finfo(target.dtype).max for target in targets):
        scale = math.copysign(math.inf, scale)  # torch refuses it as it is
    kept = [target.clone() for target in targets]
    try:
        torch._foreach_add_(targets, list(v.values()), alpha=scale)
        yield
    finally:
        torch._foreach_copy_(targets, kept)
