"""MART: adversarial training that looks at what is misclassified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.losses import CrossEntropy
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives._raising import raising
from robustscape.types import Attack, BadInput, Batch, Loss


@dataclass(frozen=True, kw_only=True)
class MART:
    """Misclassification-aware adversarial training (Wang 2020, https://openreview.net/forum?id=rklOg6EFwS).

    Boosted cross-entropy of the adversarial inputs, plus beta times their divergence from the clean ones where these
    are misclassified, softly:

        BCE(p', y) + beta KL(p || p') (1 - p_y),   BCE(p', y) = -log p'_y - log(1 - max_{k != y} p'_k)

    with p of the clean and p' of the adversarial inputs; equation 3 of Wu 2020 (https://arxiv.org/abs/2004.05884).
    After the attack, which raises the cross-entropy, two forwards and a backward through both, in the mode that the
    model is in: BatchNorm's running statistics move twice a step.

    Attributes:
        attack: The inner maximisation. An attack that would raise the KL divergence raises the cross-entropy here.
        beta: Weight of the divergence (lambda), at least 0.
        form: "paper", computed from logits, so that no logarithm is of 0. "code" adds the constants of the authors'
            code: 1.0001 - p' + 1e-12 for 1 - p', p' + 1e-12 in the divergence, 1.0000001 - p_y for 1 - p_y.
        first: Which forward is made first, "clean" or "adversarial"; running statistics follow the later one most.

    Deviations:
        From the paper: none known.
        From the authors' code, ``official``: none known but in the random numbers. Its beta is 5 for ResNet-18 and 6
        for WRN-34-10.
    """

    attack: Attack = field(default_factory=PGD)
    beta: float = 5.0
    form: Literal["paper", "code"] = "paper"
    first: Literal["clean", "adversarial"] = "clean"

    def __post_init__(self) -> None:
        """Let the attack raise the cross-entropy; refuse settings that cannot be meant."""
        if not 0 <= self.beta < float("inf"):
            raise BadInput(f"MART's beta must be at least 0, not {self.beta:g}")
        if self.form not in ("paper", "code"):
            raise BadInput(f"the form of MART is 'paper' or 'code', not {self.form!r}")
        if self.first not in ("clean", "adversarial"):
            raise BadInput(f"the first forward of MART is 'clean' or 'adversarial', not {self.first!r}")
        object.__setattr__(self, "attack", raising(self.attack, CrossEntropy()))

    @classmethod
    def official(cls) -> MART:
        """Return the setting of the authors' CIFAR-10 code: its constants, eps 0.031, step 0.007, a normal start."""
        threat = ThreatModel(eps=0.031)
        return cls(attack=PGD(threat=threat, steps=10, step_size=0.007, start="gaussian"), form="code")

    @property
    def takes(self) -> Literal["labels", "soft", "mixed"]:
        """Return "labels": 1 - p_y and the strongest wrong class are of one label."""
        return "labels"

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of clean and adversarial inputs.

        Raises:
            BadInput: the batch has soft targets: 1 - p_y and the strongest wrong class need a label.
        """
        if batch.target is not None:
            raise BadInput(
                "MART needs one label for each image, so label smoothing, label noise and mixup do not go with it; did "
                "you mean AT or TRADES?"
            )
        if self.first == "clean":
            clean, adversarial = model(batch.x), model(x_adv)
        else:
            adversarial, clean = model(x_adv), model(batch.x)
        parts = _by_paper if self.form == "paper" else _by_code
        boosted, divergence = parts(clean, adversarial, batch.y)
        total = boosted + self.beta * divergence
        return Loss(total=total, parts={"boosted_cross_entropy": boosted, "weighted_kl": divergence})


def _strongest_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Return the most likely class but y, (N, 1)."""
    return logits.detach().scatter(1, y[:, None], float("-inf")).argmax(dim=1, keepdim=True)


def _by_paper(clean: Tensor, adversarial: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the boosted cross-entropy and the weighted divergence, scalars."""
    log_p, log_p_adv = clean.log_softmax(dim=1), adversarial.log_softmax(dim=1)
    others = adversarial.scatter(1, _strongest_wrong(adversarial, y), float("-inf")).logsumexp(dim=1)
    margin = others - adversarial.logsumexp(dim=1)  # log(1 - the largest wrong probability)
    boosted = (F.nll_loss(log_p_adv, y, reduction="none") - margin).mean()
    divergence = F.kl_div(log_p_adv, log_p, reduction="none", log_target=True).sum(dim=1)
    missing = -log_p.gather(1, y[:, None]).squeeze(1).expm1()  # 1 - p_y
    return boosted, (divergence * missing).mean()


def _by_code(clean: Tensor, adversarial: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same with the constants of the authors' code."""
    p, p_adv = clean.softmax(dim=1), adversarial.softmax(dim=1)
    wrong = p_adv.gather(1, _strongest_wrong(adversarial, y)).squeeze(1)
    boosted = F.cross_entropy(adversarial, y) - (1.0001 - wrong + 1e-12).log().mean()
    divergence = F.kl_div((p_adv + 1e-12).log(), p, reduction="none").sum(dim=1)
    missing = 1.0000001 - p.gather(1, y[:, None]).squeeze(1)
    return boosted, (divergence * missing).mean()
