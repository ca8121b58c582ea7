"""What an approximation along lines misses, estimated by full attacks at some of the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from robustscape.landscape.flatness import Estimate, t_interval
from robustscape.streams import Streams
from robustscape.types import Plain

T = TypeVar("T")

_FEWEST = 5  # points of an audit: the interval of fewer says little


def audited(seed: int, name: str, points: Sequence[T], share: float) -> list[T]:
    """Return a random share of the points, at least five of them unless the share is 0, in their order.

    Each set of so many points is equally likely: a mean over it is without bias for the mean over all.
    """
    count = min(len(points), max(_FEWEST, math.ceil(share * len(points)))) if share > 0 else 0
    chosen = Streams(seed, (name, "audit")).order(len(points))[:count]
    return [points[number] for number in sorted(chosen.tolist())]


def bias(values: np.ndarray, full: np.ndarray) -> Estimate | None:
    """Return the mean of what was measured less what a full attack gives, below 0 where it is underestimated.

    Args:
        values: What was measured, any shape.
        full: The same of full attacks, NaN where there was none.

    Returns:
        The mean over the points with both, by Student's t; None where there is no such point.
    """
    both = np.isfinite(values) & np.isfinite(full)
    return t_interval((values - np.where(both, full, 0))[both], n=int(both.sum())) if both.any() else None


def table(rows: Sequence[Sequence[Plain]], name: str, missing: float) -> np.ndarray:
    """Return one quantity of several lines as an array, (rows, P); ``missing`` where there is none."""
    cells = [[value.get(name) for value in row] for row in rows]
    return np.array([[missing if cell is None else cell for cell in row] for row in cells], dtype=float)
