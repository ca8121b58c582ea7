"""A rising schedule that is cut off: of eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from robustscape.training.schedules._warmup import check_warmup, warmed
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Rise:
    """The factor goes from ``low`` to ``high`` along a line or half a cosine, cut off to [0, 1].

    The schedules of eps of Liu 2020 (https://arxiv.org/abs/2006.08403, equation 5): low + (high - low) s with
    s = (1 - cos(pi d / D)) / 2, or s = d / D. Their eps_target is the eps of the attack, eps_min is ``low`` times
    it, and eps_max ``high`` times it. By default eps reaches the target half way and stays there.

    Attributes:
        shape: "cosine" or "linear".
        low: Start in multiples of the target, below 1; where it is negative, the factor stays 0 for a while.
        high: End in multiples of the target, not yet cut off, above 0 and above ``low``.
        period: Share of all steps that the rise takes (D), in (0, 1]; ``high``, cut off, afterwards.
        warmup: Share of all steps over which a factor that multiplies all this rises linearly to 1, in [0, 1).

    Deviations:
        Liu's code sets eps once an epoch, here it is set at every step unless ``Training.schedules`` is "epoch".
        Their periodic schedule is ``Periodic`` of this one.
    """

    shape: Literal["cosine", "linear"] = "cosine"
    low: float = 0.0
    high: float = 2.0
    period: float = 1.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.shape not in ("cosine", "linear"):
            raise BadInput(f"the shape of a rise is 'cosine' or 'linear', not {self.shape!r}")
        if not (math.isfinite(self.high - self.low) and self.low < self.high and self.low < 1 and self.high > 0):
            raise BadInput(
                f"a rise goes from low, below 1, to a greater high, above 0, in multiples of the attack's eps, not "
                f"from {self.low:g} to {self.high:g}"
            )
        if not 0 < self.period <= 1:
            raise BadInput(f"the period of a rise is a share of all steps, in (0, 1], not {self.period:g}")
        check_warmup(self.warmup)

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        progress = min(1.0, done / total / self.period)
        share = progress if self.shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
        factor = self.low + (self.high - self.low) * share
        return min(1.0, max(0.0, factor)) * warmed(done, total, self.warmup)
