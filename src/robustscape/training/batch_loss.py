"""The objective over one batch: its adversarial inputs, its loss in parts, its loss as a function of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from robustscape.modes import InTrainMode, evaluating, frozen_statistics, training
from robustscape.runtime.memory import checkpointed, undivided
from robustscape.runtime.ranks import mean_over_ranks, share, world
from robustscape.streams import Streams
from robustscape.training.method import Method
from robustscape.types import Attack, Batch, Loss, Params
from robustscape.weights.space import gradient

T = TypeVar("T")


class BatchLoss:
    """The objective over one batch as a function of the weights: a ``WeightLoss``.

    Forwards run in train mode, as training's own, or in eval mode; what they do to running statistics is taken back,
    unless ``counted`` keeps it. Of several ranks each is given its share of the batch, and all get the means over the
    whole, the same bits.

    Args:
        how: The method.
        batch: The examples.
        x_adv: Their adversarial inputs.
        attack: What makes them anew, None for nothing.
        rng: Random numbers of that.
        weight: How many examples this rank's means count as; None for as many as there are.
        counted: Which evaluations of the loss move running statistics: "none", the "first", or "every".
        mode: Mode of the forwards.
    """

    def __init__(
        self,
        how: Method,
        batch: Batch,
        x_adv: Tensor,
        attack: Attack | None,
        rng: Streams,
        *,
        weight: int | None = None,
        counted: Literal["none", "first", "every"] = "none",
        mode: Literal["train", "eval"] = "train",
    ) -> None:
        self.how = how
        self.batch = batch
        self.weight = len(batch) if weight is None else weight
        self.x_adv = x_adv
        self.attack = attack
        self.rng = rng
        self.refreshed = 0
        self.counted = counted
        self.mode = mode
        self.evaluated = 0

    def value(self) -> Tensor:
        """Return the mean loss at the present weights, a scalar."""
        with torch.no_grad(), self._in_mode(), self._statistics():
            shares = losses(self.how, self.batch, self.x_adv, lambda loss, share: share * loss.total)
            return mean_over_ranks([torch.stack(list(shares)).sum()], self.weight)[0]

    def gradient(self, names: Sequence[str]) -> Params:
        """Return its gradient at the present weights."""
        model = self.how.model
        slopes: Params = {}

        def slope_of(loss: Loss, share: float) -> Params:
            return gradient(share * loss.total, model, names)

        with self._in_mode(), self._statistics():
            for slope in losses(self.how, self.batch, self.x_adv, slope_of):
                slopes = {name: slopes[name] + value if slopes else value for name, value in slope.items()}
        return dict(zip(slopes, mean_over_ranks(list(slopes.values()), self.weight), strict=True))

    def refresh(self) -> None:
        """Attack again at the present weights."""
        if self.attack is not None:
            self.refreshed += 1
            self.x_adv = attacked(self.how, self.batch, self.attack, self.rng.tag("refresh", self.refreshed))

    def _in_mode(self) -> AbstractContextManager[None]:
        return (training if self.mode == "train" else evaluating)(self.how.model)

    def _statistics(self) -> AbstractContextManager[None]:
        """Keep what the next evaluation does to running statistics if it is counted, else take it back."""
        self.evaluated += 1
        kept = self.counted == "every" or (self.counted == "first" and self.evaluated == 1)
        return nullcontext() if kept else frozen_statistics(self.how.model)


def attacked(how: Method, batch: Batch, attack: Attack, rng: Streams) -> Tensor:
    """Return adversarial inputs at the present weights, in the mode that the settings ask for."""
    n = len(batch)

    def some(model: nn.Module, rows: slice) -> Tensor:
        return attack(model, batch.x[rows], batch.goal[rows], rng=rng.of(batch.index[rows]))

    if how.settings.attack_mode == "eval":
        with how.view as view:
            return how.parts.run(lambda rows: some(view, rows), n)
    model = InTrainMode(how.lowered, how.settings.attack_statistics)
    with checkpointed(how.model) if how.checkpointing else nullcontext():
        if how.whole(batch.x):
            with undivided(n, checkpointing=how.checkpointing):
                return some(model, slice(n))
        return how.parts.run(lambda rows: some(model, rows), n)


def losses(how: Method, batch: Batch, x_adv: Tensor, work: Callable[[Loss, float], T]) -> Iterable[T]:
    """Give what ``work`` makes of the loss of each part of a batch and of the part's share of the examples.

    So much is worked through at once as fits, which a loss or graph that ``work`` lets go of frees.

    Args:
        how: The method.
        batch: The examples.
        x_adv: Their adversarial inputs.
        work: Is given the mean loss over a part, with its graph, and the part's share of the batch, in (0, 1].
    """

    def one(rows: slice) -> T:
        part = rows_of(batch, rows)
        with checkpointed(how.model) if how.checkpointing else nullcontext():
            return work(how.objective(how.lowered, part, x_adv[rows]), len(part) / len(batch))

    if not how.whole(batch.x):
        return how.parts.each(one, len(batch))
    with undivided(len(batch), checkpointing=how.checkpointing):
        return [one(slice(len(batch)))]


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Return some examples of a batch."""
    return replace(batch, **{name: value[rows] for name, value in vars(batch).items() if value is not None})


def share_of(batch: Batch) -> tuple[Batch, int]:
    """Return this rank's share of a batch and its number of examples; without one, another's example counts 0."""
    if world() == 1:
        return batch, len(batch)
    rows = share(len(batch))
    weight = rows.stop - rows.start
    rows = rows if weight else slice(0, 1)
    return rows_of(batch, rows), weight


def foremost(batch: Batch) -> Tensor:
    """Return the label that is right for each image, (N,), int64: of a mixed image that of the larger share."""
    return batch.y if batch.mixed is None else batch.mixed.argmax(dim=1)
