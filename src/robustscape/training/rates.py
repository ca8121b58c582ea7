"""Learning rate and eps of a step: the schedules, and what averaging makes of the learning rate."""

from __future__ import annotations

from robustscape.training.settings import Training


def learning_rate(settings: Training, done: int, total: int) -> float:
    """Return the learning rate when ``done`` of ``total`` batches are done.

    From ``swa_start`` on it is that of ``swa_lr``, where there is one: constant, or from ``swa_lr_from`` down to it
    along a line in every cycle of ``swa_every`` epochs (Izmailov 2018, https://arxiv.org/abs/1803.05407, section 3.1).
    """
    now, epoch = _moment(settings, done, total), _epoch(settings, total)
    low, high = settings.swa_lr, settings.swa_lr_from
    if settings.swa_start is None or low is None or now < settings.swa_start * epoch:
        return settings.optimizer.lr * settings.lr(now, total)
    if high is None:
        return low
    cycle = settings.swa_every * epoch
    share = ((now - settings.swa_start * epoch) % cycle + 1) / cycle
    return (1 - share) * high + share * low


def radius(settings: Training, target: float, done: int, total: int) -> float:
    """Return the inner attack's eps, whose own is ``target``, when ``done`` of ``total`` batches are done."""
    return target * settings.eps(_moment(settings, done, total), total)


def _epoch(settings: Training, total: int) -> int:
    """Return the batches of an epoch."""
    return max(1, total // settings.epochs)


def _moment(settings: Training, done: int, total: int) -> int:
    """Return when the schedules are asked: now, or at the beginning of the epoch."""
    return done if settings.schedules == "step" else done - done % _epoch(settings, total)
