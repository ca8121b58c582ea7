"""The robust loss of one network under adversarial and under random weight perturbations, over their size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor

from robustscape.attacks.pgd import PGD
from robustscape.evaluation import together
from robustscape.landscape._losses import losses_at, so_far, stored
from robustscape.landscape.crossed import cells, half_width, sizes
from robustscape.landscape.directions.adversarial import HeldLoss
from robustscape.landscape.flatness import Estimate, t_interval
from robustscape.landscape.operator import worst_inputs
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Diverged, Params, Plain, Provenance, Subject
from robustscape.weights.awp import AWP
from robustscape.weights.rwp import RWP


@dataclass(frozen=True, kw_only=True)
class AtGamma:
    """Losses and errors of the network perturbed by one relative size.

    Attributes:
        gamma: L2 norm of each layer's perturbation relative to that of the layer.
        rise: Rise of the robust loss, nats. Of random perturbations the interval is Student's t over draws, on these
            very examples; of the adversarial one over the examples at the perturbation found. n: perturbations.
        rise_over_both: The same with an interval that covers draws and examples; None for the adversarial one.
        robust_loss: Mean over the perturbations, nats.
        robust_error: The same, a fraction.
        clean_loss: The same, nats.
        clean_error: The same, a fraction.
        robust_losses: Robust loss under each perturbation, nats.
    """

    gamma: float
    rise: Estimate
    rise_over_both: Estimate | None
    robust_loss: float
    robust_error: float
    clean_loss: float
    clean_error: float
    robust_losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PerturbedResult:
    """The robust loss over the size of two kinds of weight perturbation.

    Attributes:
        adversarial: Under AWP, at each gamma, rising.
        random: Under RWP, the same.
        reference_robust_loss: Robust loss at the weights themselves, nats.
        reference_robust_error: Robust error there, a fraction.
        reference_clean_loss: Clean loss there, nats.
        reference_clean_error: Clean error there, a fraction.
        steps: Steps of a round of AWP.
        alternations: Rounds of AWP.
        samples: Random perturbations at each gamma.
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    adversarial: tuple[AtGamma, ...]
    random: tuple[AtGamma, ...]
    reference_robust_loss: float
    reference_robust_error: float
    reference_clean_loss: float
    reference_clean_error: float
    steps: int
    alternations: int
    samples: int
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """The robust loss of a network as it is perturbed adversarially (AWP) and at random (RWP), over gamma.

    Wu 2020 (https://arxiv.org/abs/2004.05884, section 5.3, figure 3a): a random perturbation raises the robust loss
    at gamma = 1 only, an adversarial one at 0.005. Both move the weights of every layer by gamma ||w_l||, biases and
    normalisation parameters not. The adversarial one is found on the examples that are measured, all as one batch, in
    eval mode. Random ones are in the same directions at every gamma. The attack is made anew at every w + v, from
    the same random starts. It costs an attack for each random perturbation, and for each adversarial one two, a
    further one for each further round, and a gradient for each step.

    Attributes:
        attack: The attack, which also makes the examples that AWP is found on; searched on the fast view, judged in
            float32.
        adversarial: gamma of AWP, in (0, 2]; the paper's is 0.005.
        random: gamma of RWP, above 0; the paper's go from 0.0001 to 2.
        samples: Random perturbations at each gamma, at least 2.
        steps: Steps of a round of AWP, which sum to the radius.
        alternations: Rounds of AWP, each further one on examples attacked anew at the present w + v.

    Deviations:
        The paper does not say how many draws, steps and examples its figure has, nor whether the adversarial examples
        are made anew at w + v.
    """

    name: ClassVar[str] = "perturbed"
    scale_free: ClassVar[bool] = True
    """Rescaling that keeps the network's function keeps the losses: every v_l scales with its layer."""

    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    adversarial: tuple[float, ...] = (0.001, 0.0025, 0.005, 0.01)
    random: tuple[float, ...] = (0.005, 0.1, 0.3, 0.6, 1.0)
    samples: int = 10
    steps: int = 1
    alternations: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.adversarial and not self.random:
            raise BadInput("there must be a gamma to perturb by, adversarial or random")
        for gammas in (self.adversarial, self.random):
            if not all(0 < gamma < math.inf for gamma in gammas):
                raise BadInput(f"gamma is relative to a layer's norm, above 0, not {list(gammas)}")
            if len(set(gammas)) < len(gammas):
                raise BadInput(f"a gamma stands twice in {', '.join(f'{gamma:g}' for gamma in gammas)}")
        if self.samples < 2:
            raise BadInput(f"samples must be at least 2, for an interval, not {self.samples}")
        self._awp(max(self.adversarial, default=0.5))  # refuses what cannot be meant

    def _awp(self, gamma: float) -> AWP:
        return AWP(gamma=gamma, steps=self.steps, alternations=self.alternations)

    def points(self) -> list[Plain]:
        """Return "reference", ["awp", number of the gamma] and ["rwp", number of the gamma, draw] for each."""
        awp = [["awp", k] for k in range(len(self.adversarial))]
        rwp = [["rwp", k, sample] for k in range(len(self.random)) for sample in range(self.samples)]
        return ["reference", *awp, *rwp]

    def found(self, subject: Subject, point: Plain) -> Params:
        """Return the perturbation of a point; empty for the reference.

        Raises:
            Diverged: a loss is not finite.
        """
        if point == "reference":
            return {}
        kind, _, *sample = point
        if kind == "awp":
            return self._awp(self._gamma(point))(subject.model, _Robust(subject, self.attack, self.name))
        rng = Streams(subject.seed, (self.name, "random", *sample))
        return RWP(gamma=self._gamma(point))(subject.model, HeldLoss(subject, subject.x), rng=rng)

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return losses and errors at w or under one perturbation, the robust loss of cells of examples too.

        Raises:
            Diverged: a loss is not finite: says at which gamma.
        """
        with nullcontext() if point == "reference" else so_far("gamma", self._gamma(point)):
            return self._together(subject, [point])[0]

    def at_once(self, subject: Subject) -> int:
        """Return how many points ``several`` measures in one pass: more than 1 for narrow networks of matrices."""
        return together.slots(subject, len(self.points()))

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of several points, equal to those of ``at`` but for rounding.

        Raises:
            Diverged: a loss is not finite: says at which gamma.
        """
        try:
            return self._together(subject, points)
        except Diverged:  # one of them: by itself it says which
            return [self.at(subject, point) for point in points]

    def _gamma(self, point: Plain) -> float:
        kind, k, *_ = point
        return (self.adversarial if kind == "awp" else self.random)[k]

    def _together(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        shares = cells(len(subject.x), subject.seed)
        moves = [self.found(subject, point) for point in points]
        found = losses_at(subject, self.attack, moves, [(self.name,)] * len(points))
        return [{**one.means(), "robust": stored(one.robust_loss, shares)} for one in found]

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> PerturbedResult:
        """Subtract the reference and put the draws of each gamma together."""
        at_w, n, first = values[0], len(subject.x), 1 + len(self.adversarial)
        awp = [values[k : k + 1] for k in range(1, first)]
        rwp = [values[first + k * self.samples :][: self.samples] for k in range(len(self.random))]
        adversarial, random = (
            tuple(_at_gamma(gamma, some, at_w, n) for gamma, some in sorted(pairs, key=lambda pair: pair[0]))
            for pairs in (zip(self.adversarial, awp, strict=True), zip(self.random, rwp, strict=True))
        )
        return PerturbedResult(
            adversarial=adversarial,
            random=random,
            reference_robust_loss=at_w["robust_loss"],
            reference_robust_error=at_w["robust_error"],
            reference_clean_loss=at_w["clean_loss"],
            reference_clean_error=at_w["clean_error"],
            steps=self.steps,
            alternations=self.alternations,
            samples=self.samples,
            attack=self.attack.describe(),
            n=n,
            split=subject.split,
            provenance=provenance,
        )


class _Robust:
    """The mean loss over a subject's worst inputs, held until they are asked for anew: a ``WeightLoss``.

    Args:
        subject: What is looked at.
        attack: Finds the inputs, at the weights that the model carries.
        name: Purpose of the random numbers.
    """

    def __init__(self, subject: Subject, attack: Attack, name: str) -> None:
        self.subject, self.attack, self.name = subject, attack, name
        self.refresh()

    def refresh(self) -> None:
        """Attack at the present weights."""
        self.held = HeldLoss(self.subject, worst_inputs(self.subject, self.attack, self.name))

    def value(self) -> Tensor:
        """Return the mean loss, a scalar."""
        return self.held.value()

    def gradient(self, names: Sequence[str]) -> Params:
        """Return the gradient of the mean loss."""
        return self.held.gradient(names)


def _at_gamma(gamma: float, values: Sequence[Plain], at_w: Plain, n: int) -> AtGamma:
    """Put the perturbations of one size together: several random ones, or the adversarial one."""
    losses = np.array([value["robust_loss"] for value in values])
    rises = losses - at_w["robust_loss"]
    matrix = np.array([value["robust"] for value in values]) - np.array(at_w["robust"])
    means = {
        name: float(np.mean([value[name] for value in values]))
        for name in ("robust_loss", "robust_error", "clean_loss", "clean_error")
    }
    over_both = None
    if len(values) == 1:
        spread = t_interval(matrix[0], n=1)
        rise = _around(float(matrix[0] @ sizes(n)), spread.high - spread.value, 1)
    else:
        rise = t_interval(rises, n=len(values))
        over_both = _around(rise.value, half_width(rises, matrix.mean(axis=0)), len(values))
    return AtGamma(gamma=gamma, rise=rise, rise_over_both=over_both, robust_losses=tuple(losses.tolist()), **means)


def _around(value: float, half: float, n: int) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=n)
