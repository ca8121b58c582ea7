"""Linear classifiers of any number of classes: what is exact under attack, and what can only be bracketed.

The logits are W x + b. Whether an input of the threat is misclassified is exact: class j wins somewhere exactly if
its worst gap, the largest value of logit_j - logit_y inside the threat, is above 0, and that is the adversary of one
linear score,

    gap_j = (w_j - w_y).x + b_j - b_y + rise of (w_j - w_y),   eps ||w_j - w_y||_q without a box.

The worst-case cross-entropy has no closed form for more than two classes, since it is the maximum of a convex
function, and is bracketed: see ``bracket``.

A binary model w, b with labels -1 and 1 is W = [0, w], b = [0, b] with labels 0 and 1.

Deviations:
    Liu 2020 (https://arxiv.org/abs/2006.08403), Theorem 1, bounds the eps beyond which no model beats the constant
    one by (log(K - 1) - (w_m - w_y).x) / ||w_m - w_y||_q, which depends on W and grows without limit as W shrinks.
    The set T_eps has a closed form, see ``constant_along``, and the exact bound for one example is ||x||_p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustscape.linear.adversary import least_eps, worst_perturbation, worst_rise
from robustscape.linear.norms import Box, Norm, check_box, check_eps, check_norm, dual_norm
from robustscape.types import BadInput


def check_classifier(weights: Tensor, x: Tensor, y: Tensor, intercept: Tensor | None) -> None:
    """Refuse a classifier or labels that cannot be meant.

    Raises:
        BadInput: shapes that do not fit, fewer than two classes, labels outside [0, K), mixed or other dtypes.
    """
    if weights.ndim != 2 or x.ndim != 2 or weights.shape[1] != x.shape[1] or len(weights) < 2:
        raise BadInput(f"weights of shape {tuple(weights.shape)}, (K, d) with K >= 2, do not fit x {tuple(x.shape)}")
    if intercept is not None and intercept.shape != (len(weights),):
        raise BadInput(f"an intercept of shape {tuple(intercept.shape)} came with {len(weights)} classes")
    if x.dtype not in (torch.float32, torch.float64) or x.dtype != weights.dtype:
        raise BadInput(f"x and weights must both be float32 or both float64, not {x.dtype} and {weights.dtype}")
    if y.shape != (len(x),) or y.dtype.is_floating_point:
        raise BadInput(
            f"labels of shape {tuple(y.shape)} and {y.dtype} came with {len(x)} examples; integers are meant"
        )
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(weights):
        raise BadInput(f"labels reach from {int(y.min())} to {int(y.max())}, but there are {len(weights)} classes")


def logits(weights: Tensor, x: Tensor, intercept: Tensor | None = None) -> Tensor:
    """Return W x + b, (N, K)."""
    return x @ weights.T if intercept is None else x @ weights.T + intercept


def _clean_gaps(weights: Tensor, x: Tensor, y: Tensor, intercept: Tensor | None) -> Tensor:
    """Return logit_j - logit_y, (N, K), -inf at j = y."""
    z = logits(weights, x, intercept)
    own = y.long()[:, None]
    return (z - z.gather(1, own)).scatter(1, own, -torch.inf)


def worst_gaps(
    weights: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float | Tensor,
    box: Box | None = None,
    intercept: Tensor | None = None,
) -> Tensor:
    """Return the largest logit_j - logit_y inside the threat for every class j, (N, K), exact; -inf at j = y.

    Args:
        weights: W, (K, d), float32 or float64.
        x: (N, d), of the same dtype.
        y: (N,), labels, integers in [0, K).
        norm: Which p measures the perturbation.
        eps: Its largest size, one number or (N,), at least 0.
        box: (low, high) that perturbed inputs stay in; None for none.
        intercept: b, (K,); None for none.

    Raises:
        BadInput: arguments that cannot be meant.
    """
    check_classifier(weights, x, y, intercept)
    check_norm(norm)
    check_box(box, x)
    radius, y = check_eps(eps, x), y.long()
    gaps = _clean_gaps(weights, x, y, intercept)
    if box is None:
        rises = dual_norm(weights[:, None] - weights[None], norm)
        return gaps + radius[:, None] * rises[y]
    for j in range(len(weights)):
        for rows, toward in pairs(weights, y, j):
            gaps[rows, j] += worst_rise(toward, x[rows], norm=norm, eps=radius[rows], box=box)
    return gaps


def pairs(weights: Tensor, y: Tensor, j: int) -> list[tuple[Tensor, Tensor]]:
    """Return, for each other class that has examples, their rows and w_j - w_y."""
    found = [(int(k), (y == k).nonzero().flatten()) for k in y.unique().tolist() if k != j]
    return [(rows, weights[j] - weights[k]) for k, rows in found]


def robust(
    weights: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float | Tensor,
    box: Box | None = None,
    intercept: Tensor | None = None,
) -> Tensor:
    """Return whether no input of the threat is misclassified, (N,), bool, exact; a tie counts as misclassified.

    The mean is the exact robust accuracy. Arguments as in ``worst_gaps``.

    Raises:
        BadInput: as there.
    """
    gaps = worst_gaps(weights, x, y, norm=norm, eps=eps, box=box, intercept=intercept)
    return gaps.amax(dim=1) < 0


def worst_margin_input(
    weights: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float | Tensor,
    box: Box | None = None,
    intercept: Tensor | None = None,
) -> Tensor:
    """Return the x_adv of smallest margin, (N, d): the exact attack. Arguments as in ``worst_gaps``.

    Raises:
        BadInput: as there.
    """
    gaps = worst_gaps(weights, x, y, norm=norm, eps=eps, box=box, intercept=intercept)
    toward = weights[gaps.argmax(dim=1)] - weights[y.long()]
    x_adv = x + worst_perturbation(toward, x, norm=norm, eps=eps, box=box)
    return x_adv if box is None else x_adv.clamp(*box)


def largest_eps(
    weights: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    box: Box | None = None,
    intercept: Tensor | None = None,
) -> Tensor:
    """Return the distance of each example to the nearest misclassified input, (N,), exact.

    Every smaller eps leaves the example safe. 0 where it is misclassified already, inf where no input (of the box)
    is misclassified. Exact in the box too: the break points of ``box.reach`` are solved, nothing is bisected.

    Args:
        weights: W, (K, d).
        x: (N, d).
        y: (N,), labels.
        norm: Which p measures the distance.
        box: (low, high) that perturbed inputs stay in; None for none.
        intercept: b, (K,); None for none.

    Raises:
        BadInput: arguments that cannot be meant.
    """
    check_classifier(weights, x, y, intercept)
    y = y.long()
    gaps = _clean_gaps(weights, x, y, intercept)
    nearest = torch.full_like(gaps[:, 0], torch.inf)
    for j in range(len(weights)):
        for rows, toward in pairs(weights, y, j):
            found = least_eps(toward, x[rows], -gaps[rows, j], norm=norm, box=box)
            nearest[rows] = torch.minimum(nearest[rows], found)
    return nearest


def constant_along(weights: Tensor, x: Tensor, y: Tensor, *, norm: Norm, eps: float | Tensor) -> Tensor:
    """Return whether 0 is the best scale of W for each example: the set T_eps of Liu 2020, section 3.1, (N,), bool.

    Exactly where |a.x| <= eps ||a||_q with a the sum over j of w_j - w_y: at scale 0 the worst-case loss rises at
    the rate (eps ||a||_q +- a.x) / K to either side, and it is convex. Models without an intercept and a box.

    Args:
        weights: W, (K, d).
        x: (N, d).
        y: (N,), labels.
        norm: Which p measures the perturbation.
        eps: Its largest size, one number or (N,), at least 0.

    Raises:
        BadInput: arguments that cannot be meant.
    """
    check_classifier(weights, x, y, None)
    check_norm(norm)
    a = (weights.sum(dim=0) - len(weights) * weights)[y.long()]
    return (a * x).sum(dim=1).abs() <= check_eps(eps, x) * dual_norm(a, norm)
