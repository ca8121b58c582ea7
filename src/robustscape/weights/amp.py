"""Adversarial model perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robustscape.streams import Streams
from robustscape.types import BadInput, Params, WeightLoss
from robustscape.weights._common import DecayAt, Statistics, check, sizes, within
from robustscape.weights.space import norm, select, shifted


@dataclass(frozen=True, kw_only=True)
class AMP:
    """The worst weights in a ball of absolute radius (Zheng 2021, https://arxiv.org/abs/2010.04925; AT-AMP, Yan 2022).

    Yan's equations 6 to 9 and Algorithm 1: starting from v = 0, ``steps`` times v <- v + step_size * g, g the gradient
    at w + v of the loss that training minimises, then v <- delta v / ||v|| where ||v|| > delta. The ball is around all
    parameters together, biases and normalisation parameters among them, and the gradient is not normalised: where it
    is short, v stays inside. Before each further step the adversarial inputs are made again at the present w + v.
    Each step costs a forward and a backward pass, in the mode that the model is in.

    Attributes:
        delta: Radius, an L2 norm in the unit of the weights, above 0; Yan finds 0.1 best, Zheng 0.5.
        step_size: Step size of the ascent (the paper's xi), above 0; 1 is the default of Zheng's code, Yan states none.
        steps: Steps of the ascent (the paper's N), at least 1.
        refresh: Make the adversarial inputs again before each step but the first, as Algorithm 1 does.
        unit: What lies in the ball: the whole "network", or each "layer" (parameter tensor) by itself.
        clip: Largest norm of the gradient that is climbed, above 0; None for any.
        warmup: Epochs of plain training before it acts.
        decay_at: Where weight decay reads the weights, "w" or "w+v".
        statistics: Which forwards move BatchNorm's running statistics: the trained one, at "w+v"; one at "w" in its
            place; or "every" one. "eval": one at w, made for it alone, and the search for v is in eval mode.

    Deviations:
        From Yan's paper: line 16 of Algorithm 1 writes the gradient of the step with clean inputs; here it is of the
        adversarial ones, as in its equation 9. They are the last that were made: at the v before the last step.
        From the code of Zheng 2021 (``official``): it adds 1e-12 to the lengths it divides by; it logs the loss at w,
        here the one at w + v is logged. It also clips the gradient of the step at norm 50, which is for the training
        to do.
    """

    delta: float = 0.1
    step_size: float = 1.0
    steps: int = 1
    refresh: bool = True
    unit: Literal["network", "layer"] = "network"
    clip: float | None = None
    warmup: float = 0.0
    decay_at: DecayAt = "w"
    statistics: Statistics = "w+v"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        for name in ("delta", "step_size"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadInput(f"AMP's {name} must be above 0, not {getattr(self, name):g}; did you mean none at all?")
        if self.steps < 1:
            raise BadInput(f"AMP needs at least 1 step, not {self.steps}; did you mean none at all?")
        if self.clip is not None and not self.clip > 0:
            raise BadInput(f"AMP's clip must be above 0, not {self.clip:g}; did you mean no limit, none?")
        check(self)

    @classmethod
    def official(cls) -> AMP:
        """Return the setting of Zheng's code: delta 0.5 for each tensor, the gradient clipped, statistics of it all."""
        return cls(delta=0.5, refresh=False, unit="layer", clip=50.0, statistics="every")

    def __call__(self, model: nn.Module, loss: WeightLoss, *, rng: Streams | None = None) -> Params:
        """Return v for all parameters; the model's weights are as before. Draws nothing from rng."""
        v = {name: torch.zeros_like(value) for name, value in select(model, "all").items()}
        for step in range(self.steps):
            with shifted(model, v):
                if step and self.refresh:
                    loss.refresh()
                slope = loss.gradient(list(v))
            v = self._ascend(v, slope)
        return v

    def _ascend(self, v: Params, slope: Params) -> Params:
        """Take one step of the gradient's own length and bring it back into the ball."""
        size = self.step_size
        if self.clip is not None:
            size = size * (self.clip / (norm(slope) + 1e-6)).clamp(max=1)  # as torch's clip_grad_norm_
        stepped = {name: value + size * slope[name] for name, value in v.items()}
        present = sizes(stepped, self.unit)
        return within(stepped, {name: torch.full_like(length, self.delta) for name, length in present.items()}, present)
