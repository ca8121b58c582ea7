"""Average-case flatness of the robust loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from robustscape.attacks.pgd import PGD
from robustscape.evaluation import together
from robustscape.landscape._losses import Losses, groups, joined_losses, losses, losses_at, part, stored
from robustscape.landscape._stutz import StutzPGD
from robustscape.landscape.crossed import Components, cells, components, half_width
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
class AtRadius:
    """Average-case flatness at one more radius, from the same directions as at the first.

    Attributes:
        xi: Radius of the ball of each layer, relative to the layer's L2 norm.
        robust: Rise of the robust loss, nats; interval as at the first radius.
        clean: Rise of the clean loss, nats; the same.
        robust_losses: Robust loss under each draw, S numbers, nats.
        clean_losses: Clean loss under each draw, S numbers, nats.
    """

    xi: float
    robust: Estimate
    clean: Estimate
    robust_losses: tuple[float, ...]
    clean_losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FlatnessResult:
    """Average-case flatness: how much the loss rises under random relative weight perturbations.

    Attributes:
        robust: Rise of the robust loss, nats; interval by Student's t over draws (over antithetic pairs): it covers
            the draws of weights on these very examples.
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
        robust_over_both: The same rise, with an interval that covers the draws and the choice of the examples;
            None in old files, here and below.
        clean_over_both: The same of the clean loss.
        components: Where the error of ``robust_over_both`` comes from, and which number of draws and of examples
            makes it smallest; None where there is but one draw or example.
        robust_rises: (K,), rise of the robust loss on each cell of examples, the mean over draws, nats; empty in
            old files. Cells are of one size to within 1, drawn at random from the seed.
        clean_rises: (K,), the same of the clean loss.
        sweep: The further radii, rising.
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
    robust_over_both: Estimate | None = None
    clean_over_both: Estimate | None = None
    components: Components | None = None
    robust_rises: np.ndarray = field(default_factory=lambda: np.empty(0))
    clean_rises: np.ndarray = field(default_factory=lambda: np.empty(0))
    sweep: tuple[AtRadius, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AverageFlatness:
    """Average-case flatness of the robust loss (Stutz 2021, https://arxiv.org/abs/2104.04448, equations 3 and 4).

    F = E over v of [ L(w + v) ] - L(w), each layer's v_l uniform in the ball of L2 radius xi ||w_l||, L the mean
    over examples of the largest cross-entropy in the threat model, attacked anew under every v. Weight and bias
    of a module are two layers; normalisation parameters do not move. The smaller, the flatter. The attacks cost
    ``samples`` times the number of radii, plus the reference.

    Attributes:
        attack: The attack on the perturbed network; searched on the fast view, judged in float32.
        reference: The attack on the network itself; None for ``attack``.
        xi: Radius of each layer's ball, relative to the layer's L2 norm, in [0, 1].
        sweep: Further radii, each with the same directions and starts.
        samples: Random perturbations; even under "sound", where they come in pairs.
        law: "ball" (uniform in the ball, as the paper says) or "sphere" (uniform on its surface, as its code
            does). In the millions of dimensions of a layer the two are nearly one.
        group: Examples that share a perturbation, in their order, each further group having draws of its own; None
            for all. The paper's text draws anew for each batch of 128, which leaves less chance in the mean.
        mode: "sound": one budget for both terms, the same random starts under every perturbation and at w, and
            antithetic pairs v and -v, which cancel the slope. "as_published": independent starts and
            perturbations, and a reference of its own.

    Deviations:
        Under "as_published" the reference is the worst of 10 restarts and the perturbed loss that of 1, as
        published, which lowers F. The code takes log(p + 1e-12), which ends at 27.6 nats, here the cross-entropy
        itself. Robust losses include the clean input, which is inside the threat model too.
    """

    name: ClassVar[str] = "flatness"
    scale_free: ClassVar[bool] = True
    """Rescaling that keeps the network's function keeps F: every v_l scales with its layer."""

    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    reference: Attack | None = None
    xi: float = 0.5
    sweep: tuple[float, ...] = ()
    samples: int = 10
    law: Literal["ball", "sphere"] = "ball"
    group: int | None = None
    mode: Literal["sound", "as_published"] = "sound"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.law not in ("ball", "sphere"):
            raise BadInput(f"law {self.law!r} is not one of ball, sphere")
        if self.mode not in ("sound", "as_published"):
            raise BadInput(f"mode {self.mode!r} is not one of sound, as_published")
        check_radii(self.xi, self.sweep, "Stutz 2021 uses 0.5")
        if self.samples < 2 or (self.mode == "sound" and self.samples % 2):
            raise BadInput(f"samples must be at least 2, and even where they come in pairs, not {self.samples}")
        if self.group is not None and self.group < 1:
            raise BadInput(f"group must be at least 1, not {self.group}; did you mean none, for all examples?")
        if self.mode == "sound" and self.reference is not None:
            raise BadInput(
                "a reference attack of its own is not sound; leave it out, or did you mean mode as_published?"
            )

    @classmethod
    def stutz(cls) -> AverageFlatness:
        """Return what is behind the published numbers: ``stutz_code``."""
        return cls.stutz_code()

    @classmethod
    def stutz_code(cls) -> AverageFlatness:
        """Return the authors' code: PGD-20, eps 8/255, step 0.007, v on the sphere and one for all examples.

        Attacks start from Gaussian noise scaled at random. 1 restart at w + v; at w 10, of which the one with the
        largest probability of a wrong class counts.
        """
        return cls(attack=StutzPGD(), reference=StutzPGD(restarts=10), law="sphere", mode="as_published")

    @classmethod
    def stutz_paper(cls) -> AverageFlatness:
        """Return the paper's text: the same budgets, v in the ball and anew for each batch of 128 examples.

        Attacks start uniformly, which the text leaves open; of 10 restarts at w the largest loss counts.
        """
        attack = PGD(steps=20, step_size=0.007, result="best_loss")
        reference = PGD(steps=20, step_size=0.007, restarts=10, result="best_loss")
        return cls(attack=attack, reference=reference, group=128, mode="as_published")

    def points(self) -> list[Plain]:
        """Return "reference", then 0 to samples - 1 for ``xi``, then as many for each radius of the sweep."""
        return ["reference", *range(self.samples * (1 + len(self.sweep)))]

    def draw(
        self, weights: Params, seed: int, sample: int, *, xi: float | None = None, group: int | None = None
    ) -> Params:
        """Return the perturbation of one sample: a function of seed, sample, group and parameter names.

        Args:
            weights: The layers, as ``select(model, "layers")`` gives them.
            seed: Seed of all random numbers.
            sample: Number of the sample; under "sound", 2 k + 1 is the opposite of 2 k.
            xi: Its radius, in place of the first.
            group: Number of the group of examples that it is for, where ``group`` is set.
        """
        number, sign = (sample // 2, -1.0 if sample % 2 else 1.0) if self.mode == "sound" else (sample, 1.0)
        rng = Streams(seed, (self.name, "weights", number))
        rng = rng if group is None else rng.tag("group", group)
        on_sphere = normalised(gaussian(weights, rng), weights, "layer")
        length = sign * (self.xi if xi is None else xi)
        return {
            layer: v * (length * (self._radius(rng.tag("radius", layer), v.numel()))) for layer, v in on_sphere.items()
        }

    def _radius(self, rng: Streams, dimension: int) -> float:
        """Return a radius with the law of a uniform point in the unit ball: U^(1/d)."""
        return float(rng.uniform()) ** (1 / dimension) if self.law == "ball" else 1.0

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return clean and robust loss and error at w, or under one perturbation, and the losses of each cell."""
        if point == "reference":
            return self._told(subject, losses(subject, self.reference or self.attack, self.name))
        found = []
        for number, rows in enumerate(groups(len(subject.x), self.group)):
            v, tags = self._moved(subject, point, number)
            with shifted(subject.model, v):
                found.append(losses(part(subject, rows), self.attack, *tags))
        return self._told(subject, joined_losses(found))

    def at_once(self, subject: Subject) -> int:
        """Return how many points ``several`` measures in one pass: more than 1 for narrow networks of matrices."""
        return 1 if self.group is not None else together.slots(subject, len(self.points()))

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of several points, equal to those of ``at`` but for rounding."""
        alone = [
            point for point in points if self.group is not None or (point == "reference" and self.reference is not None)
        ]
        others = [point for point in points if point not in alone]
        vs, tags = zip(*(self._moved(subject, point) for point in others), strict=True) if others else ((), ())
        found = losses_at(subject, self.attack, vs, tags)
        values = {point: self._told(subject, value) for point, value in zip(others, found, strict=True)}
        return [self.at(subject, point) if point in alone else values[point] for point in points]

    def _moved(self, subject: Subject, point: Plain, number: int = 0) -> tuple[Params, tuple[str | int, ...]]:
        """Return a point's perturbation, none for the reference, and the purpose of its random numbers."""
        if point == "reference":
            return {}, (self.name,)
        radius, sample = divmod(point, self.samples)
        tags = (self.name,) if self.mode == "sound" else (self.name, "sample", sample)
        weights, group = select(subject.model, "layers"), None if self.group is None else number
        return self.draw(weights, subject.seed, sample, xi=(self.xi, *self.sweep)[radius], group=group), tags

    def _told(self, subject: Subject, found: Losses) -> Plain:
        shares = cells(len(subject.x), subject.seed)
        robust, clean = (stored(values, shares) for values in (found.robust_loss, found.clean_loss))
        return {**found.means(), "robust": robust, "clean": clean}

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> FlatnessResult:
        """Subtract the reference and put the samples together."""
        reference, n = values[0], len(subject.x)
        radii = [values[1 + k * self.samples :][: self.samples] for k in range(1 + len(self.sweep))]
        first, further = radii[0], sorted(zip(self.sweep, radii[1:], strict=True), key=lambda pair: pair[0])
        (robust, robust_rises), (clean, clean_rises) = (self._rises(first, reference, of) for of in ("robust", "clean"))
        attack, passes = self.attack.describe(), 2 if self.mode == "sound" else 1
        return FlatnessResult(
            robust=t_interval(robust, n=self.samples),
            clean=t_interval(clean, n=self.samples),
            reference_robust_loss=reference["robust_loss"],
            reference_clean_loss=reference["clean_loss"],
            robust_losses=np.array([value["robust_loss"] for value in first]),
            clean_losses=np.array([value["clean_loss"] for value in first]),
            xi=self.xi,
            mode=self.mode.replace("_", " "),
            attack=attack if self.reference is None else f"{attack}, reference {self.reference.describe()}",
            n=n,
            split=subject.split,
            provenance=provenance,
            robust_over_both=_over_both(robust, robust_rises, self.samples),
            clean_over_both=_over_both(clean, clean_rises, self.samples),
            components=components(robust_rises, n=n, passes=passes),
            robust_rises=robust_rises.mean(axis=0),
            clean_rises=clean_rises.mean(axis=0),
            sweep=tuple(self._at_radius(xi, some, reference) for xi, some in further),
        )

    def _rises(self, values: Sequence[Plain], reference: Plain, of: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rise under each independent draw, (D,), and on each cell of examples, (D, K)."""
        means = np.array([value[f"{of}_loss"] for value in values]) - reference[f"{of}_loss"]
        matrix = np.array([value[of] for value in values]) - np.array(reference[of])
        if self.mode == "sound":  # antithetic pairs are one draw each
            return means.reshape(-1, 2).mean(axis=1), matrix.reshape(len(means) // 2, 2, -1).mean(axis=1)
        return means, matrix

    def _at_radius(self, xi: float, values: Sequence[Plain], reference: Plain) -> AtRadius:
        robust, clean = (self._rises(values, reference, of)[0] for of in ("robust", "clean"))
        return AtRadius(
            xi=xi,
            robust=t_interval(robust, n=self.samples),
            clean=t_interval(clean, n=self.samples),
            robust_losses=tuple(value["robust_loss"] for value in values),
            clean_losses=tuple(value["clean_loss"] for value in values),
        )


def check_radii(xi: float, sweep: Sequence[float], usual: str) -> None:
    """Refuse radii that cannot be meant.

    Raises:
        BadInput: a radius outside [0, 1], or one that stands twice.
    """
    for radius in (xi, *sweep):
        if not radius >= 0:
            raise BadInput(f"xi must be at least 0, not {radius:g}; {usual}")
        if radius > 1:
            raise BadInput(
                f"xi is relative to a layer's norm, and {radius:g} can undo the layer; did you mean at most 1? {usual}"
            )
    if len({xi, *sweep}) <= len(sweep):
        raise BadInput(f"a radius stands twice in xi {xi:g} and sweep {', '.join(f'{r:g}' for r in sweep)}")


def _over_both(rises: np.ndarray, matrix: np.ndarray, n: int) -> Estimate:
    """Return the mean rise with an interval over draws and examples."""
    mean, half = float(rises.mean()), half_width(rises, matrix.mean(axis=0))
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)


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
