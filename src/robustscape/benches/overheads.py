"""What each training method adds to a step of adversarial training, measured by the passes that it adds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from robustscape.benches.harness import BESIDE, QUICK, Rounds, Side, at_least_one, made, timed
from robustscape.benches.problem import CLASSES, TINY, Problem, attack_of
from robustscape.benches.result import BenchResult, Spread, spread
from robustscape.benches.train import Trainer
from robustscape.config import members, named, nearest
from robustscape.data.targets import Targets
from robustscape.objectives.at import AT
from robustscape.objectives.rst import RST
from robustscape.recipes.estimating import Passes, passes_of_step
from robustscape.results import stopwatch
from robustscape.runtime import Lowered, fast
from robustscape.streams import Streams
from robustscape.training.averaging import average_of, update_average
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.schedules.periodic import Periodic
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.schedules.rise import Rise
from robustscape.training.settings import Training
from robustscape.training.step import long_step
from robustscape.types import BadInput, Objective, WeightPerturbation
from robustscape.weights.space import gradient, select

_AT = "at"
_FREE = ("ema", "label noise", "pas")
"""Methods that add no pass: their whole step is held against AT's."""
_SHOWN = ("mixup", "penalties", "clipping", "entropy sgd")
"""Others of which the ratio to AT's step is shown: of Entropy-SGD for as many examples."""
_SMALL_RATE = 1e-3  # of a walk on random labels


@dataclass(frozen=True, kw_only=True)
class OverheadsBench:
    """(method's step minus AT's) over the passes that the method adds, of every objective and weight perturbation.

    The passes of both steps are counted, forwards, gradients to the inputs and gradients to the weights each by
    themselves, and each kind is timed by itself; all in the same precision. 1 is what cannot be done without. Of EMA,
    label noise and PAS, which add none, it is the ratio of the steps, to one of AT right beside it. The other ratios
    are shown too, also those of methods that save passes, and of mixup, penalties, clipping and Entropy-SGD. Half of
    RST's batch is pseudo-labelled. As under ``weights``, ``batches`` and fewer ``steps`` steady the differences.

    Attributes:
        problem: Network, batch and machine.
        methods: Which methods, by the names of their files, and "ema", "label-noise", "pas", "mixup", "penalties",
            "clipping", "entropy-sgd"; all where none is named.
        steps: Steps of the inner PGD.
        eps: Its radius, in pixel units.
        batches: Training steps, or passes, that a side makes in a round.
        rounds: How often.
    """

    name: ClassVar[str] = "overheads"

    problem: Problem = field(default_factory=Problem, metadata=BESIDE)
    methods: tuple[str, ...] = ()
    steps: int = 10
    eps: float = 8 / 255
    batches: int = 1
    rounds: Rounds = field(default_factory=Rounds, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps", "batches")
        known = [*self._perturbed(), *_FREE, *_SHOWN]
        for name in self.methods:
            if _plain(name) not in known:
                raise BadInput(f"there is no method {name!r}{nearest(name, known)}; there are: {', '.join(known)}")

    def quick(self) -> OverheadsBench:
        """Return the same bench on something tiny."""
        return replace(self, problem=TINY, steps=2, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        problem, took = self.problem, stopwatch()
        wanted = [_plain(name) for name in self.methods]
        methods = {name: how for name, how in self._perturbed().items() if not wanted or name in wanted}
        free = {name: side for name, side in self._free().items() if not wanted or name in wanted}
        steps = {name: self._trainer(*how).step for name, how in methods.items()}
        at = self._trainer(self._at(), None).step
        halves = list(steps.items())[: len(steps) // 2], list(steps.items())[len(steps) // 2 :]
        sides = dict(halves[0]) | {_AT: at} | dict(halves[1])  # in their middle, near to each
        for name, side in free.items():
            sides |= {name: side, _beside(name): at}
        sides |= _passes(problem)
        seconds = yield from timed(
            {name: _times(side, self.batches) for name, side in sides.items()}, self.rounds, problem.runtime
        )
        costs, notes = self._told(seconds, methods, free)
        return made(
            self.name,
            f"{problem.words()}, AT with {attack_of(self.eps, self.steps).describe()}",
            unit="examples",
            seconds=seconds,
            costs=costs,
            notes=notes,
            rounds=self.rounds,
            runtime=problem.runtime,
            component=self,
            took=took(),
        )

    def _told(
        self, seconds: Mapping[str, tuple[float, ...]], methods: Mapping[str, _How], free: Mapping[str, Side]
    ) -> tuple[dict[str, Spread], dict[str, Spread]]:
        """Return costs, what is added over what cannot be done without, and notes, the other plain ratios."""
        without, costs, notes = passes_of_step(self._at(), None), {}, {}
        ratios = {name: _over(seconds[name], seconds[_AT]) for name in methods}
        ratios |= {name: _over(seconds[name], seconds[_beside(name)]) for name in free}
        for name, how in methods.items():
            passes = passes_of_step(*how)
            if passes.work > without.work:
                added = _expected(seconds, passes, without)
                more = [mine - at for mine, at in zip(seconds[name], seconds[_AT], strict=True)]
                costs[f"({name} - at) / added passes"] = _over(more, added)
            notes[f"{name} / at"] = ratios[name]
        costs |= {f"{name} / at": ratios[name] for name in free if name in _FREE}
        return costs, notes | {f"{name} / at": ratios[name] for name in free if name in _SHOWN}

    def _at(self) -> AT:
        return AT(attack=attack_of(self.eps, self.steps))

    def _perturbed(self) -> Mapping[str, _How]:
        """Return every objective but AT by itself, and AT under every weight perturbation."""
        at = self._at()
        objectives = [name for name in members("Objective") if name != _AT]
        found: dict[str, _How] = {name: (named("Objective", name, old=at), None) for name in objectives}
        return found | {name: (at, named("WeightPerturbation", name)) for name in members("WeightPerturbation")}

    def _trainer(
        self, objective: Objective, weights: WeightPerturbation | None, training: Training | None = None
    ) -> Trainer:
        trainer = Trainer(
            self.problem, steps=self.steps, eps=self.eps, objective=objective, weights=weights, training=training
        )
        if isinstance(objective, RST):
            trainer.batch = replace(trainer.batch, labelled=trainer.batch.index % 2 == 0)
        return trainer

    def _free(self) -> dict[str, Side]:
        """Return the steps of the methods that add no pass."""
        at = self._at()
        averaged = self._trainer(at, None)
        average = average_of(averaged.model)
        penalties = Training(l1=5e-6, l2=5e-3)
        clipping = Training(clip_gradient=1.0, clip_weights=2.0)
        resets = (0.5, 0.75)
        schedules = Training(eps=Periodic(of=Rise(), resets=resets), lr=Periodic(of=Piecewise(), resets=resets))
        periodic = self._trainer(at, None, schedules)

        def ema() -> float:
            n = averaged.step()
            update_average(average, averaged.model, 0.9975)
            return n

        return {
            "ema": ema,
            "label noise": self._towards(Targets(noise=0.3)),
            "pas": lambda: periodic.step(done=45, total=100),
            "mixup": self._towards(Targets(mixup=1.4)),
            "penalties": self._trainer(at, None, penalties).step,
            "clipping": self._trainer(at, None, clipping).step,
            "entropy sgd": self._walk(),
        }

    def _towards(self, targets: Targets) -> Side:
        """Return AT's step towards other targets, which are made in it."""
        trainer = self._trainer(self._at(), None)

        def side() -> float:
            rng = Streams(0, ("targets",), trainer.batch.index)
            return trainer.step(targets(trainer.batch, rng, classes=CLASSES))

        return side

    def _walk(self) -> Side:
        """Return a step of Entropy-SGD on two batches."""
        trainer, walk = self._trainer(self._at(), None), EntropySGD(lr=_SMALL_RATE, step_size=_SMALL_RATE, steps=2)
        how = replace(trainer.how, settings=replace(trainer.how.settings, optimizer=walk))
        optimizer, batches = walk.build(trainer.model), [trainer.batch] * walk.batches

        def side() -> float:
            long_step(how, optimizer, batches, done=0, total=len(batches), seed=0)
            return len(batches) * len(trainer.batch)

        return side


def _beside(name: str) -> str:
    """Return what AT's step is called that has its turn beside a method's."""
    return f"{_AT} beside {name}"


_How = tuple[Objective, WeightPerturbation | None]
_KINDS = {"forwards": "forward", "inputs": "pass to the inputs", "weights": "pass to the weights"}


def _plain(name: str) -> str:
    """Return the name of a method as it is known here: files have underscores, what adds no pass has spaces."""
    words = name.replace("-", " ")
    return words if words in (*_FREE, *_SHOWN) else name.replace("-", "_")


def _passes(problem: Problem) -> dict[str, Side]:
    """Return one pass of each kind on a batch, as attack and training make them."""
    attacked, trained, batch = problem.placed().eval(), problem.placed().train(), problem.examples()
    lowered, names = Lowered(trained, problem.runtime), list(select(trained, "all"))
    view = fast(attacked, problem.runtime)

    def forward() -> float:
        with torch.no_grad(), view as network:
            network(batch.x)
        return len(batch)

    def to_inputs() -> float:
        x = batch.x.clone().requires_grad_()
        with view as network:
            torch.autograd.grad(F.cross_entropy(network(x), batch.y, reduction="sum"), x)
        return len(batch)

    def to_weights() -> float:
        gradient(F.cross_entropy(lowered(batch.x), batch.y), trained, names)
        return len(batch)

    return dict(zip(_KINDS.values(), (forward, to_inputs, to_weights), strict=True))


def _expected(seconds: Mapping[str, tuple[float, ...]], passes: Passes, without: Passes) -> list[float]:
    """Return the seconds, of every round, of the passes that a step makes beyond another's."""
    more = {words: getattr(passes, kind) - getattr(without, kind) for kind, words in _KINDS.items()}
    rounds = zip(*(seconds[words] for words in more), strict=True)
    return [sum(count * taken for count, taken in zip(more.values(), each, strict=True)) for each in rounds]


def _over(above: Any, below: Any) -> Spread:
    return spread([a / b for a, b in zip(above, below, strict=True)])


def _times(side: Callable[[], float], times: int) -> Side:
    """Return a side that does the work several times in one turn."""
    return lambda: sum(side() for _ in range(times))
