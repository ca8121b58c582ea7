"""Slices and flatness as robustscape and as public scripts measure them, and moving the weights by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from robustscape.attacks.pgd import PGD
from robustscape.benches import naive
from robustscape.benches.harness import OURS, Side
from robustscape.benches.judged import Judged
from robustscape.landscape._stutz import StutzPGD
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.runner import measure
from robustscape.landscape.slices import Slice
from robustscape.streams import Streams
from robustscape.types import Measurement, Params, Subject
from robustscape.weights.space import gaussian, normalised, select, shifted

LOOP = "naive loop"
_MOVES = 10  # of the weights in a turn, each of which takes far less than an attack


@dataclass(frozen=True, kw_only=True, eq=False)
class Around:
    """The loss around the weights of a network.

    Attributes:
        given: The network and its examples, as scripts have them.
        subject: The same as robustscape has them.
        slices: The slices; their attack is a PGD.
        flatness: The flatness; its attacks are those of the code of Stutz 2021.
        generator: Of the random numbers of scripts.
    """

    given: Judged
    subject: Subject
    slices: Slice
    flatness: AverageFlatness
    generator: torch.Generator

    def sides(self, name: str) -> dict[str, Side]:
        """Return who measures "slices" or "flatness"."""
        if name == "slices":
            return {OURS: self._measured(self.slices), LOOP: self._sliced}
        return {OURS: self._measured(self.flatness), LOOP: self._flattened}

    def moving(self) -> dict[str, tuple[Side, Side]]:
        """Return moving the weights for a point, there and back, and the point itself; seconds are of one."""

        def along() -> Params:
            weights = select(self.subject.model, "layers")
            return normalised(gaussian(weights, Streams(self.subject.seed, ("bench",))), weights, "filter")

        def drawn() -> Params:
            return self.flatness.draw(select(self.subject.model, "layers"), self.subject.seed, 0)

        return {
            "a point of a slice": (self._moved(along), self._at(replace(self.slices, examples="retaken"), [0, 0])),
            "a sample of the flatness": (self._moved(drawn), self._at(self.flatness, 0)),
        }

    def _measured(self, measurement: Measurement) -> Side:
        def work() -> float:
            measure(measurement, self.subject)
            return len(self.given.x)

        return work

    def _at(self, measurement: Measurement, point: object) -> Side:
        def work() -> float:
            measurement.at(self.subject, point)
            return 1

        return work

    def _moved(self, found: Callable[[], Params]) -> Side:
        """Return finding a direction, moving the weights, taking them over into the fast view, and moving back."""

        def work() -> float:
            for _ in range(_MOVES):
                with shifted(self.subject.model, found()), self.subject.view:
                    pass
            return _MOVES

        return work

    def _sliced(self) -> float:
        given, attack = self.given, self.slices.attack
        assert isinstance(attack, PGD)
        naive.sliced(
            given.model,
            given.x,
            given.y,
            attack,
            self.slices.alphas().tolist(),
            self.slices.directions,
            self.generator,
            batch=self.subject.batch,
        )
        return len(given.x)

    def _flattened(self) -> float:
        given, attack, reference = self.given, self.flatness.attack, self.flatness.reference
        assert isinstance(attack, StutzPGD) and isinstance(reference, StutzPGD)
        naive.flatness(
            given.model,
            given.x,
            given.y,
            self.generator,
            eps=given.eps,
            steps=attack.steps,
            step_size=attack.step_size,
            restarts=reference.restarts,
            xi=self.flatness.xi,
            samples=self.flatness.samples,
            batch=self.subject.batch,
        )
        return len(given.x)
