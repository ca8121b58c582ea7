"""The loss of a trained linear model of two classes along random directions in weight space."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.attacks.threat import ThreatModel
from robustscape.linear.falls import worst_falls
from robustscape.models.linear import Linear, LinearNetwork
from robustscape.streams import Streams
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import BadInput, Images, Plain, Splits
from robustscape.weights.space import gaussian, normalised

_CHECKED = 100  # images that PGD is compared with the exact adversary on
_NAME = "linear.weight"


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


def carrying(w: Tensor, images: Images) -> LinearNetwork:
    """Return the linear model of two classes with these weights, (d,), for such images."""
    channels, height, width = images.x.shape[1:]
    model = Linear(bias=False, outputs="one").build(image=(channels, height, width), classes=2, seed=0)
    model.load_state_dict({_NAME: w[None]})
    return model
