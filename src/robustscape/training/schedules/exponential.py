"""An exponential schedule."""

from __future__ import annotations

from dataclasses import dataclass

from robustscape.training.schedules._span import check_span, spanned
from robustscape.training.schedules._warmup import check_warmup, warmed
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """The factor falls from 1 to ``end`` by equal ratios in equal times: end^t.

    Attributes:
        end: Factor at the end, above 0.
        begin: Share of all steps at which it begins to fall, in [0, 1); 1 before it.
        until: Share of all steps at which it has fallen, above ``begin`` and at most 1; ``end`` after it.
        warmup: Share of all steps over which a factor that multiplies all this rises linearly to 1, in [0, 1).
    """

    end: float = 0.01
    begin: float = 0.0
    until: float = 1.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not self.end > 0:
            raise BadInput(f"the end of an exponential schedule is above 0, not {self.end:g}; did you mean 0.01?")
        check_span(self.begin, self.until)
        check_warmup(self.warmup)

    @classmethod
    def liu(cls) -> Exponential:
        """Return that of the VGG networks of Liu 2020: to a tenth between 50 % and 75 %."""
        return cls(end=0.1, begin=0.5, until=0.75)

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        return self.end ** spanned(done / total, self.begin, self.until) * warmed(done, total, self.warmup)
