"""TRADES: accuracy on clean inputs, and outputs that an adversary cannot move."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.losses import KL, Direction, divergence
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives._raising import raising
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
        attack: The inner maximisation. An attack that would raise the cross-entropy raises the divergence here.
        beta: Weight of the divergence (the paper's 1 / lambda), at least 0; its experiments take 1 and 6.
        forwards: How the outputs are computed. 2: of the clean inputs, then of the adversarial ones, BatchNorm by the
            statistics of each. 3: of the clean ones once more after that, as the authors' code, which moves the
            running statistics three times. 1: of both together, as one batch with common statistics.
        first: Which inputs' forward is made first, "clean" or "adversarial"; a third one is of the clean inputs.
        divergence: Of p = p(x) and p' = p(x_adv): "forward" KL(p || p'), "reverse" KL(p' || p), or "symmetric", half
            the sum of both. The attack raises the same one.
        detached: Hold the clean outputs in the divergence fixed: no gradient goes through them there.

    Deviations:
        From the paper: none known.
        From the authors' code: the clean outputs under attack are computed once, see ``losses.KL``; two forwards
        unless three are asked for (``official``, and ``wu`` for Wu 2020's code). Under l2 its attack clips to the box
        before the ball, here after.
        Under ``forwards=1`` the batch is twice as large as what compiled code is made for, so it runs eagerly.
    """

    attack: Attack = field(default_factory=_papers)
    beta: float = 6.0
    forwards: Literal[1, 2, 3] = 2
    first: Literal["clean", "adversarial"] = "clean"
    divergence: Direction = "forward"
    detached: bool = False

    def __post_init__(self) -> None:
        """Let the attack raise the divergence; refuse settings that cannot be meant."""
        if not 0 <= self.beta < float("inf"):
            raise BadInput(f"TRADES's beta must be at least 0, not {self.beta:g}")
        if self.forwards not in (1, 2, 3):
            raise BadInput(f"TRADES makes 1, 2 or 3 forwards, not {self.forwards}")
        if self.first not in ("clean", "adversarial"):
            raise BadInput(f"the first forward of TRADES is 'clean' or 'adversarial', not {self.first!r}")
        if self.forwards == 1 and self.first != "clean":
            raise BadInput("TRADES with forwards=1 has no first forward to choose; did you mean forwards=2?")
        object.__setattr__(self, "attack", raising(self.attack, KL(direction=self.divergence)))

    @classmethod
    def official(cls) -> TRADES:
        """Return the setting of the authors' CIFAR-10 code: three forwards."""
        return cls(forwards=3)

    @classmethod
    def wu(cls) -> TRADES:
        """Return the setting of Wu 2020's code: three forwards, adversarial first; eps 8/255, steps of 2/255."""
        attack = PGD(threat=ThreatModel(eps=8 / 255), steps=10, step_size=2 / 255, start="gaussian")
        return cls(attack=attack, forwards=3, first="adversarial")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of clean and adversarial inputs."""
        clean, adversarial, again = self._outputs(model, batch.x, x_adv)
        error = F.cross_entropy(clean, batch.y if batch.target is None else batch.target)
        log_p_adv, log_p = adversarial.log_softmax(dim=1), again.log_softmax(dim=1)
        log_p = log_p.detach() if self.detached else log_p
        kl = divergence(log_p, log_p_adv, self.divergence, reduction="batchmean")
        return Loss(total=error + self.beta * kl, parts={"cross_entropy": error, "kl": kl})

    def _outputs(self, model: nn.Module, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits that are to be right, the adversarial ones, and those that they are to be like."""
        if self.forwards == 1:
            clean, adversarial = model(torch.cat([x, x_adv])).chunk(2)
            return clean, adversarial, clean
        if self.first == "adversarial":
            adversarial, again = model(x_adv), model(x)
            return model(x) if self.forwards == 3 else again, adversarial, again
        clean, adversarial = model(x), model(x_adv)
        return clean, adversarial, model(x) if self.forwards == 3 else clean
