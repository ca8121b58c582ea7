"""AdamW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robustscape.training.optimizers._groups import check, groups
from robustscape.training.optimizers._light import light
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam whose weight decay shrinks the weights by ``lr * weight_decay`` beside the step.

    Source: Loshchilov 2019, https://arxiv.org/abs/1711.05101, Algorithm 2, the schedule's factor in ``lr``.

    Attributes:
        lr: Learning rate that the schedule multiplies, above 0.
        beta1: Memory of the gradient's mean, in [0, 1).
        beta2: Memory of its square, in [0, 1).
        weight_decay: Share of w that a step of lr 1 takes away, at least 0.
        decay: What decays: "all" parameters, or "weights": those of more than one dimension.

    A weight perturbation whose code decays at w + v (``decay_at``) takes ``lr * weight_decay * v`` off the weights too.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check(self.lr, self.weight_decay, self.decay)
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise BadInput(f"AdamW's betas are in [0, 1), not {self.beta1:g} and {self.beta2:g}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser over the model's parameters."""
        return light(torch.optim.AdamW)(
            groups(model, self.weight_decay, self.decay), lr=self.lr, betas=(self.beta1, self.beta2)
        )
