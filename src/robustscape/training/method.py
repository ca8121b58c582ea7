"""What every step of a training does, with the network it does it to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustscape.runtime import FastView, Lowered, PlainView, Runtime, fast, lowered
from robustscape.runtime.memory import Parts, Whole
from robustscape.runtime.ranks import share
from robustscape.training.settings import Training
from robustscape.types import Objective, WeightPerturbation


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a step does, with the network it does it to.

    Attributes:
        model: The network that is trained, as ``objective.prepare`` gave it.
        objective: What is minimised.
        weights: Weight perturbation, or None.
        settings: The training's settings.
        lowered: The network in the runtime's precision, sharing its weights: trains.
        view: Its fast view: is attacked.
        parts: How many examples are worked through at once.
        whole: Whether its forwards in train mode take a batch whole all the same: batch or running statistics.
        checkpointing: Whether its training forwards keep few activations.
    """

    model: nn.Module
    objective: Objective
    weights: WeightPerturbation | None
    settings: Training
    lowered: nn.Module
    view: FastView | PlainView
    parts: Parts
    whole: Whole
    checkpointing: bool


def method(
    model: nn.Module, objective: Objective, weights: WeightPerturbation | None, settings: Training, runtime: Runtime
) -> Method:
    """Return the method for a network that ``objective.prepare`` gave."""
    mine = share(settings.batch_size)
    rows = min(mine.stop - mine.start, runtime.micro_batch or settings.batch_size)  # of all batches but the last
    return Method(
        model=model,
        objective=objective,
        weights=weights,
        settings=settings,
        # What is checkpointed has other forwards at every step: nothing to compile.
        lowered=Lowered(model, runtime) if runtime.checkpointing else lowered(model, runtime, rows=rows),
        view=fast(model, runtime, rows=rows),
        parts=Parts(runtime.micro_batch) if runtime.micro_batch else Parts(),
        whole=Whole(model),
        checkpointing=runtime.checkpointing,
    )
