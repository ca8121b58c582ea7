"""Whether adversarial perturbations stay the same when the weights move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from robustscape.attacks.pgd import PGD
from robustscape.landscape._perturbations import compared
from robustscape.landscape.lanczos import extremes
from robustscape.landscape.operator import hessian, worst_inputs
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Diverged, Params, Plain, Provenance, Subject
from robustscape.weights.space import gaussian, norm, normalised, nothing_moves, select

_TOLERANCE, _MOST = 1e-2, 100
"""Relative residual of the eigenvectors, and the most products with the Hessian that they may take."""

_FIELDS = (
    "similarity",
    "standard_error",
    "start_error",
    "sign_similarity",
    "zero",
    "clean_error",
    "robust_error",
)


@dataclass(frozen=True, kw_only=True)
class SimilarityResult:
    """Similarity of perturbations found at w + a v and at w - a v, along D directions v at P positions a.

    Attributes:
        directions: What each v is: "random 1", "eigenvector 1".
        position: (P,), a, in units of v.
        direction_norm: (D,), L2 norm of v: 1 but for normalised random directions.
        eigenvalue: (D,), v's eigenvalue of the held adversarial Hessian, nats; NaN for random directions.
        converged: (D,), whether v is an eigenvector to a relative residual of 0.01; true for random directions.
        similarity: (D, P), cosine of the two perturbations of an example, mean over starts and examples; NaN where
            there was none, or where the loss overflowed.
        standard_error: (D, P), its standard error over examples, that over their starts included.
        start_error: (D, P), its standard error over starts alone; NaN for a single start.
        sign_similarity: (D, P), the same mean for the signs of the perturbations.
        zero: (D, P), share of the pairs that were left out, since a perturbation was 0 and has no direction; NaN
            where the loss overflowed.
        clean_error: (D, P, 2), fractions, at w + a v and at w - a v; NaN as above.
        robust_error: (D, P, 2), fractions, by the worst of all starts and the clean input.
        trusted: (D, P), whether the robust accuracy at both is at least ``least_accuracy``; below, the network has
            broken down and the similarity says little.
        least_accuracy: Fraction.
        same_weights: Similarity of perturbations from two random starts at w itself: the level that similarities fall
            from, below 1 since starts differ.
        same_weights_error: Its standard error over examples.
        same_weights_start_error: Its standard error over starts alone.
        same_weights_sign: The same for signs.
        same_weights_zero: Share of pairs that were left out there.
        same_weights_clean_error: Clean error at w.
        same_weights_robust_error: Robust error at w, by the worst of as many starts.
        starts: Pairs of random starts for each point.
        normalisation: What random directions are normalised to: "unit", "filter" or "layer".
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
        curvature: "held": the eigenvalues are those of the Hessian at adversarial inputs that stay where they are.
        overflowed: (D, P), whether the loss of some example is not finite at w + a v or at w - a v; empty in files of
            older versions.
    """

    directions: tuple[str, ...]
    position: np.ndarray
    direction_norm: np.ndarray
    eigenvalue: np.ndarray
    converged: np.ndarray
    similarity: np.ndarray
    standard_error: np.ndarray
    start_error: np.ndarray
    sign_similarity: np.ndarray
    zero: np.ndarray
    clean_error: np.ndarray
    robust_error: np.ndarray
    trusted: np.ndarray
    least_accuracy: float
    same_weights: float | None
    same_weights_error: float | None
    same_weights_start_error: float | None
    same_weights_sign: float | None
    same_weights_zero: float
    same_weights_clean_error: float
    same_weights_robust_error: float
    starts: int
    normalisation: str
    attack: str
    n: int
    split: str
    provenance: Provenance
    curvature: str = "held"
    overflowed: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Cosine between the adversarial perturbations of an example at w + a v and at w - a v.

    Liu 2020 (https://arxiv.org/abs/2006.08403, section 3.3, figures 3 and 10): along a random unit vector, over all
    parameters, perturbations stay similar; along the top eigenvector of the Hessian of the adversarial loss they soon
    do not, which is why that loss is not smooth. The eigenvectors are those of the Hessian over adversarial inputs held
    as they are found at w, clean inputs where those are worse. All starts are independent, and the same at every
    point, so that what differs between two points is the weights alone.

    Attributes:
        attack: Finds the perturbations, on the fast view; what it returns is what is compared. The paper's is PGD from
            a random start, its last iterate.
        random: Number of random directions.
        eigenvectors: Number of eigenvectors, those of the largest eigenvalues; found anew for each direction.
        normalisation: Of random directions: "unit" for length 1 over all parameters, "filter" or "layer" for the norms
            of the weights' filters or layers, without normalisation parameters.
        positions: a, in units of v, above 0.
        starts: Random starts at w + a v, and as many at w - a v, each compared with one of those.
        least_accuracy: Robust accuracy, a fraction, below which a point is marked.

    Deviations:
        The paper's positions are those that its figure shows; here five over two decades. It leaves points of less
        than 70 % robust accuracy on the training set out; here they are marked, on the examples that were measured.
        Its code attacks in train mode for the Hessian; here all is in eval mode.
    """

    name: ClassVar[str] = "similarity"
    scale_free: ClassVar[bool] = False
    """A step of length a is smaller beside larger weights; only along filter-normalised directions it is not."""

    attack: Attack = field(default_factory=lambda: PGD(steps=20))
    random: int = 1
    eigenvectors: int = 1
    normalisation: Literal["unit", "filter", "layer"] = "unit"
    positions: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    starts: int = 4
    least_accuracy: float = 0.7

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.random < 0 or self.eigenvectors < 0 or self.random + self.eigenvectors < 1:
            raise BadInput(
                f"there must be a direction to move along, not random={self.random}, eigenvectors={self.eigenvectors}"
            )
        if self.normalisation not in ("unit", "filter", "layer"):
            raise BadInput(f"normalisation {self.normalisation!r} is not one of unit, filter, layer")
        if not self.positions or not all(0 < a < math.inf for a in self.positions):
            raise BadInput(f"positions must be above 0, since w itself is always measured, not {list(self.positions)}")
        if self.starts < 1:
            raise BadInput(f"starts must be at least 1, not {self.starts}; Liu 2020 takes 4")
        if not 0 <= self.least_accuracy <= 1:
            raise BadInput(
                f"least_accuracy is a fraction, in [0, 1], not {self.least_accuracy:g}; "
                f"did you mean {self.least_accuracy / 100:g}?"
            )

    def points(self) -> list[Plain]:
        """Return [direction, position number] for each point, then "same weights"."""
        directions = range(self.random + self.eigenvectors)
        return [*([d, p] for d in directions for p in range(len(self.positions))), "same weights"]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return similarities and errors at one pair of points in weight space."""
        return self.several(subject, [point])[0]

    def at_once(self, subject: Subject) -> int:
        """Return how many points share the eigenvectors found for them: those of one direction."""
        return len(self.positions) if self.eigenvectors else 1

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of several points, equal to those of ``at``.

        Raises:
            BadInput: more eigenvectors than there are parameters.
            NotApplicable: a random direction is 0: there is nothing in the network that it moves.
            Diverged: a loss at w or a product with the Hessian is not finite.
        """
        moves = [point for point in points if point != "same weights"]
        needed = any(direction >= self.random for direction, _ in moves)
        found = self._eigenvectors(subject) if needed else []
        values = []
        for point in points:
            if point == "same weights":
                values.append(compared(subject, self.attack, self.starts, self.name))
                continue
            direction, position = point
            about = found[direction - self.random] if direction >= self.random else self._random(subject, direction)
            v = about["v"]
            there = self._moved(subject, v, self.positions[position])
            about = {name: value for name, value in about.items() if name != "v"}
            values.append({**there, **about, "direction_norm": float(norm(v))})
        return values

    def _moved(self, subject: Subject, v: Params, a: float) -> dict[str, Plain]:
        """Return similarities and errors at w + a v and w - a v, None where the loss overflows."""
        try:
            return compared(subject, self.attack, self.starts, self.name, v, a)
        except Diverged:
            return dict.fromkeys(_FIELDS)

    def _random(self, subject: Subject, number: int) -> dict[str, Plain]:
        weights = select(subject.model, "all" if self.normalisation == "unit" else "layers")
        drawn = gaussian(weights, Streams(subject.seed, (self.name, "direction", number)))
        if self.normalisation != "unit":
            v = normalised(drawn, weights, self.normalisation)
            if norm(v) == 0:
                raise nothing_moves(subject.model, self.normalisation)
        else:
            length = norm(drawn)
            v = {name: value / length for name, value in drawn.items()}
        return {"v": v, "eigenvalue": None, "converged": True}

    def _eigenvectors(self, subject: Subject) -> list[dict[str, Plain]]:
        """Return the top eigenvectors of the held adversarial Hessian, with their eigenvalues."""
        operator = hessian(subject, worst_inputs(subject, self.attack, self.name, "held"))
        most = min(max(_MOST, self.eigenvectors), operator.size)
        rng = Streams(subject.seed, (self.name, "lanczos"))
        top = extremes(operator, operator.like(), k=self.eigenvectors, tolerance=_TOLERANCE, most=most, rng=rng).top
        return [
            {"v": operator.params(top.vectors[k]), "eigenvalue": float(value), "converged": bool(top.converged[k])}
            for k, value in enumerate(top.values)
        ]

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> SimilarityResult:
        """Put the points together."""
        *moved, same = values
        shape = (self.random + self.eigenvectors, len(self.positions))

        def pairs(name: str) -> np.ndarray:
            return np.array([value[name] or [math.nan] * 2 for value in moved], dtype=float).reshape(*shape, 2)

        robust_error = pairs("robust_error")

        def grid(name: str) -> np.ndarray:
            return np.array([value[name] for value in moved], dtype=float).reshape(shape)  # None becomes NaN

        return SimilarityResult(
            directions=(
                *(f"random {d + 1}" for d in range(self.random)),
                *(f"eigenvector {d + 1}" for d in range(self.eigenvectors)),
            ),
            position=np.array(self.positions, dtype=float),
            direction_norm=grid("direction_norm")[:, 0],
            eigenvalue=grid("eigenvalue")[:, 0],
            converged=grid("converged")[:, 0] == 1,
            similarity=grid("similarity"),
            standard_error=grid("standard_error"),
            start_error=grid("start_error"),
            sign_similarity=grid("sign_similarity"),
            zero=grid("zero"),
            clean_error=pairs("clean_error"),
            robust_error=robust_error,
            trusted=1 - robust_error.max(axis=2) >= self.least_accuracy,
            least_accuracy=self.least_accuracy,
            same_weights=same["similarity"],
            same_weights_error=same["standard_error"],
            same_weights_start_error=same["start_error"],
            same_weights_sign=same["sign_similarity"],
            same_weights_zero=same["zero"],
            same_weights_clean_error=same["clean_error"][0],
            same_weights_robust_error=same["robust_error"][0],
            starts=self.starts,
            normalisation=self.normalisation,
            attack=self.attack.describe(),
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
            overflowed=np.isnan(robust_error[..., 0]),
        )
