"""The loss over a plane in weight space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np

from robustscape.attacks.pgd import PGD
from robustscape.landscape._audit import audited, bias, table
from robustscape.landscape._other import check_unchanged
from robustscape.landscape.directions.family import Along, Direction, Facts, Family, Scheme
from robustscape.landscape.flatness import Estimate
from robustscape.landscape.lines import Examples, Line, Taking, along
from robustscape.types import Attack, BadInput, Plain, Provenance, Subject, WeightPerturbation
from robustscape.weights.awp import AWP
from robustscape.weights.space import shifted


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, kw_only=True)
class SurfaceResult:
    """Loss and error over a plane: B rows at the positions beta, P columns at the positions alpha.

    Attributes:
        alpha: (P,), positions along the first direction, in its units.
        beta: (B,), positions along the second.
        clean_loss: (B, P), nats per example; inf where it is not finite.
        clean_error: (B, P), fractions; NaN where the loss is not finite.
        robust_loss: (B, P), nats per example, of adversarial examples as ``examples`` says; inf as above.
        robust_error: (B, P), fractions; NaN as above.
        overflowed: (B, P), whether the loss of some example is not finite there.
        scheme: "filter", "layer" or "none": what the first direction was normalised to.
        direction_norm: (2,), L2 norms of the directions.
        cosine: Cosine between the directions, over the parameters that either moves: 0 where they are orthogonal.
        attack: The attack in words.
        examples: In words, where the adversarial examples are from, and whether the loss is underestimated by it.
        full_robust_loss: (B, P), robust loss of a full attack at the points of the audit, NaN at all others; empty
            where there was no audit.
        full_robust_error: (B, P), the same of the robust error.
        bias: What the robust loss is over that of a full attack, mean over the points without one as the audit
            estimates it, with its 95 % interval; None without an audit.
        error_bias: The same of the robust error, a fraction.
        facts: What else is known of the directions.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    alpha: np.ndarray
    beta: np.ndarray
    clean_loss: np.ndarray
    clean_error: np.ndarray
    robust_loss: np.ndarray
    robust_error: np.ndarray
    overflowed: np.ndarray
    scheme: str
    direction_norm: np.ndarray
    cosine: float
    attack: str
    examples: str
    full_robust_loss: np.ndarray
    full_robust_error: np.ndarray
    bias: Estimate | None
    error_bias: Estimate | None
    facts: Facts
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The loss at w + alpha * d1 + beta * d2 on a grid.

    Li 2018 (https://arxiv.org/abs/1712.09913, section 4) for two filter-normalised directions and (section 7) the
    plane of a training path, Liu 2020 (https://arxiv.org/abs/2006.08403, figure 12) for that of the top eigenvectors.
    The robust loss and the random starts are those of the measurement ``slices``.

    Attributes:
        attack: The attack on the shifted network; searched on the fast view, judged in float32.
        scheme: What the directions are normalised to, as for ``slices``; None for what suits them.
        width: Largest alpha and beta, in units of the directions.
        positions: Positions along each direction, from -width to width; odd, so that 0 is among them. Along "other"
            alpha goes from 0.
        along: The two directions, as for ``slices``: two "random" ones, the first two of "hessian", "clean_hessian" or
            "path". Beside the one of "other" the second is random and filter-normalised, beside that of "adversarial"
            random and normalised as it is.
        other: Run directory (its last checkpoint) or .safetensors file of the other weights; along "path" the run.
        adversary: The search for the adversarial direction.
        examples: "retaken": an attack at every point. "held": those of the weights themselves everywhere, which
            underestimates the robust loss. "neighbours": a full attack at alpha = 0 of every row, and from there
            along the row some steps on from the neighbour's examples.
        neighbour_steps: Steps of a quarter of eps from the neighbour's examples.
        audit: Share of the points where a full attack is made too, unless examples are retaken, in [0, 1].

    Deviations:
        As for ``slices``. Two Gaussian directions are only nearly orthogonal, as Li's; ``cosine`` says how nearly.
    """

    name: ClassVar[str] = "surface"
    scale_free: ClassVar[bool] = True
    """The surface stays when the network is rescaled without changing its function, in the normalisations filter
    and layer of random directions; along eigenvectors, to other weights and without normalisation it does not."""

    attack: Attack = field(default_factory=lambda: PGD(result="best_loss"))
    scheme: Scheme | None = None
    width: float = 1.0
    positions: int = 15
    along: Along = "random"
    other: str = ""
    adversary: WeightPerturbation = field(default_factory=lambda: AWP(gamma=0.01, steps=10))
    examples: Examples = "retaken"
    neighbour_steps: int = 3
    audit: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.positions < 3 or self.positions % 2 == 0:
            raise BadInput(f"positions must be odd and at least 3, so that 0 is among them, not {self.positions}")
        if not 0 < self.width < math.inf:
            raise BadInput(f"width must be above 0 and finite, not {self.width:g}")
        if not 0 <= self.audit <= 1:
            raise BadInput(f"audit is a share of the points, in [0, 1], not {self.audit:g}")
        self._family()  # each refuses what cannot be meant of its own
        self._taking()

    def betas(self) -> np.ndarray:
        """Return the positions along the second direction, (B,), exactly symmetric about an exact 0."""
        half = self.positions // 2
        return np.arange(-half, half + 1) / half * self.width

    def alphas(self) -> np.ndarray:
        """Return the positions along the first direction, (P,), as the second's; along "other" from an exact 0 on."""
        return np.arange(self.positions) / (self.positions - 1) * self.width if self.along == "other" else self.betas()

    @property
    def stem(self) -> str:
        """What its result file is called: "surface", along others than random directions as "surface_hessian"."""
        return self.name if self.along == "random" else f"{self.name}_{self.along}"

    def points(self) -> list[Plain]:
        """Return lists of rows: one row each, or several where finding the directions costs much."""
        size = self._family().together()
        return [list(range(first, min(first + size, self.positions))) for first in range(0, self.positions, size)]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return losses and errors of some rows, and what is known of the directions."""
        first, second = self._directions(subject)
        marked = self._audited(subject.seed)
        rows = [
            along(subject, self._row(subject, first, second, row), self._taking(), [p for r, p in marked if r == row])
            for row in point
        ]
        return {"rows": rows, "facts": [first.facts, second.facts], "cosine": _cosine(first, second)}

    def _directions(self, subject: Subject) -> tuple[Direction, Direction]:
        family = self._family()
        if self.along not in ("other", "adversarial"):
            first, second = family.find(subject, [0, 1])
            return first, second
        scheme: Scheme = "filter" if self.along == "other" else family.normalisation()
        beside = replace(family, along="random", scheme=scheme, other="")
        return family.find(subject, [0])[0], beside.find(subject, [1])[0]

    def _row(self, subject: Subject, first: Direction, second: Direction, row: int) -> Line:
        beta = float(self.betas()[row])
        centre = self._centre()
        return Line(
            place=partial(_placed, subject, first, second, beta),
            alphas=self.alphas(),
            centre=centre,
            must=centre if beta == 0 else None,
        )

    def _centre(self) -> int:
        return 0 if self.along == "other" else self.positions // 2

    def _audited(self, seed: int) -> list[tuple[int, int]]:
        """Return the points of the audit: (row, column), among those without a full attack of their own."""
        middle = self.positions // 2
        exact = {(middle if self.examples == "held" else row, self._centre()) for row in range(self.positions)}
        cells = [(row, p) for row in range(self.positions) for p in range(self.positions)]
        return audited(seed, self.name, [cell for cell in cells if cell not in exact], self.audit)

    def _family(self) -> Family:
        return Family(
            along=self.along,
            scheme=self.scheme,
            other=self.other,
            attack=self.attack,
            adversary=self.adversary,
            count=2,
            name=self.name,
        )

    def _taking(self) -> Taking:
        return Taking(attack=self.attack, examples=self.examples, steps=self.neighbour_steps, name=self.name)

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> SurfaceResult:
        """Put the rows together.

        Raises:
            BadInput: other weights changed on the way.
        """
        check_unchanged((value["facts"][0].get("weights") for value in values), self.other)
        rows = [row for value in values for row in value["rows"]]
        found = values[0]["facts"]
        robust, error = table(rows, "robust_loss", math.inf), table(rows, "robust_error", math.nan)
        full, full_error = (table(rows, name, math.nan) for name in ("full_loss", "full_error"))
        was_audited = self.examples != "retaken" and self.audit > 0
        return SurfaceResult(
            alpha=self.alphas(),
            beta=self.betas(),
            clean_loss=table(rows, "clean_loss", math.inf),
            clean_error=table(rows, "clean_error", math.nan),
            robust_loss=robust,
            robust_error=error,
            overflowed=np.isinf(robust),
            scheme=self._family().normalisation(),
            direction_norm=np.array([facts["direction_norm"] for facts in found], dtype=float),
            cosine=values[0]["cosine"],
            attack=self.attack.describe(),
            examples=self._taking().words(),
            full_robust_loss=full if was_audited else _none(),
            full_robust_error=full_error if was_audited else _none(),
            bias=bias(robust, full),
            error_bias=bias(error, full_error),
            facts=self._family().facts(found),
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )


@contextmanager
def _placed(subject: Subject, first: Direction, second: Direction, beta: float, alpha: float) -> Iterator[None]:
    """Run the block at w + alpha d1 + beta d2."""
    with first.place(alpha), shifted(subject.model, second.vector, beta):
        yield


def _cosine(first: Direction, second: Direction) -> float:
    both = first.vector.keys() & second.vector.keys()
    inner = sum(float((first.vector[name].double() * second.vector[name].double()).sum()) for name in sorted(both))
    lengths = first.facts["direction_norm"] * second.facts["direction_norm"]
    return inner / lengths if lengths > 0 else 0.0
