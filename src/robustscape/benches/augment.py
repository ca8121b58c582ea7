"""What augmentation adds to a step of adversarial training, and how fast another library does the same."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from robustscape.benches.augment_peers import PEER, augmenters
from robustscape.benches.harness import BESIDE, QUICK, Rounds, Side, at_least_one, made, timed
from robustscape.benches.problem import TINY, Problem, attack_of
from robustscape.benches.result import BenchResult, Spread, spread
from robustscape.benches.train import Trainer
from robustscape.data.augment import Augmentation, Chain, CropFlip
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.erase import Cutout, Erase
from robustscape.data.jitter import ColorJitter
from robustscape.data.warp import CropResize, Rotate
from robustscape.results import stopwatch
from robustscape.streams import Streams
from robustscape.types import Batch

_STEP = "AT step"


@dataclass(frozen=True, kw_only=True)
class AugmentBench:
    """Seconds that each kind of augmentation takes for a batch, over those of a step of adversarial training.

    The peer is kornia, where it is installed, for the kinds that it has as well.

    Attributes:
        problem: Network, batch and machine.
        steps: Steps of the inner PGD.
        eps: Its radius, in pixel units.
        batches: Batches that are augmented in a turn; training takes one step.
        rounds: How often.
    """

    name: ClassVar[str] = "augment"

    problem: Problem = field(default_factory=Problem, metadata=BESIDE)
    steps: int = 10
    eps: float = 8 / 255
    batches: int = 10
    rounds: Rounds = field(default_factory=Rounds, metadata=BESIDE)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        at_least_one(self, "steps", "batches")
        attack_of(self.eps, self.steps)

    def quick(self) -> AugmentBench:
        """Return the same bench on something tiny."""
        return replace(self, problem=TINY, steps=2, batches=1, rounds=QUICK)

    def running(self) -> Generator[tuple[int, int], None, BenchResult]:
        """Run it, yielding (done, total); returns the result."""
        problem, took = self.problem, stopwatch()
        batch = problem.examples()
        own, step = kinds(), Trainer(problem, steps=self.steps, eps=self.eps).step
        theirs, missing = augmenters(own, batch.x, batches=self.batches)
        sides: dict[str, Side] = {_STEP: step}
        sides |= {name: self._side(kind, batch) for name, kind in own.items()} | theirs
        seconds = yield from timed(sides, self.rounds, problem.runtime)
        return made(
            self.name,
            f"{problem.words()}, AT with {attack_of(self.eps, self.steps).describe()}",
            unit="examples",
            seconds=seconds,
            ratios={peer: _over(seconds[peer], seconds[peer.partition(f", {PEER}")[0]]) for peer in theirs},
            costs={f"{name} / {_STEP}": _over(seconds[name], seconds[_STEP]) for name in own},
            missing=missing,
            rounds=self.rounds,
            runtime=problem.runtime,
            component=self,
            took=took(),
        )

    def _side(self, augment: Augmentation | Chain, batch: Batch) -> Side:
        """Return a side that augments the batch several times, each with random numbers of its own."""

        def side() -> float:
            for number in range(self.batches):
                augment(batch.x, Streams(0, ("augment", number), batch.index))
            return self.batches * len(batch)

        return side


def kinds() -> Mapping[str, Augmentation | Chain]:
    """Return every kind of augmentation, by what the result calls it."""
    return {
        "crop and flip": CropFlip(),
        "crop and flip, reflected": CropFlip(mode="reflect"),
        "rotation": Rotate(),
        "rotation, bilinear": Rotate(mode="bilinear"),
        "crop and resize": CropResize(),
        "cutout": Cutout(),
        "random erasing": Erase(),
        "random erasing, black": Erase(fill=(0.0,)),
        "AutoAugment": AutoAugment(),
        "colour jitter": ColorJitter(),
        "colour jitter with hue": ColorJitter(hue=0.1),
        "crop, flip and rotation": Chain(second=Rotate()),
    }


def _over(some: Sequence[float], others: Sequence[float]) -> Spread:
    return spread([one / other for one, other in zip(some, others, strict=True)])
