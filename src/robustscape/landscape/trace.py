"""The trace of the Hessian of the clean and the robust loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from robustscape.attacks.pgd import PGD
from robustscape.landscape._held import check_coordinates, check_scope, inputs, losses_of
from robustscape.landscape.flatness import t_interval
from robustscape.landscape.krylov import Times
from robustscape.landscape.operator import Coordinates, hessian
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Plain, Provenance, Subject
from robustscape.weights.space import Scope

Method = Literal["hutch++", "hutchinson"]


@dataclass(frozen=True, kw_only=True)
class TraceResult:
    """The trace, for L losses in C coordinates, from R independent replicates.

    Attributes:
        losses: (L,), "clean", and "robust" where there was an attack.
        coordinates: (C,), "raw", "layer" or "filter": what a step of 1 in weight space is.
        trace: (L, C), mean over the replicates; nats per unit of the coordinates squared.
        low: (L, C), lower end of its 95 % interval, by Student's t over replicates.
        high: (L, C), upper end.
        replicates: (L, C, R), each one's own.
        size: D, the number of weights: the mean eigenvalue is trace / D.
        method: "hutch++" or "hutchinson".
        products: Products with the Hessian of each replicate.
        curvature: "held": the adversarial inputs stay where they are when the weights move.
        scope: Which parameters.
        attack: The attack in words, "" for none.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    losses: tuple[str, ...]
    coordinates: tuple[str, ...]
    trace: np.ndarray
    low: np.ndarray
    high: np.ndarray
    replicates: np.ndarray
    size: int
    method: str
    products: int
    curvature: str
    scope: str
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The trace of the Hessian: twice the mean rise of the loss, to second order, under noise of variance 1.

    Hutch++ (Meyer 2021, https://arxiv.org/abs/2010.09649, algorithm 1): a third of the products finds the space of
    the largest eigenvalues, a third takes its trace exactly, and the last third estimates the rest as
    Hutchinson (1989) does: the mean of v' H v over random vectors of signs. Exact up to rounding where the
    Hessian's rank is at most a third of the products.

    Attributes:
        attack: The attack, searched on the fast view; None for the clean loss alone.
        method: "hutch++" or "hutchinson".
        products: Products with the Hessian of each replicate; of Hutch++ a multiple of 3.
        replicates: Independent estimates, at least 2, for the interval. The same random vectors for all losses.
        coordinates: "raw" (a step of 1 is 1 in every weight), and relative to the L2 norm of each "layer" or
            "filter", which is scale-free; any of them.
        scope: Which parameters: "weights", "layers" (biases too) or "all" (normalisation too). Under "filter"
            parameters of one dimension do not move.
    """

    name: ClassVar[str] = "trace"
    scale_free: ClassVar[bool] = False
    """That in raw coordinates changes when a layer is rescaled; those in relative ones stay."""

    attack: Attack | None = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    method: Method = "hutch++"
    products: int = 30
    replicates: int = 5
    coordinates: tuple[Coordinates, ...] = ("raw", "layer")
    scope: Scope = "all"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_coordinates(self.coordinates)
        check_scope(self.scope)
        if self.method not in get_args(Method):
            raise BadInput(f"method {self.method!r} is not one of {', '.join(get_args(Method))}")
        if self.products < 1 or (self.method == "hutch++" and self.products % 3):
            raise BadInput(f"products must be at least 1, and of hutch++ a multiple of 3, not {self.products}")
        if self.replicates < 2:
            raise BadInput(f"replicates must be at least 2, for an interval, not {self.replicates}")

    def points(self) -> list[Plain]:
        """Return [loss, coordinates, number of the replicate] for each."""
        return [
            [loss, coordinates, replicate]
            for loss in losses_of(self.attack)
            for coordinates in self.coordinates
            for replicate in range(self.replicates)
        ]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return one replicate's trace."""
        loss, coordinates, replicate = point
        held = inputs(subject, self.attack, loss, self.name)
        operator = hessian(subject, held, scope=self.scope, coordinates=coordinates)
        rng = Streams(subject.seed, (self.name, replicate))
        estimate = hutchpp if self.method == "hutch++" else hutchinson
        return {"trace": estimate(operator, operator.like(), self.products, rng), "size": operator.size}

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> TraceResult:
        """Put the replicates together."""
        losses = losses_of(self.attack)
        shape = len(losses), len(self.coordinates), self.replicates
        found = np.array([value["trace"] for value in values]).reshape(shape)
        intervals = [t_interval(draws, n=self.replicates) for draws in found.reshape(-1, self.replicates)]
        mean, low, high = (
            np.array([getattr(interval, name) for interval in intervals]).reshape(shape[:2])
            for name in ("value", "low", "high")
        )
        return TraceResult(
            losses=losses,
            coordinates=tuple(self.coordinates),
            trace=mean,
            low=low,
            high=high,
            replicates=found,
            size=values[0]["size"],
            method=self.method,
            products=self.products,
            curvature="held",
            scope=self.scope,
            attack=self.attack.describe() if self.attack else "",
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )


def hutchinson(times: Times, like: Tensor, products: int, rng: Streams) -> float:
    """Return the mean of v' H v over random vectors v of signs.

    Args:
        times: The operator H.
        like: (D,), a tensor of its vectors' size, precision and device.
        products: How many vectors.
        rng: Of the vectors, without an index.
    """
    return sum(_along(times, _signs(like, rng.tag("rest", number))) for number in range(products)) / products


def hutchpp(times: Times, like: Tensor, products: int, rng: Streams) -> float:
    """Return the trace by Hutch++.

    Args:
        times: The operator H.
        like: (D,), a tensor of its vectors' size, precision and device.
        products: A multiple of 3; more than the 3 D that give the exact trace are of no use.
        rng: Of the random vectors, without an index.
    """
    third = min(products // 3, len(like))
    sketch = torch.stack([times(_signs(like, rng.tag("sketch", number))) for number in range(third)])
    basis = torch.linalg.qr(sketch.T).Q.T
    inside = sum(_along(times, q) for q in basis)

    def outside(number: int) -> Tensor:
        v = _signs(like, rng.tag("rest", number))
        for _ in range(2):
            v = v - (basis @ v) @ basis
        return v

    return inside + sum(_along(times, outside(number)) for number in range(third)) / third


def _signs(like: Tensor, rng: Streams) -> Tensor:
    return rng.sign(len(like), dtype=like.dtype, device=like.device)


def _along(times: Times, v: Tensor) -> float:
    """Return v' H v, summed in float64."""
    return float((v.double() * times(v).double()).sum())
