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
    """Performance on the first n examples of one set at the end of an epoch (accuracies, nats)."""

    n: int
    clean_accuracy: float
    robust_accuracy: float | None
    clean_loss: float
    robust_loss: float | None


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


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """All epochs of one run, in order."""

    epochs: tuple[EpochLog, ...]


def line(entry: EpochLog) -> str:
    """Return one epoch as a line of JSON, without the newline."""
    plain: dict[str, Any] = {**vars(entry), "tracked": {k: vars(v) for k, v in entry.tracked.items()}}
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
            epochs.append(EpochLog(**plain, tracked=tracked))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            if number == len(lines):
                break
            raise BadInput(f"line {number} of {path} is damaged: {error}") from None
    return TrainingLog(epochs=tuple(epochs))


def write_log(path: Path, log: TrainingLog) -> None:
    """Write a whole log, replacing the file at once."""
    with written(path, "w") as file:
        file.writelines(line(entry) + "\n" for entry in log.epochs)
