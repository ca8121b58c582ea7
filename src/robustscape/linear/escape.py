"""Whether a loss without a ridge has its infimum at infinity: quasi-separated data, where no finite weights attain it.

Along w, b with no worst-case margin y (w.x + b) - eps ||w||_q below 0 and some above, the loss falls for ever, but to 0
only where all are above. For eps = 0 the alternative is that some multipliers, all of them 1 at least, have
sum a_n y_n (x_n, 1) = 0 (Stiemke's lemma). Non-negative least squares decides between the two: its residual is 0, or it
is such a w, b, whose margins sum to its square. For eps > 0 there is such a direction only where eps is the largest
margin itself, and it is then one of maximum margin: that of ``maximum_margin``, or where several have the largest
margin perhaps another, which is not looked for.
"""

from __future__ import annotations

import numpy as np
import torch

from robustscape.linear.cones import length
from robustscape.linear.objective import Objective
from robustscape.linear.separability import maximum_margin
from robustscape.types import Diverged

_LARGEST = 2**24  # features of all examples together: with more of them the search takes minutes
_ROUNDING = 1e-9


def escaping(problem: Objective) -> int:
    """Return of how many examples the loss falls to 0 as the weights grow, while that of no other rises.

    Args:
        problem: The objective; its ridge counts as 0.

    Returns:
        0 where the minimum is attained, all examples are of one class, the solver failed, or all features together are
        more than 2^24. Where there are several such directions, the number is that of one.
    """
    signs = problem.y
    if abs(signs.sum()) == len(signs) or np.prod(problem.x.shape) > _LARGEST:
        return 0
    x = problem.x if isinstance(problem.x, np.ndarray) else problem.x.toarray()
    try:
        found = _at_the_margin(problem, x) if problem.eps > 0 else _recession(problem, x)
    except Diverged:
        return 0
    if found is None:
        return 0
    w, b = found
    margin = signs * (x @ w + b) - problem.eps * float(length(w, problem.norm))
    return int((margin > 1e-6 * np.abs(margin).max()).sum())


def _recession(problem: Objective, x: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return a direction along which no clean margin falls and some rise, None where there is none."""
    from scipy.optimize import nnls

    inputs = np.append(x, np.ones((len(x), 1)), axis=1) if problem.intercept else x
    unit = np.abs(inputs).max(axis=0)
    unit[unit == 0] = 1
    signed = (problem.y[:, None] * inputs / unit).T
    aim = -signed.sum(axis=1)
    try:
        multipliers, left = nnls(signed, aim, maxiter=30 * len(problem.y))
    except RuntimeError as error:
        raise Diverged(f"the search for a direction was not solved: {error}") from None
    if left <= _ROUNDING * max(float(np.linalg.norm(aim)), float(np.abs(signed).max())):
        return None
    direction = (signed @ multipliers - aim) / unit
    return (direction[:-1], float(direction[-1])) if problem.intercept else (direction, 0.0)


def _at_the_margin(problem: Objective, x: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return the maximum-margin direction where eps is its margin, else None."""
    best = maximum_margin(
        torch.from_numpy(x), torch.from_numpy(problem.y), norm=problem.norm, intercept=problem.intercept
    )
    at_it = best.separable and best.upper >= problem.eps * (1 - _ROUNDING)
    return (best.w.numpy(), best.intercept or 0.0) if at_it else None
