"""The quadratic program of a Newton step: a convex quadratic over the cone ||w||_q <= r, to the last digits.

Points are z = (w, r, b), (d + 2,). The optimum lies inside one face of the cone (which weights are 0 under linf, which
are as large as r under l1, with which signs), where it solves linear equations. The face is guessed and the guess
improved by the projection of a gradient step; where that does not settle, alternating directions
(ADMM, Boyd et al. 2011, https://doi.org/10.1561/2200000016, section 5) give the next guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustscape.linear.cones import in_cone, length
from robustscape.linear.norms import Norm, P

_GUESSES = 4  # faces tried by gradient steps before alternating directions
_ROUNDS = 40
_SWEEPS = 25  # of alternating directions between two tries
_RELAXED = 1.6


@dataclass(frozen=True, kw_only=True, eq=False)
class Face:
    """The points z with z[keep] = t and z = 0 elsewhere, plus p (q.t).

    Attributes:
        keep: Coordinates that are free.
        p: (d + 2,), what moves with them.
        q: (len(keep),), how much.
    """

    keep: np.ndarray
    p: np.ndarray
    q: np.ndarray

    def spread(self, t: np.ndarray) -> np.ndarray:
        """Return z for t."""
        z = self.p * (self.q @ t)
        z[self.keep] += t
        return z


def face(z: np.ndarray, norm: Norm, *, intercept: bool, flat: bool = False) -> Face:
    """Return the face of the cone that z is in.

    Args:
        z: (d + 2,), on the cone's surface.
        norm: Norm of the perturbation; under l2 the cone is round, and this is the plane that touches it.
        intercept: Whether b is free.
        flat: Whether r plays no part (eps = 0): w is free.
    """
    d = len(z) - 2
    w, r = z[:d], z[d]
    p, last = np.zeros(d + 2), np.arange(d + 1, d + 1 + intercept)
    if flat or norm == "l2":
        p[d] = 1
        size = 0.0 if flat else float(np.linalg.norm(w))
        slope = w / size if size > 0 else 0 * w
        return Face(keep=np.concatenate([np.arange(d), last]), p=p, q=np.append(slope, last * 0.0))
    if norm == "linf":
        p[d] = 1
        free = np.flatnonzero(w)
        return Face(keep=np.concatenate([free, last]), p=p, q=np.append(np.sign(w[free]), last * 0.0))
    bound = np.abs(w) >= r * (1 - 1e-13)
    p[:d] = np.sign(w) * bound
    free = np.append(np.flatnonzero(~bound), d) if r > 0 else np.array([], dtype=int)
    keep = np.concatenate([free, last])
    return Face(keep=keep, p=p, q=(keep == d).astype(float))


def on_face(hessian: np.ndarray, g: np.ndarray, at: Face, bent: np.ndarray | None = None) -> np.ndarray:
    """Return t that minimises t'Ht / 2 + g.t along a face, with an extra curvature ``bent`` of t, (k, k)."""
    reduced = hessian[np.ix_(at.keep, at.keep)]
    if at.q.any():
        moved = hessian @ at.p
        kept = moved[at.keep]
        reduced += np.outer(kept, at.q) + np.outer(at.q, kept) + float(at.p @ moved) * np.outer(at.q, at.q)
    if bent is not None:
        reduced += bent
    return solved(reduced, -(g[at.keep] + at.q * float(at.p @ g)))


def solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the solution of positive semidefinite equations; where they are singular, of ones a little larger."""
    from scipy.linalg import cho_solve

    if not len(right):
        return right
    factor = _factored(matrix)
    return np.linalg.lstsq(matrix, right)[0] if factor is None else cho_solve(factor, right, check_finite=False)


def _factored(matrix: np.ndarray) -> tuple[np.ndarray, bool] | None:
    """Return the Cholesky factor, of a matrix a little larger where that is singular; None if that is not enough."""
    from scipy.linalg import LinAlgError, cho_factor

    scale = float(np.abs(np.diag(matrix)).max()) or 1.0
    for more in (0.0, 1e-14, 1e-12, 1e-10, 1e-8):
        try:
            return cho_factor(matrix + more * scale * np.eye(len(matrix)), check_finite=False)
        except LinAlgError:
            continue
    return None


def cone_minimum(hessian: np.ndarray, g: np.ndarray, start: np.ndarray, norm: Norm, *, intercept: bool) -> np.ndarray:
    """Return the z with ||w||_q <= r that minimises z'Hz / 2 + g.z, (d + 2,).

    Args:
        hessian: H, (d + 2, d + 2), positive semidefinite.
        g: (d + 2,).
        start: A point of the cone to begin at.
        norm: "linf" or "l1".
        intercept: Whether b is free; it stays 0 otherwise.
    """
    d = len(g) - 2
    rho = float(np.diag(hessian)[:d].mean()) or 1.0
    z, u = start, -(hessian @ start + g) / rho
    for _ in range(_ROUNDS):
        guess = z
        for _ in range(_GUESSES):
            at = face(guess, norm, intercept=intercept)
            found = at.spread(on_face(hessian, g, at))
            slope = hessian @ found + g
            if _optimal(found, slope, norm):
                return found
            guess = _projected(found - slope / rho, norm)
        z, u, rho = _sweeps(hessian, g, z, u, rho, norm, intercept)
    return z


def _optimal(z: np.ndarray, slope: np.ndarray, norm: Norm) -> bool:
    """Return whether z is in the cone and the slope in its dual one, up to rounding."""
    d = len(z) - 2
    inside = float(length(z[:d], norm)) <= z[d] * (1 + 1e-12) + 1e-300
    scale = max(float(np.abs(slope[:d]).max()), abs(float(slope[d])))
    return inside and float(np.linalg.norm(slope[:d], ord=P[norm])) <= slope[d] + 1e-11 * scale


def _projected(z: np.ndarray, norm: Norm) -> np.ndarray:
    d = len(z) - 2
    w, r = in_cone(z[:d], float(z[d]), norm)
    return np.concatenate([w, [r, z[d + 1]]])


def _sweeps(
    hessian: np.ndarray, g: np.ndarray, z: np.ndarray, u: np.ndarray, rho: float, norm: Norm, intercept: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return z, in the cone, and the scaled multipliers after some sweeps, and the weight for the next ones."""
    from scipy.linalg import cho_solve

    u = u.copy()
    u[-1] = 0
    count = len(g) - (not intercept)
    weight = np.append(np.full(count - intercept, rho), [1e-9 * rho] * intercept)
    factor = _factored(hessian[:count, :count] + np.diag(weight))
    if factor is None:
        return z, u / 10, 10 * rho
    y = before = z
    for _ in range(_SWEEPS):
        before = z
        y = np.zeros_like(z)
        y[:count] = cho_solve(factor, weight * (z - u)[:count] - g[:count], check_finite=False)
        mixed = _RELAXED * y + (1 - _RELAXED) * z
        mixed[-1] = y[-1]
        z = _projected(mixed + u, norm)
        u = u + mixed - z
    primal, dual = float(np.linalg.norm(y - z)), float(np.linalg.norm(z - before))
    ratio = np.sqrt(max(primal, 1e-300) / max(dual, 1e-300))
    if 0.3 < ratio < 3:
        return z, u, rho
    ratio = float(np.clip(ratio, 0.1, 10))
    return z, u / ratio, rho * ratio
