"""Average-case flatness of the robust loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from robustscape.attacks.pgd import PGD
from robustscape.evaluation import together
from robustscape.evaluation.judging import performance
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Params, Plain, Provenance, Subject
from robustscape.weights.space import gaussian, normalised, select, shifted


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over random draws with its 95 % interval: value, low <= value <= high, and n draws."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class FlatnessResult:
    """Average-case flatness: how much the loss rises under random relative weight perturbations.

    Attributes:
        robust: Rise of the robust loss, nats; interval by Student's t over draws (over antithetic pairs).
        clean: Rise of the clean loss, nats; the same.
        reference_robust_loss: Robust loss at the weights themselves, nats.
        reference_clean_loss: Clean loss there, nats.
        robust_losses: (S,), robust loss under each draw, nats.
        clean_losses: (S,), clean loss under each draw, nats.
        xi: Radius of the ball of each layer, relative to the layer's L2 norm.
        mode: "sound" or "as published".
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    robust: Estimate
    clean: Estimate
    reference_robust_loss: float
    reference_clean_loss: float
    robust_losses: np.ndarray
    clean_losses: np.ndarray
    xi: float
    mode: str
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class AverageFlatness:
    """Average-case flatness of the robust loss (Stutz 2021, https://arxiv.org/abs/2104.04448, equations 3 and 4).

    F = E over v of [ L(w + v) ] - L(w), each layer's v_l uniform in the ball of L2 radius xi ||w_l||, L the mean
    over examples of the largest cross-entropy in the threat model, attacked anew under every v. Weight and bias
    of a module are two layers; normalisation parameters do not move. The smaller, the flatter.

    Attributes:
        attack: The attack on the perturbed network; searched on the fast view, judged in float32.
        reference: The attack on the network itself; None for ``attack``.
        xi: Radius of each layer's ball, relative to the layer's L2 norm.
        samples: Random perturbations; even under "sound", where they come in pairs.
        law: "ball" (uniform in the ball, as the paper says) or "sphere" (uniform on its surface, as its code
            does). In the millions of dimensions of a layer the two are nearly one.
        mode: "sound": one budget for both terms, the same random starts under every perturbation and at w, and
            antithetic pairs v and -v, which cancel the slope. "as_published": independent starts and
            perturbations, and a reference of its own.

    Deviations:
        Under "as_published" the paper's reference is the worst of 10 restarts and the perturbed loss that of 1,
        which lowers F; its text draws v for each batch, its code once for all, as here. Its code keeps the
        restart with the largest probability of a wrong class, here the one of the largest loss; it starts
        from Gaussian noise scaled at random within eps, here uniformly in the ball. Robust losses include the
        clean input, which is inside the threat model too.
    """

    name: ClassVar[str] = "flatness"

    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    reference: Attack | None = None
    xi: float = 0.5
    samples: int = 10
    law: Literal["ball", "sphere"] = "ball"
    mode: Literal["sound", "as_published"] = "sound"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.law not in ("ball", "sphere"):
            raise BadInput(f"law {self.law!r} is not one of ball, sphere")
        if self.mode not in ("sound", "as_published"):
            raise BadInput(f"mode {self.mode!r} is not one of sound, as_published")
        if not 0 <= self.xi < math.inf:
            raise BadInput(f"xi must be at least 0, not {self.xi:g}; Stutz 2021 uses 0.5")
        if self.samples < 2 or (self.mode == "sound" and self.samples % 2):
            raise BadInput(f"samples must be at least 2, and even where they come in pairs, not {self.samples}")
        if self.mode == "sound" and self.reference is not None:
            raise BadInput(
                "a reference attack of its own is not sound; leave it out, or did you mean mode as_published?"
            )

    @classmethod
    def stutz(cls) -> AverageFlatness:
        """Return the published budgets: PGD-20, eps 8/255, step 0.007; reference 10 restarts, perturbed 1."""
        attack = PGD(steps=20, step_size=0.007, result="best_loss")
        reference = PGD(steps=20, step_size=0.007, restarts=10, result="best_loss")
        return cls(attack=attack, reference=reference, law="sphere", mode="as_published")

    def points(self) -> list[Plain]:
        """Return "reference", then the number of each sample."""
        return ["reference", *range(self.samples)]

    def draw(self, weights: Params, seed: int, sample: int) -> Params:
        """Return the perturbation of one sample: a function of seed, sample and parameter names.

        Args:
            weights: The layers, as ``select(model, "layers")`` gives them.
            seed: Seed of all random numbers.
            sample: Number of the sample; under "sound", 2 k + 1 is the opposite of 2 k.
        """
        number, sign = (sample // 2, -1.0 if sample % 2 else 1.0) if self.mode == "sound" else (sample, 1.0)
        rng = Streams(seed, (self.name, "weights", number))
        on_sphere = normalised(gaussian(weights, rng), weights, "layer")
        return {
            layer: v * (sign * self.xi * (self._radius(rng.tag("radius", layer), v.numel())))
            for layer, v in on_sphere.items()
        }

    def _radius(self, rng: Streams, dimension: int) -> float:
        """Return a radius with the law of a uniform point in the unit ball: U^(1/d)."""
        return float(rng.uniform()) ** (1 / dimension) if self.law == "ball" else 1.0

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return clean and robust loss at w, or under one perturbation."""
        if point == "reference":
            return vars(performance(subject, self.reference or self.attack, self.name))
        v, tags = self._moved(subject, point)
        with shifted(subject.model, v):
            return vars(performance(subject, self.attack, *tags))

    def at_once(self, subject: Subject) -> int:
        """Return how many points ``several`` measures in one pass: more than 1 for narrow networks of matrices."""
        return together.slots(subject, len(self.points()))

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of several points, equal to those of ``at`` but for rounding."""
        alone = [point for point in points if point == "reference" and self.reference is not None]
        others = [point for point in points if point not in alone]
        vs, tags = zip(*(self._moved(subject, point) for point in others), strict=True) if others else ((), ())
        found = together.performances(subject, self.attack, vs, tags)
        values = {point: vars(value) for point, value in zip(others, found, strict=True)}
        return [self.at(subject, point) if point in alone else values[point] for point in points]

    def _moved(self, subject: Subject, point: Plain) -> tuple[Params, tuple[str | int, ...]]:
        """Return a point's perturbation, none for the reference, and the purpose of its random numbers."""
        if point == "reference":
            return {}, (self.name,)
        tags = (self.name,) if self.mode == "sound" else (self.name, "sample", point)
        return self.draw(select(subject.model, "layers"), subject.seed, point), tags

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> FlatnessResult:
        """Subtract the reference and put the samples together."""
        robust, clean = (np.array([value[name] for value in values]) for name in ("robust_loss", "clean_loss"))
        attack = self.attack.describe()
        return FlatnessResult(
            robust=self._rise(robust[1:], robust[0]),
            clean=self._rise(clean[1:], clean[0]),
            reference_robust_loss=float(robust[0]),
            reference_clean_loss=float(clean[0]),
            robust_losses=robust[1:],
            clean_losses=clean[1:],
            xi=self.xi,
            mode=self.mode.replace("_", " "),
            attack=attack if self.reference is None else f"{attack}, reference {self.reference.describe()}",
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )

    def _rise(self, losses: np.ndarray, reference: float) -> Estimate:
        """Return the mean rise; antithetic pairs are one draw each in the interval."""
        rises = losses - reference
        return t_interval(rises.reshape(-1, 2).mean(axis=1) if self.mode == "sound" else rises, n=len(losses))


def t_interval(draws: np.ndarray, *, n: int, level: float = 0.95) -> Estimate:
    """Return the mean of independent draws with Student's interval.

    Args:
        draws: (m,), independent. One draw has an interval without end.
        n: Number of perturbations that the draws stand for.
        level: Coverage, in (0, 1).
    """
    from scipy.special import stdtrit

    mean, m = float(draws.mean()), len(draws)
    half = float(stdtrit(m - 1, (1 + level) / 2) * draws.std(ddof=1) / math.sqrt(m)) if m > 1 else math.inf
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)
