"""The curvature of the binary adversarial logistic loss, in the three forms that the papers mix up.

With s_n = 1 / (1 + exp(m_n)) and u_n = -dm_n/dw at the held worst input (which is -y_n x_n + eps w / ||w|| under
l2 without a box), all means over the examples:

    held    mean s (1 - s) u u^T                               the worst inputs stay where they are
    total   held + mean s d2(rise)/dw2                         they follow the weights: the loss's own Hessian
    liu     mean s (1 - s) x x^T                               also eps ||w|| is held: clean inputs, attacked margin

Under l2 the rise curves by eps / ||w|| across w, so that total = held + mean(s) eps / ||w|| (I - w w^T / ||w||^2);
in a box only the pixels that it does not stop take part, example by example. Under linf and l1 the rise is linear
wherever the loss has a gradient, and total = held.

Deviations:
    Yamada 2021 (https://arxiv.org/abs/2102.02950), equation 9, is the second term of total alone, with s = 1/2: it
    is the Hessian only where u_n = 0 for every example, which needs ||x_n|| = eps for all of them. What it drops
    elsewhere is held, and the factor 2 mean(s). Its equation 14 (random noise) is of the form held. Liu 2020
    (https://arxiv.org/abs/2006.08403), equation 29 and Theorem 3, takes ||w||_q = 1 and differentiates with that
    norm constant: the form liu, which grows with eps on separable data; held and total need not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscape.linear.logistic import Worst
from robustscape.linear.movement import Movement
from robustscape.types import BadInput

Form: TypeAlias = Literal["total", "held", "liu"]
"""Which Hessian: see the module."""


def _check(worst: Worst, form: Form) -> None:
    if form not in get_args(Form):
        raise BadInput(f"form {form!r} is not one of {', '.join(get_args(Form))}")
    if form == "total" and worst.problem.eps > 0 and not bool(worst.w.any()):
        raise BadInput("at w = 0 the adversarial loss has a kink in every direction and no Hessian")


def _times(worst: Worst, v: Tensor, form: Form) -> Tensor:
    """Return the rows of the rank-one terms times v, (N,)."""
    if form != "liu":
        return worst.times(v)
    d = len(worst.w)
    return worst.problem.x @ v[:d] + (0 if worst.intercept is None else v[d])


def _rows(worst: Worst, form: Form) -> Tensor:
    """Return R with R^T R the sum of the rank-one terms, (N, P)."""
    scale = (worst.share * worst.s * (1 - worst.s)).sqrt()[:, None]
    inputs = worst.problem.x if form == "liu" else worst.x_adv
    return (inputs if worst.intercept is None else F.pad(inputs, (0, 1), value=1.0)) * scale


def hessian_vector(worst: Worst, v: Tensor, *, form: Form = "total") -> Tensor:
    """Return the Hessian times v, (P,): two products with the data, no matrix is made.

    Args:
        worst: The worst case at the weights, from ``AdversarialLogistic.at``.
        v: (P,), P = d or, with an intercept, d + 1.
        form: Which Hessian.

    Returns:
        (P,), nats per unit of weight squared times v. Where the loss has a kink (``worst.subdifferential()``: a
        weight of 0 under linf, a tie under l1) it is that of the piece on which the kink's weights stay as they are.

    Raises:
        BadInput: an unknown form, or the total Hessian at w = 0.
    """
    _check(worst, form)
    c = worst.share * worst.s * (1 - worst.s) * _times(worst, v, form)
    if form == "liu":
        total = worst.problem.x.T @ c
        return total if worst.intercept is None else torch.cat([total, c.sum()[None]])
    total, movement = worst.back(c), worst.movement if form == "total" else None
    if movement is None:
        return total
    d = len(worst.w)
    return torch.cat([total[:d] + movement.times(v[:d]), total[d:]])


def hessian(worst: Worst, *, form: Form = "total") -> Tensor:
    """Return the Hessian as a matrix, (P, P), symmetric; arguments and kinks as in ``hessian_vector``.

    Raises:
        BadInput: as there.
    """
    _check(worst, form)
    rows = _rows(worst, form)
    total, movement = rows.T @ rows, worst.movement if form == "total" else None
    if movement is not None:
        d = len(worst.w)
        total[:d, :d] += movement.dense()
    return total


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """The largest eigenvalues of one Hessian.

    Attributes:
        values: (k,), largest first, nats per unit of weight squared.
        form: Which Hessian.
        differentiable: Whether the loss has a gradient at the point; where not, the values are those of one piece.
    """

    values: Tensor
    form: Form
    differentiable: bool


def eigenvalues(worst: Worst, k: int = 3, *, form: Form = "total") -> Spectrum:
    """Return the k largest eigenvalues, exactly (to rounding): nothing is iterated.

    Without a box the Hessian is a matrix of rank N + 2 at most plus a multiple of the identity: with fewer examples
    than parameters only that part is decomposed, and the multiple fills the rest. Otherwise the whole matrix is.

    Args:
        worst: The worst case at the weights.
        k: How many, from 1 to P.
        form: Which Hessian.

    Raises:
        BadInput: k out of range, or as in ``hessian_vector``.
    """
    _check(worst, form)
    P = len(worst.w) + (worst.intercept is not None)
    if not 1 <= k <= P:
        raise BadInput(f"k must be from 1 to {P}, the number of parameters, not {k}")
    movement = worst.movement if form == "total" else None
    small = len(worst.y) + 2 < P and (movement is None or worst.problem.box is None)
    values = _split(worst, form, movement) if small else _decomposed(hessian(worst, form=form))
    top = values.sort(descending=True).values[:k]
    return Spectrum(values=top, form=form, differentiable=worst.subdifferential().differentiable)


def _decomposed(matrix: Tensor) -> Tensor:
    """Return all eigenvalues: decomposed in float64, since in float32 many zeros among them can come out as NaN."""
    return torch.linalg.eigvalsh(matrix.double()).to(matrix)


def _split(worst: Worst, form: Form, movement: Movement | None) -> Tensor:
    """Return all eigenvalues from the space that the rank-one terms, w and the intercept span, and its complement."""
    rows = _rows(worst, form)
    N, P = rows.shape
    d = len(worst.w)
    along, last = rows.new_zeros(P), rows.new_zeros(P)
    along[:d] = worst.w / torch.linalg.vector_norm(worst.w).clamp(min=torch.finfo(rows.dtype).tiny)
    last[-1] = float(worst.intercept is not None)
    basis = torch.linalg.qr(torch.cat([rows, along[None], last[None]]).T).Q
    inner = rows @ basis
    total, bend = inner.T @ inner, 0.0
    if movement is not None:
        bend = float(movement.bend)
        moved, own = basis[:d], along @ basis
        total += bend * (moved.T @ moved - torch.outer(own, own))
    return torch.cat([_decomposed(total), rows.new_full((P - N - 2,), bend)])
