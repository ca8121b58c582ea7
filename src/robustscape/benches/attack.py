"""PGD against the same attack of others, and against the convolutions that it cannot do without."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from robustscape.benches import naive
from robustscape.benches.harness import BESIDE, QUICK, Contest, Rounds, at_least_one, competing
from robustscape.benches.layers import matrix_work
from robustscape.benches.peers import attackers
from robustscape.benches.problem import TINY, Problem, attack_of
from robustscape.benches.result import BenchResult
from robustscape.runtime import fast


@dataclass(frozen=True, kw_only=True)
class AttackBench:
    """Examples per second of PGD on one batch, entering the fast view included.

    Peers: the naive loop of public scripts, torchattacks and foolbox where they are installed, and "convolutions
    alone": convolutions and linear layers at the same shapes and in the same arithmetic, as many passes forward
    and back to the input. The ratio to these is the share of the time that the attack spends on what it
    cannot do without. They are torch's own: where robustscape replaces one by something faster the share gains.

    Attributes:
        problem: Network, batch and machine.
        steps: Steps of PGD.
        eps: Its radius, in pixel units.
        rounds: How often.
    """

    name: ClassVar[str] = "attack"

    problem: Problem = field(default_factory=Problem, metadata=BESIDE)
    steps: int = 10
    eps: float = 8 / 255
    rounds: Rounds = field(default_factory=Rounds, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps")
        attack_of(self.eps, self.steps)

    def quick(self) -> AttackBench:
        """Return the same bench on something tiny."""
        return replace(self, problem=TINY, steps=2, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        runtime = self.problem.runtime
        return (yield from competing(self.contest(), rounds=self.rounds, runtime=runtime, component=self))

    def contest(self) -> Contest:
        """Return the sides; all attack the same examples of the same network."""
        problem, attack, generator = self.problem, attack_of(self.eps, self.steps), self.problem.generator()
        batch, theirs, view = problem.examples(), problem.model(), fast(problem.placed(), problem.runtime)

        def ours() -> float:
            with view as model:
                return len(attack(model, batch.x, batch.y))

        others, missing = attackers(theirs, batch, attack)
        return Contest(
            name=self.name,
            settings=f"{problem.words()}, {attack.describe()}",
            unit="examples",
            ours=ours,
            peers={
                "naive loop": lambda: len(naive.perturbed(theirs, batch.x, batch.y, attack, generator)),
                **others,
                "convolutions alone": matrix_work(
                    theirs, batch.x, problem.runtime, passes=self.steps, generator=generator
                ),
            },
            missing=missing,
        )
