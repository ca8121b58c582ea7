"""Draws of weights against examples: where the error of a mean over both comes from, and how it is made smallest.

A rise of the loss r(v, x) averaged over D draws of weights and N examples is a crossed design without replication:
Var(mean) = a / D + b / N + c / (D N), with a the variance between draws, b between examples and c what is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustscape.streams import Streams

CELLS = 200
"""Cells of examples at most, so that what is stored stays small; the variances come from the means of cells."""

_FEWEST = (4, 32)  # draws and examples: with fewer, their own variance is hardly known


@dataclass(frozen=True, kw_only=True)
class Components:
    """Which part of the error of a mean over draws and examples comes from where, and the better split.

    Attributes:
        between_draws: a, variance between draws of weights (antithetic pairs are one draw), nats^2; estimates that
            come out below 0 are 0, here and for the next two.
        between_examples: b, variance between examples, nats^2.
        interaction: c, variance of what neither explains, nats^2, the attack's chance among it.
        draws: D, draws of this measurement.
        examples: N, its examples.
        error: Standard error of its mean over both, nats.
        dominant: The largest of the three parts of ``error``: "draws", "examples" or "interaction".
        best_draws: Draws that make the error smallest at the same number of attacked examples, the reference among
            them, at least 4.
        best_examples: Examples that go with them, at least 32.
        best_error: The standard error that is then expected, nats; above ``error`` only where the bounds
            forbid the better split.
    """

    between_draws: float
    between_examples: float
    interaction: float
    draws: int
    examples: int
    error: float
    dominant: str
    best_draws: int
    best_examples: int
    best_error: float


def cells(n: int, seed: int) -> list[Tensor]:
    """Return the rows 0 to n - 1 shared out at random among at most ``CELLS`` cells, of one size to within 1."""
    order = Streams(seed, ("cells",)).order(n)
    return list(order.tensor_split(min(n, CELLS)))


def sizes(n: int) -> np.ndarray:
    """Return the share of the examples that each cell of n has, (K,); they sum to 1."""
    return np.array([len(cell) for cell in torch.arange(n).tensor_split(min(n, CELLS))]) / n


def components(rises: np.ndarray, *, n: int, passes: int) -> Components | None:
    """Return the components of the error of the mean of ``rises``; None for a single draw or example.

    Args:
        rises: (D, K), the mean rise of each cell of examples under each draw, nats.
        n: Number of examples, N >= K. A cell is taken for N / K of them.
        passes: Attacks on every example that a draw costs: 2 for an antithetic pair. The reference costs 1.
    """
    (count, k), share = rises.shape, sizes(n)
    if count < 2 or k < 2:
        return None
    rows, columns = rises @ share, rises.mean(axis=0)
    left = rises - rises.mean(axis=1, keepdims=True) - columns + rises.mean()
    per_cell = float((left**2).sum()) / ((count - 1) * (k - 1))
    each = n / k
    a = max(0.0, float(rows.var(ddof=1)) - per_cell / k)
    b = max(0.0, (float(columns.var(ddof=1)) - per_cell / count) * each)
    c = per_cell * each
    parts = {"draws": a / count, "examples": b / n, "interaction": c / (count * n)}
    better, fewer = _best(a, b, c, cost=(passes * count + 1) * n, passes=passes)
    return Components(
        between_draws=a,
        between_examples=b,
        interaction=c,
        draws=count,
        examples=n,
        error=math.sqrt(sum(parts.values())),
        dominant=max(parts, key=lambda name: parts[name]),
        best_draws=better,
        best_examples=fewer,
        best_error=math.sqrt(a / better + b / fewer + c / (better * fewer)),
    )


def _best(a: float, b: float, c: float, *, cost: int, passes: int) -> tuple[int, int]:
    """Return D and N with the smallest a / D + b / N + c / (D N) at cost (passes D + 1) N.

    With N = cost / (passes D + 1) put in, the slope in D vanishes at D^2 = (a cost + c) / (passes b).
    """
    most = max((cost // _FEWEST[1] - 1) // passes, _FEWEST[0])
    draws = math.sqrt((a * cost + c) / (passes * b)) if b > 0 else most
    chosen = min(max(round(draws), _FEWEST[0]), most)
    return chosen, max(cost // (passes * chosen + 1), 1)


def half_width(rows: np.ndarray, columns: np.ndarray, *, level: float = 0.95) -> float:
    """Return half the width of an interval for a mean over draws and examples, both taken as random.

    The variances of the two margins are summed, which counts the interaction twice: the interval is rather too wide.
    Student's t with the degrees of freedom of Satterthwaite 1946, but never narrower than for the draws alone.

    Args:
        rows: (D,), mean over the examples for each draw.
        columns: (K,), mean over the draws for each cell of examples.
        level: Coverage, in (0, 1).
    """
    from scipy.special import stdtrit

    if len(rows) < 2 or len(columns) < 2:
        return math.inf
    parts = [(float(margin.var(ddof=1)) / len(margin), len(margin) - 1) for margin in (rows, columns)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0
    both = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    widths = [
        float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(part) for part, freedom in (parts[0], (variance, both))
    ]
    return max(widths)
