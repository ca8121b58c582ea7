"""A piecewise constant schedule."""

from __future__ import annotations

from dataclasses import dataclass

from robustscape.training.schedules._warmup import check_warmup, warmed
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Piecewise:
    """The factor drops at given shares of the training.

    The default is that of Rice 2020 and Wu 2020: divided by 10 at 50 % and again at 75 %.

    Attributes:
        at: Shares of all steps at which the factor drops, rising, each in (0, 1).
        factor: What each drop multiplies by, in (0, 1).
        warmup: Share of all steps over which a factor that multiplies all this rises linearly to 1, in [0, 1).

    Deviations:
        Rice's code evaluates it at the end of each step, so its drop comes one step before the epoch ends.
    """

    at: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if list(self.at) != sorted(set(self.at)) or not all(0 < share < 1 for share in self.at):
            raise BadInput(f"the drops of a piecewise schedule are rising shares in (0, 1), not {self.at}")
        if not 0 < self.factor < 1:
            raise BadInput(f"the factor of a piecewise schedule is in (0, 1), not {self.factor:g}")
        check_warmup(self.warmup)

    @classmethod
    def stutz(cls) -> Piecewise:
        """Return that of Stutz 2021: drops after 60, 90 and 120 of 150 epochs."""
        return cls(at=(60 / 150, 90 / 150, 120 / 150))

    @classmethod
    def late(cls) -> Piecewise:
        """Return Stutz' late multi-step schedule, after Qin 2019: drops after 140 and 145 of 150 epochs."""
        return cls(at=(140 / 150, 145 / 150))

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        progress = done / total
        drops = sum(progress >= share for share in self.at)
        return self.factor**drops * warmed(done, total, self.warmup)
