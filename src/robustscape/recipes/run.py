"""A Run: everything that decides what a training gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from robustscape.data.augment import Augmentation, Chain
from robustscape.data.targets import Targets
from robustscape.data.unlabelled import Unlabelled
from robustscape.evaluation.accuracy import Evaluating
from robustscape.landscape.flatness import AverageFlatness
from robustscape.landscape.runner import stem, under
from robustscape.runtime import Runtime
from robustscape.training.schedules.constant import Constant
from robustscape.training.settings import Training
from robustscape.training.stopping import check_choice
from robustscape.types import Architecture, BadInput, DataSource, Measurement, Objective, Selective, WeightPerturbation

_NO_ATTACK = 0.01 * (1 + 1e-9)  # of the largest eps; a piecewise schedule of the learning rate ends at 0.1 * 0.1


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is measured of the landscape while a network trains, under the threat model that judges the run.

    Attributes:
        measurements: What is measured; none to measure nothing.
        every: Epochs from one time to the next; the last epoch is always among them.
        split: Which split of the data; what is seen of "test" must not choose anything.
        n: Examples, the first of the split; None for all.
        batch_size: Examples per forward.
    """

    measurements: tuple[Measurement, ...] = ()
    every: int = 10
    split: Literal["train", "validation", "test"] = "test"
    n: int | None = 250
    batch_size: int = 250

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("every", "n", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name} must be at least 1, not {value}; to watch nothing leave the measurements out")
        names = [stem(measurement) for measurement in self.measurements]
        if len(set(names)) < len(names):
            raise BadInput(f"one measurement is named twice in {', '.join(names)}: its result has one file")

    def due(self, epoch: int, epochs: int) -> bool:
        """Return whether an epoch, from 1, of so many is one to measure after."""
        return bool(self.measurements) and epoch > 0 and (epoch % self.every == 0 or epoch == epochs)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and its evaluation, whole. A variant is ``dataclasses.replace``.

    Attributes:
        data: The data set.
        unlabelled: Unlabelled images beside it, which RST trains on, and labels of it that are hidden.
        model: The network.
        start: Run (its last checkpoint) or anyone's checkpoint whose weights the training begins with, with a new head
            where the classes are others; None for weights drawn by the seed.
        objective: What training minimises, with its inner attack.
        weights: Weight perturbation under every step, None for none.
        augment: Random changes of the training images, one kind or a chain of several; None for none.
        targets: What training goes towards in place of the labels: smoothed ones, noisy ones, mixed images.
        training: Length, optimiser, schedules, checkpoints.
        evaluation: The attacks and examples that judge the result.
        watch: What is measured of the landscape while it trains.
        tracking: A data set of the same images and classes whose test split is tracked as "tracking", its first
            ``training.track`` examples; None for none. It never chooses anything.
        flatness: What ``training.select`` flatness and nearby_loss measure, under the threat model that judges, on the
            first ``watch.n`` validation images; None for ``flatness`` with its own defaults.
        runtime: How to use the machine.
        seed: Seed of every random number.
    """

    data: DataSource
    model: Architecture
    objective: Objective
    unlabelled: Unlabelled = field(default_factory=Unlabelled)
    start: str | None = field(default=None, metadata={"option": "from"})
    weights: WeightPerturbation | None = None
    augment: Augmentation | Chain | None = None
    targets: Targets = field(default_factory=Targets)
    training: Training = field(default_factory=Training)
    evaluation: Evaluating = field(default_factory=Evaluating)
    watch: Watch = field(default_factory=Watch)
    tracking: DataSource | None = None
    flatness: Measurement | None = None
    runtime: Runtime = field(default_factory=Runtime, metadata={"spread": True})
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.flatness is not None and not isinstance(self.flatness, AverageFlatness):
            raise BadInput(
                f"flatness chooses an epoch by average-case flatness, not by {type(self.flatness).__name__}; did you "
                "mean --flatness flatness, and this one in --watch.measurements?"
            )


def check_settings(run: Run) -> None:
    """Refuse what cannot be meant together, before anything is computed.

    Raises:
        BadInput: the objective takes one label for each image, and there are soft ones, or it cannot attack mixed
            images; or what chooses an epoch, what is tracked, a schedule or a weight perturbation has no use; or a
            measurement cannot be made under the threat model that judges.
    """
    _check_targets(run)
    _check_unused(run)
    if run.flatness is not None and not run.training.scored:
        raise BadInput(
            f"flatness is given, but training.select is {run.training.select!r}: set it to flatness or nearby_loss, or "
            "did you mean --watch.measurements flatness?"
        )
    if run.tracking is not None and not run.training.track:
        raise BadInput("tracking is a data set to track, but nothing is: set training.track above 0")
    check_choice(run.training, run.objective)
    _check_measured(run)


def _check_targets(run: Run) -> None:
    takes = run.objective.takes if isinstance(run.objective, Selective) else "mixed"
    asked = [name for name in ("smoothing", "noise", "mixup") if getattr(run.targets, name)]
    refused = {"labels": asked, "soft": [name for name in asked if name == "mixup"], "mixed": []}[takes]
    if refused:
        kind, given = type(run.objective).__name__, f"targets.{refused[0]}={getattr(run.targets, refused[0]):g}"
        needs = "needs one label for each image" if takes == "labels" else "cannot attack images that are mixed"
        raise BadInput(
            f"{kind}, as it is set, {needs}, which {given} does not go with; leave targets.{refused[0]} at 0, or did "
            "you mean --objective at or trades?"
        )


def _check_unused(run: Run) -> None:
    """Refuse settings of an attack where there is none or beyond it, and a weight perturbation that never acts."""
    training, kind = run.training, type(run.objective).__name__
    usual = {"eps": ("constant", training.eps == Constant()), "attack_mode": ("eval", training.attack_mode == "eval")}
    for name, (off, is_off) in usual.items():
        if run.objective.attack is None and not is_off:
            raise BadInput(
                f"training.{name} is of the inner attack, and {kind} has none; set it back to {off}, or did you mean "
                "--objective at?"
            )
    attack, factors = run.objective.attack, [training.eps(done, 100) for done in range(101)]
    most, last = max(factors), factors[-1]
    if attack is not None and last <= _NO_ATTACK * most:
        raise BadInput(
            f"training.eps is {type(training.eps).__name__}, which ends at {last:g} times the attack's own eps: the "
            "training would end without an attack; did you mean --training.eps rise?"
        )
    if attack is not None and most > 1:
        try:
            attack.at(most * attack.threat.eps)
        except BadInput as error:
            raise BadInput(f"training.eps rises to {most:g} times the attack's own eps: {error}") from None
    if run.weights is not None and run.weights.warmup >= training.epochs:
        raise BadInput(
            f"weights.warmup is {run.weights.warmup:g} epochs of plain training, and training.epochs is "
            f"{training.epochs}, so {type(run.weights).__name__} would never act; lower weights.warmup, or did you "
            "mean --weights none?"
        )


def _check_measured(run: Run) -> None:
    """Refuse what is to be measured on the way and cannot be, under the threat model that judges."""
    asked = [("watch.measurements", measurement) for measurement in run.watch.measurements]
    if run.training.scored:
        asked.append(("training.select", run.flatness or AverageFlatness()))
    for option, measurement in asked:
        try:
            under(run.evaluation.threat(), measurement)
        except BadInput as error:
            judge = f"evaluation.norm {run.evaluation.norm} and evaluation.eps {run.evaluation.eps:g}"
            raise BadInput(f"{option} {measurement.name} is made under {judge}: {error}") from None
