"""A linear schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustscape.training.schedules._span import check_span, spanned
from robustscape.training.schedules._warmup import check_warmup, warmed
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Linear:
    """The factor goes from ``start`` to ``end`` along a line: start + (end - start) t.

    The schedule of Izmailov 2018 before weights are averaged is begin 0.5, until 0.9 and the end swa_lr / lr.

    Attributes:
        start: Factor at the start, at least 0.
        end: Factor at the end, at least 0.
        begin: Share of all steps at which the line begins, in [0, 1); ``start`` before it.
        until: Share of all steps at which it ends, above ``begin`` and at most 1; ``end`` after it.
        warmup: Share of all steps over which a factor that multiplies all this rises linearly to 1, in [0, 1).
    """

    start: float = 1.0
    end: float = 0.0
    begin: float = 0.0
    until: float = 1.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not (0 <= self.start < math.inf and 0 <= self.end < math.inf):
            raise BadInput(f"start and end of a linear schedule are at least 0, not {self.start:g} and {self.end:g}")
        check_span(self.begin, self.until)
        check_warmup(self.warmup)

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        progress = spanned(done / total, self.begin, self.until)
        return (self.start + (self.end - self.start) * progress) * warmed(done, total, self.warmup)
