"""Robust self-training: labelled and pseudo-labelled images in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives._forms import Form, formed
from robustscape.types import Attack, BadInput, Batch, Loss


@dataclass(frozen=True, kw_only=True)
class RST:
    """The adversarial loss of labelled images plus ``weight`` times that of pseudo-labelled ones.

    Carmon 2019 (https://arxiv.org/abs/1905.13736) with TRADES, Wang 2020 with MART; equation 4 of Wu 2020
    (https://arxiv.org/abs/2004.05884). Both kinds go through the network as one batch, with common batch statistics:
    forwards and running statistics as in the objective of the form. ``Batch.labelled`` tells them apart, see
    ``data.mixed``; where all are labelled, this is the objective of the form.

    Attributes:
        attack: The inner maximisation of both kinds.
        form: The adversarial loss: "trades" (the attack then raises the divergence), "mart" or "at".
        beta: Weight of the divergence of "trades" (6) and "mart" (5); None for those. Not for "at".
        weight: Weight of the pseudo-labelled images (lambda), at least 0.
        mean: "each": the mean over the labelled ones plus ``weight`` times the mean over the others, as equation 4.
            "all": one mean over the batch, in which a pseudo-labelled image counts ``weight`` times.

    Deviations:
        From Wu 2020: none known; the equation leaves open what each term is a mean over.
        From the code of Carmon 2019, ``official``: there, labels of -1 are left out of the cross-entropy and an
        entropy term can be had; here every image has a pseudo-label. TRADES makes two forwards.
        From Stutz' code (``stutz``): none known.
        Of parts of a batch, where memory is short, or on several ranks, "each" takes the means over each part.
    """

    attack: Attack = field(default_factory=PGD)
    form: Form = "trades"
    beta: float | None = None
    weight: float = 1.0
    mean: Literal["each", "all"] = "each"

    def __post_init__(self) -> None:
        """Let the attack raise what the form says; refuse settings that cannot be meant."""
        if not 0 <= self.weight < float("inf"):
            raise BadInput(f"the weight of pseudo-labelled images must be at least 0, not {self.weight:g}")
        if self.mean not in ("each", "all"):
            raise BadInput(f"the mean of RST is over 'each' kind of image or over 'all', not {self.mean!r}")
        object.__setattr__(self, "attack", formed(self.form, self.attack, self.beta).attack)

    @classmethod
    def official(cls) -> RST:
        """Return the setting of the code of Carmon 2019: TRADES, one mean over the batch, eps 0.031."""
        attack = PGD(threat=ThreatModel(eps=0.031), steps=10, step_size=0.007, start="gaussian")
        return cls(attack=attack, beta=6.0, mean="all")

    @classmethod
    def stutz(cls) -> RST:
        """Return the setting of Stutz' code: AT, one mean over the batch, of which 70 % are pseudo-labelled."""
        threat = ThreatModel(eps=0.0314)
        attack = PGD(threat=threat, steps=7, step_size=0.007, start="direction", result="best_loss")
        return cls(attack=attack, form="at", mean="all")

    @property
    def takes(self) -> Literal["labels", "soft", "mixed"]:
        """Return that of the form, but nothing mixed: it would mix labelled and pseudo-labelled images."""
        return "labels" if self.form == "mart" else "soft"

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the weighted loss of both kinds of image."""
        inner = formed(self.form, self.attack, self.beta)
        if batch.labelled is None:
            return inner(model, batch, x_adv)
        recorded = _Recorded(model)
        inner(recorded, batch, x_adv)  # each forward once, for both kinds
        kinds = {"labelled": batch.labelled, "unlabelled": ~batch.labelled}
        total, parts = x_adv.new_zeros(()), {}
        for kind, mask in kinds.items():
            rows = mask.nonzero().flatten()
            share = len(rows) / len(batch)
            factor = (1.0 if self.mean == "each" else share) * (1.0 if kind == "labelled" else self.weight)
            outputs = [_of_rows(output, rows, len(batch)) for output in recorded.outputs]
            loss = inner(_Replayed(outputs), _part(batch, rows), x_adv[rows])
            absent = not len(rows)  # its means are of nothing
            total = total if absent else total + factor * loss.total
            parts |= {f"{kind}_{name}": torch.zeros_like(part) if absent else part for name, part in loss.parts.items()}
        return Loss(total=total, parts=parts)


class _Recorded(nn.Module):
    """The model, remembering all its outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.outputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return and remember the logits."""
        self.outputs.append(self.model(x))
        return self.outputs[-1]


class _Replayed(nn.Module):
    """A model whose outputs are known, in the order in which they are asked for."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next output; x is not looked at."""
        return self.outputs.pop(0)


def _of_rows(output: Tensor, rows: Tensor, n: int) -> Tensor:
    """Return the logits of some examples, of an output of all n, or of several copies of them one after another."""
    return output.unflatten(0, (-1, n))[:, rows].flatten(0, 1)


def _part(batch: Batch, rows: Tensor) -> Batch:
    """Return some examples of a batch."""
    return replace(batch, **{name: value[rows] for name, value in vars(batch).items() if value is not None})
