"""What training goes towards in place of the labels: noisy ones, smoothed ones, mixed images with mixed labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.streams import Streams
from robustscape.types import BadInput, Batch


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Label noise, then label smoothing, then mixup, each off at 0: all three can be had together.

    Noise and smoothing are of the outer loss alone: the attack leads away from the true label. Mixed images are
    attacked with the loss of their labels' mixture, each label as it was before noise and smoothing.

    Sources: label noise and smoothing over K, the code of Stutz 2021 (https://arxiv.org/abs/2104.04448); smoothing
    over K - 1, its supplement; mixup, Zhang 2018 (https://arxiv.org/abs/1710.09412, equation 1) and, on the mixed
    loss, the code of Rice 2020 (https://arxiv.org/abs/2002.11569).

    Attributes:
        smoothing: Label smoothing (tau), in [0, 1): the share of each target that goes to all classes alike, or to
            all others. Stutz 2021 tries 0.1 to 0.3.
        over: Which classes share it. "K": all, so that the label keeps 1 - tau + tau / K. "K-1": all others, so that
            it keeps 1 - tau.
        noise: Label noise (tau), in [0, 1]: with this probability a label is drawn anew, uniformly from all classes,
            itself among them; other numbers in every epoch. Stutz 2021 has 0.3 in table 1.
        mixup: Parameter alpha of mixup's Beta(alpha, alpha), from which the share of the first image is drawn for each
            batch; at least 0. Rice 2020's best is 1.4.

    Deviations:
        From Stutz' code: it also smooths and redraws the labels of the logged test loss, here those of training alone.
        From Rice's code: none known but in the random numbers.
    """

    smoothing: float = 0.0
    over: Literal["K", "K-1"] = "K"
    noise: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0 <= self.smoothing < 1:
            meant = f"; did you mean {self.smoothing / 100:g}?" if 1 < self.smoothing < 100 else ""
            raise BadInput(f"label smoothing is a share of the target, in [0, 1), not {self.smoothing:g}{meant}")
        if self.over not in ("K", "K-1"):
            raise BadInput(f"label smoothing is over 'K' classes or over 'K-1', not {self.over!r}")
        if self.over == "K-1" and not self.smoothing:
            raise BadInput("over='K-1' says how labels are smoothed, but smoothing is 0; did you mean smoothing=0.1?")
        if not 0 <= self.noise <= 1:
            meant = f"; did you mean {self.noise / 100:g}?" if 1 < self.noise <= 100 else ""
            raise BadInput(f"label noise is a probability, in [0, 1], not {self.noise:g}{meant}")
        if not 0 <= self.mixup < float("inf"):
            raise BadInput(f"mixup's alpha must be at least 0, not {self.mixup:g}; 0 is for no mixup")

    def __call__(self, batch: Batch, rng: Streams, *, classes: int) -> Batch:
        """Return the batch with its soft labels; the very batch where nothing is asked for.

        Which images are mixed, and by how much, is for the whole batch and depends on who is in it; all else is each
        image's own.

        Args:
            batch: Images with labels.
            rng: One stream per image, of the epoch.
            classes: How many classes there are, K, at least 2.
        """
        if not (self.smoothing or self.noise or self.mixup):
            return batch
        target = self._smoothed(self._noisy(batch.y, rng, classes), classes, batch.x)
        if not self.mixup:
            return replace(batch, target=target)
        share = self._share(rng)
        partner = rng.tag("partner").bits(1, device=batch.x.device)[:, 0].argsort(stable=True)
        x, target, mixed = (
            torch.lerp(value[partner], value, share) for value in (batch.x, target, _one_hot(batch.y, classes, batch.x))
        )
        return replace(batch, x=x, target=target, mixed=mixed)

    def _noisy(self, y: Tensor, rng: Streams, classes: int) -> Tensor:
        """Return the labels, (N,), some of them drawn anew."""
        if not self.noise:
            return y
        redrawn = rng.tag("noise").uniform(device=y.device) < self.noise
        return torch.where(redrawn, rng.tag("label").integers(classes, device=y.device), y)

    def _smoothed(self, y: Tensor, classes: int, like: Tensor) -> Tensor:
        """Return the targets, (N, K), of the type of ``like``."""
        other = self.smoothing / (classes if self.over == "K" else classes - 1)
        label = 1 - self.smoothing + (other if self.over == "K" else 0)
        return _one_hot(y, classes, like) * (label - other) + other

    def _share(self, rng: Streams) -> float:
        """Return the share of the first image in the batch's mixtures, in [0, 1]: the draw of its first row."""
        from scipy.special import betaincinv

        u = float(rng.tag("share").uniform(dtype=torch.float64)[0])
        return float(betaincinv(self.mixup, self.mixup, u))


def _one_hot(y: Tensor, classes: int, like: Tensor) -> Tensor:
    """Return each label as a row, (N, K), of the type of ``like``."""
    return F.one_hot(y, classes).to(like.dtype)
