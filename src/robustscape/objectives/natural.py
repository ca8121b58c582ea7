"""Ordinary training."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.types import Attack, Batch, Loss


@dataclass(frozen=True, kw_only=True)
class Natural:
    """Mean cross-entropy of the clean inputs, nats per example. One forward and one backward pass.

    Attributes:
        attack: None: nothing is attacked.
    """

    attack: Attack | None = None

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of the clean inputs; ``x_adv`` is not looked at."""
        loss = F.cross_entropy(model(batch.x), batch.y if batch.target is None else batch.target)
        return Loss(total=loss, parts={"cross_entropy": loss})
