"""A constant schedule."""

from __future__ import annotations

from dataclasses import dataclass

from robustscape.training.schedules._warmup import check_warmup, warmed


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The factor 1 throughout, after a linear rise over the warm-up.

    Attributes:
        warmup: Share of all steps over which the factor rises linearly, in [0, 1).
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a warm-up outside [0, 1)."""
        check_warmup(self.warmup)

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        return warmed(done, total, self.warmup)
