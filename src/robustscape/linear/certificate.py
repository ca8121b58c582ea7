"""How far a convex loss without a ridge may be above its minimum: a bound among weights that are not too large."""

from __future__ import annotations

from torch import Tensor

REACH = 10.0
"""Without a ridge the bounds hold for weights up to so many times the size of those found."""


def convex_gap(loss: float, slope: Tensor, w: Tensor) -> float:
    """Return how far a convex loss that has no values below 0 is above its minimum at most.

    No loss at v is below loss + slope.(v - w), and ``||v||_2`` is at most ten times ``||w||_2``.

    Args:
        loss: The loss at w.
        slope: (d,), its gradient there.
        w: (d,).
    """
    below = float(slope @ w) + REACH * float(w.norm()) * float(slope.norm())
    return min(loss, max(0.0, below))
