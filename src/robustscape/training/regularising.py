"""What is done to gradients and weights beside the loss: penalties, and clipping."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustscape.training.settings import Training
from robustscape.types import BadInput, Params
from robustscape.weights.space import is_normalisation, norm, select


def penalised(model: nn.Module, settings: Training) -> dict[str, Tensor]:
    """Add the gradients of the penalties to ``.grad``; returns the penalties by name, scalars, {} without any.

    Over the weights outside normalisation, without biases and what is frozen: l1 sum |w| (as in the code of Rice 2020)
    and l2 / 2 sum w^2. They are of the weights that the model carries, whatever perturbation the loss was taken at.
    """
    terms: dict[str, Tensor] = {}
    if not (settings.l1 or settings.l2):
        return terms
    parameters = dict(model.named_parameters())
    weights = {name: w for name, w in select(model, "weights").items() if parameters[name].requires_grad}
    if not weights:
        return terms
    if settings.l1:
        terms["l1"] = settings.l1 * torch.stack([w.abs().sum() for w in weights.values()]).sum()
    if settings.l2:
        terms["l2"] = settings.l2 / 2 * torch.stack([w.square().sum() for w in weights.values()]).sum()
    for name, w in weights.items():
        slope = settings.l1 * w.sign() + settings.l2 * w
        given = parameters[name].grad
        parameters[name].grad = slope if given is None else given.add_(slope)
    return terms


def clip_gradient(model: nn.Module, settings: Training) -> None:
    """Shorten the whole gradient in ``.grad`` to a length, or cut each of its entries off."""
    most = settings.clip_gradient
    if most is None:
        return
    slopes: Params = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if settings.clip_gradient_by == "entry":
        for slope in slopes.values():
            slope.clamp_(-most, most)
        return
    length = norm(slopes)
    if float(length) > most:
        torch._foreach_mul_(list(slopes.values()), most / length)


def check_clipping(model: nn.Module, settings: Training) -> None:
    """Refuse to cut off what normalisation multiplies by, as in a network whose BatchNorm stores its scale as it is.

    Raises:
        BadInput: all parameters are to be clipped, and a scale is above w_max before the first step.
    """
    most = settings.clip_weights
    if most is None or settings.clip_weights_of != "all":
        return
    for module in model.modules():
        if not is_normalisation(module) or callable(getattr(module, "scale", None)):  # it stores its scale less 1
            continue
        for name, w in module.named_parameters(recurse=False):
            if name != "bias" and w.requires_grad and (scale := float(w.detach().abs().max())) > most:
                raise BadInput(
                    f"training.clip_weights is {most:g} for all parameters, and would cut the scale of a "
                    f"{type(module).__name__}, {scale:g}, which leaves a dead network; did you mean "
                    "--training.clip-weights-of weights, or --model stutz_resnet, whose normalisation stores its scale "
                    "less 1?"
                )


def clip_weights(model: nn.Module, settings: Training) -> None:
    """Cut what is not frozen off to [-w_max, w_max] after a step (Stutz 2021, https://arxiv.org/abs/2104.04448)."""
    if settings.clip_weights is None:
        return
    parameters = dict(model.named_parameters())
    for name, w in select(model, settings.clip_weights_of).items():
        if parameters[name].requires_grad:
            w.clamp_(-settings.clip_weights, settings.clip_weights)
