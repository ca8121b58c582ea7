"""Adaptive sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robustscape.streams import Streams
from robustscape.types import BadInput, Params, WeightLoss
from robustscape.weights._common import DecayAt, Statistics, check, divided, sizes
from robustscape.weights.space import select


@dataclass(frozen=True, kw_only=True)
class ASAM:
    """SAM in an ellipsoid whose axes follow the weights (Kwon 2021, https://arxiv.org/abs/2102.11600).

    With p = 2 and T = |w| + eta, number by number: v = rho T^2 g / ||T g||, g the gradient at w of the loss that
    training minimises, the norm over all parameters together. Rescaling weights without changing the network's
    function rescales v with them, but for eta. Costs a forward and a backward pass, in the mode that the model is in.

    Attributes:
        rho: Radius in units of T, above 0; the paper takes 0.5 on CIFAR-10.
        eta: What is added to |w|, at least 0; with 0, weights that are 0 do not move.
        biases: T of parameters called "bias", those of normalisation among them: "scaled" as the rest, or "plain", 1.
        warmup: Epochs of plain training before it acts.
        decay_at: Where weight decay reads the weights, "w" or "w+v".
        statistics: Which forwards move BatchNorm's running statistics: the trained one, at "w+v"; one at "w" in its
            place; or "every" one. "eval": one at w, made for it alone, and the search for v is in eval mode.

    Deviations:
        From the paper: the element-wise operator alone, not the filter-wise one. BatchNorm's statistics, of which it
        says nothing, are treated as under SAM.
        From the authors' code (``official``): it adds 1e-16 to the norm. Its example sets eta to 0, its class to 0.01.
    """

    rho: float = 0.5
    eta: float = 0.01
    biases: Literal["scaled", "plain"] = "scaled"
    warmup: float = 0.0
    decay_at: DecayAt = "w"
    statistics: Statistics = "w"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 0 < self.rho < float("inf"):
            raise BadInput(f"ASAM's rho must be above 0, not {self.rho:g}; did you mean none at all?")
        if not 0 <= self.eta < float("inf"):
            raise BadInput(f"ASAM's eta must be at least 0, not {self.eta:g}")
        check(self)

    @classmethod
    def official(cls) -> ASAM:
        """Return the setting of the authors' code: biases as under SAM, statistics of both forwards."""
        return cls(biases="plain", statistics="every")

    @classmethod
    def davda54(cls) -> ASAM:
        """Return the setting of the wide-spread davda54/sam: rho 2 and no eta."""
        return cls(rho=2.0, eta=0.0)

    def __call__(self, model: nn.Module, loss: WeightLoss, *, rng: Streams | None = None) -> Params:
        """Return v for all parameters. Draws nothing from rng."""
        w = select(model, "all")
        axes = {name: self._axes(name, value) for name, value in w.items()}
        slope = {name: axes[name] * value for name, value in loss.gradient(list(w)).items()}
        direction = divided(slope, sizes(slope, "network"))
        return {name: self.rho * axes[name] * value for name, value in direction.items()}

    def _axes(self, name: str, w: torch.Tensor) -> torch.Tensor:
        """Return T for one parameter."""
        plain = self.biases == "plain" and name.rpartition(".")[2] == "bias"
        return torch.ones_like(w) if plain else w.abs() + self.eta
