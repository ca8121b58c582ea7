"""Whether cost is in proportion to examples, steps and eps values, and memory independent of them."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from robustscape.attacks.pgd import PGD
from robustscape.benches.harness import BESIDE, QUICK, Rounds, Side, at_least_one, made, timed
from robustscape.benches.problem import CLASSES, TINY, Problem, attack_of
from robustscape.benches.result import BenchResult, Spread, spread
from robustscape.evaluation.judging import performance
from robustscape.results import stopwatch
from robustscape.runtime import fast, threads
from robustscape.types import Subject

FACTORS = (1, 2, 5, 10)
"""Times the base size: a decade."""


@dataclass(frozen=True, kw_only=True)
class GrowthBench:
    """Least-squares slope of log seconds against log size over a decade: 1 where cost is in proportion.

    Sizes: examples (clean and robust error and loss of one to ten batches), steps (one PGD on one batch), and
    values of eps (the same as examples, on one batch for each eps). Memory: what a search takes at its peak over
    what there was before, in a fresh process, with ten times the steps, restarts or examples over once as many.

    Attributes:
        problem: Network, batch and machine.
        steps: Steps of PGD at the base size.
        eps: Its largest radius, in pixel units.
        memory: Whether to measure memory: four fresh processes.
        rounds: How often costs are measured; memory is measured once.
    """

    name: ClassVar[str] = "growth"

    problem: Problem = field(default_factory=lambda: Problem(width=16), metadata=BESIDE)
    steps: int = 2
    eps: float = 8 / 255
    memory: bool = True
    rounds: Rounds = field(default_factory=Rounds, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps")
        attack_of(self.eps, self.steps)

    def quick(self) -> GrowthBench:
        """Return the same bench on something tiny, without memory."""
        return replace(self, problem=TINY, memory=False, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        took, runtime = stopwatch(), self.problem.runtime
        sides = self._sides()
        flat = {f"{what} x {factor}": side for what, own in sides.items() for factor, side in own.items()}
        seconds = yield from timed(flat, self.rounds, runtime)
        fits = {what: _fits([seconds[f"{what} x {factor}"] for factor in own]) for what, own in sides.items()}
        memory = (yield from self._memory()) if self.memory else {}
        attack = attack_of(self.eps, self.steps)
        return made(
            self.name,
            f"{self.problem.words()}, {attack.describe()}, once to ten times",
            seconds=seconds,
            costs={f"slope of cost in {what}": slopes for what, (slopes, _) in fits.items()} | memory,
            notes={f"worst relative residual in {what}": worst for what, (_, worst) in fits.items()},
            rounds=self.rounds,
            runtime=runtime,
            component=self,
            took=took(),
        )

    def _sides(self) -> Mapping[str, Mapping[int, Side]]:
        """Return what is timed, by quantity and factor; each does its work once, so that seconds are totals."""
        problem, attack = self.problem, attack_of(self.eps, self.steps)
        subjects = {factor: _subject(problem, problem.batch * factor) for factor in FACTORS}
        one = subjects[1]

        def examples(factor: int) -> Side:
            return lambda: _once(performance(subjects[factor], attack, "bench"))

        def steps(factor: int) -> Side:
            longer = replace(attack, steps=self.steps * factor)

            def search() -> float:
                with one.view as model:
                    return _once(longer(model, one.x, one.y))

            return search

        def radii(factor: int) -> Side:
            found = [attack.at(self.eps * (place + 1) / factor) for place in range(factor)]
            return lambda: _once(*(performance(one, other, "bench") for other in found))

        makers = {"examples": examples, "steps": steps, "eps values": radii}
        return {what: {factor: make(factor) for factor in FACTORS} for what, make in makers.items()}

    def _memory(self) -> Generator[tuple[int, int], None, dict[str, Spread]]:
        """Measure peaks, each in a process of its own; return the ratios to the base size."""
        attack = attack_of(self.eps, self.steps)
        cases = {
            "": (attack, self.problem.batch),
            "steps": (replace(attack, steps=10 * self.steps), self.problem.batch),
            "restarts": (replace(attack, restarts=10), self.problem.batch),
            "examples": (attack, 10 * self.problem.batch),
        }
        peaks: dict[str, float] = {}
        for what, (search, n) in cases.items():
            yield len(peaks), len(cases)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                peaks[what] = pool.submit(peak, self.problem, search, n).result()
        yield len(peaks), len(cases)
        base = peaks.pop("")
        return {f"peak memory, ten times the {what} over once": spread([p / base]) for what, p in peaks.items()}


def _subject(problem: Problem, n: int) -> Subject:
    """Return the network with n grey images: made without copies, so that a peak of memory is the search's."""
    model = problem.placed()
    shape = problem.examples(1).x.shape[1:]
    device = problem.runtime.torch_device()
    index = torch.arange(n, device=device)
    return Subject(
        model=model,
        x=torch.full((n, *shape), 0.5, device=device),
        y=index % CLASSES,
        index=index,
        seed=0,
        view=fast(model, problem.runtime),
        batch=problem.batch,
        runtime=problem.runtime,
    )


def _once(*_: object) -> float:
    """Return 1: the work was done."""
    return 1.0


def _fits(totals: Sequence[Sequence[float]]) -> tuple[Spread, Spread]:
    """Return slope and worst relative residual, round by round, of the totals at every factor."""
    pairs = [fit(FACTORS, turn) for turn in zip(*totals, strict=True)]
    return spread([slope for slope, _ in pairs]), spread([worst for _, worst in pairs])


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the least-squares slope of log seconds against log size, and the worst relative residual.

    Args:
        sizes: At least two, above 0.
        seconds: What each took, above 0.
    """
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(seconds, dtype=float))
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(np.abs(np.expm1(y - slope * x - offset)).max())


def peak(problem: Problem, attack: PGD, n: int) -> float:
    """Return the memory that a search on n examples takes at its peak beyond what there was before it, MiB.

    For a fresh process: on the CPU the peak of a process never falls. Below 1 MiB it is given as 1.
    """
    held = _subject(problem, n)
    with threads(problem.runtime):
        before = _level(problem)
        performance(held, attack, "bench")
    return max((_peak(problem) - before) / 2**20, 1.0)


def _level(problem: Problem) -> float:
    """Return the present memory in bytes; on an accelerator the peak begins anew."""
    device = problem.runtime.torch_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or _peak(problem)


def _peak(problem: Problem) -> float:
    device = problem.runtime.torch_device()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux hands the parent's peak on to ru_maxrss of a new program; the peak in status is the program's own.
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> float:
    """Return an entry of Linux' account of this process in bytes, 0 elsewhere."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0.0)
