"""The density of the Hessian's spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustscape.attacks.pgd import PGD
from robustscape.landscape._held import check_coordinates, check_scope, inputs, losses_of
from robustscape.landscape.flatness import Estimate, t_interval
from robustscape.landscape.krylov import Krylov, Times
from robustscape.landscape.operator import Coordinates, hessian
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Plain, Provenance, Subject
from robustscape.weights.space import Scope

_GRID = 1024  # positions at which the density is given
_MARGIN = 5.0  # of the kernel's widths that the positions go beyond the outermost nodes


@dataclass(frozen=True, kw_only=True)
class DensityResult:
    """The density of the spectrum of the D eigenvalues, for L losses.

    Attributes:
        losses: (L,), "clean", and "robust" where there was an attack.
        positions: (T,), eigenvalues, nats per unit of the coordinates squared; the same for all losses.
        density: (L, T), share of the eigenvalues per unit of them, blurred by the kernel; the integral is 1.
        error: (L, T), its standard error over the random starts.
        nodes: (L, V, m), where each of V starts put its share of the eigenvalues.
        weights: (L, V, m), the share, summing to 1 over m; nodes of weight 0 fill up a start that took fewer steps.
        sigma: Standard deviation of the Gaussian kernel, in the unit of the positions.
        clean_trace: The trace of the clean loss's Hessian, with its interval over the starts.
        robust_trace: The same of the robust loss; None without an attack.
        clean_nuclear: Its nuclear norm, the sum of the eigenvalues' magnitudes.
        robust_nuclear: The same of the robust loss. Here and of ``robust_trace``, the interval covers the starts of
            Lanczos, not which adversarial inputs the attack found: another precision or number of its steps may move
            the value beyond it.
        size: D, the number of weights.
        coordinates: "raw", "layer" or "filter": what a step of 1 in weight space is.
        curvature: "held": the adversarial inputs stay where they are when the weights move.
        scope: Which parameters.
        attack: The attack in words, "" for none.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    losses: tuple[str, ...]
    positions: np.ndarray
    density: np.ndarray
    error: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray
    sigma: float
    clean_trace: Estimate
    robust_trace: Estimate | None
    clean_nuclear: Estimate
    robust_nuclear: Estimate | None
    size: int
    coordinates: str
    curvature: str
    scope: str
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Density:
    """The density of the Hessian's eigenvalues by stochastic Lanczos quadrature.

    Lin, Saad and Yang 2016 (https://arxiv.org/abs/1308.5467, section 3.2.1); Ghorbani 2019
    (https://arxiv.org/abs/1901.10159, section 2): m steps of Lanczos from a random vector of signs give nodes and
    weights of a Gauss quadrature for the density that the vector sees, exact for polynomials up to degree 2 m - 1;
    the mean over vectors is that of the eigenvalues. More starts tell more than more steps.

    Attributes:
        attack: The attack, searched on the fast view; None for the clean loss alone.
        starts: Random vectors; at least 2, for the error. The same for both losses.
        steps: Products with the Hessian from each.
        sigma: Standard deviation of the Gaussian kernel; None for 1 % of the range of the nodes.
        coordinates: "raw" (a step of 1 is 1 in every weight), or relative to the L2 norm of each "layer" or "filter".
        scope: Which parameters: "weights", "layers" (biases too) or "all" (normalisation too).

    Deviations:
        All vectors are orthogonalised against each other; without that, as Ghorbani's code notes, copies of the
        outermost eigenvalues come up.
    """

    name: ClassVar[str] = "density"
    scale_free: ClassVar[bool] = False
    """In raw coordinates, the default, it changes when a layer is rescaled; in relative ones it stays."""

    attack: Attack | None = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    starts: int = 10
    steps: int = 40
    sigma: float | None = None
    coordinates: Coordinates = "raw"
    scope: Scope = "all"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_coordinates([self.coordinates])
        check_scope(self.scope)
        if self.starts < 2:
            raise BadInput(f"starts must be at least 2, for an error, not {self.starts}")
        if self.steps < 1:
            raise BadInput(f"steps must be at least 1, not {self.steps}")
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise BadInput(f"sigma must be above 0, not {self.sigma:g}; did you mean none, for 1 % of the range?")

    def points(self) -> list[Plain]:
        """Return [loss, number of the start] for each."""
        return [[loss, start] for loss in losses_of(self.attack) for start in range(self.starts)]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return nodes and weights from one start."""
        loss, number = point
        held = inputs(subject, self.attack, loss, self.name)
        operator = hessian(subject, held, scope=self.scope, coordinates=self.coordinates)
        like = operator.like()
        start = Streams(subject.seed, (self.name, "start", number)).sign(
            len(like), dtype=like.dtype, device=like.device
        )
        nodes, weights = quadrature(operator, start, self.steps)
        return {"nodes": nodes.tolist(), "weights": weights.tolist(), "size": operator.size}

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> DensityResult:
        """Put the starts together and blur."""
        losses = losses_of(self.attack)
        nodes, weights = (self._filled([value[name] for value in values], len(losses)) for name in ("nodes", "weights"))
        positions, sigma = self._positions(nodes)
        kernel = np.exp(-(((positions - nodes[..., None]) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
        seen = np.einsum("lvm,lvmt->lvt", weights, kernel)
        size = values[0]["size"]
        trace, nuclear = (
            [t_interval(of, n=self.starts) for of in size * (weights * f(nodes)).sum(axis=2)]
            for f in (np.asarray, np.abs)
        )
        return DensityResult(
            losses=losses,
            positions=positions,
            density=seen.mean(axis=1),
            error=seen.std(axis=1, ddof=1) / math.sqrt(self.starts),
            nodes=nodes,
            weights=weights,
            sigma=sigma,
            clean_trace=trace[0],
            robust_trace=trace[1] if len(trace) > 1 else None,
            clean_nuclear=nuclear[0],
            robust_nuclear=nuclear[1] if len(nuclear) > 1 else None,
            size=size,
            coordinates=self.coordinates,
            curvature="held",
            scope=self.scope,
            attack=self.attack.describe() if self.attack else "",
            n=len(subject.x),
            split=subject.split,
            provenance=provenance,
        )

    def _filled(self, rows: Sequence[Sequence[float]], losses: int) -> np.ndarray:
        """Return rows of different lengths as one array, (L, V, m), zeros at their ends."""
        most = max(len(row) for row in rows)
        return np.array([[*row, *[0.0] * (most - len(row))] for row in rows]).reshape(losses, self.starts, most)

    def _positions(self, nodes: np.ndarray) -> tuple[np.ndarray, float]:
        """Return where the density is given, and the kernel's width."""
        low, high = float(nodes.min()), float(nodes.max())
        sigma = self.sigma or 0.01 * (high - low) or 1e-12
        return np.linspace(low - _MARGIN * sigma, high + _MARGIN * sigma, _GRID), sigma


def quadrature(times: Times, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return nodes, (m,), ascending, and weights, (m,), summing to 1, of the spectrum that a vector sees.

    The mean of f over the nodes is v' f(H) v / v'v, exactly for polynomials f up to degree 2 m - 1.

    Args:
        times: The operator.
        start: (D,), v.
        steps: Most products; fewer are made where the vector's space is exhausted.

    Raises:
        Diverged: a product is not finite.
    """
    krylov = Krylov(times, start, steps)
    krylov.begin(start)
    while not krylov.closed and not krylov.full:
        krylov.go_on(torch.eye(krylov.count, dtype=torch.float64)[-1])
    values, vectors, _ = krylov.ritz()
    return values, vectors[0] ** 2
