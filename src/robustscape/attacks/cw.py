"""CW-infinity: projected gradient descent on the margin between the right logit and the largest other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from robustscape.attacks.losses import Margin
from robustscape.attacks.pgd import PGD
from robustscape.attacks.queue import attacked
from robustscape.attacks.threat import ThreatModel, refuse_l1
from robustscape.attacks.walk import Draws, Rows, State
from robustscape.streams import Streams
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Clamped:
    """The margin, which rises no further once it is past a confidence: its gradient is 0 from there on.

    Attributes:
        kappa: Confidence, in units of logits, at least 0.
        targeted: Whether the margin is lowered, and hence clamped from below.
    """

    kappa: float
    targeted: bool = False

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the clamped margin of each example, (N,); ``target`` are labels, (N,)."""
        margin = Margin()(model, x_adv, target)
        return margin.clamp(min=-self.kappa) if self.targeted else margin.clamp(max=self.kappa)


@dataclass(frozen=True, kw_only=True)
class CW:
    """CW-infinity: PGD on the margin of Carlini and Wagner 2017 (https://arxiv.org/abs/1608.04644, equation f6).

    What the tables of adversarial training call CW: ``PGD`` that raises the largest wrong logit minus the right
    one. The defaults are those of Wu 2020 (https://arxiv.org/abs/2004.05884, table 2): 100 steps of 2/255. The first
    misclassified iterate is returned, else the one of largest margin. ``steps`` + 1 forward and backward passes a
    restart; all in eval mode.

    Attributes:
        threat: Ball and box that the inputs stay in.
        steps: Steps of one restart, at least 1.
        step_size: Length of a step in pixel units, whatever eps is; None for a quarter of eps.
        kappa: Confidence at which the margin is clamped, in units of logits, at least 0: Zhang 2020
            (https://arxiv.org/abs/2002.11242) take 50. None for no clamp.
        start: "uniform" in the ball, "gaussian" (0.001 times standard normal), or "none".
        restarts: Independent starts, at least 1.
        targeted: Whether y are the classes that are wanted: the margin is lowered.

    Deviations:
        Carlini and Wagner search for the smallest perturbation in another space, by Adam and a binary search over a
        penalty; here, as in the tables, the ball is given. The tables count the last iterate; here the first
        that is misclassified counts.
    """

    threat: ThreatModel = field(default_factory=ThreatModel)
    steps: int = 100
    step_size: float | None = 2 / 255
    kappa: float | None = None
    start: Literal["uniform", "gaussian", "none"] = "uniform"
    restarts: int = 1
    targeted: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        refuse_l1(self.threat, "CW")
        if self.kappa is not None and not self.kappa >= 0:
            raise BadInput(f"CW's kappa must be at least 0, not {self.kappa:g}; did you mean None, for no clamp?")
        self.pgd()

    def pgd(self) -> PGD:
        """Return the PGD that this is."""
        return PGD(
            threat=self.threat,
            steps=self.steps,
            step_size=self.step_size,
            start=self.start,
            restarts=self.restarts,
            result="misclassified",
            loss=Margin() if self.kappa is None else Clamped(kappa=self.kappa, targeted=self.targeted),
            targeted=self.targeted,
        )

    def at(self, eps: float) -> CW:
        """Return the same attack at another eps; the step follows it where ``step_size`` is None."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def describe(self) -> str:
        """Return the attack in words, for captions: "CW-100 (linf 8/255, step 2/255, 1 restart)"."""
        words = self.pgd().describe().replace("PGD", "CW")
        return words if self.kappa is None else words.replace(")", f", confidence {self.kappa:g})")

    def note(self, classes: int) -> str:
        """Return a sentence where all steps together are shorter than eps."""
        return self.pgd().note(classes)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Streams | None = None, eps: Tensor | None = None
    ) -> Tensor:
        """Return adversarial inputs, (N, C, H, W); arguments as those of ``PGD``, but y are labels, (N,).

        Raises:
            BadInput: half-precision inputs, soft labels, labels or radii that do not fit.
            Diverged: the model gave NaN.
        """
        return attacked(self, model, x, y, rng, eps, targeted=self.targeted)

    def rounds(self, classes: int) -> int:
        """Return the number of restarts."""
        return self.restarts

    def begin(self, rows: Rows, rng: Draws) -> State:
        """Return the state of examples at the starts of their rounds."""
        return self.pgd().begin(rows, rng)

    def step(self, model: nn.Module, state: State, rng: Draws) -> State:
        """Return the state after a look at where each example is, and a step from there."""
        return self.pgd().step(model, state, rng)
