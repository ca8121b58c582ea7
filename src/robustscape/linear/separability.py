"""How robust a linear model of a data set can be: the largest margin, and the eps beyond which none is of use.

The largest margin is the largest eps for which some w, b classifies every input of every ball,

    max_{w, b} min_n y_n (w.x_n + b) / ||w||_q = min over alpha of ||sum_n alpha_n y_n x_n||_p,

alpha >= 0 with sum 1 (with an intercept, 1/2 for each class: half the distance of the two convex hulls). It is a
linear program for p = inf and p = 1 and a hard-margin support vector machine for p = 2, and any alpha bounds it from
above: every answer comes with that certificate. For eps below it the adversarial loss has no finite minimum, its
infimum 0 being approached along the maximum-margin direction and others.

Both are solved on a growing set of examples, to which those that its solution treats worst are added until there is
none: exact, since only a few hundred examples touch the margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustscape.linear.logistic import check_labels
from robustscape.linear.norms import Norm, check_norm, dual_norm, size
from robustscape.types import BadInput, Diverged

_ADDED = 200  # examples added to the working set at once
_RECENTRED = 30  # passes that place the origin on the separating plane


def _check_classes(x: Tensor, y: Tensor) -> None:
    check_labels(y, x)
    if bool((y == y[0]).all()):
        raise BadInput(f"all {len(y)} labels are {float(y[0]):g}: two classes are needed")


@dataclass(frozen=True, kw_only=True, eq=False)
class MaximumMargin:
    """The separating plane of largest margin, and the proof that there is no better one.

    Attributes:
        value: Its margin in the unit of x, reached by ``w`` and ``intercept``; 0 where the data are not separable.
        upper: No plane has a larger margin: ``||sum alpha_n y_n x_n||_p``.
        w: (d,), float64, of dual norm 1; 0 where the data are not separable.
        intercept: b, or None where none was asked for.
        alpha: (N,), float64, the certificate: at least 0, sum 1.
        norm: Norm of the perturbations that the margin is measured in.
    """

    value: float
    upper: float
    w: Tensor
    intercept: float | None
    alpha: Tensor
    norm: Norm

    @property
    def gap(self) -> float:
        """How far the margin may be from the largest one, in the unit of x."""
        return self.upper - self.value

    @property
    def separable(self) -> bool:
        """Whether some plane classifies all examples: proven, the plane is ``w``."""
        return self.value > 0


def maximum_margin(x: Tensor, y: Tensor, *, norm: Norm, intercept: bool, tolerance: float = 1e-8) -> MaximumMargin:
    """Return the plane of largest margin.

    Args:
        x: (N, d), finite.
        y: (N,), labels -1 or 1, both there.
        norm: Norm of the perturbations: "linf" and "l1" are solved as linear programs (HiGHS), "l2" as a least
            distance problem by non-negative least squares (Lawson and Hanson 1974, chapter 23), which is the
            hard-margin support vector machine.
        intercept: Whether the plane may miss the origin.
        tolerance: An example is added while it is this much worse than the working set's margin, relative to the
            largest feature; what was reached is in the result's ``gap``.

    Raises:
        BadInput: labels of one class or other than -1 and 1, or features that are not finite.
        Diverged: a solver failed.
    """
    check_norm(norm)
    _check_classes(x, y)
    scale = float(x.abs().max()) or 1.0
    data, labels = (x.double() / scale).cpu().numpy(), y.double().cpu().numpy()
    chosen = _first(data, labels, intercept)
    while True:
        part, signs = data[chosen], labels[chosen]
        w, alpha = _hull(part, signs, intercept) if norm == "l2" else _program(part, signs, norm, intercept)
        w = w / max(float(dual_norm(torch.from_numpy(w), norm)), np.finfo(float).tiny)
        near, b = _reached(part, signs, w, intercept)
        if near <= tolerance:
            break
        behind = near - labels * (data @ w + b)
        behind[chosen] = 0
        worst = np.argsort(-behind, kind="stable")[:_ADDED]
        worst = worst[behind[worst] > tolerance]
        if not len(worst):
            break
        chosen = np.concatenate([chosen, worst])
    spread = np.zeros(len(labels))
    spread[chosen] = _normalised(alpha, signs, intercept)
    upper = scale * float(size(torch.from_numpy((spread * labels) @ data), norm))
    value, b = _reached(data, labels, w, intercept)
    found = value > 0
    return MaximumMargin(
        value=scale * value if found else 0.0,
        upper=upper,
        w=torch.from_numpy(w if found else 0 * w),
        intercept=(scale * b if found else 0.0) if intercept else None,
        alpha=torch.from_numpy(spread),
        norm=norm,
    )


def _first(data: np.ndarray, labels: np.ndarray, intercept: bool) -> np.ndarray:
    """Return the examples to begin with: those that the difference of the class means separates worst."""
    centre = data.mean(axis=0) if intercept else 0.0
    score = labels * ((data - centre) @ (labels @ (data - centre)))
    order = np.argsort(score, kind="stable")
    return np.concatenate([order[labels[order] == sign][: _ADDED // 2] for sign in (-1, 1)])


def _reached(data: np.ndarray, labels: np.ndarray, w: np.ndarray, intercept: bool) -> tuple[float, float]:
    """Return the smallest y (w.x + b) and the b that makes it largest, 0 without an intercept."""
    score = data @ w
    if not intercept:
        return float((labels * score).min()), 0.0
    above, below = score[labels > 0].min(), score[labels < 0].max()
    return float(above - below) / 2, -float(above + below) / 2


def _normalised(alpha: np.ndarray, labels: np.ndarray, intercept: bool) -> np.ndarray:
    """Return multipliers that bound the margin: at least 0, sum 1, half of it for each class with an intercept."""
    alpha = np.clip(alpha, 0, None)
    if not intercept:
        return alpha / alpha.sum() if alpha.sum() > 0 else np.full(len(alpha), 1 / len(alpha))
    halves = np.zeros(len(alpha))
    for mine in (labels > 0, labels < 0):
        total = alpha[mine].sum()
        halves[mine] = alpha[mine] / total / 2 if total > 0 else 0.5 / mine.sum()
    return halves


def _program(data: np.ndarray, labels: np.ndarray, norm: Norm, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return w with ||w||_q <= 1 of largest margin, (d,), and the multipliers of the examples, (M,)."""
    from scipy.optimize import linprog

    M, d = data.shape
    signed = labels[:, None] * data
    free = (None, None) if intercept else (0.0, 0.0)
    if norm == "linf":  # w = p - n, both at least 0, sum at most 1
        rows = np.hstack([-signed, signed, -labels[:, None], np.ones((M, 1))])
        rows = np.vstack([rows, np.concatenate([np.ones(2 * d), np.zeros(2)])])
        limits, bounds = np.append(np.zeros(M), 1.0), [(0.0, None)] * (2 * d)
    else:  # |w_i| <= 1
        rows = np.hstack([-signed, -labels[:, None], np.ones((M, 1))])
        limits, bounds = np.zeros(M), [(-1.0, 1.0)] * d
    aim = np.zeros(rows.shape[1])
    aim[-1] = -1
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    # The margin is at least 0, that of w = 0.
    found = linprog(aim, A_ub=rows, b_ub=limits, bounds=[*bounds, free, (0.0, None)], options=options)
    if found.x is None:
        raise Diverged(f"the linear program of the margin was not solved: {found.message}")
    w = found.x[:d] - found.x[d : 2 * d] if norm == "linf" else found.x[:d]
    return w, -found.ineqlin.marginals[:M]


def _hull(data: np.ndarray, labels: np.ndarray, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return w of largest L2 margin, (d,), up to its length, and the multipliers of the examples, (M,).

    An intercept is solved for as the weight of one more feature, whose cost vanishes once the plane passes the
    origin: the origin is moved there, pass by pass.
    """
    if not intercept:
        w, alpha, _ = _least_distance(labels[:, None] * data)
        return w, alpha
    origin = np.stack([data[labels > 0].mean(axis=0), data[labels < 0].mean(axis=0)]).mean(axis=0)
    w, alpha = np.zeros(data.shape[1]), np.zeros(len(labels))
    for _ in range(_RECENTRED):
        moved = data - origin
        wide = 100 * float(np.linalg.norm(moved, axis=1).max())
        full, alpha, feasible = _least_distance(labels[:, None] * np.pad(moved, ((0, 0), (0, 1)), constant_values=wide))
        w = full[:-1]
        square = float(w @ w)
        if not feasible or square == 0:
            break
        ahead = full[-1] * wide / square
        origin = origin - ahead * w
        if abs(ahead) * square**0.5 <= 1e-13 * wide:
            break
    return w, alpha


def _least_distance(signed: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the w of least length with signed @ w >= 1, its multipliers, and whether there is one."""
    from scipy.optimize import nnls

    system = np.vstack([signed.T, np.ones(len(signed))])
    aim = np.zeros(len(system))
    aim[-1] = 1
    try:
        alpha, _ = nnls(system, aim, maxiter=30 * system.shape[1])
    except RuntimeError as error:
        raise Diverged(f"the support vector machine of the margin was not solved: {error}") from None
    left = 1 - alpha.sum()
    if left <= 1e-14:
        return np.zeros(signed.shape[1]), alpha, False
    return signed.T @ alpha / left, alpha, True


def constant_threshold(x: Tensor, y: Tensor, *, norm: Norm, intercept: bool, weight: Tensor | None = None) -> float:
    """Return the eps from which on w = 0 minimises the adversarial logistic loss, exactly, in the unit of x.

    At w = 0 the adversary's kink, of slope eps mean(s) in the dual norm, stands against the clean gradient:
    ``||mean(y x)||_p`` without an intercept; with one, ``||mu_+ - mu_-||_p / 2`` with mu the class means, whatever
    the classes' sizes (the best intercept, log n_+ / n_-, gives both classes the same sum of s). Without a box; in
    one the threshold is not smaller.

    Args:
        x: (N, d), finite.
        y: (N,), labels -1 or 1, both there.
        norm: Norm of the perturbations.
        intercept: Whether the model has one, without a penalty.
        weight: (N,), how much each example counts, at least 0; None for all alike.

    Raises:
        BadInput: labels of one class or other than -1 and 1, or features that are not finite.
    """
    check_norm(norm)
    _check_classes(x, y)
    share = torch.ones_like(x[:, 0]) if weight is None else weight.to(x)
    if not intercept:
        return float(size((share * y.to(x)) @ x / share.sum(), norm))
    above, below = (share * (y == sign) for sign in (1, -1))
    return float(size(above @ x / above.sum() - below @ x / below.sum(), norm)) / 2
