"""Robust logistic regression by Newton steps, with a duality gap as certificate.

F is smooth in (w, r, b) with r in the place of ||w||_q, and rises with r: its minimum is that over the cone
||w||_q <= r. Under l2, and without a perturbation, Newton's steps are plain. Under linf and l1 each minimises the
quadratic model of F over the cone itself, so that exact zeros (linf) and exactly equal magnitudes (l1) come out.
Steps are shortened until F falls, and the Hessian is kept while they still bring much. Many examples are begun with
few of them, and without a perturbation by L-BFGS. With too many features for a Hessian ``first_order`` takes over.
Without a ridge a solve that lasts is checked for a margin beyond eps, below which there is no minimum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from robustscape.linear.cones import in_ball, length
from robustscape.linear.first_order import descended
from robustscape.linear.objective import Matrix, Objective, Point, pulled
from robustscape.linear.quadratic import cone_minimum, face, on_face
from robustscape.linear.separability import maximum_margin
from robustscape.types import Diverged

MOST_FEATURES = 2500
"""With more of them no Hessian is made."""

_MANY = 5000  # examples from which on a part of them is solved first
_LIVE = 0.9  # features that are 0 in all examples are left out where there are fewer others than this share
_FEW = 2  # of them for each feature
_ROWS = 2048  # of the features, worked on at once
_ENOUGH = 0.1  # a step that leaves less of the gap than this keeps its Hessian
_LEFT_OUT = 0.01  # of a Hessian's trace
_ROUGH = 0.1  # tolerance of what is solved first
_QUICK = 40  # steps of L-BFGS with few of the examples
_QUICK_ALL = 12  # with all of them
_LASTS = 20  # steps from which on a solve without a ridge is checked for a margin beyond eps
_DENSE = 2**27  # most features of all examples together for that check, which is made on a dense array
_ROUNDING = 1e-13  # of F
_SINGLE = 1e-7  # of a Hessian's trace: a ridge of less does not make up for float32
_POLISH = 2  # steps with the last Hessian beyond the tolerance: they cost little


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Where a solve ended.

    Attributes:
        w: (d,).
        b: Intercept, 0 where there is none.
        value: F there.
        gap: How far F is above its minimum at most.
        iterations: Steps taken; those of L-BFGS at the beginning do not count.
        outcome: "optimal": the gap is within the tolerance. "separable": every input of every ball is classified
            and there is no ridge, so that there is no minimum. "unfinished": neither, within the steps allowed or
            because it stalled.
        stalled: Whether it ended "unfinished" because F no longer fell along a step, where more steps are of no use.
    """

    w: np.ndarray
    b: float
    value: float
    gap: float
    iterations: int
    outcome: Literal["optimal", "separable", "unfinished"]
    stalled: bool = False


def solve(
    problem: Objective, *, start: tuple[np.ndarray, float] | None = None, tolerance: float = 1e-6, steps: int = 100
) -> Solution:
    """Minimise F.

    Args:
        problem: F.
        start: w and b to begin at, unless the best constant classifier is better; by default that one.
        tolerance: Gap at which to stop, as a fraction of F.
        steps: Most steps; a step of many features is a gradient step, and a hundred times as many are taken.
    """
    d = problem.x.shape[1]
    live = np.flatnonzero(problem.used)
    if not len(live):
        return _ended(problem.constant(), tolerance, 0)
    if len(live) < _LIVE * d:
        part = replace(problem, x=problem.x[:, live])
        found = solve(part, start=start and (start[0][live], start[1]), tolerance=tolerance, steps=steps)
        return replace(found, w=np.bincount(live, weights=found.w, minlength=d))
    constant = problem.constant()
    begun = constant if start is None else min(constant, problem.at(*start), key=_value)
    found = _solved(problem, begun, tolerance, steps)
    if begun is constant or not found.stalled or found.iterations >= steps:
        return found
    again = _solved(problem, constant, tolerance, steps - found.iterations)
    best = again if again.outcome == "separable" else min(found, again, key=_value)
    return replace(best, iterations=found.iterations + again.iterations)


def _value(one: Point | Solution) -> float:
    return one.value


def _solved(problem: Objective, point: Point, tolerance: float, steps: int) -> Solution:
    """Minimise from a point on; all features are in use."""
    if problem.x.shape[1] > MOST_FEATURES:
        point, taken = descended(point, tolerance=tolerance, steps=100 * steps)
        return _judged(problem, _ended(point, tolerance, taken))
    point, taken = (point, 0) if point.w.any() else _few_first(point, tolerance, steps)
    if problem.ridge:
        return _newton(point, tolerance, taken=taken, steps=steps, polish=_POLISH)
    found = _newton(point, tolerance, taken=taken, steps=min(steps, taken + _LASTS), polish=_POLISH)
    judged = _judged(problem, found)
    if judged.outcome != "unfinished" or found.stalled or found.iterations >= steps:
        return judged
    return _newton(problem.at(found.w, found.b), tolerance, taken=found.iterations, steps=steps, polish=_POLISH)


def _judged(problem: Objective, found: Solution) -> Solution:
    """Return what was found, told to be separable where it is unfinished because there is no minimum."""
    apart = abs(problem.y.sum()) < len(problem.y)
    if problem.ridge or found.outcome != "unfinished" or not apart or np.prod(problem.x.shape) > _DENSE:
        return found
    x = problem.x if isinstance(problem.x, np.ndarray) else problem.x.toarray()
    signs = torch.from_numpy(problem.y)
    try:
        margin = maximum_margin(torch.from_numpy(x), signs, norm=problem.norm, intercept=problem.intercept)
    except Diverged:  # nothing is proven
        return found
    return replace(found, outcome="separable", stalled=False) if margin.value > problem.eps else found


def _few_first(point: Point, tolerance: float, steps: int) -> tuple[Point, int]:
    """Return a better point, where there are many examples, and how many Newton steps it took."""
    problem, (N, d) = point.problem, point.problem.x.shape
    fewer = max(_FEW * d, N // 10)
    if N < _MANY or 2 * fewer > N:
        return point, 0
    begun = problem.thinned(N // fewer).constant()
    if problem.ridge and not problem.eps:
        first = _quick(begun, _QUICK)
        return _quick(min(point, problem.at(first.w, first.b), key=_value), _QUICK_ALL), 0
    first = _newton(begun, max(tolerance, _ROUGH), taken=0, steps=steps, polish=0)
    return min(point, problem.at(first.w, first.b), key=_value), first.iterations


def _quick(point: Point, steps: int) -> Point:
    """Return the point that some steps of L-BFGS lead to, eps being 0: each costs a tenth of a Hessian."""
    from scipy.optimize import minimize

    problem, d = point.problem, len(point.w)
    free = np.append(np.arange(d), np.arange(d + 1, d + 1 + problem.intercept))

    def at(v: np.ndarray) -> Point:
        return problem.at(v[:d], float(v[d:].sum()))

    def value_and_slope(v: np.ndarray) -> tuple[float, np.ndarray]:
        one = at(v)
        return one.value, one.gradient()[free]

    begin = np.append(point.w, [point.b] * problem.intercept)
    found = minimize(value_and_slope, begin, jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return min(point, at(found.x), key=_value)


def _newton(point: Point, tolerance: float, *, taken: int, steps: int, polish: int) -> Solution:
    problem = point.problem
    hessian, fresh, exact, extra, stalled = None, False, False, 0, False
    while taken < steps and not (problem.ridge == 0 and point.separates):
        close = point.gap <= tolerance * point.value
        if close and (hessian is None or extra == polish or point.gap == 0):
            break
        extra += close
        if hessian is None:
            hessian, fresh = curvature(point, exact=exact), True
        moved = _moved(point, hessian)
        taken += 1
        if moved is None or moved.gap > _ENOUGH * point.gap:
            stalled = moved is None and fresh and (exact or not problem.ridge)
            if close or stalled:
                point = point if moved is None or moved.gap > point.gap else moved
                break
            exact = moved is None and fresh
            hessian, fresh = None, False
        else:
            fresh = False
        point = point if moved is None else moved
    found = _ended(point, tolerance, taken)
    return replace(found, stalled=stalled and found.outcome == "unfinished")


def _ended(point: Point, tolerance: float, taken: int) -> Solution:
    outcome = "optimal" if point.gap <= tolerance * point.value else "unfinished"
    if point.problem.ridge == 0 and point.separates:
        outcome = "separable"
    return Solution(w=point.w, b=point.b, value=point.value, gap=point.gap, iterations=taken, outcome=outcome)


def _moved(point: Point, hessian: np.ndarray) -> Point | None:
    """Return the point that a step leads to, None where F does not fall along it.

    Near the minimum, where F itself is too rounded to tell, the gap must fall.
    """
    problem, slope = point.problem, point.gradient()
    d = len(point.w)
    z = np.append(point.w, [float(length(point.w, problem.norm)), point.b])
    target = _newton_target(point, hessian, slope, z)
    fall = float(slope @ (target - z))
    rounding = _ROUNDING * point.value
    if not fall < rounding:
        return None
    w, b = target[:d], float(target[d + 1])
    score, t = problem.x @ w + b, 1.0
    if fall > -rounding:
        tried = problem.at(w, b, score)
        return tried if tried.value < point.value + rounding and tried.gap < point.gap else None
    while t > 1e-6:
        if t == 1:
            tried = problem.at(w, b, score)
        else:
            tried = problem.at(
                point.w + t * (w - point.w), point.b + t * (b - point.b), _between(point.score, score, t)
            )
        if tried.value <= point.value + 1e-4 * t * fall:
            return tried
        t /= 2
    return None


def _between(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    return a + t * (b - a)


def _newton_target(point: Point, hessian: np.ndarray, slope: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return where the quadratic model is least, (d + 2,)."""
    problem, d = point.problem, len(point.w)
    flat = problem.eps == 0
    if not flat and problem.norm != "l2":
        return cone_minimum(hessian, slope - hessian @ z, z, problem.norm, intercept=problem.intercept)
    if not flat and not z[d]:  # the tip of the round cone, which no plane touches: straight down
        down = -slope[:d] - in_ball(-slope[:d], float(slope[d]), "l2")
        along = np.append(down, [float(np.linalg.norm(down)), 0.0])
        return z - along * float(slope @ along) / max(float(along @ hessian @ along), np.finfo(float).tiny)
    at = face(z, problem.norm, intercept=problem.intercept, flat=flat)
    bent = None
    if not flat:
        bent = np.zeros((len(at.keep), len(at.keep)))
        bent[:d, :d] = slope[d] / z[d] * (np.eye(d) - np.outer(at.q[:d], at.q[:d]))
    return z + at.spread(on_face(hessian, slope, at, bent))


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
