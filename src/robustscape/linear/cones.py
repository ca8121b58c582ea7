"""Projections onto the balls of the three norms and onto the cones ||w||_q <= r, exactly, by sorting.

Where a projection lowers magnitudes by a common amount, that amount is the root of a largest-of-lines function: with
S_j the sum of the j largest magnitudes, sum_i max(|v_i| - t, 0) - k t = c has the root max_j (S_j - c) / (j + k).
"""

from __future__ import annotations

import numpy as np

from robustscape.linear.norms import Norm, Q


def length(w: np.ndarray, norm: Norm) -> np.ndarray:
    """Return the dual norm ||w||_q along the last dimension, for perturbations measured in ``norm``."""
    return np.linalg.norm(w, ord=Q[norm], axis=-1)


def in_ball(v: np.ndarray, radius: np.ndarray | float, norm: Norm) -> np.ndarray:
    """Return the nearest point to v with ||.||_p <= radius, (..., d).

    Args:
        v: (..., d).
        radius: At least 0, one number or (...).
        norm: Which p.
    """
    radius = np.asarray(radius, dtype=float)[..., None]
    if norm == "linf":
        return np.clip(v, -radius, radius)
    if norm == "l2":
        size = np.linalg.norm(v, axis=-1, keepdims=True)
        return v * np.minimum(1, radius / np.maximum(size, np.finfo(float).tiny))
    largest = -np.sort(-np.abs(v), axis=-1)
    roots = (np.cumsum(largest, axis=-1) - radius) / np.arange(1, v.shape[-1] + 1)
    return _lowered(v, np.maximum(roots.max(axis=-1, keepdims=True), 0))


def in_cone(w: np.ndarray, r: float, norm: Norm) -> tuple[np.ndarray, float]:
    """Return the nearest point to (w, r), w of (d,), with ||w||_q <= r.

    Exact zeros come out of it under linf, magnitudes equal to r under l1.
    """
    if norm == "l2":
        size = float(np.linalg.norm(w))
        if size <= abs(r):
            return (w, r) if r >= 0 else (0 * w, 0.0)
        mean = (size + r) / 2
        return w * (mean / size), mean
    sums = np.concatenate([[0.0], np.cumsum(-np.sort(-np.abs(w)))])
    places = np.arange(1, len(w) + 2)
    if norm == "linf":
        by = max(0.0, float(((sums - r) / places).max()))
        return _lowered(w, by), r + by
    top = max(0.0, float(((sums + r) / places).max()))
    return np.clip(w, -top, top), top


def _lowered(v: np.ndarray, by: np.ndarray | float) -> np.ndarray:
    return np.sign(v) * np.maximum(np.abs(v) - by, 0)
