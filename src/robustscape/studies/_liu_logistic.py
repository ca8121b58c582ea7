"""Liu 2020, Proposition 2, on logistic regression: the constants are bounded exactly, and the bound is tight."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustscape.display import norm_words
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.streams import Streams
from robustscape.studies._liu_network import Constants
from robustscape.studies.checks import Check, judged, to_value
from robustscape.studies.study import Cell
from robustscape.types import Plain, Splits

LOSS = "Proposition 2: |L_ε(θ1) − L_ε(θ2)| ≤ L_θ‖θ1 − θ2‖"
GRADIENT = "Proposition 2: ‖∇L_ε(θ1) − ∇L_ε(θ2)‖ ≤ L_θθ‖θ1 − θ2‖ + 2ε L_θx"
ROUNDING = 1e-10
_RADIUS = 3.0  # of the weights
_EPS = 0.3
_SHIFT = 1e-9  # half the distance of weights on both sides of 0


@dataclass(frozen=True, kw_only=True)
class LogisticSmoothness:
    """Proposition 2 on logistic regression, 20 random examples with 5 inputs, eps 0.3, weights within radius 3.

    Attributes:
        norm: Norm of the perturbations, "l2" or "linf".
        pairs: Pairs of weights, at least 1; as many on both sides of the kink at 0.
        seed: Seed of all random numbers.
    """

    norm: Literal["l2", "linf"]
    pairs: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"smoothness-logistic-{self.norm}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Test, yielding (done, total); returns checks."""
        rng = Streams(self.seed, ("liu", "logistic", self.norm))
        x, y = rng.tag("x").normal(20, 5, dtype=torch.float64), rng.tag("y").sign(20, dtype=torch.float64)
        problem = AdversarialLogistic(x=x, y=y, norm=self.norm, eps=_EPS)
        theta, step, across = (rng.tag(name).normal(self.pairs, 5, dtype=torch.float64) for name in "abc")
        theta = theta * (_RADIUS / 2 / theta.norm(dim=1, keepdim=True))
        length = 10 ** rng.tag("length").uniform(self.pairs, 1, low=-4, high=0, dtype=torch.float64)
        step = length * step / step.norm(dim=1, keepdim=True)
        across = _SHIFT * across / across.norm(dim=1, keepdim=True)
        found: list[tuple[Tensor, Tensor]] = []
        for done in range(self.pairs):
            found += [
                _changes(problem, theta[done], theta[done] + step[done]),
                _changes(problem, across[done], -across[done]),
            ]
            yield done + 1, self.pairs
        loss, gradient = (torch.stack(each) for each in zip(*found, strict=True))
        distance = torch.stack([step.norm(dim=1), 2 * across.norm(dim=1)], dim=1).flatten()
        return to_value(_logistic_checks(problem, loss, gradient, distance))


def _changes(problem: AdversarialLogistic, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Return the changes of loss and gradient between two weights, their sizes."""
    first, second = problem.at(one), problem.at(two)
    return (second.loss - first.loss).abs(), (second.gradient() - first.gradient()).norm()


def logistic_constants(problem: AdversarialLogistic) -> Constants:
    """Return bounds of the constants for all weights within radius 3 (L2) and inputs within eps, from above.

    With s = 1 / (1 + exp(y theta.x)): the gradient is -y s x, its Jacobian by theta s (1 - s) x x^T and by x
    -y s I + s (1 - s) x theta^T, s at most 1 and s (1 - s) at most 1/4.
    """
    d = problem.x.shape[1]
    wide = d**0.5 if problem.norm == "linf" else 1.0  # the largest ||delta||_2 of norm 1
    longest = float(problem.x.norm(dim=1).max()) + problem.eps * wide
    dual = _RADIUS * (d**0.5 if problem.norm == "linf" else 1.0)
    return Constants(
        by_theta=longest, theta_theta=longest**2 / 4, theta_x=wide + longest * dual / 4, jump_theta=0.0, jump_x=0.0
    )


def _logistic_checks(
    problem: AdversarialLogistic, loss: Tensor, gradient: Tensor, distance: Tensor
) -> tuple[Check, ...]:
    c = logistic_constants(problem)
    model = f"logistic, {norm_words(problem.norm)}, ε = {_EPS}"
    bounded, near = f"{model}; constants bounded exactly", f"{model}; weights on both sides of 0, 2e-9 apart"
    smooth, jump = c.theta_theta * distance, gradient[1::2]
    # The worst input swings by 2 eps times a unit vector, and the gradient by x is -y / 2 I at theta = 0.
    across = jump.new_tensor(0.5 * (problem.x.shape[1] ** 0.5 if problem.norm == "linf" else 1.0))
    return (
        judged(LOSS, form="as printed", tested=bounded, errors=loss - c.by_theta * distance, tolerance=ROUNDING),
        judged(
            GRADIENT,
            form="as printed",
            tested=bounded,
            errors=gradient - smooth - 2 * _EPS * c.theta_x,
            tolerance=ROUNDING,
        ),
        judged(
            GRADIENT,
            form="without 2ε L_θx",
            tested=bounded,
            errors=gradient - smooth,
            tolerance=ROUNDING,
            expected=False,
        ),
        judged(
            "Appendix B.2: the bound is tight",
            form="jump = 2ε L_θx with L_θx at θ = 0, relative error",
            tested=near,
            errors=(jump / (2 * _EPS * across) - 1).abs(),
            tolerance=1e-6,
        ),
    )
