"""Entropy-SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from robustscape.streams import Streams
from robustscape.training.optimizers._groups import check, groups
from robustscape.training.optimizers._light import light
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class EntropySGD:
    """SGD on the local entropy of the loss (Chaudhari 2017, https://arxiv.org/abs/1611.01838, Algorithm 1).

    From w' = mean = w, on ``steps`` batches, one after another, with g the gradient at w':

        w' <- w' - step_size (g - gamma_t (w - w')) + sqrt(step_size) noise N(0, 1)
        mean <- (1 - alpha) mean + alpha w'

    and then, back at w, one step of SGD along w - mean. Scoping raises gamma_t = gamma (1 + scoping)^t from step to
    step. Every batch is attacked at w', where a weight perturbation starts as well; its forward moves BatchNorm's
    running statistics. Epochs stay what they are: passes over the data, of fewer and longer steps.

    Attributes:
        lr: Learning rate of the step along w - mean, which the schedule multiplies, above 0.
        momentum: Share of the last step that is kept, in [0, 1).
        nesterov: Look ahead (Nesterov's form); needs momentum.
        steps: Langevin steps, each on a batch of its own (the paper's L), at least 1.
        step_size: Learning rate of a Langevin step (eta'), above 0; no schedule changes it.
        alpha: Weight of the newest w' in the mean, in (0, 1].
        gamma: Pull towards w at first, at least 0.
        scoping: Growth of the pull per step, at least 0.
        noise: Thermal noise (epsilon), at least 0.
        inner_momentum: Momentum of the Langevin steps, Nesterov's form, anew for every step, in [0, 1).
        times_gamma: Multiply w - mean by gamma_t, as line 7 of the paper's Algorithm 1 has it.
        dry: The first batch of a step moves the running statistics alone, as in the authors' code.
        weight_decay: Coefficient of w' in the gradients of the walk and of w in that of the step, at least 0.
        decay: What decays: "all" parameters, or "weights": those of more than one dimension.

    Deviations:
        From the paper: lr stands for its eta gamma, which scoping would move by orders of magnitude, unless
        ``times_gamma``. gamma_t is kept at 1 / step_size at most: beyond that the pull overshoots w. The paper says
        nothing of weight decay. t counts steps of full length: one that an epoch's end cuts short is a part of one.
        From the authors' code (``official``): there t is never counted, so gamma does not grow, and the learning
        rate of every step is the first one, whatever a schedule says; here both follow. Its momentum begins at the
        first batch's gradient, here at 0. Stutz' code, which builds on it, inherits both.
    """

    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False
    steps: int = 20
    step_size: float = 0.1
    alpha: float = 0.75
    gamma: float = 1e-4
    scoping: float = 1e-3
    noise: float = 1e-4
    inner_momentum: float = 0.0
    times_gamma: bool = False
    dry: bool = False
    weight_decay: float = 0.0
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check(self.lr, self.weight_decay, self.decay)
        if self.steps < 1:
            raise BadInput(
                f"Entropy-SGD needs at least 1 Langevin step, not {self.steps}; did you mean the optimiser sgd?"
            )
        if not self.step_size > 0:
            raise BadInput(f"Entropy-SGD's step_size must be above 0, not {self.step_size:g}")
        if not 0 < self.alpha <= 1:
            raise BadInput(f"Entropy-SGD's alpha is the weight of the newest in a mean, in (0, 1], not {self.alpha:g}")
        for name in ("gamma", "scoping", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"Entropy-SGD's {name} must be at least 0, not {getattr(self, name):g}")
        for name in ("momentum", "inner_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"{name} is in [0, 1), not {getattr(self, name):g}")
        if self.nesterov and not self.momentum:
            raise BadInput("nesterov needs momentum above 0")
        if self.times_gamma and not self.gamma:
            raise BadInput("times_gamma with gamma 0 gives steps of length 0; leave one of them out")

    @classmethod
    def official(cls) -> EntropySGD:
        """Return what the authors' PyTorch script runs with L = 20, its gamma that never grows included."""
        return cls(
            lr=0.1,
            momentum=0.9,
            nesterov=True,
            alpha=0.25,
            scoping=0.0,
            noise=math.sqrt(2) * 1e-4,
            inner_momentum=0.9,
            dry=True,
        )

    @property
    def batches(self) -> int:
        """Batches of a step."""
        return self.steps + self.dry

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return what steps along w - mean."""
        return light(torch.optim.SGD)(
            groups(model, self.weight_decay, self.decay), lr=self.lr, momentum=self.momentum, nesterov=self.nesterov
        )

    def pull(self, steps: float) -> float:
        """Return gamma_t after so many steps."""
        grown = self.gamma * math.exp(min(700.0, steps * math.log1p(self.scoping)))
        return min(grown, 1 / self.step_size)

    @contextmanager
    def walking(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, steps: float, rng: Streams
    ) -> Iterator[Callable[[], None]]:
        """Let the block walk: see ``Exploring``.

        Args:
            model: Whose weights walk.
            optimizer: From ``build``: says what decays, and steps afterwards.
            steps: Steps taken before, t.
            rng: Streams without an index, of this step's noise.

        Yields:
            What moves the weights by the gradient in their ``.grad``.
        """
        walkers = [
            _Walker(name=name, w=parameter, decay=group["weight_decay"])
            for group in optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        ]
        gamma, done = self.pull(steps), 0

        def move() -> None:
            nonlocal done
            if done or not self.dry:
                self._move(walkers, gamma, rng.tag(done))
            done += 1

        try:
            yield move
        finally:
            with torch.no_grad():
                for walker in walkers:
                    walker.w.copy_(walker.centre)
        for walker in walkers:
            ahead = walker.centre - walker.mean
            walker.w.grad = (gamma * ahead if self.times_gamma else ahead) if walker.walked else None

    @torch.no_grad()
    def _move(self, walkers: list[_Walker], gamma: float, rng: Streams) -> None:
        """Take one Langevin step."""
        heat = math.sqrt(self.step_size) * self.noise
        for walker in walkers:
            w, slope = walker.w, walker.w.grad
            if slope is None:
                continue
            walker.walked = True
            slope = slope + walker.decay * w
            if self.inner_momentum:
                walker.velocity.mul_(self.inner_momentum).add_(slope)
                slope = slope + self.inner_momentum * walker.velocity
            w.add_(slope - gamma * (walker.centre - w), alpha=-self.step_size)
            if heat:
                w.add_(rng.tag(walker.name).normal(*w.shape, dtype=w.dtype, device=w.device), alpha=heat)
            walker.mean.lerp_(w, self.alpha)


@dataclass(kw_only=True, eq=False)
class _Walker:
    """One parameter on its walk."""

    name: str
    w: nn.Parameter
    decay: float
    walked: bool = False
    centre: Tensor = field(init=False)
    mean: Tensor = field(init=False)
    velocity: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.centre = self.w.detach().clone()
        self.mean = self.centre.clone()
        self.velocity = torch.zeros_like(self.centre)
