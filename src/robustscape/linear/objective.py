"""The objective of robust logistic regression and the dual bound that says how far a point is from its minimum.

    F(w, b) = sum_n c_n log(1 + exp(-y_n (w.x_n + b) + eps ||w||_q)) + ridge ||w||_2^2 / 2.

For any a with 0 <= a_n <= c_n (and sum a_n y_n = 0 with an intercept), g = sum a_n y_n x_n and A = sum a_n, no F is
below the dual

    D(a) = sum_n c_n H(a_n / c_n) - dist(g, {||u||_p <= eps A})^2 / (2 ridge),

H the entropy of a coin in nats. Without a ridge the distance must be 0. Where it is not quite, the bound is made for
all weights of ||w||_q <= R instead, with - R (||g||_p - eps A) in its place; R is ten times the norm of the point, or
ten over the largest feature where that is more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from robustscape.linear.certificate import REACH
from robustscape.linear.cones import in_ball, length
from robustscape.linear.norms import Norm, P

Matrix: TypeAlias = Any
"""Features, (N, d), float64: an array or a scipy.sparse matrix in rows (CSR)."""


def pulled(x: Matrix, weights: np.ndarray) -> np.ndarray:
    """Return weights @ x, (M, d), for weights of (M, N)."""
    return weights @ x if isinstance(x, np.ndarray) else np.asarray((x.T @ weights.T).T)


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """A data set, a threat and a ridge: F as a function of w and b.

    Attributes:
        x: (N, d), float64, dense or sparse.
        y: (N,), -1.0 or 1.0.
        cost: c, (N,), above 0.
        ridge: Coefficient of ||w||^2 / 2, 1 or 0.
        norm: Norm of the perturbation.
        eps: Its largest size, at least 0.
        intercept: Whether there is a b.
    """

    x: Matrix
    y: np.ndarray
    cost: np.ndarray
    ridge: float
    norm: Norm
    eps: float
    intercept: bool

    @cached_property
    def unit(self) -> float:
        """Size of weights that are not small: one over the largest feature."""
        return 1 / (float(abs(self.x).max()) or 1.0)

    @cached_property
    def used(self) -> np.ndarray:
        """Whether each feature differs from 0 in some example, (d,), bool."""
        x = self.x
        if isinstance(x, np.ndarray):
            return np.asarray(x.any(axis=0))
        return np.bincount(x.indices, minlength=x.shape[1]) > 0

    @cached_property
    def squares(self) -> np.ndarray:
        """Squared L2 norms of the examples, (N,)."""
        x = self.x
        return np.einsum("nd,nd->n", x, x) if isinstance(x, np.ndarray) else np.asarray(x.multiply(x).sum(1)).ravel()

    def at(self, w: np.ndarray, b: float, score: np.ndarray | None = None) -> Point:
        """Return the point w, (d,), and b; ``score`` is x @ w + b where it is at hand."""
        score = np.asarray(self.x @ w + b) if score is None else score
        rise = self.eps * float(length(w, self.norm))
        return Point(problem=self, w=w, b=b, score=score, exponent=rise - self.y * score)

    def constant(self) -> Point:
        """Return the best point with w = 0."""
        above, below = float(self.cost[self.y > 0].sum()), float(self.cost[self.y < 0].sum())
        b = float(np.log(above / below)) if self.intercept else 0.0
        return self.at(np.zeros(self.x.shape[1]), b)

    def threshold(self) -> float:
        """Return the eps from which on w = 0 is best: see ``separability.constant_threshold``."""
        point = self.constant()
        above, below = point.masses
        return float(np.linalg.norm(point.pulls @ np.array([1, -1]), ord=P[self.norm])) / (above + below)

    def thinned(self, every: int) -> Objective:
        """Return the same objective on every so manieth example, each counting for those left out."""
        rows = np.concatenate([np.flatnonzero(self.y == sign)[::every] for sign in (-1, 1)])
        cost = self.cost[rows] * (self.cost.sum() / self.cost[rows].sum())
        kept = {"ridge": self.ridge, "norm": self.norm, "eps": self.eps, "intercept": self.intercept}
        return Objective(x=self.x[rows], y=self.y[rows], cost=cost, **kept)


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """The objective at one w and b. ``Objective.at`` makes it.

    Attributes:
        problem: The objective.
        w: (d,).
        b: Intercept, 0 where there is none.
        score: (N,), x @ w + b.
        exponent: (N,), minus the worst-case margin: below 0 where no input of the threat is misclassified.
    """

    problem: Objective
    w: np.ndarray
    b: float
    score: np.ndarray
    exponent: np.ndarray

    @cached_property
    def value(self) -> float:
        """F here."""
        cost, ridge = self.problem.cost, self.problem.ridge
        return float(cost @ np.logaddexp(0, self.exponent)) + ridge * float(self.w @ self.w) / 2

    @cached_property
    def s(self) -> np.ndarray:
        """Probability of the wrong class at the worst input, (N,)."""
        from scipy.special import expit

        return expit(self.exponent)

    @cached_property
    def pulls(self) -> np.ndarray:
        """Sums of c_n s_n x_n over the examples of label 1 and of label -1, (d, 2)."""
        a = self.problem.cost * self.s
        above = self.problem.y > 0
        return pulled(self.problem.x, np.stack([a * above, a * ~above])).T

    @cached_property
    def masses(self) -> tuple[float, float]:
        """Sums of c_n s_n over the examples of label 1 and of label -1."""
        a, above = self.problem.cost * self.s, self.problem.y > 0
        return float(a[above].sum()), float(a[~above].sum())

    def gradient(self) -> np.ndarray:
        """Return the gradient with respect to w, r and b, (d + 2,), r standing for ||w||_q."""
        above, below = self.masses
        slope = self.problem.ridge * self.w - self.pulls[:, 0] + self.pulls[:, 1]
        return np.append(slope, [self.problem.eps * (above + below), below - above])

    @cached_property
    def gap(self) -> float:
        """How far F is above its minimum at most, from 0 to F, which has no values below 0."""
        return min(self.value, max(0.0, self.value - self._dual()))

    @property
    def separates(self) -> bool:
        """Whether no input of any example's threat is misclassified: without a ridge there is no minimum then."""
        return bool((self.exponent < 0).all())

    def _dual(self) -> float:
        from scipy.special import entr

        p, (above, below) = self.problem, self.masses
        # The class of larger mass gives way, so that the masses agree.
        least = min(above, below)  # 0 where all of them are too small for a float
        shares = (least and least / above, least and least / below) if p.intercept else (1.0, 1.0)
        share = np.where(p.y > 0, *shares) * self.s
        g = self.pulls @ np.array([shares[0], -shares[1]])
        radius = p.eps * (shares[0] * above + shares[1] * below)
        rest = np.where(share == self.s, 1 - self.s, 1 - share)
        entropy = float(p.cost @ (entr(share) + entr(rest)))
        if p.ridge:
            beyond = g - in_ball(g, radius, p.norm)
            return entropy - float(beyond @ beyond) / (2 * p.ridge)
        reach = REACH * max(float(length(self.w, p.norm)), p.unit)
        return entropy - reach * max(0.0, float(np.linalg.norm(g, ord=P[p.norm])) - radius)
