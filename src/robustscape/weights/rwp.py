"""Random weight perturbation: the control that AWP is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from robustscape.streams import Streams
from robustscape.types import BadInput, Params, WeightLoss
from robustscape.weights.space import gaussian, normalised, select


@dataclass(frozen=True, kw_only=True)
class RWP:
    """A random perturbation of each layer's relative radius (Wu 2020, https://arxiv.org/abs/2004.05884, 5.1).

    v_l = gamma ||w_l|| d_l / ||d_l||, d Gaussian, drawn anew at every step. No passes through the model.

    Attributes:
        gamma: Radius relative to each layer's norm, above 0; the paper sees no effect up to 0.3 and a
            landscape like AWP's at 1.
        warmup: Epochs of plain training before it acts.
        decay_at: Where weight decay reads the weights, "w" or "w+v".

    Deviations:
        The authors released no code for it. Stutz' code does the same with biases left out, as here.
    """

    gamma: float = 1.0
    warmup: float = 0.0
    decay_at: Literal["w", "w+v"] = "w"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not self.gamma > 0:
            raise BadInput(f"RWP's gamma is relative to a layer's norm, above 0, not {self.gamma:g}")
        if self.warmup < 0:
            raise BadInput(f"RWP's warmup must be at least 0 epochs, not {self.warmup:g}")

    def __call__(self, model: nn.Module, loss: WeightLoss, *, rng: Streams | None = None) -> Params:
        """Return v for the weights that move; drawn from rng, by default seed 0."""
        w = select(model, "weights")
        drawn = normalised(gaussian(w, rng or Streams(tags=("rwp",))), w, "layer")
        return {name: self.gamma * value for name, value in drawn.items()}
