"""Robust logistic regression by accelerated projected gradient steps: for more features than a Hessian can have.

A step costs two products with the features, which may be sparse. FISTA (Beck and Teboulle 2009,
https://doi.org/10.1137/080716542, section 4) with its step size found by halving, begun anew where F rises
(O'Donoghue and Candes 2015, https://doi.org/10.1007/s10208-013-9150-3, section 3.2).
"""

from __future__ import annotations

import numpy as np

from robustscape.linear.cones import in_cone, length
from robustscape.linear.objective import Objective, Point

_LOOK_EVERY = 10  # steps between two looks at the gap


def descended(point: Point, *, tolerance: float, steps: int) -> tuple[Point, int]:
    """Return a point of gap at most ``tolerance`` times F, or the last one, and how many steps were taken.

    Args:
        point: Where to begin.
        tolerance: Gap at which to stop, as a fraction of F.
        steps: Most steps.
    """
    problem = point.problem
    ahead, momentum, steepness = point, 1.0, _steepness(problem)
    for taken in range(steps):
        if taken % _LOOK_EVERY == 0 and (point.gap <= tolerance * point.value or _endless(point)):
            return point, taken
        moved, steepness = _step(ahead, steepness)
        if moved.value > point.value and ahead is not point:
            ahead, momentum = point, 1.0
            continue
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        by = (momentum - 1) / grown
        ahead = problem.at(
            moved.w + by * (moved.w - point.w),
            moved.b + by * (moved.b - point.b),
            moved.score + by * (moved.score - point.score),
        )
        point, momentum = moved, grown
    return point, steps


def _endless(point: Point) -> bool:
    return point.problem.ridge == 0 and point.separates


def _steepness(problem: Objective) -> float:
    """Return a first guess of the largest curvature, too small rather than too large."""
    x = problem.x
    squares = float((x * x).sum() if isinstance(x, np.ndarray) else x.multiply(x).sum()) / x.shape[0]
    return problem.ridge + float(problem.cost.max()) * squares / 4


def _step(ahead: Point, steepness: float) -> tuple[Point, float]:
    """Return the point that a projected gradient step leads to, and the curvature that it was made with."""
    problem, slope = ahead.problem, ahead.gradient()
    d, r = len(ahead.w), float(length(ahead.w, ahead.problem.norm))
    while True:
        w, height = ahead.w - slope[:d] / steepness, r - float(slope[d]) / steepness
        if problem.eps > 0:
            w, height = in_cone(w, height, problem.norm)
        else:
            height = r
        b = ahead.b - float(slope[d + 1]) / steepness if problem.intercept else 0.0
        moved = problem.at(w, b)
        change = np.append(w - ahead.w, [height - r, b - ahead.b])
        bound = ahead.value + float(slope @ change) + steepness / 2 * float(change @ change)
        if moved.value <= bound + 1e-12 * abs(bound):
            return moved, steepness
        steepness *= 2
