"""Random weight perturbation: the control that AWP is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from robustscape.streams import Streams
from robustscape.types import BadInput, Params, WeightLoss
from robustscape.weights._common import DecayAt, Statistics, Unit, check, divided, sizes
from robustscape.weights.space import gaussian, normalised, select


@dataclass(frozen=True, kw_only=True)
class RWP:
    """A random perturbation of each layer's relative radius (Wu 2020, https://arxiv.org/abs/2004.05884, 5.1).

    v_l = gamma ||w_l|| d_l / ||d_l||, d Gaussian, drawn anew at every step. No passes through the model, but one
    forward more under ``statistics="w"``.

    Attributes:
        gamma: Radius relative to each layer's norm, above 0; the paper sees no effect up to 0.3 and a
            landscape like AWP's at 1.
        unit: What the radius is relative to: the "layer", each "filter" by itself, or all weights that move as one,
            the "network".
        distribution: How v is spread: on the "sphere" of the radius, in the "ball" it bounds (uniformly), or
            "gaussian", whose mean squared length is the radius squared.
        warmup: Epochs of plain training before it acts.
        decay_at: Where weight decay reads the weights, "w" or "w+v".
        statistics: Which forwards move BatchNorm's running statistics: the trained one, at "w+v"; one at "w" in its
            place; or "every" one, here the same as "w+v"; "eval" is the same as "w".

    Deviations:
        The authors released no code for it. Stutz' code does the same with biases left out, as here.
    """

    gamma: float = 1.0
    unit: Unit = "layer"
    distribution: Literal["sphere", "ball", "gaussian"] = "sphere"
    warmup: float = 0.0
    decay_at: DecayAt = "w"
    statistics: Statistics = "w+v"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 0 < self.gamma < math.inf:
            raise BadInput(f"RWP's gamma is relative to a layer's norm, above 0, not {self.gamma:g}")
        check(self)

    def __call__(self, model: nn.Module, loss: WeightLoss, *, rng: Streams | None = None) -> Params:
        """Return v for the weights that move; drawn from rng, by default seed 0."""
        w, rng = select(model, "weights"), rng or Streams(tags=("rwp",))
        drawn = self._drawn(w, gaussian(w, rng))
        if self.distribution == "ball":
            drawn = {name: value * self._share(name, w, rng) for name, value in drawn.items()}
        return {name: self.gamma * value for name, value in drawn.items()}

    def _drawn(self, w: Params, d: Params) -> Params:
        """Return the direction at the length of the weights, or as it was drawn with that length on average."""
        if self.distribution != "gaussian" and self.unit != "network":
            return normalised(d, w, self.unit)
        lengths = sizes(w, self.unit)
        if self.distribution == "gaussian":
            return {name: value * (lengths[name] / math.sqrt(self._count(name, w))) for name, value in d.items()}
        return {name: value * lengths[name] for name, value in divided(d, sizes(d, self.unit)).items()}

    def _share(self, name: str, w: Params, rng: Streams) -> Tensor:
        """Return how far out the units of a parameter are in their balls, in [0, 1), uniform by volume."""
        value = w[name]
        shape = (len(value), *[1] * (value.ndim - 1)) if self.unit == "filter" else ()
        own = rng.tag("radius") if self.unit == "network" else rng.tag("radius", name)
        return own.uniform(*shape, dtype=value.dtype, device=value.device) ** (1 / self._count(name, w))

    def _count(self, name: str, w: Params) -> int:
        """Return how many numbers the unit of a parameter has."""
        if self.unit == "network":
            return sum(value.numel() for value in w.values())
        return w[name].numel() if self.unit == "layer" else w[name][0].numel()
