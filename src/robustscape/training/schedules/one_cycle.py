"""A schedule of one cycle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from robustscape.training.schedules._span import spanned
from robustscape.training.schedules._warmup import check_warmup, warmed
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """The factor rises from ``start`` to 1 and falls to ``end``, along half cosines or lines (Smith 2018).

    Source: https://arxiv.org/abs/1708.07120; the defaults are those of ``torch.optim.lr_scheduler.OneCycleLR``.

    Attributes:
        shape: "cosine" or "linear".
        peak: Share of all steps at which the factor is 1, in (0, 1).
        start: Factor at the start, in [0, 1].
        end: Factor at the end, in [0, 1].
        warmup: Share of all steps over which a factor that multiplies all this rises linearly to 1, in [0, 1).

    Deviations:
        torch counts its peak and its end one step earlier, and cycles the momentum too, against the learning rate.
    """

    shape: Literal["cosine", "linear"] = "cosine"
    peak: float = 0.3
    start: float = 0.04
    end: float = 4e-6
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.shape not in ("cosine", "linear"):
            raise BadInput(f"the shape of a cycle is 'cosine' or 'linear', not {self.shape!r}")
        if not 0 < self.peak < 1:
            raise BadInput(f"the peak of one cycle is a share of all steps, in (0, 1), not {self.peak:g}")
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise BadInput(f"start and end of one cycle are in [0, 1], not {self.start:g} and {self.end:g}")
        check_warmup(self.warmup)

    @classmethod
    def rade(cls) -> OneCycle:
        """Return that of Rade's code after Gowal 2020, called cosinew there: the peak at 2.5 %."""
        return cls(peak=0.025)

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        progress = done / total
        low, place = self.start, spanned(progress, 0.0, self.peak)
        if progress >= self.peak:
            low, place = self.end, 1 - spanned(progress, self.peak, 1.0)
        share = place if self.shape == "linear" else (1 - math.cos(math.pi * place)) / 2
        return (low + (1 - low) * share) * warmed(done, total, self.warmup)
