"""A cosine schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustscape.training.schedules._warmup import check_warmup, warmed
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The factor falls from 1 to ``end`` along half a cosine: end + (1 - end) (1 + cos(pi t)) / 2.

    Attributes:
        end: Factor at the end, in [0, 1].
        warmup: Share of all steps over which a factor that multiplies all this rises linearly to 1, in [0, 1).
    """

    end: float = 0.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 0 <= self.end <= 1:
            raise BadInput(f"the end of a cosine schedule is in [0, 1], not {self.end:g}")
        check_warmup(self.warmup)

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        progress = done / total
        falling = (1 + math.cos(math.pi * progress)) / 2
        return (self.end + (1 - self.end) * falling) * warmed(done, total, self.warmup)
