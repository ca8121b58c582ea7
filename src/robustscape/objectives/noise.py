"""Training on random noise: the control for adversarial training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.noise import Noise
from robustscape.attacks.threat import ThreatModel
from robustscape.types import Attack, BadInput, Batch, Loss


@dataclass(frozen=True, kw_only=True)
class NoiseTraining:
    """Mean cross-entropy of inputs with random noise (Yamada 2021, https://arxiv.org/abs/2102.02950).

    The control for adversarial training: as large a change of the inputs, but nobody chooses it. Drawing costs no
    pass; after it one forward and one backward pass, in the mode that the model is in.

    Attributes:
        attack: The noise: uniform in the ball, or Gaussian where ``sigma`` is given. Of any other attack the ball is
            taken, and uniform noise in it.
    """

    attack: Attack = field(default_factory=Noise)

    def __post_init__(self) -> None:
        """Take the ball of an attack that searches."""
        if isinstance(self.attack, Noise):
            return
        if not isinstance(self.attack.threat, ThreatModel):
            raise BadInput(f"noise needs a ball to be drawn from, and {type(self.attack).__name__} has none")
        object.__setattr__(self, "attack", Noise(threat=self.attack.threat))

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of the noisy inputs, ``x_adv``."""
        loss = F.cross_entropy(model(x_adv), batch.y if batch.target is None else batch.target)
        return Loss(total=loss, parts={"noisy_cross_entropy": loss})
