"""Adversarial training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.types import Attack, Batch, Loss


@dataclass(frozen=True, kw_only=True)
class AT:
    """Mean cross-entropy of adversarial inputs (Madry 2018, https://arxiv.org/abs/1706.06083, equation 2.1).

    After the attack one forward and one backward pass, in the mode that the model is in: BatchNorm's running
    statistics move once a step, by the adversarial batch.

    Attributes:
        attack: The inner maximisation.

    Deviations:
        From the code of Rice 2020, which Wu 2020 builds on: its attack runs in train mode and moves the
        running statistics at every step (``Training.attack_mode="train"``, ``attack_statistics="counted"``),
        and a clean pass made for logging moves them once more (``Training.clean_pass``).
    """

    attack: Attack = field(default_factory=PGD)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of the adversarial inputs."""
        loss = F.cross_entropy(model(x_adv), batch.y if batch.target is None else batch.target)
        return Loss(total=loss, parts={"adversarial_cross_entropy": loss})
