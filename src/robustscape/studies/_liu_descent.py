"""Liu 2020, Theorem 2 and Corollary 2: how often the adversarial gradient is large along stochastic descent."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.models.activations import Activation
from robustscape.streams import Streams
from robustscape.studies._liu_bound import GAMMAS, gammas, printed
from robustscape.studies._liu_network import EXAMPLES, PARAMETERS, WORDS, Adversarial, draws, measured
from robustscape.studies.checks import Check, judged, to_value
from robustscape.studies.study import Cell
from robustscape.types import Plain, Splits

_CLAIM = "Theorem 2: P(‖∇L_ε‖ > γ ε L_θx) < 4 / (γ² − 2γ + 4)"
_EPS = (0.1, 0.2, 0.4)
_BATCH = 4
_DRAWS = 600  # weights that constants are measured on


# -- one weight, constants known -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ScalarDescent:
    """Theorem 2 on figure 5's loss, log(1 + exp(theta x)) at x = 1, whose constants are known.

    Attributes:
        steps: T, at least 1.
        runs: Independent runs for each eps, at least 1, started uniformly in [-4, 4], gradients with normal noise of
            standard deviation 1.
        seed: Seed of all random numbers.
    """

    steps: int
    runs: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return "descent-scalar"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Descend, yielding (done, total); returns checks."""
        eps = torch.tensor([0.1, 0.6, 1.2], dtype=torch.float64)[:, None]
        rng = Streams(self.seed, ("liu", "scalar"))
        theta = rng.tag("start").uniform(3, self.runs, low=-4, high=4, dtype=torch.float64)
        rate = 4 / (1 + eps).square() / self.steps**0.5  # L_thetatheta = max x'^2 / 4
        above = torch.zeros(len(GAMMAS), 3, dtype=torch.float64)
        largest = torch.zeros(3, dtype=torch.float64)
        for step in range(self.steps):
            gradient = scalar_gradient(theta, eps)
            size = gradient.abs() / (eps * SCALAR_THETA_X)
            above += (size > gammas()[:, None, None]).double().mean(dim=2) / self.steps
            largest = torch.maximum(largest, size.amax(dim=1))
            theta = theta - rate * (gradient + rng.tag("noise", step).normal(3, self.runs, dtype=torch.float64))
            yield step + 1, self.steps
        words = f"log(1 + exp(θx)), ε = 0.1, 0.6, 1.2, {self.runs} runs of {self.steps:,} steps; constants exact; "
        words += f"largest n = {', '.join(f'{n:.1f}' for n in largest.tolist())}"
        return to_value([_bounded(above, words)])


SCALAR_THETA_X = 1.0998393194
"""L_thetax of log(1 + exp(theta x)): the largest derivative of u sigmoid(u), at u = 2.3994."""


def scalar_gradient(theta: Tensor, eps: Tensor) -> Tensor:
    """Return the derivative of log(1 + exp(theta + eps |theta|)), figure 5's adversarial loss at x = 1."""
    worst = 1 + eps * torch.where(theta >= 0, 1.0, -1.0)
    return torch.sigmoid(theta * worst) * worst


def _bounded(above: Tensor, words: str, claim: str = _CLAIM) -> Check:
    """Return the check of the printed bound on the shares of steps above gamma, (gamma, eps)."""
    errors = (above - printed(gammas())[:, None]).flatten()
    return judged(claim, form=f"as printed, γ = {', '.join(f'{g:g}' for g in GAMMAS)}", tested=words, errors=errors)


# -- networks ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NetworkDescent:
    """Theorem 2 on a small smooth network, Corollary 2 on a ReLU network: eps 0.1, 0.2 and 0.4, batches of 4 of 24.

    Attributes:
        activation: Of the hidden layer.
        steps: T, at least 1.
        runs: Independent runs for each eps, at least 1.
        seed: Seed of all random numbers.
    """

    activation: Activation
    steps: int
    runs: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"descent-{self.activation}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Descend, yielding (done, total); returns checks.

        L_thetatheta, which the step needs, is measured around the initial weights; L_thetax and the jumps of the
        gradient at the weights visited. They are too small rather than too large, so the shares too large.
        """
        rng = Streams(self.seed, ("liu", "descent", self.activation))
        eps = torch.tensor(_EPS, dtype=torch.float64).repeat_interleave(self.runs)
        theta = rng.tag("start").normal(len(eps), PARAMETERS, dtype=torch.float64)
        around = theta.repeat_interleave(-(-_DRAWS // len(eps)), dim=0)
        around = around + 0.3 * rng.tag("around").normal(*around.shape, dtype=torch.float64)
        bend = measured(self.activation, draws(around, max(_EPS), rng.tag("before"))).theta_theta
        network = Adversarial(activation=self.activation, eps=eps)
        norms, visited = [], []
        for step in range(self.steps):
            rows = rng.tag("batch", step).integers(EXAMPLES, len(eps), _BATCH)
            batch = F.one_hot(rows, EXAMPLES).double().mean(dim=1)  # drawn with replacement: unbiased
            _, (full, part) = network.at(theta, torch.full_like(batch, 1 / EXAMPLES), batch)
            norms.append(full.norm(dim=1))
            if step % max(1, self.steps * len(eps) // _DRAWS) == 0:
                visited.append(theta)
            theta = theta - part / (bend * self.steps**0.5)
            yield step + 1, self.steps + 1
        c = measured(self.activation, draws(torch.cat(visited), max(_EPS), rng.tag("after")))
        relu = self.activation == "relu"
        unit = eps * c.theta_x + (0.5 * (c.jump_theta + c.jump_x) if relu else 0.0)
        size = (torch.stack(norms) / unit).view(self.steps, len(_EPS), self.runs)
        above = (size > gammas()[:, None, None, None]).double().mean(dim=(1, 3))
        largest = ", ".join(f"{n:.2f}" for n in size.amax(dim=(0, 2)).tolist())
        words = f"{WORDS[self.activation]} network, ε = {', '.join(map(str, _EPS))}, {self.runs} runs of "
        words += f"{self.steps:,} steps; L_θθ = {bend:.2g}, L_θx = {c.theta_x:.2g}"
        words += f", D_θθ = {c.jump_theta:.2g}, D_θx = {c.jump_x:.2g}" if relu else ""
        claim = "Corollary 2: P(‖∇L_ε‖ > γ(ε L_θx + D_θθ/2 + D_θx/2)) < 4 / (γ² − 2γ + 4)" if relu else _CLAIM
        return to_value([_bounded(above, f"{words}, measured; largest n = {largest}", claim)])


NOTES = (
    "n is ‖∇L_ε‖ in units of ε L_θx (Corollary 2: of ε L_θx + D_θθ/2 + D_θx/2). P is the share of all steps of all "
    "runs; the steps are 1 / (L_θθ √T) long.",
    "Rearranged, inequality 25 gives 4 / (γ − 2)², at γ = 6 0.25 where 0.143 is printed; it says nothing up to γ = 4. "
    "Gradients of norm 2 and γ meet inequality 24 with equality and have P = 4 / (γ − 2)², so no better bound follows.",
    "The statement outlives its proof: a maximum of L_θθ-smooth losses is weakly convex, such descent comes near "
    "stationary points (Davis and Drusvyatskiy 2018, https://arxiv.org/abs/1803.06523), and near one Proposition 2 "
    "leaves ‖∇L_ε‖ ≤ 2ε L_θx: for every γ > 2 the share goes to 0 as T grows. This is our derivation, for Theorem 2 "
    "alone; inequality 21 also puts ‖∇L_ε‖ for the mean norm of the noisy gradient, which is larger.",
    "Networks: L_θx and D are measured at the weights visited, from below, which makes P too large rather than too "
    "small.",
)
