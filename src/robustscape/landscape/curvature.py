"""How much curvature of the robust loss is missed where the adversarial inputs are held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, get_args

import numpy as np
from torch import Tensor

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.landscape._following import climbed
from robustscape.landscape._place import Place
from robustscape.landscape.curvature_levels import AtEps, at_eps
from robustscape.landscape.lanczos import Eigenpairs
from robustscape.landscape.operator import Coordinates, worst_inputs
from robustscape.types import Attack, BadInput, Plain, Provenance, Subject


@dataclass(frozen=True, kw_only=True)
class CurvatureResult:
    """Held and total curvature of the robust loss, over eps.

    Attributes:
        levels: Each eps, in the order of the multiples.
        norm: The threat model's norm.
        coordinates: What a step of 1 is: 1 in every weight ("raw"), or the norm of the weight's layer or filter.
        settle: Steps of the ascent that ends the search at w.
        follow: Steps of the ascent after every move of the weights.
        attack: The attack in words, at the largest eps that it was made for.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    levels: tuple[AtEps, ...]
    norm: str
    coordinates: str
    settle: int
    follow: int
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """Curvature of the robust loss with its adversarial inputs held, and with them following the weights, over eps.

    L(w) = mean over x of the largest loss g(d, w) within the threat model. Its Hessian is g_ww - g_wd A^{-1} g_dw, A
    the second derivative of the Lagrangian within the directions that the worst d can move in; held is the first term
    alone, and never above. The second is computed by products where it is defined: A negative definite, as for smooth
    activations, and for others under l2 away from kinks. Networks of ReLU and max-pooling are convex in d between
    their kinks, so under linf they have no such maximum unless every pixel is at an edge: there the result says so, and
    has differences over a radius.

    Every example is attacked at w, and an ascent without chance goes on from what was found. After a move of the
    weights it goes on from there again. So it follows the maximum that it is at, and leaps to another are missed.

    Attributes:
        attack: Finds the worst inputs at w, on the fast view; clean inputs stay where they are worse.
        multiples: The radii eps, as multiples of the attack's. 0 is the clean loss, where both curvatures are one.
        eigenvectors: How many of the top eigenvectors of the held Hessian, those of each eps.
        random: How many random directions, the same at every eps.
        radii: h, how far the weights move for differences; L2 length in the coordinates.
        coordinates: "raw", or relative to each "layer" or "filter", where a step of 1 is the norm of it.
        settle: Steps of the ascent at w.
        follow: Steps of the ascent after a move.
        solves: Most conjugate gradients of the implicit term, for each example.
        leave_out: Largest share of the examples that the implicit term may do without, a fraction: the total is then a
            lower bound, since each example's term is at least 0.
        products: Most products with the total Hessian for its largest eigenvalue; by differences, at the middle radius,
            where the implicit term is not defined. 0 leaves it out.
    """

    name: ClassVar[str] = "curvature"
    scale_free: ClassVar[bool] = False
    """A weight twice as large has a quarter of the curvature, unless coordinates are relative to layer or filter."""

    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    multiples: tuple[float, ...] = (0.0, 0.5, 1.0)
    eigenvectors: int = 1
    random: int = 1
    radii: tuple[float, ...] = (0.01, 0.03, 0.1)
    coordinates: Coordinates = "raw"
    settle: int = 50
    follow: int = 10
    solves: int = 50
    leave_out: float = 0.0
    products: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not isinstance(self.attack.threat, ThreatModel):
            raise BadInput(f"curvature needs an attack under a ThreatModel, not {type(self.attack.threat).__name__}")
        if not self.multiples or not all(0 <= m < math.inf for m in self.multiples):
            raise BadInput(f"multiples of eps must be at least 0, and at least one, not {list(self.multiples)}")
        self.attack.at(max(self.multiples) * self.attack.threat.eps)  # refuses what cannot be meant
        counts = (self.eigenvectors, self.random, self.products)
        if min(counts) < 0 or sum(counts) < 1:
            raise BadInput(
                f"there must be something to measure, not eigenvectors={self.eigenvectors}, random={self.random}, "
                f"products={self.products}"
            )
        if not self.radii or not all(0 < h < math.inf for h in self.radii):
            raise BadInput(f"radii must be above 0, and at least one, not {list(self.radii)}; did you mean 0.01?")
        if self.coordinates not in get_args(Coordinates):
            raise BadInput(f"coordinates {self.coordinates!r} is not one of {', '.join(get_args(Coordinates))}")
        if not 0 <= self.leave_out < 1:
            raise BadInput(f"leave_out must be in [0, 1), not {self.leave_out:g}; did you mean {self.leave_out:g} %?")
        for what in ("settle", "follow", "solves"):
            if getattr(self, what) < 1:
                raise BadInput(f"{what} must be at least 1, not {getattr(self, what)}")

    def points(self) -> list[Plain]:
        """Return [eps number, direction number] for each, eigenvectors first, and [eps number, "top"]."""
        each = [*range(self.eigenvectors + self.random), *(["top"] if self.products else [])]
        return [[level, what] for level in range(len(self.multiples)) for what in each]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return the curvatures along one direction, or the largest eigenvalues, at one eps."""
        return self.several(subject, [point])[0]

    def at_once(self, subject: Subject) -> int:
        """Return how many points share the worst inputs and eigenvectors found for them: those of one eps."""
        return self.eigenvectors + self.random + (self.products > 0)

    def several(self, subject: Subject, points: Sequence[Plain]) -> list[Plain]:
        """Return the values of several points, equal to those of ``at``.

        Raises:
            BadInput: more eigenvectors than there are parameters.
            Diverged: a loss or a product with a Hessian is not finite.
        """
        found: dict[int, list[Plain]] = {}
        for level in dict.fromkeys(level for level, _ in points):
            found[level] = self._at_eps(subject, level, [what for e, what in points if e == level])
        return [found[level].pop(0) for level, _ in points]

    def _at_eps(self, subject: Subject, level: int, wanted: Sequence[Plain]) -> list[Plain]:
        """Return the values of the points of one eps."""
        place = self._place(subject, level)
        pairs: Eigenpairs | None = None
        if any(what == "top" or what < self.eigenvectors for what in wanted):
            pairs = place.eigenvectors(max(self.eigenvectors, 1))
        about, values = place.about(), []
        for what in wanted:
            if what == "top":
                assert pairs is not None
                values.append({**about, **place.top(pairs, self.products, self._middle())})
            elif what < self.eigenvectors:
                assert pairs is not None
                known = {"direction": f"eigenvector {what + 1}", "converged": bool(pairs.converged[what])}
                values.append({**about, **known, **self._along(place, pairs.vectors[what])})
            else:
                number = what - self.eigenvectors
                known = {"direction": f"random {number + 1}", "converged": True}
                values.append({**about, **known, **self._along(place, place.random(number))})
        return values

    def _place(self, subject: Subject, level: int) -> Place:
        """Return the worst inputs at w for one eps."""
        attack = self.attack.at(self._eps(level))
        threat = attack.threat
        assert isinstance(threat, ThreatModel)
        x_adv = subject.x if threat.eps == 0 else worst_inputs(subject, attack, self.name)
        return Place(
            subject=subject,
            threat=threat,
            x_adv=climbed(subject, x_adv, threat, self.settle),
            coordinates=self.coordinates,
            follow=self.follow,
            solves=self.solves,
            leave_out=self.leave_out,
            name=self.name,
        )

    def _along(self, place: Place, v: Tensor) -> dict[str, Plain]:
        products = place.products(v)
        return {**products, "differences": [place.differences(v, h) for h in self.radii]}

    def _eps(self, level: int) -> float:
        return self.multiples[level] * self.attack.threat.eps

    def _middle(self) -> float:
        return sorted(self.radii)[len(self.radii) // 2]

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> CurvatureResult:
        """Put the points together."""
        size = self.at_once(subject)
        levels = [values[first : first + size] for first in range(0, len(values), size)]
        return CurvatureResult(
            levels=tuple(
                at_eps(some, eps=self._eps(number), multiple=self.multiples[number])
                for number, some in enumerate(levels)
            ),
            norm=self.attack.threat.norm,
            coordinates=self.coordinates,
            settle=self.settle,
            follow=self.follow,
            attack=self.attack.at(self._eps(int(np.argmax(self.multiples)))).describe(),
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )
