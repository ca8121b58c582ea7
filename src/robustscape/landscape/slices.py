"""One-dimensional slices of the loss along random directions in weight space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from robustscape.attacks.pgd import PGD
from robustscape.evaluation import together
from robustscape.evaluation.judging import performance
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Params, Plain, Provenance, Subject
from robustscape.weights.space import gaussian, norm, normalised, select, shifted


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """Loss and error along D random directions at P positions.

    Attributes:
        alpha: (P,), positions, in units of the normalised direction.
        clean_loss: (D, P), nats per example.
        clean_error: (D, P), fractions.
        robust_loss: (D, P), nats per example, of adversarial examples retaken at every point.
        robust_error: (D, P), fractions.
        scheme: "filter" or "layer": what each direction was normalised to.
        direction_norm: (D,), L2 norm of each direction: positions under other schemes do not compare.
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
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


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The loss at w + alpha * d along normalised Gaussian directions d.

    Li 2018 (https://arxiv.org/abs/1712.09913, section 4) for the filter-normalised direction, Wu 2020
    (https://arxiv.org/abs/2004.05884, section 3.1) and Stutz 2021 (https://arxiv.org/abs/2104.04448, section 3.2)
    for the robust loss: h(alpha) = mean over x of max over x_adv of the loss at w + alpha * d, the adversarial
    examples retaken at every point. Every point has the same random starts, so what differs between two points
    is the weights alone.

    Attributes:
        attack: The attack on the shifted network; searched on the fast view, judged in float32.
        scheme: What the direction is normalised to: "filter" (each output channel or row; biases do not move) or
            "layer" (each weight or bias tensor). Normalisation parameters never move. Positions under the two do
            not compare: ``direction_norm`` tells how far one unit is.
        width: Largest alpha, in units of the normalised direction.
        positions: Alphas from -width to width, evenly spaced; odd, so that 0 is among them.
        directions: Number of random directions.

    Deviations:
        The robust loss of an example is the larger of the clean and the attacked one, since the clean input is
        inside the threat model too.
    """

    name: ClassVar[str] = "slices"

    attack: Attack = field(default_factory=lambda: PGD(result="best_loss"))
    scheme: Literal["filter", "layer"] = "filter"
    width: float = 1.0
    positions: int = 21
    directions: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.scheme not in ("filter", "layer"):
            raise BadInput(f"scheme {self.scheme!r} is not one of filter, layer")
        if self.positions < 3 or self.positions % 2 == 0:
            raise BadInput(f"positions must be odd and at least 3, so that alpha 0 is among them, not {self.positions}")
        if not self.width > 0:
            raise BadInput(f"width must be above 0, not {self.width:g}")
        if self.directions < 1:
            raise BadInput(f"directions must be at least 1, not {self.directions}")

    def alphas(self) -> np.ndarray:
        """Return the positions, (P,), exactly symmetric about an exact 0."""
        half = self.positions // 2
        return np.arange(-half, half + 1) / half * self.width

    def points(self) -> list[Plain]:
        """Return [direction number, position number] for each point."""
        return [[d, p] for d in range(self.directions) for p in range(self.positions)]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return the losses and errors at one position along one direction."""
        direction, position = point
        d = self._direction(subject, direction)
        with shifted(subject.model, d, float(self.alphas()[position])):
            there = performance(subject, self.attack, self.name)
        return {**vars(there), "direction_norm": float(norm(d))}

    def at_once(self, subject: Subject) -> int:
        """Return how many points ``several`` measures in one pass: more than 1 for narrow networks of matrices."""
        return together.slots(subject, self.directions * self.positions)

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of several points, equal to those of ``at`` but for rounding."""
        directions = {number: self._direction(subject, number) for number in {direction for direction, _ in points}}
        alphas = self.alphas()
        vs = [
            {name: d * float(alphas[position]) for name, d in directions[direction].items()}
            for direction, position in points
        ]
        tags = [(self.name,)] * len(points)
        found = together.performances(subject, self.attack, vs, tags)
        return [
            {**vars(there), "direction_norm": float(norm(directions[direction]))}
            for there, (direction, _) in zip(found, points, strict=True)
        ]

    def _direction(self, subject: Subject, number: int) -> Params:
        weights = select(subject.model, "layers")
        drawn = gaussian(weights, Streams(subject.seed, (self.name, number)))
        return normalised(drawn, weights, self.scheme)

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> SliceResult:
        """Put the points together."""

        def grid(name: str) -> np.ndarray:
            return np.array([value[name] for value in values], dtype=float).reshape(self.directions, self.positions)

        return SliceResult(
            alpha=self.alphas(),
            clean_loss=grid("clean_loss"),
            clean_error=grid("clean_error"),
            robust_loss=grid("robust_loss"),
            robust_error=grid("robust_error"),
            scheme=self.scheme,
            direction_norm=grid("direction_norm")[:, 0],
            attack=self.attack.describe(),
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )
