"""The one way of timing: all sides in one run, in turn, their order alternating, so that a machine's moods cancel.

Timings wander from minute to minute; the ratio of two sides within a round wanders far less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, TypeAlias

import torch

from robustscape.benches.result import BenchResult, Spread, machine, spread
from robustscape.evaluation.subject import drained
from robustscape.results import provenance, stopwatch
from robustscape.runtime import Runtime, threads
from robustscape.types import BadInput

Side: TypeAlias = Callable[[], float]
"""Does a fixed amount of work and returns the amount, for example the number of examples."""

OURS = "robustscape"
"""What results call our own side."""

BESIDE: Mapping[str, bool] = {"spread": True}
"""Metadata of a field whose options stand beside those of the bench: --width, not --problem.width."""


def at_least_one(settings: object, *names: str) -> None:
    """Refuse settings whose named fields are below 1.

    Raises:
        BadInput: one is.
    """
    for name in names:
        if getattr(settings, name) < 1:
            raise BadInput(f"{name} must be at least 1, not {getattr(settings, name)}")


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How often and after what a bench measures.

    Attributes:
        pairs: Rounds, at least 1; in each, every side does its work once.
        warmup: Seconds of untimed work before, shared by all sides; 0 for none.
    """

    pairs: int = 7
    warmup: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "pairs")
        if not self.warmup >= 0:
            raise BadInput(f"warmup must be at least 0 seconds, not {self.warmup:g}")


QUICK = Rounds(pairs=2, warmup=0.0)
"""For a look at whether a bench runs at all."""


class Bench(Protocol):
    """A bench, as its configuration: a frozen dataclass in a file of this room, with defaults throughout."""

    name: ClassVar[str]

    def quick(self) -> Self:
        """Return the same bench on something tiny, which takes seconds and says nothing about speed."""
        ...

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        ...


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The same work done by several sides.

    Attributes:
        name: The bench.
        settings: What every side does, in words.
        unit: What work is counted in, for example "examples".
        ours: Our own side.
        peers: The others, by name.
        missing: Peers that cannot take part: name to reason.
    """

    name: str
    settings: str
    unit: str
    ours: Side
    peers: Mapping[str, Side]
    missing: Mapping[str, str] = field(default_factory=dict)


def compete(
    contest: Contest, *, rounds: Rounds | None = None, runtime: Runtime | None = None, component: object = None
) -> BenchResult:
    """Time a contest and return the result; see ``competing``."""
    return drained(competing(contest, rounds=rounds, runtime=runtime, component=component))


def competing(
    contest: Contest, *, rounds: Rounds | None = None, runtime: Runtime | None = None, component: object = None
) -> Generator[tuple[int, int], None, BenchResult]:
    """Time a contest, yielding (done, total) after every turn of a side; returns the result.

    Args:
        contest: The sides.
        rounds: How often, after what warm-up; by default 7 rounds after a minute.
        runtime: Threads and device of all sides.
        component: The bench, for provenance.
    """
    rounds, runtime, took = rounds or Rounds(), runtime or Runtime(), stopwatch()
    seconds = yield from timed({OURS: contest.ours, **contest.peers}, rounds, runtime)
    ours = seconds[OURS]
    ratios = {
        peer: spread([theirs / own for theirs, own in zip(seconds[peer], ours, strict=True)]) for peer in contest.peers
    }
    return made(
        contest.name,
        contest.settings,
        unit=contest.unit,
        seconds=seconds,
        ratios=ratios,
        missing=contest.missing,
        rounds=rounds,
        runtime=runtime,
        component=component,
        took=took(),
    )


def timed(
    sides: Mapping[str, Side], rounds: Rounds, runtime: Runtime
) -> Generator[tuple[int, int], None, dict[str, tuple[float, ...]]]:
    """Let every side do its work once a round, yielding (done, total); returns seconds per unit by side and round.

    The order is turned round after every round. In the warm-up every side has at least one turn, and no turn is
    broken off.
    """
    total, warm = rounds.pairs * len(sides), stopwatch()
    yield 0, total
    while warm() < rounds.warmup:
        for side in sides.values():
            seconds_per_unit(side, runtime)
            yield 0, total
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds.pairs):
        for place, name in enumerate(list(sides)[:: -1 if number % 2 else 1]):
            taken[name].append(seconds_per_unit(sides[name], runtime))
            yield number * len(sides) + place + 1, total
    return {name: tuple(values) for name, values in taken.items()}


def seconds_per_unit(side: Side, runtime: Runtime) -> float:
    """Let a side do its work under the runtime's threads; return the seconds, until its device is done, per unit."""
    device = runtime.torch_device()
    with threads(runtime):
        _finished(device)
        start = time.perf_counter()
        amount = side()
        _finished(device)
        return (time.perf_counter() - start) / amount


def _finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def made(
    name: str,
    settings: str,
    *,
    rounds: Rounds,
    runtime: Runtime,
    component: object,
    took: float,
    unit: str = "",
    seconds: Mapping[str, Sequence[float]] | None = None,
    ratios: Mapping[str, Spread] | None = None,
    costs: Mapping[str, Spread] | None = None,
    notes: Mapping[str, Spread] | None = None,
    missing: Mapping[str, str] | None = None,
    model: str = "",
    data: str = "random pixels",
) -> BenchResult:
    """Return a result with rates from ``seconds`` where there is a unit, machine and provenance filled in.

    Args:
        name: The bench.
        settings: What was done, in words.
        rounds: How often, after what.
        runtime: The machine as it was used.
        component: The bench itself, for provenance.
        took: Seconds the whole bench took.
        unit: What work is counted in.
        seconds: Side to seconds per unit of every round.
        ratios: See ``BenchResult``, as are costs, notes and missing.
        costs: What should be small.
        notes: What is only shown.
        missing: Peers left out.
        model: Whose weights were looked at, "" for initial ones.
        data: On which images.
    """
    seconds = seconds or {}
    return BenchResult(
        name=name,
        settings=settings,
        unit=unit,
        rates={side: spread([1 / s for s in values]) for side, values in seconds.items()} if unit else {},
        ratios=dict(ratios or {}),
        costs=dict(costs or {}),
        notes=dict(notes or {}),
        missing=dict(missing or {}),
        seconds={side: tuple(values) for side, values in seconds.items()},
        pairs=rounds.pairs,
        warmup=rounds.warmup,
        machine=machine(runtime),
        provenance=provenance(
            seconds=took,
            device=runtime.torch_device(),
            precision=runtime.words(),
            seed=0,
            model=model,
            data=data,
            settings=component,
        ),
    )
