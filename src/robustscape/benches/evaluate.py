"""An evaluation by PGD against the loop of public scripts and foolbox's."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from robustscape.benches import naive
from robustscape.benches.harness import BESIDE, QUICK, Contest, Rounds, at_least_one, competing
from robustscape.benches.peers import evaluators
from robustscape.benches.problem import TINY, Problem, attack_of, least_likely
from robustscape.benches.result import BenchResult
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.subject import drained, subject


@dataclass(frozen=True, kw_only=True)
class EvaluateBench:
    """Examples per second of a whole evaluation: clean and robust error and loss of n examples.

    Ours confirms in float32 and computes intervals. Labels are the classes that the network thinks least likely,
    and ours searches for the largest loss: no search ends early, so that all sides make the same number of steps.

    Attributes:
        problem: Network, batch and machine.
        steps: Steps of PGD.
        eps: Its radius, in pixel units.
        n: Examples.
        rounds: How often.
    """

    name: ClassVar[str] = "evaluate"

    problem: Problem = field(default_factory=Problem, metadata=BESIDE)
    steps: int = 20
    eps: float = 8 / 255
    n: int = 256
    rounds: Rounds = field(default_factory=Rounds, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps", "n")
        attack_of(self.eps, self.steps)

    def quick(self) -> EvaluateBench:
        """Return the same bench on something tiny."""
        return replace(self, problem=TINY, steps=2, n=8, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        runtime = self.problem.runtime
        return (yield from competing(self.contest(), rounds=self.rounds, runtime=runtime, component=self))

    def contest(self) -> Contest:
        """Return the sides; all judge the same examples of the same network."""
        problem, attack, generator = self.problem, attack_of(self.eps, self.steps), self.problem.generator()
        theirs, model, x = problem.model(), problem.placed(), problem.examples(self.n).x
        y = least_likely(theirs, x, problem.batch)
        settings = Evaluating(
            eps=self.eps,
            restarts=0,
            loss_steps=self.steps,
            loss_restarts=1,
            step_size=attack.step_size,
            n=None,
            batch_size=problem.batch,
        )
        looked_at = subject(model, x, y, runtime=problem.runtime, batch=problem.batch, classes=tuple("0123456789"))

        def loop() -> float:
            naive.evaluated(theirs, x, y, attack, generator, batch=problem.batch)
            return self.n

        others, missing = evaluators(theirs, x, y, attack, batch=problem.batch)
        return Contest(
            name=self.name,
            settings=f"{problem.words()}, {attack.describe()} of {self.n} examples",
            unit="examples",
            ours=lambda: drained(evaluating(settings, looked_at)).robust_error.n,
            peers={"naive loop": loop, **others},
            missing=missing,
        )
