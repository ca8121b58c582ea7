"""The Hessian of the objective of robust logistic regression, made as roughly as a Newton step allows."""

from __future__ import annotations

import numpy as np

from robustscape.linear.objective import Matrix, Objective, Point, pulled

_ROWS = 2048  # of the features, worked on at once
_LEFT_OUT = 0.01  # of a Hessian's trace
_SINGLE = 1e-7  # of a Hessian's trace: a ridge of less does not make up for float32


def curvature(point: Point, *, exact: bool = False) -> np.ndarray:
    """Return the Hessian with respect to w, r and b, (d + 2, d + 2), r standing for ||w||_q.

    With a ridge that makes up for it, dense products are made in float32, and the examples are left out that
    together make up a small part of it, unless it is to be ``exact``.
    """
    problem, d = point.problem, len(point.w)
    weight = problem.cost * point.s * (1 - point.s)
    trace = float(weight @ (problem.squares + 1 + problem.eps**2))
    rough = not exact and problem.ridge > _SINGLE * trace
    if rough:
        weight = np.where(_counts(problem, weight), weight, 0)
    y, x = problem.y, problem.x
    pulls = pulled(x, np.stack([weight, weight * y]))
    H = np.zeros((d + 2, d + 2))
    H[:d, :d] = _gram(x, weight, np.float32 if rough else np.float64) + problem.ridge * np.eye(d)
    H[:d, d] = H[d, :d] = -problem.eps * pulls[1]
    H[:d, d + 1] = H[d + 1, :d] = pulls[0]
    total, signed = float(weight.sum()), float(weight @ y)
    H[d:, d:] = [[problem.eps**2 * total, -problem.eps * signed], [-problem.eps * signed, total]]
    return H


def _gram(x: Matrix, weight: np.ndarray, dtype: type) -> np.ndarray:
    """Return the sum of weight_n x_n x_n', (d, d), float64."""
    rows = np.flatnonzero(weight)
    if not isinstance(x, np.ndarray):
        x = x[rows]
        return (x.T @ x.multiply(weight[rows, None]).tocsr()).toarray()
    total = np.zeros((x.shape[1],) * 2)
    for part in range(0, len(rows), _ROWS):
        chosen = rows[part : part + _ROWS]
        scaled = (x[chosen] * np.sqrt(weight[chosen, None])).astype(dtype, copy=False)
        total += scaled.T @ scaled
    return total


def _counts(problem: Objective, weight: np.ndarray) -> np.ndarray:
    """Return whether the curvature of each example counts, (N,), bool."""
    share = weight * (problem.squares + 1 + problem.eps**2)
    order = np.argsort(share, kind="stable")
    sums = np.cumsum(share[order])
    counts = np.ones(len(weight), dtype=bool)
    counts[order[: np.searchsorted(sums, 0.01 * problem.ridge + _LEFT_OUT * sums[-1])]] = False
    return counts
