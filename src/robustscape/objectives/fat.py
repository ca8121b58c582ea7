"""Friendly adversarial training: on inputs that are only just adversarial."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from robustscape.attacks.friendly import Friendly
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives._forms import Form, formed
from robustscape.objectives.mart import MART
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Batch, Loss


@dataclass(frozen=True, kw_only=True)
class FAT:
    """AT, TRADES or MART on the inputs of early-stopped PGD (Zhang 2020, https://arxiv.org/abs/2002.11242).

    Algorithm 2, with Algorithm 1 as the attack: a search ends ``tau`` steps after its example is first misclassified.
    tau is that of the attack, and one more after each share of the training in ``rises``. Forwards and running
    statistics as in the objective of the form.

    Attributes:
        attack: Early-stopped PGD. Of another attack the ball is taken, and of PGD steps and start as well.
        form: Loss of the inputs that it finds: "at", "trades" (then it raises the divergence) or "mart".
        beta: Weight of the divergence of "trades" (6) and "mart" (5); None for those. Not for "at".
        constants: Of "mart": those of the "paper", or of the authors' "code", which are those of MART's code; then the
            adversarial forward is made first, as there.
        result: What the search gives, as ``Friendly.result``: "last" or "misclassified"; None for what the attack says.
        rises: Shares of all steps from which on tau is one larger, rising, each in (0, 1).

    Deviations:
        From the paper: none known.
        From the authors' code (``official``, ``trades``, ``mart``): a batch keeps its order, see ``attacks.friendly``.
    """

    attack: Attack = field(default_factory=Friendly)
    form: Form = "at"
    beta: float | None = None
    constants: Literal["paper", "code"] = "paper"
    result: Literal["last", "misclassified"] | None = None
    rises: tuple[float, ...] = (50 / 120, 90 / 120)

    def __post_init__(self) -> None:
        """Stop the attack early; refuse settings that cannot be meant."""
        if list(self.rises) != sorted(set(self.rises)) or not all(0 < share < 1 for share in self.rises):
            raise BadInput(f"tau rises at rising shares of the training in (0, 1), not at {self.rises}")
        if self.constants not in ("paper", "code"):
            raise BadInput(f"the constants of MART are those of the 'paper' or the 'code', not {self.constants!r}")
        if self.constants == "code" and self.form != "mart":
            raise BadInput(
                f"constants='code' are those of MART, but the form is {self.form!r}; did you mean form='mart'?"
            )
        attack = _stopped_early(self.attack)
        attack = attack if self.result is None else replace(attack, result=self.result)
        object.__setattr__(self, "attack", formed(self.form, attack, self.beta).attack)

    @classmethod
    def official(cls) -> FAT:
        """Return the setting of the authors' code for AT: of 120 epochs tau is 0 for 50, then 1 for 40, then 2."""
        return cls(attack=Friendly.official())

    @classmethod
    def trades(cls) -> FAT:
        """Return the setting of their code for TRADES: 85 epochs; tau rises after 30, 50 and 70."""
        attack = replace(Friendly.official(), omega=0.0, start="gaussian")
        return cls(attack=attack, form="trades", beta=6.0, rises=(30 / 85, 50 / 85, 70 / 85))

    @classmethod
    def mart(cls) -> FAT:
        """Return the setting of their code for MART: 85 epochs; tau rises after 20, 40, 60 and 80."""
        attack = replace(Friendly.official(), omega=0.0, start="gaussian")
        rises = (20 / 85, 40 / 85, 60 / 85, 80 / 85)
        return cls(attack=attack, form="mart", beta=6.0, constants="code", rises=rises)

    @classmethod
    def stutz(cls) -> FAT:
        """Return PGD-7-tau of Stutz 2021 (https://arxiv.org/abs/2104.04448): tau stays, 0 to 3 there."""
        return cls(attack=Friendly.stutz(), result="misclassified", rises=())

    @property
    def takes(self) -> Literal["labels", "soft", "mixed"]:
        """Return that of the form, but nothing mixed: by one label the search knows where to end."""
        return "labels" if self.form == "mart" else "soft"

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def stage(self, batch: Batch, rng: Streams, done: int, total: int) -> tuple[Batch, Attack]:
        """Return the batch as it is, and the attack with the step's tau."""
        attack = self.attack
        assert isinstance(attack, Friendly)
        tau = attack.tau + sum(done / total >= share for share in self.rises)
        return batch, replace(attack, tau=tau)

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of the form."""
        inner = formed(self.form, self.attack, self.beta)
        if isinstance(inner, MART) and self.constants == "code":
            inner = replace(inner, form="code", first="adversarial")
        return inner(model, batch, x_adv)


def _stopped_early(attack: Attack) -> Friendly:
    """Return early-stopped PGD in the ball of an attack."""
    if isinstance(attack, Friendly):
        return attack
    if isinstance(attack, PGD):
        return Friendly(
            threat=attack.threat,
            steps=attack.steps,
            step_size=attack.step_size,
            relative_step=attack.relative_step,
            start=attack.start,
            loss=attack.loss,
        )
    if not isinstance(attack.threat, ThreatModel):
        raise BadInput(f"early-stopped PGD needs a ball to search, and {type(attack).__name__} has none")
    return Friendly(threat=attack.threat)
