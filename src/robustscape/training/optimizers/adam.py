"""Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robustscape.training.optimizers._groups import check, groups
from robustscape.training.optimizers._light import light
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma 2015, https://arxiv.org/abs/1412.6980); weight decay is added to the gradient (L2).

    Attributes:
        lr: Learning rate that the schedule multiplies, above 0.
        beta1: Memory of the gradient's mean, in [0, 1).
        beta2: Memory of its square, in [0, 1).
        weight_decay: Coefficient of w in the gradient, at least 0.
        decay: What decays: "all" parameters, or "weights": those of more than one dimension.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check(self.lr, self.weight_decay, self.decay)
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise BadInput(f"Adam's betas are in [0, 1), not {self.beta1:g} and {self.beta2:g}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser over the model's parameters."""
        return light(torch.optim.Adam)(
            groups(model, self.weight_decay, self.decay), lr=self.lr, betas=(self.beta1, self.beta2)
        )
