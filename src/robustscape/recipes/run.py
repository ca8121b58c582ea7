"""A Run: everything that decides what a training gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from robustscape.data.augment import Augmentation, Chain
from robustscape.evaluation.accuracy import Evaluating
from robustscape.runtime import Runtime
from robustscape.training.settings import Training
from robustscape.types import Architecture, DataSource, Objective, WeightPerturbation


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and its evaluation, whole. A variant is ``dataclasses.replace``.

    Attributes:
        data: The data set.
        model: The network.
        objective: What training minimises, with its inner attack.
        weights: Weight perturbation under every step, None for none.
        augment: Random changes of the training images, one kind or a chain of several; None for none.
        training: Length, optimiser, schedules, checkpoints.
        evaluation: The attacks and examples that judge the result.
        runtime: How to use the machine.
        seed: Seed of every random number.
    """

    data: DataSource
    model: Architecture
    objective: Objective
    weights: WeightPerturbation | None = None
    augment: Augmentation | Chain | None = None
    training: Training = field(default_factory=Training)
    evaluation: Evaluating = field(default_factory=Evaluating)
    runtime: Runtime = field(default_factory=Runtime, metadata={"spread": True})
    seed: int = 0
