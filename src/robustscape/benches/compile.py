"""What compiling costs, cold and from the cache on disk, and after how many epochs it has paid."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median
from typing import ClassVar

from robustscape.benches.harness import BESIDE, QUICK, Rounds, at_least_one, made
from robustscape.benches.problem import TINY, Problem, attack_of
from robustscape.benches.result import BenchResult, spread
from robustscape.benches.train import Trainer
from robustscape.results import stopwatch
from robustscape.runtime import threads

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_NEVER = 1e6  # epochs: compiled steps are not faster


@dataclass(frozen=True, kw_only=True)
class CompileBench:
    """Seconds to compile the attack and the outer pass of adversarial training, and epochs until they are regained.

    In every round three fresh processes train the same: eagerly, compiled with an empty cache on disk, and compiled
    with the cache that the second one left. Where compiled steps are not faster it never pays, and epochs are
    given as a million: robustscape then does not compile, since it tries before it decides.

    Attributes:
        problem: Network, batch and machine.
        steps: Steps of the inner PGD.
        eps: Its radius, in pixel units.
        batches: Training steps of an epoch, 79 for 10,000 images in batches of 128.
        timed: Training steps of which the median is taken, after the first.
        rounds: How often; the warm-up is left out, since every process begins cold.
    """

    name: ClassVar[str] = "compile"

    problem: Problem = field(default_factory=lambda: Problem(width=16), metadata=BESIDE)
    steps: int = 10
    eps: float = 8 / 255
    batches: int = 79
    timed: int = 5
    rounds: Rounds = field(default_factory=lambda: Rounds(pairs=3, warmup=0.0), metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps", "batches", "timed")
        attack_of(self.eps, self.steps)

    def quick(self) -> CompileBench:
        """Return the same bench on something tiny."""
        return replace(self, problem=TINY, steps=2, timed=1, rounds=replace(QUICK, pairs=1))

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        took, total = stopwatch(), 3 * self.rounds.pairs
        waits: dict[str, list[float]] = {"cold": [], "warm": []}
        epochs: dict[str, list[float]] = {"cold": [], "warm": []}
        gains: list[float] = []
        yield 0, total
        for number in range(self.rounds.pairs):
            with tempfile.TemporaryDirectory() as cache:
                _, eager = _alone(self, "no", cache)
                yield 3 * number + 1, total
                for place, kind in enumerate(waits):
                    first, later = _alone(self, "yes", cache)
                    waits[kind].append(first - later)
                    gain = self.batches * (eager - later)
                    epochs[kind].append(waits[kind][-1] / gain if gain > 0 else _NEVER)
                    gains.append(eager / later)
                    yield 3 * number + 2 + place, total
        attack = attack_of(self.eps, self.steps)
        return made(
            self.name,
            f"{self.problem.words()}, AT with {attack.describe()}, {self.batches} steps an epoch",
            costs={f"epochs until compiling pays, {kind}": spread(values) for kind, values in epochs.items()},
            notes={f"seconds to compile, {kind}": spread(values) for kind, values in waits.items()}
            | {"eager step / compiled step": spread(gains)},
            rounds=self.rounds,
            runtime=self.problem.runtime,
            component=self,
            took=took(),
        )


def _alone(bench: CompileBench, compiles: str, cache: str) -> tuple[float, float]:
    """Return the seconds of the first step and the median of later ones, in a fresh process."""
    runtime = replace(bench.problem.runtime, compile=compiles)  # pyright: ignore[reportArgumentType]
    problem = replace(bench.problem, runtime=runtime)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_stepped, replace(bench, problem=problem), cache).result()


def _stepped(bench: CompileBench, cache: str) -> tuple[float, float]:
    os.environ[_CACHE] = cache
    with threads(bench.problem.runtime):
        trainer = Trainer(bench.problem, steps=bench.steps, eps=bench.eps)
        seconds = [_seconds(trainer) for _ in range(1 + bench.timed)]
    return seconds[0], median(seconds[1:])


def _seconds(trainer: Trainer) -> float:
    start = time.perf_counter()
    trainer.step()
    return time.perf_counter() - start
