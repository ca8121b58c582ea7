"""Measurements of the landscape against libraries and the loops of public scripts, and what moving weights costs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias, get_args

import torch.nn.functional as F

from robustscape.attacks.threat import ThreatModel
from robustscape.benches.around import LOOP, Around
from robustscape.benches.curvature_peers import LANCZOS, POWER, Solve, Spectra, by_lanczos, by_power, spectra
from robustscape.benches.harness import BESIDE, OURS, QUICK, Rounds, at_least_one, made, timed
from robustscape.benches.judged import judged
from robustscape.benches.peaks import Work, fresh_peak
from robustscape.benches.peers import imported
from robustscape.benches.problem import TINY, Problem, attack_of
from robustscape.benches.result import BenchResult, Spread, spread
from robustscape.landscape._stutz import StutzPGD
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.lines import Examples
from robustscape.landscape.slices import Slice
from robustscape.landscape.spectrum import top
from robustscape.results import stopwatch
from robustscape.runtime import threads
from robustscape.types import BadInput

Part: TypeAlias = Literal["spectrum", "slices", "flatness", "moving", "memory"]

_STEP = "training step"


@dataclass(frozen=True, kw_only=True)
class LandscapeBench:
    """Examples per second of whole measurements of the landscape, each as its library or script makes it.

    "spectrum": the k largest eigenvalues of the Hessian, against PyHessian's power iteration and hessian-eigenthings'
    Lanczos, all to the residual that PyHessian ends at; it is run once before to know that. It goes by magnitude, which
    in a trained network comes to the same. "slices" and "flatness": the robust loss along random directions, and Stutz'
    average-case flatness, against a direct rendering of the reference code. "moving": what drawing, moving and
    restoring the weights takes, over a point of each. "memory": peaks of each in fresh processes, over that of a
    forward and backward to the weights; there power iteration has 2 steps an eigenvalue and Lanczos 2 k steps.

    At its defaults a round takes an hour on two cores. An example counts once it has been through the whole of a
    measurement.

    Attributes:
        problem: Machine and batch; the network too where there is no run.
        run: Folder of a run whose last network and first test images are measured; None for a network with initial
            weights, random pixels and its own predictions.
        parts: What is timed.
        eps: Radius of the linf ball in pixel units; None for that of the run's evaluation, and 1e-5 without a run.
        n: Examples.
        k: Eigenvalues.
        power_steps: Most steps of power iteration for each.
        change: Relative change of an eigenvalue that ends its power iteration.
        tolerance: Largest relative residual of every eigenvalue; None for that which PyHessian ends at, or 0.01
            where it is not installed.
        steps: Steps of PGD at each point of a slice.
        positions: Points of a slice, odd and at least 3.
        directions: Directions.
        examples: Where ours has the adversarial examples along a slice from, see ``Slice``; scripts retake them.
        flatness_steps: Steps of PGD at each sample of the flatness.
        restarts: Restarts of its reference.
        samples: Its samples, at least 2.
        rounds: How often.
    """

    name: ClassVar[str] = "landscape"

    problem: Problem = field(default_factory=lambda: Problem(width=16, batch=250), metadata=BESIDE)
    run: str | None = None
    parts: tuple[Part, ...] = get_args(Part)
    eps: float | None = None
    n: int = 250
    k: int = 10
    power_steps: int = 100
    change: float = 1e-3
    tolerance: float | None = None
    steps: int = 10
    positions: int = 21
    directions: int = 10
    examples: Examples = "retaken"
    flatness_steps: int = 20
    restarts: int = 10
    samples: int = 10
    rounds: Rounds = field(default_factory=lambda: Rounds(pairs=3, warmup=0.0), metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "n", "k", "power_steps")
        if not self.parts or not set(self.parts) <= set(get_args(Part)):
            raise BadInput(f"parts are {', '.join(get_args(Part))}, at least one of them, not {self.parts!r}")
        for name in ("change", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise BadInput(f"{name} must be between 0 and 1, not {value:g}; did you mean 0.001?")
        eps = 8 / 255 if self.eps is None else self.eps
        self.slices(eps)  # each refuses what cannot be meant of its own
        self.flatness(eps)

    def quick(self) -> LandscapeBench:
        """Return the same bench on something tiny, without memory."""
        tiny = replace(self, problem=TINY, parts=("spectrum", "slices", "flatness", "moving"), n=6, k=2, power_steps=3)
        tiny = replace(tiny, steps=2, positions=3, directions=2, flatness_steps=2, restarts=2, samples=2)
        return replace(tiny, rounds=QUICK)

    def slices(self, eps: float) -> Slice:
        """Return the slices under a radius."""
        return Slice(
            attack=attack_of(eps, self.steps),
            positions=self.positions,
            directions=self.directions,
            examples=self.examples,
        )

    def flatness(self, eps: float) -> AverageFlatness:
        """Return the flatness under a radius, as the code of Stutz 2021 takes it."""
        attack = StutzPGD(threat=ThreatModel(eps=eps), steps=self.flatness_steps)
        reference = replace(attack, restarts=self.restarts)
        return replace(AverageFlatness.stutz_code(), attack=attack, reference=reference, samples=self.samples)

    def around(self) -> Around:
        """Return the network with what is measured around it."""
        given = judged(self.problem, self.run, n=self.n, eps=self.eps)
        return Around(
            given=given,
            subject=given.subject(self.problem.runtime, self.problem.batch),
            slices=self.slices(given.eps),
            flatness=self.flatness(given.eps),
            generator=self.problem.generator(),
        )

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        took, runtime, around = stopwatch(), self.problem.runtime, self.around()
        found = self._spectra(around) if "spectrum" in self.parts else None
        contests = {name: around.sides(name) for name in ("slices", "flatness") if name in self.parts}
        contests |= {"spectrum": dict(found.sides)} if found else {}
        moving = around.moving() if "moving" in self.parts else {}
        sides = {f"{name}, {side}": work for name, some in contests.items() for side, work in some.items()}
        shares = {name: (f"moving, of {name}", name) for name in moving}
        extra = {key: side for name in moving for key, side in zip(shares[name], moving[name], strict=True)}
        seconds = yield from timed(sides | extra, self.rounds, runtime)
        costs = {
            f"moving weights, share of {name}": _over(seconds.pop(part), seconds.pop(whole))
            for name, (part, whole) in shares.items()
        }
        with threads(runtime):
            notes = found.notes() if found else {}
        if "memory" in self.parts:
            costs |= yield from self._memory(notes)
        return made(
            self.name,
            "; ".join([around.given.words, *self._words(around, found), f"{self.n} examples"]),
            unit="examples",
            seconds=seconds,
            ratios={
                f"{name}, {peer}": _over(seconds[f"{name}, {peer}"], seconds[f"{name}, {OURS}"])
                for name, some in contests.items()
                for peer in some
                if peer != OURS
            },
            costs=costs,
            notes=notes,
            missing={f"spectrum, {name}": reason for name, reason in found.missing.items()} if found else {},
            rounds=self.rounds,
            runtime=runtime,
            component=self,
            took=took(),
            model=around.given.name,
            data=around.given.data,
        )

    def _words(self, around: Around, found: Spectra | None) -> list[str]:
        """Return in words what is done."""
        slices, flatness = around.slices.attack.describe(), around.flatness.attack.describe()
        said = {
            "spectrum": found.words if found else "",
            "slices": f"{self.directions} slices of {self.positions} points, {slices}, examples {self.examples}",
            "flatness": f"flatness of {self.samples} samples, {flatness}, {self.restarts} restarts at w",
        }
        return [said[part] for part in self.parts if part in said]

    def _spectra(self, around: Around) -> Spectra:
        with threads(self.problem.runtime):
            return spectra(
                around.given,
                around.subject,
                k=self.k,
                power_steps=self.power_steps,
                change=self.change,
                tolerance=self.tolerance,
            )

    def _memory(self, notes: dict[str, Spread]) -> Generator[tuple[int, int], None, dict[str, Spread]]:
        """Measure peaks in fresh processes; return ours over that of a training step, and note the others."""
        peers = {"pyhessian": POWER, "hessian_eigenthings": LANCZOS}
        spectrum = [OURS, *(name for module, name in peers.items() if imported(module)[0] is not None)]
        both = [f"{what}, {side}" for what in ("slices", "flatness") for side in (OURS, LOOP)]
        cases = [_STEP, *(f"spectrum, {side}" for side in spectrum), *both]
        few = replace(self, positions=3, directions=1, samples=2, restarts=2)
        peaks: dict[str, float] = {}
        for case in cases:
            yield len(peaks), len(cases)
            peaks[case] = fresh_peak(work_of, few, case)
        yield len(peaks), len(cases)
        step = peaks.pop(_STEP)
        notes[f"peak memory of a {_STEP}, MiB"] = spread([step])
        ratios = {f"peak memory of {case}, over a {_STEP}": spread([peak / step]) for case, peak in peaks.items()}
        notes |= {name: ratio for name, ratio in ratios.items() if OURS not in name}
        return {name: ratio for name, ratio in ratios.items() if OURS in name}


def work_of(bench: LandscapeBench, case: str) -> Work:
    """Return the work whose peak of memory is measured.

    Args:
        bench: Its settings.
        case: "training step", or part and side, for example "spectrum, pyhessian".
    """
    around = bench.around()
    given, part, side = around.given, *case.partition(", ")[::2]
    if part in ("slices", "flatness"):
        return around.sides(part)[side]
    if part == "spectrum":
        solvers: dict[str, Solve | None] = {
            OURS: lambda: top(around.subject, k=bench.k, tolerance=1e-9, most=2 * bench.k).top.vectors,
            POWER: by_power(given, k=bench.k, steps=2, change=1e-9)[0],
            LANCZOS: by_lanczos(given, k=bench.k, steps=2 * bench.k)[0],
        }
        chosen = solvers[side]
        assert chosen is not None
        return chosen
    rows = slice(bench.problem.batch)
    return lambda: F.cross_entropy(given.model(given.x[rows]), given.y[rows]).backward()


def _over(some: Sequence[float], others: Sequence[float]) -> Spread:
    """Return the ratio of each round."""
    return spread([one / other for one, other in zip(some, others, strict=True)])
