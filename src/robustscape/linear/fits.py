"""The solves behind ``RobustLogisticRegression``, and what it warns of where they end without a minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robustscape.linear.checks import (
    constant_warning,
    dense,
    separable_warning,
    unattained_warning,
    unfinished_warning,
)
from robustscape.linear.classwise import Classwise, solve_classwise
from robustscape.linear.norms import Box
from robustscape.linear.objective import Objective
from robustscape.linear.separability import maximum_margin
from robustscape.linear.solve import Solution, solve

_QUICK_STEPS = 50  # steps of the class-wise solver for one of the binary one: they are that much cheaper


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """Where the solves ended: M of them for one against the rest, one for two classes or the class-wise bound.

    Attributes:
        w: (1, d) for two classes, (K, d) for more.
        b: (1,) or (K,).
        value: (M,), what was minimised.
        gap: (M,), how far it is above its minimum at most.
        iterations: (M,), steps.
        outcome: (M,), words: see ``RobustLogisticRegression``.
        warnings: What to warn of.
    """

    w: np.ndarray
    b: np.ndarray
    value: np.ndarray
    gap: np.ndarray
    iterations: np.ndarray
    outcome: np.ndarray
    warnings: Sequence[Warning]


def fit_apart(
    problem: Classwise,
    labels: Sequence[Any] | np.ndarray,
    *,
    start: tuple[np.ndarray, np.ndarray] | None,
    tolerance: float,
    steps: int,
    box: Box | None,
) -> Fit:
    """Solve each class against the rest, or the second of two against the first.

    Args:
        problem: Data, threat and ridge.
        labels: (K,), what the classes are called.
        start: w and b to begin at, shaped as ``Fit`` has them.
        tolerance: Gap at which to stop, as a fraction of F.
        steps: Most Newton steps of each.
        box: The estimator's, of which the solve does not know.

    Raises:
        BadInput: there is no minimum, and the features are too many for a dense array.
        Diverged: the solver of the maximum-margin direction failed.
    """
    chosen = [1] if problem.classes == 2 else range(problem.classes)
    ended: list[tuple[Solution, str, list[Warning]]] = []
    for place, k in enumerate(chosen):
        one = Objective(
            x=problem.x,
            y=np.where(problem.y == k, 1.0, -1.0),
            cost=problem.cost,
            ridge=problem.ridge,
            norm=problem.norm,
            eps=problem.eps,
            intercept=problem.intercept,
        )
        what = "" if problem.classes == 2 else f" for class {labels[k]} against the rest"
        if one.eps > 0 and one.eps >= one.threshold():
            ended.append(_constant(one, box, what))
            continue
        begin = None if start is None else (start[0][place], float(start[1][place]))
        ended.append(_told(one, solve(one, start=begin, tolerance=tolerance, steps=steps), what))
    return Fit(
        w=np.stack([one.w for one, _, _ in ended]),
        b=np.array([one.b for one, _, _ in ended]),
        value=np.array([one.value for one, _, _ in ended]),
        gap=np.array([one.gap for one, _, _ in ended]),
        iterations=np.array([one.iterations for one, _, _ in ended]),
        outcome=np.array([outcome for _, outcome, _ in ended]),
        warnings=[warning for _, _, told in ended for warning in told],
    )


def _constant(problem: Objective, box: Box | None, what: str) -> tuple[Solution, str, list[Warning]]:
    """Return weights of 0, the best there are, the outcome and what to warn of."""
    reason = f"eps={problem.eps:g} is at or beyond {problem.threshold():g}{what}"
    point = problem.constant()
    ended = Solution(w=point.w, b=point.b, value=point.value, gap=0.0, iterations=0, outcome="optimal")
    return ended, "constant", [constant_warning(reason, box)]


def _told(problem: Objective, found: Solution, what: str) -> tuple[Solution, str, list[Warning]]:
    """Return where a solve ended, the outcome and what to warn of."""
    told: list[Warning] = []
    if found.outcome == "unfinished":
        told = [unfinished_warning(found.value, found.gap, found.iterations, what, stalled=found.stalled)]
    elif found.outcome == "unattained":
        told = [unattained_warning(found.value, found.gap, found.escaping, len(problem.y), what)]
    if found.outcome != "separable":
        return found, found.outcome, told
    x, signs = torch.from_numpy(dense(problem.x)), torch.from_numpy(problem.y)
    margin = maximum_margin(x, signs, norm=problem.norm, intercept=problem.intercept)
    warning = separable_warning(
        f"the data have a margin of {margin.value:.6g} in {problem.norm}{what}, above eps={problem.eps:g}",
        "coef_ is the maximum-margin direction",
    )
    point = problem.at(margin.w.numpy(), margin.intercept or 0.0)
    ended = Solution(
        w=point.w, b=point.b, value=point.value, gap=point.value, iterations=found.iterations, outcome="separable"
    )
    return ended, "separable", [warning]


def fit_together(
    problem: Classwise,
    *,
    start: tuple[np.ndarray, np.ndarray] | None,
    tolerance: float,
    steps: int,
    box: Box | None,
) -> Fit:
    """Solve the class-wise bound; arguments as in ``fit_apart``, fifty times as many steps being taken, of L-BFGS."""
    most = _QUICK_STEPS * steps
    found = solve_classwise(problem, start=start, tolerance=tolerance, steps=most)
    told: list[Warning] = []
    if found.outcome == "constant":
        told = [constant_warning(f"eps={problem.eps:g} is too large", box)]
    elif found.outcome == "separable":
        told = [separable_warning(f"all balls of eps={problem.eps:g} can be classified", "coef_ is one that does it")]
    elif found.outcome == "unfinished":
        told = [unfinished_warning(found.value, found.gap, found.iterations, stalled=found.iterations < most)]
    return Fit(
        w=found.w,
        b=found.b,
        value=np.array([found.value]),
        gap=np.array([found.gap]),
        iterations=np.array([found.iterations]),
        outcome=np.array([found.outcome]),
        warnings=told,
    )
