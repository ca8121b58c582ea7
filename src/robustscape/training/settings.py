"""The settings of a training, without its data, model, objective and weight perturbation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_origin

from robustscape.config import hints
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.snapshots import period_ends, snapshot
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
        schedules: When ``lr`` and ``eps`` are asked: at every "step", or once an "epoch", at its beginning.
        ema: Decay of the exponential moving average of the weights per step, in [0, 1); None for none.
            With it, the averaged network is the one that is tracked, chosen and kept.
        swa_start: Stochastic weight averaging: the first epoch, from 1, whose final weights are averaged; None for no
            averaging. The average is tracked, chosen and kept; before, what is kept is the network itself.
        swa_every: Epochs between two networks that are averaged, at least 1.
        swa_lr: Learning rate from then on; None for that of ``lr``.
        swa_lr_from: Where the learning rate falls from to ``swa_lr``, in every cycle of ``swa_every`` epochs; None
            for a constant one.
        statistics: BatchNorm's running statistics in what is kept: the "training" network's own, or estimated anew at
            the end of every epoch on its "clean" or "adversarial" examples; "auto" is clean under SWA, else the
            training's own.
        statistics_batches: Batches that they are estimated on; None for all of the epoch's.
        l1: Coefficient of the sum of |w| in the loss, at least 0; biases and normalisation are left out.
        l2: Coefficient of half the sum of w^2, likewise.
        clip_gradient: Most that the gradient's L2 norm may be, all parameters, above 0; None for no clipping.
        clip_gradient_by: What is clipped: the whole gradient's "norm", or each "entry".
        clip_weights: Most that a weight's absolute value may be after a step, above 0; None for no clipping.
        clip_weights_of: Which weights: "all" parameters, as Stutz 2021 for a network whose normalisation stores its
            scale less 1 (``stutz_resnet``), and refused where a scale is above ``clip_weights`` at first; or "weights":
            those outside normalisation, biases left out.
        attack_mode: Mode that BatchNorm is in under the inner attack: "eval" or "train".
        attack_statistics: What attack forwards in train mode do to the running statistics: "frozen" takes
            it back, "counted" keeps it, as the code of Rice 2020 and Wu 2020 does.
        clean_pass: After every step, make a forward of its clean inputs in train mode, as the code of Rice 2020 and
            Wu 2020 does to log their accuracy: the running statistics then follow clean inputs too.
        track: Examples of each set whose clean and robust accuracy is logged, the first ones; 0 for no
            tracking, which leaves the last epoch as the best. The validation set is always used whole.
        track_attack: Attack that tracking uses; None for the objective's own, at its full eps.
        track_test: Track the test set as well; it is never used for selection.
        track_every: Epochs between two trackings, at least 1; the last epoch is always tracked.
        track_first: Steps at the beginning, each of which is logged by itself: gradient norm, robust error of its
            batch and distance from the start; 0 for none. One more forward of each of its batches.
        track_last: Steps at the end, likewise.
        select: What the best checkpoint is chosen by on validation: "robust" or "clean" accuracy; "auto" is
            robust where the objective attacks. "robust_loss": the lowest. "flatness": the lowest rise of the robust
            loss under random weights, which an untrained network has too; "nearby_loss": the lowest robust loss under
            random weights, that rise included.
        patience: Epochs without a better one on validation after which the training ends; None for never.
        guard: What is done where, at the end of an epoch, a layer is dead, the output constant, or the network robust
            to the training's own cheap attack but not to PGD-10: "warn" in the log, "stop" as well, or "no" looks.
        keep_every: Epochs between kept checkpoints, with the initial weights as epoch-0000; 0 for none beside last
            and best.
        snapshots: Also keep the network at the end of every period of ``lr`` and ``eps``, as snapshot-1, snapshot-2 ...
        best_on_test: Also keep the checkpoint that is best on test, marked "selected on test, as the
            papers do".
        checkpoint_seconds: Seconds between two saved states within an epoch, so that a kill loses no more.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=SGD)
    lr: Schedule = field(default_factory=Piecewise)
    eps: Schedule = field(default_factory=Constant)
    schedules: Literal["step", "epoch"] = "step"
    ema: float | None = None
    swa_start: int | None = None
    swa_every: int = 1
    swa_lr: float | None = None
    swa_lr_from: float | None = None
    statistics: Literal["auto", "training", "clean", "adversarial"] = "auto"
    statistics_batches: int | None = None
    l1: float = 0.0
    l2: float = 0.0
    clip_gradient: float | None = None
    clip_gradient_by: Literal["norm", "entry"] = "norm"
    clip_weights: float | None = None
    clip_weights_of: Literal["all", "weights"] = "all"
    attack_mode: Literal["eval", "train"] = "eval"
    attack_statistics: Literal["frozen", "counted"] = "frozen"
    clean_pass: bool = False
    track: int = 1000
    track_attack: Attack | None = None
    track_test: bool = True
    track_every: int = 1
    track_first: int = 0
    track_last: int = 0
    select: Literal["auto", "robust", "clean", "robust_loss", "flatness", "nearby_loss"] = "auto"
    patience: int | None = None
    guard: Literal["warn", "stop", "no"] = "warn"
    keep_every: int = 0
    snapshots: bool = False
    best_on_test: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, known in _words(Training).items():
            if getattr(self, name) not in known:
                raise BadInput(f"training.{name} is {getattr(self, name)!r}, not one of {', '.join(known)}")
        for name in ("epochs", "batch_size", "track_every"):
            if getattr(self, name) < 1:
                raise BadInput(f"training.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("track", "track_first", "track_last", "keep_every", "checkpoint_seconds", "l1", "l2"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"training.{name} must be at least 0, not {getattr(self, name)}")
        if self.best_on_test and not (self.track and self.track_test):
            raise BadInput("training.best_on_test needs the test set tracked: set track above 0 and track_test")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise BadInput(f"training.ema is the decay per step, in [0, 1), not {self.ema}; did you mean 0.999?")
        for name in ("clip_gradient", "clip_weights", "statistics_batches"):
            if (most := getattr(self, name)) is not None and not most > 0:
                raise BadInput(f"training.{name} must be above 0, not {most:g}; None is for none")
        if self.attack_statistics == "counted" and self.attack_mode == "eval":
            raise BadInput(
                "training.attack_statistics 'counted' is of attacks in train mode, and training.attack_mode is 'eval'; "
                "set it to train, or leave attack_statistics out"
            )
        self._check_swa()
        self._check_choice()
        if self.statistics_batches is not None and self.estimated == "training":
            raise BadInput("training.statistics_batches counts what statistics are estimated on: choose statistics too")
        if self.snapshots:
            period_ends(self.epochs, self.lr, self.eps)

    def _check_swa(self) -> None:
        """Refuse averages that cannot be meant."""
        if self.swa_start is None:
            asked = [name for name in ("swa_lr", "swa_lr_from") if getattr(self, name) is not None]
            if asked or self.swa_every != 1:
                raise BadInput(
                    f"training.{(asked or ['swa_every'])[0]} is of averaging that never begins: set training.swa_start "
                    f"to an epoch, for example {max(1, round(0.75 * self.epochs))} of {self.epochs}"
                )
            return
        if self.ema is not None:
            raise BadInput(
                "training.ema and training.swa_start are two averages, and one network is kept; leave one out"
            )
        if self.swa_every < 1:
            raise BadInput(f"training.swa_every must be at least 1, not {self.swa_every}")
        if not 1 <= self.swa_start <= self.epochs - self.swa_every:
            raise BadInput(
                f"training.swa_start is the first epoch to average, and a second comes {self.swa_every} later: in "
                f"[1, {self.epochs - self.swa_every}] for {self.epochs} epochs, not {self.swa_start}"
            )
        if self.swa_lr is not None and not self.swa_lr > 0:
            raise BadInput(f"training.swa_lr must be above 0, not {self.swa_lr:g}")
        if self.swa_lr_from is not None and (self.swa_lr is None or self.swa_lr_from < self.swa_lr):
            raise BadInput(
                f"training.swa_lr_from is what falls to swa_lr, {self.swa_lr}, and cannot be {self.swa_lr_from:g}"
            )
        if self.swa_lr_from is not None and self.swa_every == 1 and self.schedules == "epoch":
            raise BadInput(
                "training.swa_lr_from falls to swa_lr within every epoch, but training.schedules asks once an epoch; "
                "set that to step, or training.swa_every above 1"
            )

    def _check_choice(self) -> None:
        """Refuse ways to choose an epoch, and to stop, that cannot be meant."""
        if not self.track and (self.scored or self.select == "robust_loss"):
            raise BadInput(
                f"training.select is {self.select!r}, but nothing is tracked, which leaves the last epoch as the best; "
                "set training.track above 0"
            )
        if self.scored and self.best_on_test:
            raise BadInput(f"training.select {self.select!r} is of validation alone; leave training.best_on_test out")
        if self.patience is None:
            return
        if self.patience < 1:
            raise BadInput(f"training.patience must be at least 1 epoch, not {self.patience}; none is for never")
        if not self.track:
            raise BadInput("training.patience waits for a better epoch on validation: set training.track above 0")
        if self.snapshots or self.swa_start is not None:
            which = "training.snapshots" if self.snapshots else "training.swa_start"
            raise BadInput(f"training.patience may end the training before what {which} needs; leave one of them out")

    @property
    def scored(self) -> bool:
        """Whether the best epoch is chosen by a measurement of the landscape, which the loop is handed."""
        return self.select in ("flatness", "nearby_loss")

    @property
    def estimated(self) -> Literal["training", "clean", "adversarial"]:
        """What BatchNorm's running statistics in what is kept are of."""
        if self.statistics != "auto":
            return self.statistics
        return "training" if self.swa_start is None else "clean"

    def snapshot_after(self, epoch: int) -> str | None:
        """Return what the snapshot at the end of an epoch, from 1, is called; None where none is kept."""
        ends = period_ends(self.epochs, self.lr, self.eps) if self.snapshots else ()
        return snapshot(ends.index(epoch) + 1) if epoch in ends else None


@cache
def _words(kind: Any) -> dict[str, tuple[Any, ...]]:
    """Return what each field of a dataclass may be that is one of a few words."""
    return {name: get_args(of) for name, of in hints(kind).items() if get_origin(of) is Literal}
