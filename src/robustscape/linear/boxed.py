"""Linear scores under L-infinity inside the pixel box: the best one by loss, certified, and by accuracy, searched for.

With w = p - n, p and n at least 0, and low and up the ends of each pixel's interval max(x - eps, 0) to
min(x + eps, 1), the smallest y w.x' over ball and box is

    p.low - n.up for y = 1,    n.low - p.up for y = -1,

linear in v = (p, n). Where p_i and n_i are both above 0 it is smaller than without what they share, so the minimum of
a falling function of these margins over v >= 0 is that over w. No adversary has to be run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from robustscape.linear.certificate import REACH
from robustscape.linear.logistic import check_labels
from robustscape.linear.norms import check_box, check_eps

_STEPS = 3000
_PENALTIES = tuple(10.0 ** (-place / 2) for place in range(4, 15))  # of the search, each from where the last ended
_SEARCHED = 100  # steps for each

_Function: TypeAlias = Callable[[np.ndarray], tuple[float, np.ndarray]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxed:
    """Where the minimisation of the adversarial loss in ball and box ended.

    Attributes:
        w: (d,), float64.
        loss: Mean worst-case loss there, nats per example, exact.
        gap: How far it is above its minimum at most, among all weights of up to ten times the size, or of size ten
            where that is more, in the L1 norm (in ``boxed_l2`` the L2 norm); at most the loss itself, which is nowhere
            below 0.
        separates: Whether no input of any ball in the box is misclassified: then there is no minimum.
    """

    w: Tensor
    loss: float
    gap: float
    separates: bool


def worst_features(x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    """Return what the worst margins are linear in, (N, 2d): ``worst_features @ [p, n]`` are they, w = p - n.

    Args:
        x: (N, d), float32 or float64, in [0, 1].
        y: (N,), labels -1 or 1.
        eps: Radius of the L-infinity ball, at least 0.

    Raises:
        BadInput: labels, inputs or an eps that cannot be meant.
    """
    check_labels(y, x)
    check_box((0.0, 1.0), x)
    check_eps(eps, x)
    low, up, above = (x - eps).clamp(min=0), (x + eps).clamp(max=1), (y > 0)[:, None]
    return torch.cat([torch.where(above, low, -up), torch.where(above, -up, low)], dim=1)


def minimum(x: Tensor, y: Tensor, *, eps: float) -> Boxed:
    """Minimise the adversarial logistic loss in ball and box over all w, without an intercept, by L-BFGS on v >= 0.

    The gap is that to the dual: for 0 <= a_n <= 1/N whose features sum to at most 0 everywhere, no loss is below the
    mean entropy of the coins N a_n.

    Args:
        x: As in ``worst_features``.
        y: As there.
        eps: As there.

    Raises:
        BadInput: as there.
    """
    from scipy.special import entr, expit

    z, used = _useful(worst_features(x.double(), y, eps=eps))

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        margin = z @ v
        return float(np.logaddexp(0, -margin).mean()), -(expit(-margin) @ z) / len(z)

    v = _descended(loss, np.zeros(z.shape[1]), steps=_STEPS)
    value, slope = loss(v)
    wrong = expit(-(z @ v))
    reach = REACH * max(float(v.sum()), 1.0)
    bound = float((entr(wrong) + entr(1 - wrong)).mean()) - reach * float((-slope).max(initial=0.0))
    separates = bool((z @ v > 0).all())
    return Boxed(w=_weights(v, used), loss=value, gap=min(value, max(0.0, value - bound)), separates=separates)


def searched(x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    """Look for the w, (d,), of most robust examples in ball and box: no certificate, others may be better.

    The mean of 1 / (1 + exp(margin)), a smooth count of errors once w is large, is lowered with a ridge that is
    taken away step by step.

    Args:
        x: As in ``worst_features``.
        y: As there.
        eps: As there.

    Raises:
        BadInput: as there.
    """
    from scipy.special import expit

    z, used = _useful(worst_features(x.double(), y, eps=eps))
    v = np.full(z.shape[1], 0.01)
    for penalty in _PENALTIES:

        def errors(v: np.ndarray, penalty: float = penalty) -> tuple[float, np.ndarray]:
            wrong = expit(-(z @ v))
            slope = -((wrong * (1 - wrong)) @ z) / len(z) + penalty * v
            return float(wrong.mean()) + penalty * float(v @ v) / 2, slope

        v = _descended(errors, v, steps=_SEARCHED)
    return _weights(v, used)


def _useful(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the features that are above 0 somewhere, and which they are: a weight on any other only costs."""
    z = features.numpy()
    used = np.asarray((z > 0).any(axis=0))
    return np.ascontiguousarray(z[:, used]), used


def _weights(v: np.ndarray, used: np.ndarray) -> Tensor:
    whole = np.zeros(len(used))
    whole[used] = v
    p, n = np.split(whole, 2)
    return torch.from_numpy(p - n)


def _descended(function: _Function, v: np.ndarray, *, steps: int) -> np.ndarray:
    """Return where L-BFGS ends from v with all entries at least 0."""
    from scipy.optimize import Bounds, minimize

    if not len(v):
        return v
    options = {"maxiter": steps, "maxcor": 20, "ftol": 0.0, "gtol": 1e-9}
    return minimize(function, v, jac=True, method="L-BFGS-B", bounds=Bounds(0, np.inf), options=options).x
