"""How the worst inputs of a linear score follow its weights: what that adds to the curvature.

Only under l2 do they move where the loss has a gradient: elsewhere they sit at corners. The rise of one example is
then curved across w in the pixels that the box does not stop, by the step of ``box.l2_step``, which without a box
is eps / ||w|| for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscape.linear.adversary import parts, room
from robustscape.linear.box import l2_step
from robustscape.linear.norms import Box


@dataclass(frozen=True, kw_only=True, eq=False)
class Movement:
    """The term sum_n bend_n (D_n - a_n a_n^T), with a_n the unit vector of D_n w.

    Attributes:
        w: (d,).
        free: (N, d) of 0 and 1, the diagonals D_n: the pixels that move; or (1, d) where all examples move alike.
        bend: (N,) or (1,), the curvature of each example's rise times what the example counts for.
    """

    w: Tensor
    free: Tensor
    bend: Tensor

    def times(self, v: Tensor) -> Tensor:
        """Return the term times v, (d,)."""
        across = self.free.T @ self.bend * v
        return across - self.w * (self.free.T @ (self._inner() * (self.free @ (self.w * v))))

    def dense(self) -> Tensor:
        """Return the term, (d, d)."""
        across = torch.diag(self.free.T @ self.bend)
        return across - torch.outer(self.w, self.w) * (self.free.T @ (self._inner()[:, None] * self.free))

    def _inner(self) -> Tensor:
        along = self.free @ self.w.square()
        return torch.where(along > 0, self.bend / along, 0)


def l2_movement(w: Tensor, x: Tensor, y: Tensor, weight: Tensor, *, eps: float, box: Box | None) -> Movement:
    """Return what the L2 adversary's movement adds to the Hessian of sum_n weight_n rise_n, w not 0.

    A weight of 0 moves its pixel to either side: it counts as free where both sides have room.

    Args:
        w: (d,).
        x: (N, d).
        y: (N,), -1 or 1.
        weight: (N,), the derivative of the loss with respect to each rise.
        eps: Radius of the ball.
        box: (low, high), or None.
    """
    if box is None:
        bend = weight.sum() * eps / torch.linalg.vector_norm(w)
        return Movement(w=w, free=torch.ones_like(w)[None], bend=bend[None])
    free, bend = torch.zeros_like(x), torch.zeros_like(weight)
    for part in parts(*x.shape):
        space = room(-y[part, None] * w, x[part], box)
        step = l2_step(w.abs().expand_as(space), space, torch.full_like(weight[part], eps))[:, None]
        both = torch.minimum(x[part] - box[0], box[1] - x[part])
        moves = torch.where(w == 0, both > 0, w.abs() * step < space) & torch.isfinite(step)
        free[part] = moves.to(w)
        bend[part] = torch.where(torch.isfinite(step[:, 0]), weight[part] * step[:, 0], 0)
    return Movement(w=w, free=free, bend=bend)
