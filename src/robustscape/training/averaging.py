"""Averages of weights over training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def average_of(model: nn.Module) -> nn.Module:
    """Return the copy that an average starts from; needs no gradient."""
    return copy.deepcopy(model).requires_grad_(False)


def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the exponential moving average: parameters a <- decay a + (1 - decay) w, buffers copied.

    Source: Stutz 2021, https://arxiv.org/abs/2104.04448, section 4, from step 0 on, without bias correction.
    """
    with torch.no_grad():
        mean: list[Tensor] = list(average.parameters())
        present: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(mean, present, 1 - decay)
        for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
