"""Which epoch is the best so far, and when a training that finds no better one ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import nn

from robustscape.training.log import Tracked
from robustscape.training.settings import Training
from robustscape.types import BadInput, Objective

Score: TypeAlias = Callable[[nn.Module], float]
"""What the best epoch has most of, as a function of the network that is kept: the negative of a flatness."""


def check_choice(settings: Training, objective: Objective) -> None:
    """Refuse to choose by what is not tracked.

    Raises:
        BadInput: robust accuracy or loss is asked for, and there is no attack.
    """
    if settings.select not in ("robust", "robust_loss") or not settings.track:
        return
    if objective.attack is None and settings.track_attack is None:
        raise BadInput(
            f"training.select is {settings.select!r}, but neither the objective nor tracking has an attack; set "
            "training.track_attack, or did you mean clean?"
        )


def check_score(settings: Training, score: Score | None) -> None:
    """Refuse to choose by a measurement that nobody makes.

    Raises:
        BadInput: the settings ask for a score and there is none.
    """
    if settings.scored and score is None:
        raise BadInput(f"training.select {settings.select!r} is of a measurement: hand the loop a score that makes it")


def chosen_by(settings: Training, objective: Objective) -> Literal["robust", "clean", "robust_loss"]:
    """Return which of the tracked numbers chooses; robust accuracy stands in for a measurement."""
    if settings.select == "auto":
        return "clean" if objective.attack is None else "robust"
    return "robust" if settings.select in ("flatness", "nearby_loss") else settings.select


def score_of(tracked: Tracked | None, by: Literal["robust", "clean", "robust_loss"]) -> float:
    """Return what the best epoch has most of: an accuracy, robust where there is one and it is wanted, or -loss.

    Minus infinity where nothing was tracked.
    """
    if tracked is None:
        return -math.inf
    if by == "robust_loss" and tracked.robust_loss is not None:
        return -tracked.robust_loss
    return tracked.clean_accuracy if by == "clean" or tracked.robust_accuracy is None else tracked.robust_accuracy


def impatience(waited: int, settings: Training) -> str:
    """Return why a training ends after so many epochs without a better one, "" where it goes on."""
    if settings.patience is None or waited < settings.patience:
        return ""
    return f"no better epoch on validation for {waited} epoch{'s' * (waited > 1)}"
