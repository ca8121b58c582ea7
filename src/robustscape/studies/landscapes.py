"""The loss of a trained linear model of two classes along random directions in weight space."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.attacks.threat import ThreatModel
from robustscape.models.linear import Linear, LinearNetwork
from robustscape.streams import Streams
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import BadInput, Images, Plain, Splits
from robustscape.weights.space import gaussian, normalised

_AT_ONCE = 2**18  # numbers that the L2 adversary is solved for at once: they stay in the cache
_CHECKED = 100  # images that PGD is compared with the exact adversary on
_NAME = "linear.weight"
_Falls: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The training loss at w + alpha h (Yamada 2021, equations 5 and 6): a cell of a study.

    Paper: https://arxiv.org/abs/2102.02950. h is a Gaussian direction with the norm of w, the filter normalisation of
    a model with one row. Perturbed inputs are retaken at every point. The directions are the same for every model.

    Attributes:
        trained: The model, and with it norm and eps.
        under: "adversary" for the worst inputs in ball and pixel range, exactly; "noise" for inputs with uniform
            noise, clipped to the pixel range, the same draws at every point.
        width: Largest alpha, above 0.
        positions: Alphas from -width to width, evenly spaced; odd, so that 0 is among them, and at least 3.
        directions: Random directions, at least 1.
        draws: Draws of noise for each image, at least 2.
        seed: Seed of directions and noise.

    Deviations:
        The paper takes PGD-100 where this takes the exact adversary, which is cheaper and never weaker; how far apart
        they are is part of the value. Width, positions and number of directions are not in the paper.
    """

    trained: Trained
    under: Literal["adversary", "noise"] = "adversary"
    width: float = 1.0
    positions: int = 11
    directions: int = 10
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.under not in ("adversary", "noise"):
            raise BadInput(f"under {self.under!r} is not one of adversary, noise")
        if self.positions < 3 or self.positions % 2 == 0:
            raise BadInput(f"positions must be odd and at least 3, so that alpha 0 is among them, not {self.positions}")
        if not self.width > 0:
            raise BadInput(f"width must be above 0, not {self.width:g}")
        if self.directions < 1 or self.draws < 2:
            raise BadInput(f"slices need at least 1 direction and 2 draws, not {self.directions} and {self.draws}")

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"slices-{self.trained.name}-under-{self.under}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The training."""
        return (self.trained,)

    def alphas(self) -> list[float]:
        """Return the positions, exactly symmetric about an exact 0."""
        half = self.positions // 2
        return [place / half * self.width for place in range(-half, half + 1)]

    def direction(self, w: Tensor, number: int) -> Tensor:
        """Return a random direction with the norm of w, (d,)."""
        weights = {_NAME: w[None]}
        drawn = gaussian(weights, Streams(self.seed, ("slices", number)))
        return normalised(drawn, weights, "filter")[_NAME][0]

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Measure, yielding (done, total) in directions, the comparison with PGD counting as one.

        Args:
            data: The images.
            values: That of the training.

        Returns:
            "alpha", P positions; "loss", D times P, nats per example, over all training images; "error", the largest
            standard error of these by the draws of noise, 0 under the adversary; "norm", ||w||, which is that of
            each direction; and "pgd", by how much PGD's loss stays below the exact one, nats, the largest of three
            points on few images, 0 under noise.
        """
        total = self.directions + 1
        yield 0, total
        w = torch.tensor(values[self.trained]["w"])
        losses, alphas, found = self._losses(data.train), torch.tensor(self.alphas()), []
        for number in range(self.directions):
            found.append(losses(w, self.direction(w, number), alphas))
            yield number + 1, total
        by_draw = torch.stack(found)
        several = by_draw.shape[-1] > 1
        return {
            "alpha": self.alphas(),
            "loss": by_draw.mean(dim=-1).tolist(),
            "error": float(by_draw.std(dim=-1).max()) / self.draws**0.5 if several else 0.0,
            "norm": float(w.norm()),
            "pgd": self._below(w, data.train.take(slice(0, _CHECKED))),
        }

    def _losses(self, images: Images) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return what gives, for w, a direction and P alphas, the mean losses of each draw of the inputs, (P, M)."""
        x, y, eps = images.pixels(), 2 * images.y - 1, self.trained.eps
        inputs, falls = x[None], None
        if eps and self.under == "adversary":
            falls = worst_falls(x.flatten(1), y, norm=self.trained.norm, eps=eps)
        elif eps:
            threat = ThreatModel(norm=self.trained.norm, eps=eps)
            streams = (Streams(self.seed, ("noise", number), images.index) for number in range(self.draws))
            inputs = torch.stack([threat.sample(x, rng) for rng in streams])
        inputs = inputs.flatten(2)

        def losses(w: Tensor, direction: Tensor, alphas: Tensor) -> Tensor:
            base, slope = y * (inputs @ w), y * (inputs @ direction)
            lost = [0.0] * len(alphas) if falls is None else falls(w + alphas[:, None] * direction)
            return torch.stack(
                [F.softplus(fall - base - alpha * slope).mean(dim=1) for alpha, fall in zip(alphas, lost, strict=True)]
            )

        return losses

    def _below(self, w: Tensor, images: Images) -> float:
        """Return how far PGD's loss is below the exact one, at most, at both ends and the middle of a slice."""
        attack = replace(self.trained, adversary="pgd").attack(self.trained.test_steps)
        if attack is None or self.under == "noise":
            return 0.0
        direction, alphas, x = self.direction(w, 0), torch.tensor([-self.width, 0.0, self.width]), images.pixels()
        exact, found = self._losses(images)(w, direction, alphas)[:, 0], []
        for alpha in alphas:
            model = carrying(w + alpha * direction, images)
            x_adv = attack(model, x, images.y, rng=Streams(self.seed, ("judge",), images.index))
            with torch.no_grad():
                found.append(F.cross_entropy(model(x_adv), images.y))
        return float((exact - torch.stack(found)).max())


def worst_falls(x: Tensor, y: Tensor, *, norm: Literal["linf", "l2"], eps: float) -> _Falls:
    """Return what gives the most that the adversary in ball and pixel range takes off each margin y w.x.

    The same numbers as ``linear.adversary.worst_rise``, for many weights and all images: under L-infinity two products
    of matrices, under L2 a few Newton steps for the level at which pixels stop, in place of sorting them.

    Args:
        x: (N, d), in [0, 1].
        y: (N,), -1 or 1.
        norm: Of the ball.
        eps: Its radius, above 0.

    Returns:
        A function of (P, d) weights to (P, N) falls, at least 0.
    """
    down = torch.where(y[:, None] > 0, x, 1 - x)  # how far a pixel of positive weight may move
    if norm == "linf":
        low, high = down.clamp(max=eps), (1 - down).clamp(max=eps)
        return lambda w: (low @ w.clamp(min=0).T + high @ (-w).clamp(min=0).T).T
    parts = down.split(max(1, _AT_ONCE // x.shape[1]))
    return lambda w: torch.stack([torch.cat([_l2_fall(each, part, eps) for part in parts]) for each in w])


def _l2_fall(w: Tensor, down: Tensor, eps: float) -> Tensor:
    """Return the largest |w| . t over 0 <= t <= room, ||t|| <= eps, (N,).

    It is at t_i^2 = min(room_i^2, w_i^2 u) with sum t_i^2 = eps^2: concave and piecewise linear in u, so that Newton's
    steps from below end at the solution. Where the room ends before the ball, t is the room.
    """
    squared = torch.where(w > 0, down, 1 - down).square_()
    rate, tiny = w.square(), torch.finfo(w.dtype).tiny
    u = eps**2 / ((squared > 0).to(w) @ rate).clamp(min=tiny)
    while True:
        t = torch.minimum(squared, rate * u[:, None])
        free = (t < squared).to(w) @ rate
        short = torch.where(free > 0, eps**2 - t.sum(dim=1), 0)
        if not bool((short > 1e-6 * eps**2).any()):
            return t.sqrt_() @ w.abs()
        u = u + short.clamp(min=0) / free.clamp(min=tiny)


def carrying(w: Tensor, images: Images) -> LinearNetwork:
    """Return the linear model of two classes with these weights, (d,), for such images."""
    channels, height, width = images.x.shape[1:]
    model = Linear(bias=False, outputs="one").build(image=(channels, height, width), classes=2, seed=0)
    model.load_state_dict({_NAME: w[None]})
    return model
