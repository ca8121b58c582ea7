"""Robust logistic regression of several classes at once, by the class-wise bound of ``bracket``.

    F(W, b) = sum_n c_n log(1 + sum_{j != y} exp((w_j - w_y).x_n + b_j - b_y + eps ||w_j - w_y||_q)) + ridge ||W||^2 / 2

is convex. The norms are smoothed, ||v||_q becoming the largest delta.v - mu ||delta||_2^2 / 2 over ||delta||_p <= 1
(Nesterov 2005, https://doi.org/10.1007/s10107-004-0552-5), and mu is lowered, L-BFGS starting each time from where it
was, until the duality gap is small.

The certificate: for the shares a_nj of the classes at a point, and any delta_jk = -delta_kj in the ball, no F is below

    sum_n c_n H(a_n / c_n) - ||G||^2 / (2 ridge),

G the derivative by W of the loss with these held, if that by b is 0. What rounding leaves of that, and without a ridge
G itself, is charged for weights and intercepts of up to ten times the size found.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robustscape.linear.balance import least_subgradient
from robustscape.linear.certificate import REACH
from robustscape.linear.cones import in_ball, length
from robustscape.linear.norms import Norm
from robustscape.linear.objective import Matrix, pulled

_STAGES = 16  # values of mu at most
_FIRST = 0.1  # what the first one may change F by, as a fraction of its value at W = 0
_LOWERED = 0.2  # from one to the next
_EXACT = 0.03  # how far each is solved, as a fraction of what its mu may change
_CORRECTIONS = 20  # pairs that L-BFGS remembers
_ROUNDING = 1e-10  # of the sum of all features' magnitudes: a derivative of that size counts as 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Classwise:
    """A data set of K classes, a threat and a ridge.

    Attributes:
        x: (N, d), float64, dense or sparse.
        y: (N,), integers in [0, classes).
        classes: K, at least 2; each of them has examples.
        cost: c, (N,), above 0.
        ridge: Coefficient of ||W||^2 / 2, 1 or 0.
        norm: Norm of the perturbation.
        eps: Its largest size, at least 0.
        intercept: Whether there is a b.
        first: j of every pair of classes j < k, (K (K - 1) / 2,).
        second: k of every pair.
    """

    x: Matrix
    y: np.ndarray
    classes: int
    cost: np.ndarray
    ridge: float
    norm: Norm
    eps: float
    intercept: bool
    first: np.ndarray = field(init=False)
    second: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Number the pairs."""
        first, second = np.triu_indices(self.classes, 1)
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "second", second)

    def rises(self, w: np.ndarray, mu: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the smoothed norm of every pair's w_j - w_k and its delta, (pairs, d); mu = 0 gives the norm."""
        v = w[self.first] - w[self.second]
        if mu == 0:
            return length(v, self.norm), np.zeros_like(v)
        delta = in_ball(v / mu, 1.0, self.norm)
        return (v * delta).sum(axis=1) - mu / 2 * (delta * delta).sum(axis=1), delta

    def gaps(self, w: np.ndarray, b: np.ndarray, rises: np.ndarray) -> np.ndarray:
        """Return logit_j - logit_y at each class's own worst input, (N, K), 0 at j = y."""
        z = np.asarray(self.x @ w.T) + b
        table = np.zeros((self.classes, self.classes))
        table[self.first, self.second] = table[self.second, self.first] = self.eps * rises
        return z - z[np.arange(len(z)), self.y][:, None] + table[self.y]

    def value(self, w: np.ndarray, b: np.ndarray) -> float:
        """Return F."""
        from scipy.special import logsumexp

        gaps = self.gaps(w, b, self.rises(w, 0)[0])
        return float(self.cost @ logsumexp(gaps, axis=1)) + self.ridge / 2 * float((w * w).sum())

    def loss(self, w: np.ndarray, b: np.ndarray, mu: float) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Return the smoothed loss, its derivatives by W, (K, d), and b, (K,), and the shares a, (N, K)."""
        from scipy.special import logsumexp

        rises, delta = self.rises(w, mu)
        gaps = self.gaps(w, b, rises)
        logs = np.asarray(logsumexp(gaps, axis=1))
        a = self.cost[:, None] * np.exp(gaps - logs[:, None])
        pull = a.copy()
        pull[np.arange(len(a)), self.y] -= self.cost
        slope = pulled(self.x, np.ascontiguousarray(pull.T))
        charge = self.eps * self.masses(a)[:, None] * delta
        np.add.at(slope, self.first, charge)
        np.add.at(slope, self.second, -charge)
        return float(self.cost @ logs), slope, pull.sum(axis=0), a

    def masses(self, a: np.ndarray) -> np.ndarray:
        """Return the sum of the shares that examples of either class of a pair give to the other, (pairs,)."""
        by_class = np.zeros((self.classes, self.classes))
        np.add.at(by_class, self.y, a)
        return (by_class + by_class.T)[self.first, self.second]

    def bound(self, w: np.ndarray, b: np.ndarray, mu: float) -> float:
        """Return a number that no F is below, best for the mu that W was found with."""
        from scipy.special import entr

        _, slope, tilt, a = self.loss(w, b, mu)
        entropy = float(self.cost @ entr(a / self.cost[:, None]).sum(axis=1))
        tilted = float(np.abs(tilt).sum()) * REACH * (1 + float(np.abs(b).max())) * self.intercept
        if self.ridge:
            paid = float((slope * slope).sum()) / (2 * self.ridge)
        else:
            paid = float(np.linalg.norm(slope)) * self.reach(w)
        return entropy - paid - tilted

    def reach(self, w: np.ndarray) -> float:
        """Return the size of the weights up to which the bound without a ridge holds."""
        unit = 1 / (float(abs(self.x).max()) or 1.0)
        return REACH * max(float(np.linalg.norm(w)), unit)

    def separates(self, w: np.ndarray, b: np.ndarray) -> bool:
        """Return whether no input of any example's threat is misclassified."""
        gaps = self.gaps(w, b, self.rises(w, 0)[0])
        gaps[np.arange(len(gaps)), self.y] = -np.inf
        return bool((gaps < 0).all())


@dataclass(frozen=True, kw_only=True, eq=False)
class ClasswiseSolution:
    """Where a solve ended.

    Attributes:
        w: W, (K, d).
        b: (K,), of mean 0; 0 where there is no intercept.
        value: F there.
        gap: How far F is above its minimum at most.
        iterations: Steps of L-BFGS.
        outcome: As in ``solve.Solution``; "constant" where no W is better than 0, which W is then.
    """

    w: np.ndarray
    b: np.ndarray
    value: float
    gap: float
    iterations: int
    outcome: str


def solve_classwise(
    problem: Classwise, *, start: tuple[np.ndarray, np.ndarray] | None = None, tolerance: float, steps: int
) -> ClasswiseSolution:
    """Minimise F.

    Args:
        problem: F.
        start: W and b to begin at; by default the best constant classifier.
        tolerance: Gap at which to stop, as a fraction of F.
        steps: Most steps.
    """
    constant = _constant(problem)
    at_zero = problem.value(*constant)
    if problem.eps and _constant_is_best(problem, *constant):
        return ClasswiseSolution(w=constant[0], b=constant[1], value=at_zero, gap=0.0, iterations=0, outcome="constant")
    w, b = constant if start is None else start
    least, taken, outcome = 0.0, 0, "unfinished"  # no F is below 0
    best, value = (w, b), problem.value(w, b)
    widest = problem.x.shape[1] if problem.norm == "linf" else 1
    change = _FIRST * at_zero if problem.eps else 0.0
    for _ in range(_STAGES):
        mu = change / (problem.eps * widest * float(problem.cost.sum())) if problem.eps else 0.0
        w, b, more = _descended(problem, w, b, mu, steps - taken, max(tolerance * value, _EXACT * change))
        taken, now = taken + more, problem.value(w, b)
        # The best weights and the best bound need not be of the same mu.
        least = max(least, problem.bound(w, b, mu))
        best, value = ((w, b), now) if now < value else (best, value)
        if problem.ridge == 0 and problem.separates(w, b):
            best, value, least, outcome = (w, b), now, 0.0, "separable"
        elif value - least <= tolerance * value:
            outcome = "optimal"
        if outcome != "unfinished" or taken >= steps:
            break
        change *= _LOWERED
    gap = max(0.0, value - least)
    return ClasswiseSolution(w=best[0], b=best[1], value=value, gap=gap, iterations=taken, outcome=outcome)


def _constant(problem: Classwise) -> tuple[np.ndarray, np.ndarray]:
    w, b = np.zeros((problem.classes, problem.x.shape[1])), np.zeros(problem.classes)
    if problem.intercept:
        logs = np.log(np.bincount(problem.y, weights=problem.cost, minlength=problem.classes))
        b = logs - logs.mean()
    return w, b


def _constant_is_best(problem: Classwise, w: np.ndarray, b: np.ndarray) -> bool:
    """Return whether 0 is a derivative by W at the best constant classifier, up to rounding."""
    _, slope, _, a = problem.loss(w, b, 0)
    small = _ROUNDING * float(problem.cost @ np.asarray(abs(problem.x).sum(axis=1)).ravel())
    room = problem.eps * problem.masses(a)
    left = least_subgradient(slope, problem.first, problem.second, room, problem.norm, small)
    return float(np.linalg.norm(left)) <= small


def _descended(
    problem: Classwise, w: np.ndarray, b: np.ndarray, mu: float, steps: int, allowed: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return W and b at which L-BFGS ends for one mu, and its steps; the bound may lose about ``allowed`` by it."""
    from scipy.optimize import minimize

    shape, K = w.shape, problem.classes

    def smoothed(flat: np.ndarray) -> tuple[float, np.ndarray]:
        now = flat[:-K].reshape(shape)
        loss, slope, tilt, _ = problem.loss(now, flat[-K:], mu)
        slope = slope + problem.ridge * now
        return loss + problem.ridge / 2 * float((now * now).sum()), np.append(slope, tilt * problem.intercept)

    options = {"maxiter": max(steps, 1), "maxfun": 10 * max(steps, 1), "maxcor": _CORRECTIONS}
    largest = allowed**0.5 if problem.ridge else allowed / problem.reach(w)  # what it may leave of a slope
    options |= {"ftol": 1e-15, "gtol": 0.5 * largest / w.size**0.5}
    found = minimize(smoothed, np.append(w, b), jac=True, method="L-BFGS-B", options=options)
    w, b = found.x[:-K].reshape(shape), found.x[-K:]
    if problem.intercept:
        b = _centred(problem, w, b, mu)
    return w, b, int(found.nit)


def _centred(problem: Classwise, w: np.ndarray, b: np.ndarray, mu: float) -> np.ndarray:
    """Return the best b for W, by Newton steps that are kept while they help: the bound wants its derivative at 0."""
    best, tilt, a = b, *_tilt(problem, w, b, mu)
    for _ in range(20):
        hessian = np.diag(a.sum(axis=0)) - (a / problem.cost[:, None]).T @ a
        tried = best - np.linalg.lstsq(hessian, tilt, rcond=1e-12)[0]
        moved, shares = _tilt(problem, w, tried, mu)
        if not np.abs(moved).sum() < np.abs(tilt).sum():
            break
        best, tilt, a = tried, moved, shares
    return best - best.mean()


def _tilt(problem: Classwise, w: np.ndarray, b: np.ndarray, mu: float) -> tuple[np.ndarray, np.ndarray]:
    _, _, tilt, a = problem.loss(w, b, mu)
    return tilt, a
