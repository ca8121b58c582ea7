"""How often an attack or a loss runs a model, by running it on a few inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscape.modes import evaluating
from robustscape.types import Attack


def passes(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return how many forwards of the model one call of the attack takes: it is run on the few inputs given."""
    counted = _Counted(model)
    attack(counted, x, y)
    return counted.calls


def forwards(loss: Callable[[nn.Module], object], model: nn.Module, examples: int) -> float:
    """Return how often a loss takes an example, or its adversarial input, through the model: it is computed once.

    Args:
        loss: Computes it for some examples with the model that it is given.
        model: Is left without a trace.
        examples: How many examples those are.
    """
    counted = _Counted(model)
    with torch.no_grad(), evaluating(model):
        loss(counted)
    return counted.rows / examples


class _Counted(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls = 0
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        return self.model(x)
