"""Liu 2020, Proposition 2 on smooth networks and Corollary 1 on a ReLU network.

The constants are measured, so that they may be too small and a violation would not refute the claim. The weights tested
are not those measured on.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.models.activations import Activation
from robustscape.streams import Streams
from robustscape.studies._liu_logistic import GRADIENT, LOSS, ROUNDING
from robustscape.studies._liu_network import EXAMPLES, PARAMETERS, WORDS, Adversarial, Constants, apart, draws, measured
from robustscape.studies.checks import Check, judged, to_value
from robustscape.studies.study import Cell
from robustscape.types import Plain, Splits

_BISECTIONS = 40
_EPS = 0.3


@dataclass(frozen=True, kw_only=True)
class NetworkSmoothness:
    """Proposition 2 on a small smooth network, Corollary 1 on a ReLU network, loss and gradient of single examples.

    Attributes:
        activation: Of the hidden layer.
        pairs: Pairs of weights, at least 1; as many draws are measured on.
        seed: Seed of all random numbers.
    """

    activation: Activation
    pairs: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"smoothness-{self.activation}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Measure the constants and test, yielding (done, total); returns checks."""
        rng = Streams(self.seed, ("liu", "smoothness", self.activation))
        S = self.pairs
        sample = draws(rng.tag("measured").normal(S, PARAMETERS, dtype=torch.float64), _EPS, rng.tag("draws"))
        c = measured(self.activation, sample)
        yield 1, 3
        one = rng.tag("tested").normal(S, PARAMETERS, dtype=torch.float64)
        two = one + apart(S, rng.tag("apart"))
        row = F.one_hot(rng.tag("row").integers(EXAMPLES, S), EXAMPLES).double()
        network = Adversarial(activation=self.activation, eps=torch.full((S,), _EPS, dtype=torch.float64))
        pairs = _changes_of(network, one, two, row)
        yield 2, 3
        other = rng.tag("other").normal(S, PARAMETERS, dtype=torch.float64)
        inputs = [network.worst(theta) for theta in (one, other)]
        switched = ((inputs[0] != inputs[1]).any(dim=2) & (row > 0)).any(dim=1)
        kinks = _changes_of(network, *_switch(network, one, other, row), row)
        return to_value(_network_checks(self.activation, c, pairs, tuple(part[switched] for part in kinks)))


_Changes = tuple[Tensor, ...]
"""Changes of loss and gradient, and the distance of the weights, (S,) each."""


def _changes_of(network: Adversarial, one: Tensor, two: Tensor, row: Tensor) -> _Changes:
    (losses, (gradient,)), (losses2, (gradient2,)) = network.at(one, row), network.at(two, row)
    changed = ((losses2 - losses) * row).sum(dim=1).abs()
    return changed, (gradient2 - gradient).norm(dim=1), (two - one).norm(dim=1)


def _switch(network: Adversarial, one: Tensor, two: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights between both, close together, between which the example's worst input switches, if it does."""
    first = network.worst(one)
    for _ in range(_BISECTIONS):
        middle = (one + two) / 2
        same = ((network.worst(middle) == first).all(dim=2) | (row == 0)).all(dim=1)[:, None]
        one, two = torch.where(same, middle, one), torch.where(same, two, middle)
    return one, two


def _network_checks(activation: Activation, c: Constants, pairs: _Changes, kinks: _Changes) -> tuple[Check, ...]:
    name, relu = WORDS[activation], activation == "relu"
    loss, gradient, distance = (torch.cat(both) for both in zip(pairs, kinks, strict=True))
    jumps = c.jump_theta + c.jump_x if relu else 0.0
    claim = GRADIENT.replace("Proposition 2", "Corollary 1") + " + D_θθ + D_θx" if relu else GRADIENT
    words = f"{name} network, ε = {_EPS}; L_θ = {c.by_theta:.2g}, L_θθ = {c.theta_theta:.2g}, L_θx = {c.theta_x:.2g}"
    words += f", D_θθ = {c.jump_theta:.2g}, D_θx = {c.jump_x:.2g}, measured" if relu else ", measured"
    bound = c.theta_theta * distance + 2 * _EPS * c.theta_x + jumps
    return (
        judged(
            LOSS.replace("Proposition 2", "Corollary 1") if relu else LOSS,
            form="as printed",
            tested=words,
            errors=loss - c.by_theta * distance,
            tolerance=ROUNDING,
        ),
        judged(claim, form="as printed", tested=words, errors=gradient - bound, tolerance=ROUNDING),
        judged(
            claim,
            form="L_θθ‖θ1 − θ2‖ alone, where the worst input switches",
            tested=f"{name} network; weights bisected until some 1e-11 apart",
            errors=kinks[1] - c.theta_theta * kinks[2],
            tolerance=ROUNDING,
            expected=False,
        ),
    )


NOTES = (
    "Networks: 2 inputs, 8 hidden units, 1 output, 24 examples; weights standard normal, pairs 1e-4 to 1 apart and "
    "pairs at a switch of the worst input, bisected. The worst of 9 points of each L∞ ball is found by trying all; the "
    "proofs hold for a maximum over any part of the ball.",
    "Their constants are the largest norms of exact local Jacobians over as many other draws (half of them at the kink "
    "of a hidden unit), hence lower bounds: a violation would not refute the claim.",
)
