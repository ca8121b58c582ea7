"""The settings of a training, without its data, model, objective and weight perturbation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.types import Attack, BadInput, Optimizer, Schedule


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how a network is trained, and what is kept.

    Attributes:
        epochs: Passes over the training images, at least 1.
        batch_size: Training images in a step, at least 1.
        optimizer: The optimiser, with the learning rate that ``lr`` multiplies.
        lr: Schedule of the learning rate, per step.
        eps: Schedule of the inner attack's eps, per step; 1 is the attack's own eps.
        ema: Decay of the exponential moving average of the weights per step, in [0, 1); None for none.
            With it, the averaged network is the one that is tracked, chosen and kept.
        attack_mode: Mode that BatchNorm is in under the inner attack: "eval" or "train".
        attack_statistics: What attack forwards in train mode do to the running statistics: "frozen" takes
            it back, "counted" keeps it, as the code of Rice 2020 and Wu 2020 does.
        track: Examples of each set whose clean and robust accuracy is logged, the first ones; 0 for no
            tracking, which leaves the last epoch as the best. The validation set is always used whole.
        track_attack: Attack that tracking uses; None for the objective's own, at its full eps.
        track_test: Track the test set as well; it is never used for selection.
        track_every: Epochs between two trackings, at least 1; the last epoch is always tracked.
        select: What the best checkpoint is chosen by on validation: "robust" or "clean" accuracy; "auto" is
            robust where the objective attacks.
        keep_every: Epochs between kept checkpoints, with the initial weights as epoch-0000; 0 for none beside last
            and best.
        best_on_test: Also keep the checkpoint that is best on test, marked "selected on test, as the
            papers do".
        checkpoint_seconds: Seconds between two saved states within an epoch, so that a kill loses no more.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=SGD)
    lr: Schedule = field(default_factory=Piecewise)
    eps: Schedule = field(default_factory=Constant)
    ema: float | None = None
    attack_mode: Literal["eval", "train"] = "eval"
    attack_statistics: Literal["frozen", "counted"] = "frozen"
    track: int = 1000
    track_attack: Attack | None = None
    track_test: bool = True
    track_every: int = 1
    select: Literal["auto", "robust", "clean"] = "auto"
    keep_every: int = 0
    best_on_test: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("epochs", "batch_size", "track_every"):
            if getattr(self, name) < 1:
                raise BadInput(f"training.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("track", "keep_every", "checkpoint_seconds"):
            if getattr(self, name) < 0:
                raise BadInput(f"training.{name} must be at least 0, not {getattr(self, name)}")
        if self.best_on_test and not (self.track and self.track_test):
            raise BadInput("training.best_on_test needs the test set tracked: set track above 0 and track_test")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise BadInput(f"training.ema is the decay per step, in [0, 1), not {self.ema}; did you mean 0.999?")
