"""Whole evaluations: AutoAttack against pyautoattack, and PGD with restarts against the loops and libraries for it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch

from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.threat import ThreatModel
from robustscape.benches import naive
from robustscape.benches.harness import BESIDE, OURS, QUICK, Rounds, Side, at_least_one, made, timed
from robustscape.benches.judged import Judged, judged, pass_seconds
from robustscape.benches.peers import ensembles, evaluators
from robustscape.benches.problem import TINY, Problem, attack_of
from robustscape.benches.result import BenchResult, Spread, spread
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.result import Evaluation
from robustscape.evaluation.subject import drained
from robustscape.results import stopwatch
from robustscape.runtime import threads
from robustscape.types import BadInput

_WIDE = 64  # examples that a search without gradients fills its forwards up to


@dataclass(frozen=True, kw_only=True)
class EvaluateBench:
    """Examples per second of whole evaluations, each as its library makes it.

    "autoattack": standard AutoAttack, against pyautoattack. "pgd": PGD with restarts, against the loop of public
    scripts and foolbox, which make all restarts for everyone, and torchattacks, which goes on with those that are left.
    Ours confirms every success in float32, judges the largest losses and computes intervals.

    For AutoAttack it is also shown where the time goes, from one more evaluation, of the survivors alone: passes are
    counted and multiplied by what one takes by itself; the rest is the difference.

    Attributes:
        problem: Machine and batch; the network too where there is no run.
        run: Folder of a run whose last network and first test images are judged; None for a network with initial
            weights, random pixels and its own predictions, of which next to nothing is fooled.
        attacks: What is timed, of "autoattack" and "pgd".
        eps: Radius of the linf ball in pixel units; None for that of the run's evaluation, and 1e-5 without a run.
        n: Examples.
        steps: Steps of PGD.
        restarts: Its restarts.
        autoattack_steps: Steps of APGD and FAB; 100 make it AutoAttack.
        queries: Queries of Square; 5,000 make it AutoAttack.
        rounds: How often.
    """

    name: ClassVar[str] = "evaluate"

    problem: Problem = field(default_factory=Problem, metadata=BESIDE)
    run: str | None = None
    attacks: tuple[Literal["autoattack", "pgd"], ...] = ("autoattack", "pgd")
    eps: float | None = None
    n: int = 32
    steps: int = 20
    restarts: int = 10
    autoattack_steps: int = 100
    queries: int = 5000
    rounds: Rounds = field(default_factory=Rounds, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "n", "steps", "restarts", "autoattack_steps", "queries")
        if not self.attacks or not set(self.attacks) <= {"autoattack", "pgd"}:
            raise BadInput(f"attacks are autoattack and pgd, at least one of them, not {self.attacks!r}")
        if self.eps is not None:
            attack_of(self.eps, self.steps)

    def quick(self) -> EvaluateBench:
        """Return the same bench on something tiny."""
        tiny = replace(self, problem=TINY, n=6, steps=2, restarts=2)
        return replace(tiny, autoattack_steps=2, queries=4, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        took, runtime = stopwatch(), self.problem.runtime
        given = judged(self.problem, self.run, n=self.n, eps=self.eps)
        contests = {"autoattack": self._autoattack, "pgd": self._pgd}
        sides: dict[str, Side] = {}
        missing: dict[str, str] = {}
        words = []
        for name in self.attacks:
            said, some, lacking = contests[name](given)
            words.append(said)
            sides |= {f"{name}, {side}": work for side, work in some.items()}
            missing |= {f"{name}, {peer}": reason for peer, reason in lacking.items()}
        seconds = yield from timed(sides, self.rounds, runtime)
        notes = self._profile(given) if "autoattack" in self.attacks else {}
        return made(
            self.name,
            f"{given.words}, {'; '.join(words)}; {self.n} examples",
            unit="examples",
            seconds=seconds,
            ratios=_ratios(seconds),
            notes=notes,
            missing=missing,
            rounds=self.rounds,
            runtime=runtime,
            component=self,
            took=took(),
            model=given.name,
            data=given.data,
        )

    def _autoattack(self, given: Judged) -> tuple[str, dict[str, Side], dict[str, str]]:
        """Return AutoAttack in words, who makes it, and who cannot."""
        attack = self._ensemble(given)
        peers, missing = ensembles(given.model, given.x, given.y, attack, batch=self.problem.batch)
        return (
            attack.describe(),
            {OURS: self._ours(given, replace(self._plain(given), attacks=(attack,)))} | peers,
            missing,
        )

    def _pgd(self, given: Judged) -> tuple[str, dict[str, Side], dict[str, str]]:
        """Return PGD in words, who makes it, and who cannot."""
        attack = replace(attack_of(given.eps, self.steps), restarts=self.restarts)
        settings = replace(self._plain(given), steps=self.steps, restarts=self.restarts, step_size=attack.step_size)
        generator, batch = self.problem.generator(), self.problem.batch

        def loop() -> float:
            naive.evaluated(given.model, given.x, given.y, attack, generator, batch=batch)
            return len(given.x)

        peers, missing = evaluators(given.model, given.x, given.y, attack, batch=batch)
        return attack.describe(), {OURS: self._ours(given, settings), "naive loop": loop} | peers, missing

    def _ensemble(self, given: Judged) -> AutoAttack:
        return AutoAttack(threat=ThreatModel(eps=given.eps), steps=self.autoattack_steps, queries=self.queries)

    def _plain(self, given: Judged) -> Evaluating:
        """Return the settings of an evaluation for errors alone, as those of peers are."""
        return Evaluating(eps=given.eps, loss_restarts=0, n=None, batch_size=self.problem.batch, sanity=0)

    def _ours(self, given: Judged, settings: Evaluating) -> Side:
        looked_at = given.subject(self.problem.runtime, self.problem.batch)
        return lambda: drained(evaluating(settings, looked_at)).robust_error.n

    def _profile(self, given: Judged) -> dict[str, Spread]:
        """Return where the time of AutoAttack goes, for the examples that survive it; nothing where none does."""
        runtime, batch = self.problem.runtime, self.problem.batch
        settings = replace(self._plain(given), attacks=(self._ensemble(given),))
        with threads(runtime):
            found = drained(evaluating(settings, given.subject(runtime, batch)))
            if found.fooled.all():
                return {}
            left = given.take(torch.from_numpy(~found.fooled).to(given.y.device))
            looked_at, took = left.subject(runtime, batch), stopwatch()
            alone = drained(evaluating(settings, looked_at))
            seconds, size = took(), min(len(left.x), batch)
            with looked_at.view as view:
                wide, _ = pass_seconds(view, left.x, max(size, _WIDE), runtime)
                narrow, both = pass_seconds(view, left.x, size, runtime)
        return _shares(alone, seconds, wide=wide, narrow=narrow, both=both)


def _ratios(seconds: Mapping[str, tuple[float, ...]]) -> dict[str, Spread]:
    """Return theirs over ours, round by round, for each peer in its contest."""
    ratios = {}
    for side, theirs in seconds.items():
        ours = f"{side.partition(', ')[0]}, {OURS}"
        if side != ours:
            ratios[side] = spread([one / own for one, own in zip(theirs, seconds[ours], strict=True)])
    return ratios


def _shares(found: Evaluation, seconds: float, *, wide: float, narrow: float, both: float) -> dict[str, Spread]:
    """Return passes per example, and the shares of the seconds that they take.

    Args:
        found: Of examples that all survive.
        seconds: That the evaluation took.
        wide: Seconds per example of a forward without gradients, in batches as large as such searches make.
        narrow: The same in batches of the examples.
        both: Of a forward and a backward.
    """
    forwards, backwards = (sum(getattr(one, name) for one in found.searches) for name in ("forwards", "backwards"))
    alone = sum(one.forwards for one in found.searches if not one.backwards)
    forward, backward = (alone * wide + (forwards - alone) * narrow) / seconds, backwards * (both - narrow) / seconds
    values = {
        "forwards per survivor": forwards / found.robust_error.n,
        "backwards per survivor": backwards / found.robust_error.n,
        "searched again per survivor": sum(one.again for one in found.searches) / found.robust_error.n,
        "share of forwards": forward,
        "share of backwards": backward,
        "share of the rest": 1 - forward - backward,
    }
    return {f"autoattack, {name}": spread([value]) for name, value in values.items()}
