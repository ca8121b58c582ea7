"""The direction that an adversary of the weights moves them in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.evaluation.judging import batches, predicted
from robustscape.landscape._summed import summed_gradient
from robustscape.landscape.operator import worst_inputs
from robustscape.streams import Streams
from robustscape.types import Attack, Params, Subject, WeightPerturbation
from robustscape.weights.space import gaussian, normalised, select, shifted

_START = 0.01  # largest distance of a random start, relative to each layer's norm


class HeldLoss:
    """The mean cross-entropy at given inputs as a function of the weights: a ``WeightLoss`` over a whole subject.

    In eval mode, in the model's own precision; the inputs stay what they are, also when asked to ``refresh``.

    Args:
        subject: What is looked at.
        x_adv: (N, C, H, W), the inputs.
    """

    def __init__(self, subject: Subject, x_adv: Tensor) -> None:
        self.subject = subject
        self.x_adv = x_adv

    def value(self) -> Tensor:
        """Return the mean loss, a scalar."""
        here = self.subject
        losses = [
            F.cross_entropy(predicted(here.model, self.x_adv[rows], here.parts), here.y[rows], reduction="none")[:count]
            for rows, count in batches(here)
        ]
        return torch.cat(losses).mean()

    def gradient(self, names: Sequence[str]) -> Params:
        """Return the gradient of the mean loss.

        Raises:
            Diverged: the loss is not finite.
        """
        everyone = torch.arange(len(self.subject.x), device=self.subject.x.device)
        _, slopes = summed_gradient(self.subject, self.x_adv, everyone)
        return {name: slopes[name] / len(everyone) for name in names}

    def refresh(self) -> None:
        """Do nothing: the inputs are held."""


def adversarial(subject: Subject, attack: Attack, adversary: WeightPerturbation, *, name: str, number: int) -> Params:
    """Return the perturbation that an adversary of the weights finds on held adversarial examples.

    Stutz 2021 (https://arxiv.org/abs/2104.04448, section 3.2): the examples are those of the weights themselves,
    not made again while the weights move.

    Args:
        subject: What is looked at.
        attack: Makes the adversarial examples, at the weights themselves.
        adversary: The search over the weights.
        name: Purpose of the random numbers.
        number: Which direction: 0 starts from the weights, each further one at random within 0.01 of each layer's norm.

    Deviations:
        Stutz starts every one at random. Biases do not move where the adversary moves none, as AWP.
    """
    loss = HeldLoss(subject, worst_inputs(subject, attack, name))
    rng = Streams(subject.seed, (name, "adversary", number))
    if number == 0:
        return adversary(subject.model, loss, rng=rng)
    weights = select(subject.model, "weights")
    length = _START * float(rng.tag("length").uniform())
    begin = {
        layer: v * length for layer, v in normalised(gaussian(weights, rng.tag("start")), weights, "layer").items()
    }
    with shifted(subject.model, begin):
        found = adversary(subject.model, loss, rng=rng)
    return {layer: begin[layer] + v if layer in begin else v for layer, v in found.items()}
