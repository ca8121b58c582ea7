"""A schedule that begins anew."""

from __future__ import annotations

from dataclasses import dataclass, field

from robustscape.training.schedules._warmup import check_warmup, warmed
from robustscape.training.schedules.cosine import Cosine
from robustscape.types import BadInput, Schedule


@dataclass(frozen=True, kw_only=True)
class Periodic:
    """Another schedule, whole in every period of the training: periodic adversarial scheduling (PAS).

    Liu 2020, https://arxiv.org/abs/2006.08403, section 5: periods end at ``resets``, and what is scheduled depends on
    the share of the present period that is over. For both eps (of ``Rise``) and the learning rate there;
    ``Training.snapshots`` keeps the network at the end of every period.

    Attributes:
        of: The schedule of one period.
        resets: Shares of all steps at which a period ends and the next begins, rising, each in (0, 1).
        warmup: Share of all steps over which a factor that multiplies all this rises linearly to 1, in [0, 1).
    """

    of: Schedule = field(default_factory=Cosine)
    resets: tuple[float, ...] = (0.5, 0.75)
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not self.resets or list(self.resets) != sorted(set(self.resets)):
            raise BadInput(
                f"the resets of a periodic schedule are rising shares in (0, 1), at least one, not {self.resets}"
            )
        if not all(0 < share < 1 for share in self.resets):
            raise BadInput(f"the resets of a periodic schedule are shares of all steps, in (0, 1), not {self.resets}")
        check_warmup(self.warmup)

    def __call__(self, done: int, total: int) -> float:
        """Return the factor when ``done`` of ``total`` steps are done."""
        edges = [0, *(round(share * total) for share in self.resets), total]
        begun = [k for k in range(len(edges) - 1) if edges[k] <= done and edges[k] < edges[k + 1]]
        begin, end = edges[begun[-1]], edges[begun[-1] + 1]
        return self.of(done - begin, end - begin) * warmed(done, total, self.warmup)
