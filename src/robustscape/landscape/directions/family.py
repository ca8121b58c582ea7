"""The families of directions, and what is known of the directions found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

from robustscape.landscape._other import check_other, contents
from robustscape.landscape.directions.adversarial import adversarial
from robustscape.landscape.directions.between import difference, placed, read_state, weights_file
from robustscape.landscape.directions.hessian import eigenvectors
from robustscape.landscape.directions.path import components
from robustscape.landscape.operator import worst_inputs
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, NotApplicable, Params, Plain, Subject, WeightPerturbation
from robustscape.weights.space import gaussian, norm, normalised, nothing_moves, select, shifted

Along: TypeAlias = Literal["random", "other", "hessian", "clean_hessian", "adversarial", "path"]
"""Families of directions."""

Scheme: TypeAlias = Literal["filter", "layer", "none"]
"""What a direction is normalised to."""

_OWN: dict[str, Scheme] = {"random": "filter", "adversarial": "layer"}
_TOGETHER = {"hessian": 5, "clean_hessian": 5, "path": 5}  # found at one cost: so many lines make a point


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of directions beside their length; () where a family has no such thing.

    Attributes:
        along: Which family.
        other: The run directory or file that other weights are from, "" for none.
        statistics: "kept": running statistics are the model's own everywhere. "moved": they move along with the
            parameters to those of the other model.
        eigenvalues: Of each direction, the Hessian's, nats.
        residuals: ||H v - eigenvalue v|| of each direction.
        converged: Whether each residual is within 1e-3 of the eigenvalue.
        curvature: "held" where there are eigenvalues: the adversarial inputs stay where they are when weights move.
        explained: Share of the path's sum of squares that each direction holds.
        path: For each checkpoint its coordinates in units of the directions.
        checkpoints: Their names.
    """

    along: str = "random"
    other: str = ""
    statistics: str = "kept"
    eigenvalues: tuple[float, ...] = ()
    residuals: tuple[float, ...] = ()
    converged: tuple[bool, ...] = ()
    curvature: str = ""
    explained: tuple[float, ...] = ()
    path: tuple[tuple[float, ...], ...] = ()
    checkpoints: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Direction:
    """One direction found.

    Attributes:
        vector: What one unit adds to the parameters.
        place: Puts the model at a position along it for the length of a block.
        facts: Plain data: direction_norm, "weights", which tells whether other weights are still the same, and what
            its family knows of it.
    """

    vector: Params
    place: Callable[[float], AbstractContextManager[None]]
    facts: dict[str, Plain]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Which directions are meant.

    Attributes:
        along: The family.
        scheme: What each is normalised to; None for what suits the family.
        other: Run directory or .safetensors file, for "other" and "path".
        attack: Makes the adversarial examples that "hessian" and "adversarial" hold.
        adversary: The search of "adversarial".
        count: How many there are in all.
        name: Purpose of the random numbers.
    """

    along: Along
    scheme: Scheme | None
    other: str
    attack: Attack
    adversary: WeightPerturbation
    count: int
    name: str

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.along not in get_args(Along):
            raise BadInput(f"along {self.along!r} is not one of {', '.join(get_args(Along))}")
        if self.scheme is not None and self.scheme not in get_args(Scheme):
            raise BadInput(f"scheme {self.scheme!r} is not one of {', '.join(get_args(Scheme))}")
        wants_other = self.along in ("other", "path")
        if wants_other and not self.other:
            form = "a run directory or a .safetensors file" if self.along == "other" else "a run directory"
            raise BadInput(f"along={self.along} needs other, {form}")
        if self.other and not wants_other:
            raise BadInput(f"other={self.other!r} has no effect along={self.along}; did you mean along=other?")
        if wants_other and self.scheme not in (None, "none"):
            raise BadInput(
                f"along={self.along} is not normalised: the other weights would not be met; leave out scheme"
            )

    def normalisation(self) -> Scheme:
        """Return what directions are normalised to."""
        return self.scheme or _OWN.get(self.along, "none")

    def together(self) -> int:
        """Return how many lines are best measured in one point, since their directions are found at one cost."""
        return _TOGETHER.get(self.along, 1)

    def find(self, subject: Subject, numbers: Sequence[int]) -> list[Direction]:
        """Return the directions of the given numbers, below ``count``: a function of subject, seed and settings.

        Raises:
            BadInput: other weights that do not fit, or are of other data, or too few checkpoints.
            NotApplicable: a direction is 0: there is nothing in the network that it moves.
            Diverged: a loss is not finite at the weights.
        """
        if self.along == "random":
            return [self._direction(subject, self._drawn(subject, number), {}) for number in numbers]
        if self.along == "other":
            file = weights_file(self.other)
            check_other(subject, self.other)
            there = read_state(subject.model, file)
            d = difference(subject.model, there)
            facts: dict[str, Plain] = {"direction_norm": float(norm(d)), "weights": contents([file])}
            return [
                Direction(vector=d, place=partial(placed, subject.model, there), facts=dict(facts)) for _ in numbers
            ]
        if self.along == "adversarial":
            found = [adversarial(subject, self.attack, self.adversary, name=self.name, number=k) for k in numbers]
            return [self._direction(subject, v, {}) for v in found]
        if self.along == "path":
            return self._principal(subject, numbers)
        x = worst_inputs(subject, self.attack, self.name) if self.along == "hessian" else None
        vectors, pairs = eigenvectors(subject, x, self.count, self.name)
        known = [
            {
                "eigenvalue": float(pairs.values[k]),
                "residual": float(pairs.residuals[k]),
                "converged": bool(pairs.converged[k]),
            }
            for k in numbers
        ]
        return [self._direction(subject, vectors[k], facts) for k, facts in zip(numbers, known, strict=True)]

    def _principal(self, subject: Subject, numbers: Sequence[int]) -> list[Direction]:
        check_other(subject, self.other)
        found = components(subject.model, self.other, self.count)
        return [
            self._direction(
                subject,
                found.vectors[number],
                {
                    "explained": float(found.explained[number]),
                    "path": found.coordinates[:, number].tolist(),
                    "checkpoints": list(found.checkpoints),
                    "weights": found.contents,
                },
            )
            for number in numbers
        ]

    def _drawn(self, subject: Subject, number: int) -> Params:
        return gaussian(select(subject.model, "layers"), Streams(subject.seed, (self.name, number)))

    def _direction(self, subject: Subject, d: Params, facts: dict[str, Plain]) -> Direction:
        scheme, length = self.normalisation(), norm(d)
        if length == 0:
            raise NotApplicable(
                f"the {self.along} direction moves no weight of {type(subject.model).__name__}: it is 0"
            )
        if scheme != "none":
            weights = {name: value.detach() for name, value in subject.model.named_parameters() if name in d}
            d = normalised(d, weights, scheme)
            if norm(d) == 0:
                raise nothing_moves(subject.model, scheme)
        elif self.along in ("random", "adversarial"):
            d = {name: value / length for name, value in d.items()}
        known = {**facts, "direction_norm": float(norm(d))}
        return Direction(vector=d, place=partial(shifted, subject.model, d), facts=known)

    def facts(self, found: Sequence[dict[str, Plain]]) -> Facts:
        """Return what is known of all directions from the facts of each."""

        def each(name: str) -> tuple[Any, ...]:
            return tuple(facts[name] for facts in found if name in facts)

        paths = [facts["path"] for facts in found if "path" in facts]
        return Facts(
            along=self.along,
            other=self.other,
            statistics="moved" if self.along == "other" else "kept",
            eigenvalues=each("eigenvalue"),
            residuals=each("residual"),
            converged=each("converged"),
            curvature="held" if each("eigenvalue") else "",
            explained=each("explained"),
            path=tuple(zip(*paths, strict=True)),
            checkpoints=tuple(found[0].get("checkpoints", ())),
        )
