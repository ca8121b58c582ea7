"""Between what the worst-case cross-entropy of a linear classifier lies, for any number of classes.

The worst case is the maximum of a convex function over the ball, without a closed form for more than two classes.
Above it is the class-wise bound, in which every class j has a worst input of its own,

    log(1 + sum_{j != y} exp(gap_j)),   gap_j the largest logit_j - logit_y inside the threat,

and below it the cross-entropy at the worst input of the best single class. With two classes all three are one.

Deviations:
    Liu 2020 (https://arxiv.org/abs/2006.08403), equation 13, takes as lower bound the direction of the class of
    largest ||w_j - w_y||_q, whatever its score: here every class is tried and the best one kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.adversary import worst_perturbation
from robustscape.linear.multiclass import logits, pairs, worst_gaps
from robustscape.linear.norms import Box, Norm, check_eps


def classwise_bound(
    weights: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float | Tensor,
    box: Box | None = None,
    intercept: Tensor | None = None,
) -> Tensor:
    """Return the class-wise upper bound of the worst-case cross-entropy, (N,), nats: convex in W and b.

    Autograd passes through it to W and b. With a box the worst inputs are those of the W given, so that the
    derivatives are the bound's own all the same (Danskin).

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
    gaps = worst_gaps(weights, x, y, norm=norm, eps=eps, box=box, intercept=intercept)
    return torch.logsumexp(gaps.scatter(1, y.long()[:, None], 0.0), dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bracket:
    """Between what the worst-case cross-entropy of each example lies.

    Attributes:
        lower: (N,), nats: the largest cross-entropy at the input itself and at the worst input of each single class.
        upper: (N,), nats: ``classwise_bound``.
    """

    lower: Tensor
    upper: Tensor


def cross_entropy_bracket(
    weights: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float | Tensor,
    box: Box | None = None,
    intercept: Tensor | None = None,
) -> Bracket:
    """Return both sides; arguments as in ``classwise_bound``. K perturbations of every example are tried.

    Raises:
        BadInput: as there.
    """
    upper = classwise_bound(weights, x, y, norm=norm, eps=eps, box=box, intercept=intercept)
    y, radius = y.long(), check_eps(eps, x)
    lower = F.cross_entropy(logits(weights, x, intercept), y, reduction="none")
    for j in range(len(weights)):
        for rows, toward in pairs(weights, y, j):
            moved = x[rows] + worst_perturbation(toward, x[rows], norm=norm, eps=radius[rows], box=box)
            loss = F.cross_entropy(logits(weights, moved, intercept), y[rows], reduction="none")
            lower[rows] = torch.maximum(lower[rows], loss)
    return Bracket(lower=lower, upper=upper)
