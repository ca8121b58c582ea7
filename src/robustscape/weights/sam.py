"""Sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustscape.streams import Streams
from robustscape.types import BadInput, Params, WeightLoss
from robustscape.weights._common import DecayAt, Statistics, check, divided, sizes
from robustscape.weights.space import select


@dataclass(frozen=True, kw_only=True)
class SAM:
    """One step up the gradient to a sphere around all weights (Foret 2021, https://arxiv.org/abs/2010.01412).

    Equation 2 with p = 2: v = rho g / ||g||, g the gradient at w of the loss that training minimises, over all
    parameters together, biases and normalisation parameters among them. Costs a forward and a backward pass, in the
    mode that the model is in. As in the code of its authors and of the wide-spread davda54/sam, BatchNorm's
    running statistics are those of the forward at w.

    Attributes:
        rho: Radius, an L2 norm in the unit of the weights, above 0; the paper's default is 0.05.
        warmup: Epochs of plain training before it acts.
        decay_at: Where weight decay reads the weights, "w" or "w+v".
        statistics: Which forwards move BatchNorm's running statistics: the trained one, at "w+v"; one at "w" in its
            place; or "every" one. "eval": one at w, made for it alone, and the search for v is in eval mode.

    Deviations:
        From the paper: none known. On several ranks the gradient is averaged before it is normalised, so that v does
        not depend on how many there are; the paper leaves each rank its own v.
        From the authors' code (``official``): its weight decay is part of the loss, so it acts at w + v, as here, and
        is climbed as well, which it is not here.
    """

    rho: float = 0.05
    warmup: float = 0.0
    decay_at: DecayAt = "w"
    statistics: Statistics = "w"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 0 < self.rho < float("inf"):
            raise BadInput(f"SAM's rho must be above 0, not {self.rho:g}; did you mean none at all?")
        check(self)

    @classmethod
    def official(cls) -> SAM:
        """Return the setting of the authors' code: weight decay at w + v."""
        return cls(decay_at="w+v")

    def __call__(self, model: nn.Module, loss: WeightLoss, *, rng: Streams | None = None) -> Params:
        """Return v for all parameters. Draws nothing from rng."""
        slope = loss.gradient(list(select(model, "all")))
        return {name: self.rho * value for name, value in divided(slope, sizes(slope, "network")).items()}
