"""How often an attack or a loss runs a model, by running it on a few inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscape.modes import evaluating
from robustscape.types import Attack


def passes(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return how many forwards of the model one call of the attack takes at most.

    It is run on the few inputs given, against a stand-in that costs nothing and that no input fools: whatever comes,
    its logits are those of the inputs given.
    """
    with torch.no_grad(), evaluating(model):
        counted = _Counted(_Unmoved(model(x)))
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


class _Unmoved(nn.Module):
    """Gives the same logits for all inputs, in as many rows as there are inputs."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(len(x), device=x.device) % len(self.logits)
        return self.logits[rows] + 0 * x.flatten(1).sum(dim=1, keepdim=True)


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
