"""Robust logistic regression by Newton steps, with a duality gap as certificate.

F is smooth in (w, r, b) with r in the place of ||w||_q, and rises with r: its minimum is that over the cone
||w||_q <= r. Under l2, and without a perturbation, Newton's steps are plain. Under linf and l1 each minimises the
quadratic model of F over the cone itself, so that exact zeros (linf) and exactly equal magnitudes (l1) come out.
Steps are shortened until F falls, and the Hessian is kept while they still bring much. Many examples are begun with
few of them, and without a perturbation by L-BFGS. With too many features for a Hessian ``first_order`` takes over.
Without a ridge a solve that lasts is checked for a margin beyond eps, below which there is no minimum, and one that
ends while its steps still move the margins, for examples whose loss falls to 0 only at infinity (``escape``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from robustscape.linear.curvature import curvature
from robustscape.linear.escape import escaping
from robustscape.linear.first_order import descended
from robustscape.linear.objective import Objective, Point
from robustscape.linear.separability import maximum_margin
from robustscape.linear.steps import full_step, stepped
from robustscape.types import Diverged

MOST_FEATURES = 2500
"""With more of them no Hessian is made."""

_MANY = 5000  # examples from which on a part of them is solved first
_LIVE = 0.9  # features that are 0 in all examples are left out where there are fewer others than this share
_FEW = 2  # of them for each feature
_ENOUGH = 0.1  # a step that leaves less of the gap than this keeps its Hessian
_ROUGH = 0.1  # tolerance of what is solved first
_QUICK = 40  # steps of L-BFGS with few of the examples
_QUICK_ALL = 12  # with all of them
_LASTS = 20  # steps from which on a solve without a ridge is checked for a margin beyond eps
_DENSE = 2**27  # most features of all examples together for that check, which is made on a dense array
_STILL = 0.1  # nats: a last step that moves a worst-case margin further ends where the weights may still grow
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
            and there is no ridge, so that there is no minimum. "unattained": the gap is within the tolerance, but there
            is no minimum either: without a ridge F comes ever nearer to its infimum as the weights grow.
            "unfinished": none of these, within the steps allowed or because it stalled.
        escaping: Of how many examples at least the loss falls to 0 as the weights grow, where "unattained".
        still: Whether the last step left all worst-case margins nearly where they were.
        stalled: Whether it ended "unfinished" because F no longer fell along a step, where more steps are of no use.
    """

    w: np.ndarray
    b: float
    value: float
    gap: float
    iterations: int
    outcome: Literal["optimal", "separable", "unattained", "unfinished"]
    stalled: bool = False
    escaping: int = 0
    still: bool = False


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
    if judged.outcome == "unfinished" and not found.stalled and found.iterations < steps:
        begun = problem.at(found.w, found.b)
        judged = _newton(begun, tolerance, taken=found.iterations, steps=steps, polish=_POLISH)
    return _held(problem, judged)


def _held(problem: Objective, found: Solution) -> Solution:
    """Return what was found, told to be unattained where it is optimal but better weights lie ever further out."""
    if found.outcome != "optimal" or found.still:
        return found
    point = problem.at(found.w, found.b)
    if _still(point, full_step(point, curvature(point, exact=True))):
        return found
    beyond = escaping(problem)
    return replace(found, outcome="unattained", escaping=beyond) if beyond else found


def _still(before: Point, after: Point) -> bool:
    """Return whether no worst-case margin moved by more than a little.

    Where eps is 0 and the step is a full Newton step of less than 1, that is a proof that the minimum is attained: the
    step corrects the dual point to an exact one whose entries are all above 0.
    """
    return float(np.abs(after.exponent - before.exponent).max()) <= _STILL


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
    hessian, fresh, exact, extra, stalled, before = None, False, False, 0, False, None
    while taken < steps and not (problem.ridge == 0 and point.separates):
        close = point.gap <= tolerance * point.value
        if close and (hessian is None or extra == polish or point.gap == 0):
            break
        extra += close
        if hessian is None:
            hessian, fresh = curvature(point, exact=exact), True
        moved = stepped(point, hessian)
        taken += 1
        if moved is None or moved.gap > _ENOUGH * point.gap:
            stalled = moved is None and fresh and (exact or not problem.ridge)
            if close or stalled:
                before, point = (before, point) if moved is None or moved.gap > point.gap else (point, moved)
                break
            exact = moved is None and fresh
            hessian, fresh = None, False
        else:
            fresh = False
        before, point = (before, point) if moved is None else (point, moved)
    found = _ended(point, tolerance, taken)
    still = before is not None and _still(before, point)
    return replace(found, stalled=stalled and found.outcome == "unfinished", still=still)


def _ended(point: Point, tolerance: float, taken: int) -> Solution:
    outcome = "optimal" if point.gap <= tolerance * point.value else "unfinished"
    if point.problem.ridge == 0 and point.separates:
        outcome = "separable"
    return Solution(w=point.w, b=point.b, value=point.value, gap=point.gap, iterations=taken, outcome=outcome)
