"""One Newton step of robust logistic regression: to where the quadratic model over the cone is least, or towards it."""

from __future__ import annotations

import numpy as np

from robustscape.linear.cones import in_ball, length
from robustscape.linear.objective import Point
from robustscape.linear.quadratic import cone_minimum, face, on_face

_ROUNDING = 1e-13  # of F


def stepped(point: Point, hessian: np.ndarray) -> Point | None:
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


def full_step(point: Point, hessian: np.ndarray) -> Point:
    """Return the point where the quadratic model is least."""
    z = np.append(point.w, [float(length(point.w, point.problem.norm)), point.b])
    target, d = _newton_target(point, hessian, point.gradient(), z), len(point.w)
    return point.problem.at(target[:d], float(target[d + 1]))


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
