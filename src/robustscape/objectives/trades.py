"""TRADES: accuracy on clean inputs, and outputs that an adversary cannot move."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import KL, CrossEntropy
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.types import Attack, BadInput, Batch, Loss


def _papers() -> PGD:
    return PGD(threat=ThreatModel(eps=0.031), steps=10, step_size=0.007, start="gaussian", loss=KL())


@dataclass(frozen=True, kw_only=True)
class TRADES:
    """Clean cross-entropy plus beta times KL(p(x) || p(x_adv)) (Zhang 2019, https://arxiv.org/abs/1901.08573).

    Equation 5 with Algorithm 1, both means over the batch. The gradient goes through the clean and the adversarial
    outputs. After the attack two forwards and a backward through both, in the mode that the model is in; see
    ``forwards`` for what BatchNorm makes of them.

    Attributes:
        attack: The inner maximisation. An attack that would raise the cross-entropy raises the KL divergence here.
        beta: Weight of the divergence (the paper's 1 / lambda), at least 0; its experiments take 1 and 6.
        forwards: How the outputs are computed. 2: of the clean inputs, then of the adversarial ones, BatchNorm by the
            statistics of each. 3: of the clean ones once more after that, as the authors' code, which moves the
            running statistics three times. 1: of both together, as one batch with common statistics.

    Deviations:
        From the paper: none known.
        From the authors' code: the clean outputs under attack are computed once, see ``losses.KL``; two forwards
        unless three are asked for (``official``). Wu 2020's code makes the three in the order adversarial, clean,
        clean, which moves the running statistics to slightly other values.
        Under ``forwards=1`` the batch is twice as large as what compiled code is made for, so it runs eagerly.
    """

    attack: Attack = field(default_factory=_papers)
    beta: float = 6.0
    forwards: Literal[1, 2, 3] = 2

    def __post_init__(self) -> None:
        """Let the attack raise the divergence; refuse settings that cannot be meant."""
        if not 0 <= self.beta < float("inf"):
            raise BadInput(f"TRADES's beta must be at least 0, not {self.beta:g}")
        if self.forwards not in (1, 2, 3):
            raise BadInput(f"TRADES makes 1, 2 or 3 forwards, not {self.forwards}")
        attack = self.attack
        if isinstance(attack, PGD | FGSM) and attack.loss == CrossEntropy():
            attack = replace(attack, loss=KL())
            object.__setattr__(self, "attack", attack)
        if isinstance(attack, PGD) and attack.start == "none" and attack.loss == KL():
            raise BadInput("the divergence has no gradient at the clean input, where start='none' begins; did you mean "
                           "start='gaussian'?")  # fmt: skip
        if isinstance(attack, FGSM) and not attack.random_start and attack.loss == KL():
            raise BadInput("the divergence has no gradient at the clean input; did you mean FGSM's random_start?")

    @classmethod
    def official(cls) -> TRADES:
        """Return the setting of the authors' CIFAR-10 code: three forwards."""
        return cls(forwards=3)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of clean and adversarial inputs."""
        if self.forwards == 1:
            clean, adversarial = model(torch.cat([batch.x, x_adv])).chunk(2)
        else:
            clean, adversarial = model(batch.x), model(x_adv)
        again = model(batch.x) if self.forwards == 3 else clean
        error = F.cross_entropy(clean, batch.y if batch.target is None else batch.target)
        divergence = F.kl_div(
            adversarial.log_softmax(dim=1), again.log_softmax(dim=1), reduction="batchmean", log_target=True
        )
        return Loss(total=error + self.beta * divergence, parts={"cross_entropy": error, "kl": divergence})
