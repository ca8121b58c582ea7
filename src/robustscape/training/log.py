"""The training log: one JSON line an epoch, read back as a Result for figures and tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustscape.results import written
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """Performance on the first examples of one set at the end of an epoch.

    Attributes:
        n: How many examples.
        clean_accuracy: Fraction classified correctly.
        robust_accuracy: Fraction classified correctly clean and attacked; None without an attack, as all below.
        clean_loss: Mean cross-entropy, nats.
        robust_loss: Mean cross-entropy of the worse of the clean and the attacked input, nats.
        correct_robust_error: Share of the examples classified correctly clean that the attack fools. Those that are
            misclassified clean count as fooled, all of them. None where there are none, and in old logs, as below.
        correct_robust_loss: Mean robust loss of the examples classified correctly clean, nats.
        incorrect_robust_loss: The same of those misclassified clean.
    """

    n: int
    clean_accuracy: float
    robust_accuracy: float | None
    clean_loss: float
    robust_loss: float | None
    correct_robust_error: float | None = None
    correct_robust_loss: float | None = None
    incorrect_robust_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrackedStep:
    """What is logged of one of the first or last steps (Liu 2020, https://arxiv.org/abs/2006.08403, figure 1).

    Attributes:
        step: Batches used before it.
        gradient_norm: L2 norm of the gradient that it went by, all parameters, before clipping.
        robust_error: Share of its inputs, as they were attacked for it, that the network misclassified before it, in
            eval mode; a mixed image is of the class that it has the larger share of. Of a step on several batches their
            mean, each at the weights that the walk had come to.
        distance: L2 distance of all parameters from their initial values before it.
    """

    step: int
    gradient_norm: float
    robust_error: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class EpochLog:
    """What is logged of one epoch.

    Attributes:
        epoch: Number of the epoch that just ended, from 1.
        step: Batches used so far: optimiser steps, unless the optimiser takes several a step.
        lr: Learning rate of the epoch's last step.
        eps: Radius that its last step attacked with, None without an attack.
        loss: Mean over the epoch's batches of "total" and of each part of the objective's loss, nats.
        tracked: Set name ("train", "validation", or a tracking set's) to its performance.
        gradient_norm: Mean over the steps of the L2 norm of the gradient, all parameters.
        weight_norm: L2 norm of all parameters.
        distance: L2 distance of all parameters from their initial values.
        seconds: Wall-clock seconds of the epoch's steps, tracking excluded.
        tracking_seconds: Wall-clock seconds of tracking.
        examples_per_second: Training examples a second.
        selected: Whether this epoch is the best on validation so far.
        score: What that was chosen by, the larger the better: an accuracy, or the negative of a loss or of flatness, in
            nats; None where nothing was tracked, and in old logs.
        warnings: What the guards noticed, a sentence each that begins with what it is, for example "dead layer".
        stopped: Why the training ended with this epoch before its time, "" where it did not.
        steps: Those of the epoch's steps that are tracked one by one.
    """

    epoch: int
    step: int
    lr: float
    eps: float | None
    loss: dict[str, float]
    tracked: dict[str, Tracked]
    gradient_norm: float
    weight_norm: float
    distance: float
    seconds: float
    tracking_seconds: float
    examples_per_second: float
    selected: bool
    score: float | None = None
    warnings: tuple[str, ...] = ()
    stopped: str = ""
    steps: tuple[TrackedStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """All epochs of one run, in order."""

    epochs: tuple[EpochLog, ...]


def line(entry: EpochLog) -> str:
    """Return one epoch as a line of JSON, without the newline."""
    plain: dict[str, Any] = {**vars(entry), "tracked": {k: vars(v) for k, v in entry.tracked.items()}}
    plain["steps"] = [vars(step) for step in entry.steps]
    return json.dumps(plain, allow_nan=False)


def read_log(path: Path) -> TrainingLog:
    """Read ``log.jsonl``; a last line that a kill cut short is left out.

    Raises:
        BadInput: the file is missing, or another line than the last is damaged.
    """
    if not path.is_file():
        raise BadInput(f"there is no training log {path}")
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is damaged: {error}") from None
    epochs = []
    for number, text in enumerate(lines, start=1):
        try:
            plain = json.loads(text)
            tracked = {name: Tracked(**values) for name, values in plain.pop("tracked").items()}
            steps = tuple(TrackedStep(**values) for values in plain.pop("steps", ()))
            warnings = tuple(map(str, plain.pop("warnings", ())))
            epochs.append(EpochLog(**plain, tracked=tracked, steps=steps, warnings=warnings))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            if number == len(lines):
                break
            raise BadInput(f"line {number} of {path} is damaged: {error}") from None
    return TrainingLog(epochs=tuple(epochs))


def write_log(path: Path, log: TrainingLog) -> None:
    """Write a whole log, replacing the file at once."""
    with written(path, "w") as file:
        file.writelines(line(entry) + "\n" for entry in log.epochs)
