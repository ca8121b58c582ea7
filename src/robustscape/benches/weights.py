"""What adversarial weight perturbation adds to a step, measured by the pass that it cannot do without."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch.nn.functional as F

from robustscape.benches.harness import BESIDE, QUICK, Rounds, Side, at_least_one, made, timed
from robustscape.benches.problem import TINY, Problem, attack_of
from robustscape.benches.result import BenchResult, spread
from robustscape.benches.train import Trainer
from robustscape.results import stopwatch
from robustscape.runtime import Lowered
from robustscape.weights.awp import AWP
from robustscape.weights.space import gradient, select


@dataclass(frozen=True, kw_only=True)
class WeightsBench:
    """(AT-AWP step minus AT step) over one forward and backward to the weights; the plain ratio as well.

    AWP adds one such pass, the arithmetic of the perturbation, the restoring of weights and of running
    statistics. All in the same precision. The difference is small beside both steps: ``batches`` steadies it,
    and so do fewer ``steps``, which it does not depend on.

    Attributes:
        problem: Network, batch and machine.
        steps: Steps of the inner PGD.
        eps: Its radius, in pixel units.
        batches: Training steps, or passes, that a side makes in a round.
        rounds: How often.
    """

    name: ClassVar[str] = "weights"

    problem: Problem = field(default_factory=Problem, metadata=BESIDE)
    steps: int = 10
    eps: float = 8 / 255
    batches: int = 1
    rounds: Rounds = field(default_factory=Rounds, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps", "batches")
        attack_of(self.eps, self.steps)

    def quick(self) -> WeightsBench:
        """Return the same bench on something tiny."""
        return replace(self, problem=TINY, steps=2, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        problem, took = self.problem, stopwatch()
        at = Trainer(problem, steps=self.steps, eps=self.eps)
        awp = Trainer(problem, steps=self.steps, eps=self.eps, weights=AWP())
        model = problem.placed().train()
        lowered, names, batch = Lowered(model, problem.runtime), list(select(model, "weights")), problem.examples()

        def one_pass() -> int:
            gradient(F.cross_entropy(lowered(batch.x), batch.y), model, names)
            return len(batch)

        sides = {"AT-AWP step": awp.step, "AT step": at.step, "added pass": one_pass}
        repeated = {name: _times(side, self.batches) for name, side in sides.items()}
        seconds = yield from timed(repeated, self.rounds, problem.runtime)
        turns = list(zip(*(seconds[name] for name in sides), strict=True))
        return made(
            self.name,
            f"{problem.words()}, AT with {attack_of(self.eps, self.steps).describe()}, AWP {AWP().gamma:g}",
            unit="examples",
            seconds=seconds,
            costs={
                "(AT-AWP - AT) / added pass": spread([(with_ - without) / one for with_, without, one in turns]),
                "AT-AWP / AT": spread([with_ / without for with_, without, _ in turns]),
            },
            rounds=self.rounds,
            runtime=problem.runtime,
            component=self,
            took=took(),
        )


def _times(side: Side, times: int) -> Side:
    """Return a side that does the work several times in one turn."""
    return lambda: sum(side() for _ in range(times))
