"""Adversarial training on a part of each batch, and what Stutz 2021 varies of the attack."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel, per_example
from robustscape.modes import evaluating
from robustscape.streams import Streams, numbered
from robustscape.types import Attack, BadInput, Batch, Loss, Threat


@dataclass(frozen=True, kw_only=True)
class PartAT:
    """Mean cross-entropy of a batch of which ``share`` is adversarial and the rest clean, and variants of the attack.

    Variants of adversarial training that Stutz 2021 (https://arxiv.org/abs/2104.04448, supplement) compares; with
    the defaults of ``labels`` and ``misclassified`` and a share of 1 this is AT. After the attack, which is made for
    the adversarial part alone, one forward and one backward pass through both parts together, in the mode that the
    model is in.

    Attributes:
        attack: The inner maximisation.
        share: Share of each batch that is attacked, the last rows, in (0, 1]; rounded up to whole images.
        labels: Labels that the attack leads away from: "true", or "predicted", the model's own on the clean input,
            so that an attack of one step cannot leak the true ones (Kurakin 2017, https://arxiv.org/abs/1611.01236).
            The loss has the true ones.
        misclassified: What is trained on where the clean input is misclassified in train mode: "attacked" as all
            others, or "clean", the clean input. To know, one forward of the clean inputs, which moves the running
            statistics once more.

    Deviations:
        From Stutz' code, ``official``: for shares other than 0.5 it weighs the mean of the clean part by the share of
        the adversarial one and the other way round; here every image counts the same. It predicts "predicted" labels
        in train mode, which moves the running statistics; here the attack's own mode, and no trace.
        Of parts of a batch, where memory is short, or on several ranks, the last rows of each part are attacked.
    """

    attack: Attack = field(default_factory=PGD)
    share: float = 0.5
    labels: Literal["true", "predicted"] = "true"
    misclassified: Literal["attacked", "clean"] = "attacked"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 0 < self.share <= 1:
            raise BadInput(f"the share of a batch that is attacked is in (0, 1], not {self.share:g}; for none take the "
                           "objective natural")  # fmt: skip
        if self.labels not in ("true", "predicted"):
            raise BadInput(f"the attack's labels are 'true' or 'predicted', not {self.labels!r}")
        if self.misclassified not in ("attacked", "clean"):
            raise BadInput(f"misclassified images are 'attacked' or left 'clean', not {self.misclassified!r}")

    @classmethod
    def official(cls) -> PartAT:
        """Return the setting of Stutz' code: half of each batch, 7 steps of 0.007 at eps 0.0314."""
        return cls(attack=_stutz())

    @classmethod
    def ignore_incorrect(cls) -> PartAT:
        """Return Stutz' variant that leaves misclassified images clean, on whole batches."""
        return cls(attack=_stutz(), share=1.0, misclassified="clean")

    @classmethod
    def prevent_label_leaking(cls) -> PartAT:
        """Return Stutz' variant that attacks predicted labels, on whole batches."""
        return cls(attack=_stutz(), share=1.0, labels="predicted")

    @property
    def takes(self) -> Literal["labels", "soft", "mixed"]:
        """Return "mixed", or "soft" where it must tell what is misclassified."""
        return "soft" if self.misclassified == "clean" else "mixed"

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def stage(self, batch: Batch, rng: Streams, done: int, total: int) -> tuple[Batch, Attack]:
        """Return the batch as it is, and the attack on a part of it."""
        return batch, _Partly(attack=self.attack, share=self.share, labels=self.labels)

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the mean loss of all inputs; ``x_adv`` is the clean input where nothing was attacked."""
        if self.misclassified == "clean":
            with torch.no_grad():
                wrong = model(batch.x).argmax(dim=1) != batch.y
            x_adv = torch.where(per_example(wrong, x_adv), batch.x, x_adv)
        target = batch.y if batch.target is None else batch.target
        each = F.cross_entropy(model(x_adv), target, reduction="none")
        moved = (x_adv != batch.x).flatten(1).any(dim=1)
        parts = {"clean_cross_entropy": ~moved, "adversarial_cross_entropy": moved}
        means = {name: (each * mask).sum() / mask.sum().clamp(min=1) for name, mask in parts.items()}
        return Loss(total=each.mean(), parts=means)


def _stutz() -> PGD:
    return PGD(threat=ThreatModel(eps=0.0314), steps=7, step_size=0.007, start="direction", result="best_loss")


@dataclass(frozen=True, kw_only=True)
class _Partly:
    """An attack on the last rows of a batch alone; the first stay clean."""

    attack: Attack
    share: float
    labels: Literal["true", "predicted"]

    @property
    def threat(self) -> Threat:
        """Return that of the attack."""
        return self.attack.threat

    def at(self, eps: float) -> _Partly:
        """Return the same at another eps."""
        return replace(self, attack=self.attack.at(eps))

    def describe(self) -> str:
        """Return it in words."""
        return f"{self.attack.describe()} on {self.share:.0%} of a batch"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None) -> Tensor:
        """Return inputs of which the last are adversarial."""
        rows = slice(len(x) - max(1, math.ceil(self.share * len(x) - 1e-9)), None)  # 0.8 of 10 are 8
        some, wanted, rng = x[rows], y[rows], rng or numbered(x, "partly")
        if self.labels == "predicted":
            with torch.no_grad(), evaluating(model):
                wanted = model(some).argmax(dim=1)
        assert rng.index is not None
        x_adv = self.attack(model, some, wanted, rng=rng.of(rng.index[rows]))
        return torch.cat([x[: rows.start], x_adv])
