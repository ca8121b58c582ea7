"""Adversarial weight perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from robustscape.streams import Streams
from robustscape.types import BadInput, Params, WeightLoss
from robustscape.weights._common import DecayAt, Statistics, Unit, check, divided, sizes, within
from robustscape.weights.space import copied, layer_norms, select, shifted


@dataclass(frozen=True, kw_only=True)
class AWP:
    """The layer-wise worst weights within a relative radius (Wu 2020, https://arxiv.org/abs/2004.05884).

    Equations 8 and 10 with Algorithm 1: starting from v = 0, ``steps`` times
    v <- P(v + (gamma / steps) * ||w_l|| * g_l / ||g_l||), g the gradient at w + v of the loss that training
    minimises, P the projection of each layer onto ||v_l|| <= gamma ||w_l||. One step therefore lands on the
    sphere of radius gamma ||w_l||. Weights of convolutions and linear modules move; biases and normalisation
    parameters do not. Each step costs a forward and a backward pass, in the mode that the model is in, whose
    effect on BatchNorm's running statistics is taken back unless ``statistics`` says otherwise.

    Attributes:
        gamma: Radius relative to each layer's norm, above 0 and at most 2; the paper finds 5e-3 best.
        steps: Steps of one round of ascent (the paper's K2), at least 1.
        alternations: Rounds (the paper's A), at least 1: before each further one, the adversarial inputs are
            made again at the present w + v.
        unit: What the radius is relative to: the "layer", each "filter" by itself, or all weights that move as one,
            the "network".
        norm: How lengths of w, v and the gradient are measured: "l2", or "l1" (the paper's section 5.2).
        warmup: Epochs of plain training before it acts.
        below: It acts only on batches whose loss at w is below so many nats, above 0, which costs a forward
            (``statistics`` says whether it counts); None for all batches.
        decay_at: Where weight decay reads the weights: "w" as in the paper's equation 11, or "w+v".
        statistics: Which forwards move BatchNorm's running statistics: the trained one, at "w+v"; one at "w" in its
            place; or "every" one. "eval": one at w, made for it alone, and the search for v is in eval mode.

    Deviations:
        From the paper: none known with one step and one alternation; for more steps the paper leaves the step
        size open, here the steps of a round sum to the radius. Under L1 the direction stays that of the gradient,
        and what is outside the ball is scaled back, not projected: the paper says no more than that L1 measures.
        From the authors' code (``official``, ``official_trades``): it takes v from the difference of weights before
        and after a step of SGD, which loses digits, here from the gradient; it restores by subtraction, here by
        copying back; its optimiser steps at w + v, so weight decay acts there (``decay_at="w+v"``).
        From Stutz' code (``stutz``): it clamps the gradients that are stepped by to 0.05, element by element, which is
        for the training to do (``clip_gradient``, ``clip_gradient_by``). Of K steps there the last is not taken.
        With a threshold (2.1 nats; ``below``) it perturbs a batch if the loss of the batch before was below it, in
        train mode, and the first not, and clamps no gradient where it does not perturb; here the batch's own loss
        decides, in the mode of the search.
    """

    gamma: float = 5e-3
    steps: int = 1
    alternations: int = 1
    unit: Unit = "layer"
    norm: Literal["l1", "l2"] = "l2"
    warmup: float = 0.0
    below: float | None = None
    decay_at: DecayAt = "w"
    statistics: Statistics = "w+v"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 0 < self.gamma <= 2:
            raise BadInput(
                f"AWP's gamma is relative to a layer's norm, in (0, 2], not {self.gamma:g}; did you mean 0.005?"
            )
        if self.steps < 1 or self.alternations < 1:
            raise BadInput(f"AWP needs at least 1 step and 1 alternation, not {self.steps} and {self.alternations}")
        if self.below is not None and not 0 < self.below < math.inf:
            raise BadInput(f"AWP acts where the loss is below some nats above 0, not {self.below:g}; leave it out for "
                           "all batches")  # fmt: skip
        check(self)

    @classmethod
    def official(cls) -> AWP:
        """Return the setting of the authors' CIFAR-10 code: gamma 0.01, weight decay at w + v."""
        return cls(gamma=0.01, decay_at="w+v")

    @classmethod
    def official_trades(cls) -> AWP:
        """Return the setting of the authors' code for TRADES: gamma 0.005 from epoch 10 on, weight decay at w + v."""
        return cls(gamma=0.005, warmup=9.0, decay_at="w+v")

    @classmethod
    def stutz(cls) -> AWP:
        """Return the setting of Stutz' code: gamma 0.01, ascent in eval mode, statistics of a forward at w."""
        return cls(gamma=0.01, statistics="eval")

    def __call__(self, model: nn.Module, loss: WeightLoss, *, rng: Streams | None = None) -> Params:
        """Return v for the weights that move, {} for none; the model's are as before. Draws nothing from rng."""
        if self.below is not None and float(loss.value()) >= self.below:
            return {}
        w = select(model, "weights")
        by_layer = self.unit == "layer" and self.norm == "l2"
        lengths = layer_norms(w) if by_layer else sizes(w, self.unit, self.norm)
        radius = {name: self.gamma * length for name, length in lengths.items()}
        v = {name: torch.zeros_like(value) for name, value in w.items()}
        for alternation in range(self.alternations):
            for step in range(self.steps):
                with shifted(model, v):
                    if alternation and step == 0:
                        loss.refresh()
                    slope = loss.gradient(list(v))
                v = self._ascend(v, slope, radius)
        return copied(v)

    def _ascend(self, v: Params, slope: Params, radius: Params) -> Params:
        """Take one normalised step and bring each unit back onto its ball."""
        direction = divided(slope, sizes(slope, self.unit, self.norm))
        stepped = {name: value + radius[name] / self.steps * direction[name] for name, value in v.items()}
        return within(stepped, radius, sizes(stepped, self.unit, self.norm))
