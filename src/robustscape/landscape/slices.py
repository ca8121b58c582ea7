"""One-dimensional slices of the loss along directions in weight space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from robustscape.attacks.pgd import PGD
from robustscape.evaluation import together
from robustscape.landscape._audit import audited, bias, table
from robustscape.landscape._other import check_unchanged
from robustscape.landscape.directions.family import Along, Direction, Facts, Family, Scheme
from robustscape.landscape.flatness import Estimate
from robustscape.landscape.lines import Examples, Line, Taking, along, retaken
from robustscape.types import Attack, BadInput, Diverged, Plain, Provenance, Subject, WeightPerturbation
from robustscape.weights.awp import AWP


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """Loss and error along D directions at P positions.

    Attributes:
        alpha: (P,), positions, in units of the normalised direction.
        clean_loss: (D, P), nats per example; inf where it is not finite.
        clean_error: (D, P), fractions; NaN where the loss is not finite.
        robust_loss: (D, P), nats per example, of adversarial examples as ``examples`` says; inf as above.
        robust_error: (D, P), fractions; NaN as above.
        scheme: "filter", "layer" or "none": what each direction was normalised to.
        direction_norm: (D,), L2 norm of each direction: positions under other schemes do not compare.
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
        examples: In words, where the adversarial examples are from, and whether the loss is underestimated by it.
        overflowed: (D, P), whether the loss of some example is not finite there; empty in files of older versions.
        full_robust_loss: (D, P), robust loss of a full attack at the points of the audit, NaN at all others; empty
            where there was no audit.
        full_robust_error: (D, P), the same of the robust error.
        bias: What the robust loss is over that of a full attack, mean over the points off the centre as the audit
            estimates it, with its 95 % interval; None without an audit.
        error_bias: The same of the robust error, a fraction.
        facts: What else is known of the directions.
    """

    alpha: np.ndarray
    clean_loss: np.ndarray
    clean_error: np.ndarray
    robust_loss: np.ndarray
    robust_error: np.ndarray
    scheme: str
    direction_norm: np.ndarray
    attack: str
    n: int
    split: str
    provenance: Provenance
    examples: str = "retaken at every point"
    overflowed: np.ndarray = field(default_factory=_none)
    full_robust_loss: np.ndarray = field(default_factory=_none)
    full_robust_error: np.ndarray = field(default_factory=_none)
    bias: Estimate | None = None
    error_bias: Estimate | None = None
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The loss at w + alpha * d along directions d.

    Li 2018 (https://arxiv.org/abs/1712.09913, section 4) for the filter-normalised direction, Wu 2020
    (https://arxiv.org/abs/2004.05884, section 3.1) and Stutz 2021 (https://arxiv.org/abs/2104.04448, section 3.2)
    for the robust loss: h(alpha) = mean over x of max over x_adv of the loss at w + alpha * d, the adversarial
    examples retaken at every point. Every point has the same random starts, so what differs between two points
    is the weights alone.

    Attributes:
        attack: The attack on the shifted network; searched on the fast view, judged in float32.
        scheme: What the direction is normalised to: "filter" (each output channel or row; biases do not move),
            "layer" (each weight or bias tensor), or "none" (one of length 1 where its length has no meaning).
            None for what suits: filter for random ones, layer for adversarial ones, none for all others.
            Normalisation parameters never move but along "other" and "path". Positions under two schemes do not
            compare: ``direction_norm`` tells how far one unit is.
        width: Largest alpha, in units of the normalised direction. Adversarial directions need far less than random
            ones: Stutz draws them to 0.025.
        positions: Alphas from -width to width, evenly spaced; odd, so that 0 is among them. Along "other" from 0.
        directions: Number of directions; one along "other".
        along: "random" (Gaussian). "other": to other weights, at alpha 1; running statistics move with them.
            "hessian", "clean_hessian": the top eigenvectors of the Hessian of the adversarial loss, its examples held,
            or of the clean loss. "adversarial": the one in which ``adversary`` moves the weights on held
            adversarial examples; those after the first from random starts. "path": the principal components of a
            run's checkpoints epoch-*, each as long as the path.
        other: Run directory (its last checkpoint) or .safetensors file of the other weights; along "path" the run.
        adversary: The search for the adversarial direction.
        examples: "retaken": an attack at every point. "held": those of alpha 0 everywhere, which underestimates the
            robust loss. "neighbours": at each point some steps on from those of the point nearer 0, the worst of
            these, the neighbour's and those of alpha 0 being kept; ``audit`` tells what is still missed.
        neighbour_steps: Steps of a quarter of eps from the neighbour's examples.
        audit: Share of the points where a full attack is made too, unless examples are retaken, in [0, 1].

    Deviations:
        The robust loss of an example is the larger of the clean and the attacked one, since the clean input is
        inside the threat model too.
    """

    name: ClassVar[str] = "slices"
    scale_free: ClassVar[bool] = True
    """The curve stays when the network is rescaled without changing its function, in the normalisations filter and
    layer of random directions; along eigenvectors, to other weights and without normalisation it does not."""

    attack: Attack = field(default_factory=lambda: PGD(result="best_loss"))
    scheme: Scheme | None = None
    width: float = 1.0
    positions: int = 21
    directions: int = 10
    along: Along = "random"
    other: str = ""
    adversary: WeightPerturbation = field(default_factory=lambda: AWP(gamma=0.01, steps=10))
    examples: Examples = "retaken"
    neighbour_steps: int = 3
    audit: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.positions < 3 or self.positions % 2 == 0:
            raise BadInput(f"positions must be odd and at least 3, so that alpha 0 is among them, not {self.positions}")
        if not 0 < self.width < math.inf:
            raise BadInput(f"width must be above 0 and finite, not {self.width:g}")
        if self.directions < 1:
            raise BadInput(f"directions must be at least 1, not {self.directions}")
        if not 0 <= self.audit <= 1:
            raise BadInput(f"audit is a share of the points, in [0, 1], not {self.audit:g}")
        self._family()  # each refuses what cannot be meant of its own
        self._taking()

    def alphas(self) -> np.ndarray:
        """Return the positions, (P,), exactly symmetric about an exact 0; along "other" from an exact 0 on."""
        if self.along == "other":
            return np.arange(self.positions) / (self.positions - 1) * self.width
        half = self.positions // 2
        return np.arange(-half, half + 1) / half * self.width

    @property
    def stem(self) -> str:
        """What its result file is called: "slices", along other than random directions for example "slices_hessian"."""
        return self.name if self.along == "random" else f"{self.name}_{self.along}"

    def points(self) -> list[Plain]:
        """Return [direction number, position number] for each point, or lists of the directions measured whole.

        A line is measured whole where its points need one another, or where finding its direction costs much.
        """
        count, size = self._count(), self._family().together()
        if self._singly():
            return [[d, p] for d in range(count) for p in range(self.positions)]
        return [list(range(first, min(first + size, count))) for first in range(0, count, size)]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return losses and errors at one position along one direction, or at all along each of some directions."""
        if self._singly():
            number, position = point
            (direction,) = self._family().find(subject, [number])
            return retaken(subject, self._line(direction), self._taking(), position) | direction.facts
        found = self._family().find(subject, point)
        marked = self._audited(subject.seed)
        lines = [
            along(subject, self._line(direction), self._taking(), [p for d, p in marked if d == number])
            for number, direction in zip(point, found, strict=True)
        ]
        return [{"line": line, **direction.facts} for line, direction in zip(lines, found, strict=True)]

    def at_once(self, subject: Subject) -> int:
        """Return how many points ``several`` measures in one pass: more than 1 for narrow networks of matrices."""
        if not self._singly() or self.along != "random":
            return 1
        return together.slots(subject, self.directions * self.positions)

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of several points, equal to those of ``at`` but for rounding."""
        numbers = sorted({direction for direction, _ in points})
        directions = dict(zip(numbers, self._family().find(subject, numbers), strict=True))
        alphas = self.alphas()
        vs = [
            {name: d * float(alphas[position]) for name, d in directions[direction].vector.items()}
            for direction, position in points
        ]
        try:
            found = together.performances(subject, self.attack, vs, [(self.name,)] * len(points))
        except Diverged:  # some of them
            return [self.at(subject, point) for point in points]
        return [
            {**vars(there), **directions[direction].facts} for there, (direction, _) in zip(found, points, strict=True)
        ]

    def _singly(self) -> bool:
        return self.examples == "retaken" and self.along in ("random", "other")

    def _count(self) -> int:
        return 1 if self.along == "other" else self.directions

    def _family(self) -> Family:
        return Family(
            along=self.along,
            scheme=self.scheme,
            other=self.other,
            attack=self.attack,
            adversary=self.adversary,
            count=self._count(),
            name=self.name,
        )

    def _taking(self) -> Taking:
        return Taking(attack=self.attack, examples=self.examples, steps=self.neighbour_steps, name=self.name)

    def _line(self, direction: Direction) -> Line:
        centre = 0 if self.along == "other" else self.positions // 2
        return Line(place=direction.place, alphas=self.alphas(), centre=centre, must=centre)

    def _audited(self, seed: int) -> list[tuple[int, int]]:
        """Return the points of the audit: (direction number, position number), off the centre."""
        centre = int(np.flatnonzero(self.alphas() == 0)[0])
        off = [(d, p) for d in range(self._count()) for p in range(self.positions) if p != centre]
        return audited(seed, self.name, off, self.audit)

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> SliceResult:
        """Put the points together.

        Raises:
            BadInput: other weights changed on the way.
        """
        if self._singly():
            lines = [values[first : first + self.positions] for first in range(0, len(values), self.positions)]
            found = [line[0] for line in lines]
        else:
            found = [line for value in values for line in value]
            lines = [line["line"] for line in found]
        check_unchanged((facts.get("weights") for facts in (found, values)[self._singly()]), self.other)
        robust, error = table(lines, "robust_loss", math.inf), table(lines, "robust_error", math.nan)
        full, full_error = (table(lines, name, math.nan) for name in ("full_loss", "full_error"))
        was_audited = self.examples != "retaken" and self.audit > 0
        return SliceResult(
            alpha=self.alphas(),
            clean_loss=table(lines, "clean_loss", math.inf),
            clean_error=table(lines, "clean_error", math.nan),
            robust_loss=robust,
            robust_error=error,
            scheme=self._family().normalisation(),
            direction_norm=np.array([facts["direction_norm"] for facts in found], dtype=float),
            attack=self.attack.describe(),
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
            examples=self._taking().words(),
            overflowed=np.isinf(robust),
            full_robust_loss=full if was_audited else _none(),
            full_robust_error=full_error if was_audited else _none(),
            bias=bias(robust, full),
            error_bias=bias(error, full_error),
            facts=self._family().facts(found),
        )
