"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robustscape.training.optimizers._groups import check, groups
from robustscape.training.optimizers._light import light
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class SGD:
    """SGD with momentum; weight decay is ``weight_decay * w`` added to the gradient.

    Attributes:
        lr: Learning rate that the schedule multiplies, above 0.
        momentum: Share of the last step that is kept, in [0, 1).
        nesterov: Look ahead (Nesterov's form); needs momentum.
        weight_decay: Coefficient of w in the gradient, at least 0.
        decay: What decays: "all" parameters, as the code of Rice 2020 and Wu 2020, or "weights": those of more
            than one dimension, leaving out biases and normalisation.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check(self.lr, self.weight_decay, self.decay)
        if not 0 <= self.momentum < 1:
            raise BadInput(f"momentum is in [0, 1), not {self.momentum:g}")
        if self.nesterov and not self.momentum:
            raise BadInput("nesterov needs momentum above 0")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser over the model's parameters."""
        return light(torch.optim.SGD)(
            groups(model, self.weight_decay, self.decay), lr=self.lr, momentum=self.momentum, nesterov=self.nesterov
        )
