"""A step of adversarial training against the loop that the field's code is built on."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from robustscape.benches import naive
from robustscape.benches.harness import BESIDE, QUICK, Contest, Rounds, at_least_one, competing
from robustscape.benches.problem import TINY, Problem, attack_of
from robustscape.benches.result import BenchResult
from robustscape.objectives.at import AT
from robustscape.training.method import Method, method
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.settings import Training
from robustscape.training.step import step
from robustscape.types import Batch, Objective, WeightPerturbation

# A rate as in practice would let the loss run away on random labels; what a step costs does not depend on it.
_OPTIMIZER = SGD(lr=1e-3, momentum=0.9, weight_decay=5e-4)


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """Examples per second of whole steps of adversarial training: PGD, the outer pass, SGD with momentum.

    The peer is a direct rendering of the loop of Rice 2020: float32, attack in train mode, and a clean pass for
    its log.

    Attributes:
        problem: Network, batch and machine.
        steps: Steps of the inner PGD.
        eps: Its radius, in pixel units.
        batches: Training steps that a side takes in a round.
        rounds: How often.
    """

    name: ClassVar[str] = "train"

    problem: Problem = field(default_factory=Problem, metadata=BESIDE)
    steps: int = 10
    eps: float = 8 / 255
    batches: int = 1
    rounds: Rounds = field(default_factory=Rounds, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps", "batches")
        attack_of(self.eps, self.steps)

    def quick(self) -> TrainBench:
        """Return the same bench on something tiny."""
        return replace(self, problem=TINY, steps=2, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        runtime = self.problem.runtime
        return (yield from competing(self.contest(), rounds=self.rounds, runtime=runtime, component=self))

    def contest(self) -> Contest:
        """Return the sides; each trains a copy of its own."""
        problem, attack, generator = self.problem, attack_of(self.eps, self.steps), self.problem.generator()
        batch, theirs = problem.examples(), problem.model()
        trainer = Trainer(problem, steps=self.steps, eps=self.eps)
        optimizer = _OPTIMIZER.build(theirs)

        def ours() -> float:
            for _ in range(self.batches):
                trainer.step()
            return self.batches * len(batch)

        def rendering() -> float:
            for _ in range(self.batches):
                naive.train_step(theirs, optimizer, batch.x, batch.y, attack, generator)
            return self.batches * len(batch)

        return Contest(
            name=self.name,
            settings=f"{problem.words()}, AT with {attack.describe()}",
            unit="examples",
            ours=ours,
            peers={"naive loop": rendering},
        )


class Trainer:
    """A network in training, one step on the same batch at a time.

    Args:
        problem: Network, batch and machine.
        steps: Steps of the inner PGD.
        eps: Its radius.
        weights: Weight perturbation under every step, None for none.
        objective: What is minimised, None for AT by that PGD.
        training: Further settings; batch and optimiser are the bench's.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        steps: int,
        eps: float,
        weights: WeightPerturbation | None = None,
        objective: Objective | None = None,
        training: Training | None = None,
    ) -> None:
        self.batch = problem.examples()
        objective = objective or AT(attack=attack_of(eps, steps))
        self.model: nn.Module = objective.prepare(problem.placed())
        settings = replace(training or Training(), batch_size=problem.batch, optimizer=_OPTIMIZER)
        self.how: Method = method(self.model, objective, weights, settings, problem.runtime)
        self.optimizer: torch.optim.Optimizer = _OPTIMIZER.build(self.model)

    def step(self, batch: Batch | None = None, *, done: int = 0, total: int = 1) -> int:
        """Take a step, number ``done`` of ``total``, on the batch or on another; return its examples."""
        step(self.how, self.optimizer, batch or self.batch, done=done, total=total, seed=0)
        return len(self.batch)
