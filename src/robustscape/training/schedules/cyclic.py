"""A cyclic schedule."""

from __future__ import annotations

from dataclasses import dataclass

from robustscape.training.schedules._warmup import check_warmup, warmed
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Cyclic:
    """The factor rises from 0 to 1 and falls back to 0 along lines, once or several times.

    Attributes:
        cycles: Number of cycles, at least 1.
        peak: Share of a cycle at which the factor is 1, in (0, 1); 0.4 as in Rice 2020.
        warmup: Share of all steps over which a factor that multiplies all this rises linearly to 1, in [0, 1).

    Deviations:
        The code of Stutz 2021 takes torch's ``CyclicLR``, which also moves the momentum, from 0.9 to 0.8 and back,
        against the rate; here momentum stays.
    """

    cycles: int = 1
    peak: float = 0.4
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.cycles < 1:
            raise BadInput(f"a cyclic schedule needs at least 1 cycle, not {self.cycles}")
        if not 0 < self.peak < 1:
            raise BadInput(f"the peak of a cyclic schedule is a share of a cycle, in (0, 1), not {self.peak:g}")
        check_warmup(self.warmup)

    @property
    def resets(self) -> tuple[float, ...]:
        """Shares of all steps at which a cycle ends and the next begins."""
        return tuple(cycle / self.cycles for cycle in range(1, self.cycles))

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        progress = done / total
        place = progress * self.cycles % 1.0 if done < total else 1.0
        rising = place < self.peak
        factor = place / self.peak if rising else (1 - place) / (1 - self.peak)
        return factor * warmed(done, total, self.warmup)
