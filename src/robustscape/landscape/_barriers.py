"""What the loss along a path comes to: rows are paths, (P, T), columns the places t, (T,), on them."""

from __future__ import annotations

import numpy as np


def integral(values: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the integral of each row over t, (P,), by the trapezoidal rule."""
    return ((values[:, 1:] + values[:, :-1]) / 2 * np.diff(t)).sum(axis=1)


def barrier(losses: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the largest rise of each row over the chord of its ends; 0 at least, at the ends."""
    chord = (1 - t) * losses[:, :1] + t * losses[:, -1:]
    chord[:, 0], chord[:, -1] = losses[:, 0], losses[:, -1]
    return (losses - chord).max(axis=1)


def mode_connectivity(losses: np.ndarray) -> np.ndarray:
    """Return Yang's mode connectivity of each row (Yang 2021, https://arxiv.org/abs/2107.11228, equation 3)."""
    below = (losses[:, :1] + losses[:, -1:]) / 2 - losses
    return np.take_along_axis(below, np.abs(below).argmax(axis=1)[:, None], axis=1)[:, 0]


def average(losses: np.ndarray, speeds: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return each row's average over the length of its path; over t where the path has no length."""
    lengths = integral(speeds, t)
    weights = np.where(lengths[:, None] > 0, speeds, 1.0)
    return integral(losses * weights, t) / integral(weights, t)
