"""How far a convex loss without a ridge may be above its minimum: a bound among weights that are not too large."""

from __future__ import annotations

from torch import Tensor

REACH = 10.0
"""Without a ridge the bounds hold for weights up to so many times the size of those found, or of small ones."""


def convex_gap(loss: float, slope: Tensor, w: Tensor, *, unit: float, off: float = 0.0) -> float:
    """Return how far a convex loss that has no values below 0 is above its minimum at most.

    No loss at v is below loss + slope.(v - w), and ``||v||_2`` is at most ten times ``||w||_2`` or ten times ``unit``.

    Args:
        loss: The loss at w.
        slope: (d,), its gradient there.
        w: (d,).
        unit: Length of weights that are not small: without it weights near 0 would be compared with hardly any.
        off: How long the error of ``slope`` is at most.
    """
    size = float(w.norm())
    reach = REACH * max(size, unit)
    below = float(slope @ w) + reach * float(slope.norm()) + (size + reach) * off
    return min(loss, max(0.0, below))
