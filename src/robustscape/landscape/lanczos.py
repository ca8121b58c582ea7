"""Both ends of the spectrum of a symmetric operator, by Lanczos with full reorthogonalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscape.landscape.krylov import Krylov, Times
from robustscape.streams import Streams
from robustscape.types import BadInput

_LOOKS = 5  # products of a random vector, beside a start that may lack what has come up since


@dataclass(frozen=True, kw_only=True, eq=False)
class Eigenpairs:
    """Some eigenpairs of a symmetric operator H.

    Attributes:
        values: (k,), float64 on the CPU, outermost first.
        vectors: (k, D), orthonormal, in the operator's precision and on its device.
        residuals: (k,), ||H v - value v||, float64: a true eigenvalue lies within it of the value.
        converged: (k,), bool: the residual is within the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Extremes:
    """Both ends of a spectrum.

    Attributes:
        top: The largest, largest first.
        bottom: The smallest, smallest first.
        products: Products with the operator that were made.
    """

    top: Eigenpairs
    bottom: Eigenpairs
    products: int

    @property
    def converged(self) -> bool:
        """Whether all of them are within the tolerance."""
        return bool(self.top.converged.all() and self.bottom.converged.all())


def extremes(
    times: Times,
    like: Tensor,
    *,
    k: int,
    bottom: int = 0,
    tolerance: float = 1e-2,
    most: int = 200,
    rng: Streams,
    start: Tensor | None = None,
) -> Extremes:
    """Return the k largest and some smallest eigenvalues of a symmetric operator, with their vectors.

    Lanczos (1950), each new vector orthogonalised twice against all the others, so that no eigenvalue appears twice
    that is not double. It stops as soon as all that is asked for has a residual within ``tolerance`` * |value|, or
    within rounding. The error of an eigenvalue itself is about its residual squared over its distance to the next.
    Where there is nothing left to find from the start, it goes on with a random vector.

    From several vectors to start from, the outermost eigenvalues in them are found first (Rayleigh and Ritz), and
    then each product is of the residual of the outermost one that has not converged (Davidson 1975, without a
    preconditioner): of eigenvectors of a nearby operator, about as many products as there are vectors are made. A
    random vector and some products of it go with them, since what is not in the start would not be missed.

    Args:
        times: The operator.
        like: (D,), a tensor of its vectors' size, precision and device.
        k: How many of the largest, from 1 to D.
        bottom: How many of the smallest, at least 0.
        tolerance: Largest residual, relative to the eigenvalue, above 0.
        most: Most products, and vectors in memory; not below k + bottom.
        rng: Of the random start and of its like, without an index.
        start: (p, D), vectors near the eigenvectors that are looked for, or p random ones where an eigenvalue may be
            multiple: one of multiplicity p is found p times from p vectors, and for certain only once from one.
            None for one random vector.

    Raises:
        BadInput: a number out of range, or a start of another size.
        Diverged: a product is not finite.
    """
    size = like.numel()
    _check(size, k, bottom, tolerance, most, start)
    krylov = Krylov(times, like, most)

    def begin(number: int) -> None:
        krylov.begin(rng.tag("start", number).normal(size, dtype=like.dtype, device=like.device))

    for vector in [] if start is None else start[:most]:
        krylov.begin(vector.to(like))
    drawn = 0
    while not krylov.full:
        ends = _ends(krylov, k, bottom, tolerance)
        looked = krylov.count >= (0 if start is None else len(start) + _LOOKS)
        if looked and krylov.count >= k + bottom and ends.converged:
            break
        if krylov.closed or drawn == 0:
            begin(drawn)
            drawn += 1
        else:
            krylov.go_on(_lacking(krylov, k, bottom, tolerance) if looked else _last(krylov))
    return _ends(krylov, k, bottom, tolerance, vectors=True)


def _check(size: int, k: int, bottom: int, tolerance: float, most: int, start: Tensor | None) -> None:
    if not (k >= 1 and bottom >= 0 and k + bottom <= size):
        raise BadInput(f"of {size} eigenvalues {k} of the largest and {bottom} of the smallest cannot be given")
    if most < k + bottom:
        raise BadInput(f"most must be at least {k + bottom}, the eigenvalues asked for, not {most}")
    if not tolerance > 0:
        raise BadInput(f"tolerance must be above 0, not {tolerance:g}")
    if start is not None and (start.ndim != 2 or start.shape[1] != size):
        raise BadInput(f"the start has shape {tuple(start.shape)}, and a vector {size} components: other weights?")


def _last(krylov: Krylov) -> Tensor:
    """Return the last vector of the basis, in the basis, (m,)."""
    return torch.eye(krylov.count, dtype=torch.float64)[-1]


def _lacking(krylov: Krylov, k: int, bottom: int, tolerance: float) -> Tensor:
    """Return the outermost Ritz vector that is asked for and has not converged, in the basis, (m,)."""
    values, parts, residuals = krylov.ritz()
    lacking = residuals > krylov.allowed(values, tolerance)
    order = [*range(len(values) - 1, -1, -1)[:k], *range(bottom)]
    chosen = next((number for number in order if number < len(values) and lacking[number]), -1)
    return parts[:, chosen]


def _ends(krylov: Krylov, k: int, bottom: int, tolerance: float, *, vectors: bool = False) -> Extremes:
    """Return both ends as the basis has them by now; without the vectors, which are long, unless asked for."""
    values, parts, residuals = krylov.ritz()
    within = residuals <= krylov.allowed(values, tolerance)
    basis = krylov.basis if vectors else krylov.basis[:, :0]

    def some(rows: Tensor) -> Eigenpairs:
        return Eigenpairs(
            values=values[rows],
            vectors=parts[:, rows].T.to(basis) @ basis,
            residuals=residuals[rows],
            converged=within[rows],
        )

    order = torch.arange(len(values))
    return Extremes(top=some(order.flip(0)[:k]), bottom=some(order[:bottom]), products=krylov.count)
