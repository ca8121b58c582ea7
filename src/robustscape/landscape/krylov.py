"""The space that a symmetric operator makes of some vectors, and the operator within it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustscape.types import Diverged

Times = Callable[[Tensor], Tensor]
"""A symmetric operator: a vector, (D,), to its product, (D,)."""

_ROWS = 64  # of the basis, for which there is memory at first: enough for 20 eigenvalues of most networks
_ROUNDING = 64  # units in the last place: a remainder that small, relative to what it is the rest of, is rounding


class Krylov:
    """An orthonormal basis that grows by one product at a time, and the operator within it.

    What the products have outside the basis is kept too: H q_j = sum_i inner_ij q_i + sum_i left_ij o_i, with
    orthonormal o_i, as many as there were vectors to start from. So the residual of every Ritz pair is known.

    Args:
        times: The operator.
        like: (D,), a tensor of its vectors' size, precision and device.
        most: Largest number of basis vectors, which are held in memory together.

    Attributes:
        count: m, basis vectors so far, and products made.
    """

    def __init__(self, times: Times, like: Tensor, most: int) -> None:
        self._most = min(most, like.numel())
        self._times = times
        self.count = 0
        self._basis = like.new_empty(min(_ROWS, self._most), like.numel())
        self._inner = torch.zeros(self._most, self._most, dtype=torch.float64)
        self._outer = like.new_empty(0, like.numel())
        self._left = torch.zeros(0, 0, dtype=torch.float64)
        self._length = 0.0  # of the longest product: a lower bound of the operator's norm
        self._ulp = _ROUNDING * torch.finfo(like.dtype).eps

    @property
    def full(self) -> bool:
        """Whether there is no room for another basis vector."""
        return self.count == self._most

    @property
    def closed(self) -> bool:
        """Whether the operator does not lead out of the basis."""
        return len(self._outer) == 0

    @property
    def inner(self) -> Tensor:
        """The operator within the basis, (m, m), float64 on the CPU."""
        return self._inner[: self.count, : self.count]

    @property
    def basis(self) -> Tensor:
        """The basis, (m, D), orthonormal rows."""
        return self._basis[: self.count]

    @property
    def rounding(self) -> float:
        """The residual that is nothing but rounding."""
        return self._ulp * self._length

    def allowed(self, values: Tensor, tolerance: float) -> Tensor:
        """Return the residual within which each Ritz value, (m,), counts as converged, (m,)."""
        return (tolerance * values.abs()).clamp(min=self.rounding)

    def begin(self, vector: Tensor) -> None:
        """Add the part of a vector, (D,), that is outside the basis, if there is any, and make its product.

        Raises:
            Diverged: the product is not finite.
        """
        rest, _ = _apart(vector, self.basis)
        if not _norm(rest) > self._ulp * _norm(vector):
            return
        q = rest / _norm(rest)
        if not self.closed:
            self._turn((self._outer @ q).double().cpu())
            first, left = self._outer[0], self._left[:1]
            self._outer, self._left = self._outer[1:], self._left[1:]
            first, _ = _apart(first, torch.cat([self.basis, q[None]]))
            self._keep(first, left)
        self._add(q)

    def go_on(self, wanted: Tensor) -> None:
        """Add what the operator makes, outside the basis, of a vector of the basis, and make its product.

        Args:
            wanted: (m,), the vector's components. Where all started from one vector there is only one way out.

        Raises:
            Diverged: the product is not finite.
        """
        self._turn(self._left @ wanted)
        q = self._outer[0]
        self._outer, self._left = self._outer[1:], self._left[1:]
        self._add(q)

    def _turn(self, way: Tensor) -> None:
        """Turn the outer vectors so that ``way``, components among them, is the first one's direction."""
        turn = torch.linalg.qr(way[:, None], mode="complete").Q.T
        self._outer, self._left = turn.to(self._outer) @ self._outer, turn @ self._left

    def _add(self, q: Tensor) -> None:
        """Add a unit vector that is orthogonal to the basis and the outer vectors, and make its product."""
        if self.count == len(self._basis):
            more = self._basis.new_empty(min(self.count, self._most - self.count), len(q))
            self._basis = torch.cat([self._basis, more])
        q = q / _norm(q)
        self._basis[self.count] = q
        self.count += 1
        product = self._times(q)
        rest, column = _apart(product, self.basis)
        rest, left = _apart(rest, self._outer)
        column, length = column.double().cpu(), _norm(product)
        if not (bool(torch.isfinite(column).all()) and math.isfinite(length)):
            raise Diverged("a product with the Hessian is not finite")
        self._length = max(self._length, length)
        self._inner[self.count - 1, : self.count] = self._inner[: self.count, self.count - 1] = column
        self._left = torch.cat([self._left, left.double().cpu()[:, None]], dim=1)
        self._keep(rest, torch.eye(self.count, dtype=torch.float64)[-1:])

    def _keep(self, rest: Tensor, left: Tensor) -> None:
        """Add an outer vector, (D,), of any length, and its share of each product, (1, m), unless it is rounding."""
        length = _norm(rest)
        if length * float(left.abs().max()) > self.rounding:
            self._outer = torch.cat([self._outer, rest[None] / length])
            self._left = torch.cat([self._left, left * length])

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the Ritz values, (m,), ascending, their vectors in the basis, (m, m) columns, and residuals, (m,)."""
        values, vectors = torch.linalg.eigh(self.inner)
        return values, vectors, torch.linalg.vector_norm(self._left @ vectors, dim=0)


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def _apart(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of a vector outside a basis, and its components inside, (m,): by two passes."""
    first = basis @ vector
    vector = vector - first @ basis
    second = basis @ vector
    return vector - second @ basis, first + second
