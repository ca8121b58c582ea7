"""How large the weights of each layer are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustscape.types import BadInput, Plain, Provenance, Subject
from robustscape.weights.space import select


@dataclass(frozen=True, kw_only=True)
class WeightResult:
    """Histogram of the weights of each of L layers (biases and normalisation parameters left out).

    Attributes:
        layers: Names of the weights.
        edges: (L, B + 1), bin edges.
        counts: (L, B), weights in each bin; a row sums to the layer's size.
        norm: (L,), L2 norm of each layer's weights.
        provenance: Where it came from.
    """

    layers: tuple[str, ...]
    edges: np.ndarray
    counts: np.ndarray
    norm: np.ndarray
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Histogram of each layer's weights, over [-m, m] with m the largest magnitude in the layer.

    Wu 2020 (https://arxiv.org/abs/2004.05884, figure 4) shows one: AWP leaves smaller weights.

    Attributes:
        bins: Bins of each layer.
    """

    name: ClassVar[str] = "histograms"
    scale_free: ClassVar[bool] = False
    """Norms and bin edges grow with the weights; the counts do not change."""

    bins: int = 101

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.bins < 1:
            raise BadInput(f"bins must be at least 1, not {self.bins}")

    def points(self) -> list[Plain]:
        """Return the one point: all layers together, since which there are only the model knows."""
        return ["all"]

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return layers, edges, counts and norms."""
        found = {"layers": [], "edges": [], "counts": [], "norm": []}
        for layer, value in select(subject.model, "weights").items():
            weights = value.double().cpu().numpy().ravel()
            largest = float(np.abs(weights).max())
            counts, edges = np.histogram(weights, bins=self.bins, range=(-largest, largest) if largest else (-1, 1))
            found["layers"].append(layer)
            found["edges"].append(edges.tolist())
            found["counts"].append(counts.tolist())
            found["norm"].append(float(np.linalg.norm(weights)))
        return found

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> WeightResult:
        """Make the Result."""
        (found,) = values
        return WeightResult(
            layers=tuple(found["layers"]),
            edges=np.array(found["edges"]),
            counts=np.array(found["counts"]),
            norm=np.array(found["norm"]),
            provenance=provenance,
        )
