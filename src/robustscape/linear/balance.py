"""Whether weights of 0 are best for several classes at once: a flow between the classes, within capacities.

At W = 0 the class-wise bound (``classwise``) has the subgradients

    G_j + sum_k f_jk,    f_jk = -f_kj,    ||f_jk||_p <= r_jk,

G its derivative for eps = 0 and r_jk eps times the mass of the pair. W = 0 is best exactly where one of them is 0.
The nearest to 0 is found by accelerated projected gradients; the complete graph makes every step a full one. One that
is not 0 gives V = -(G + flow), and W = 0 is not best where F falls along V.
"""

from __future__ import annotations

import numpy as np

from robustscape.linear.cones import in_ball, length
from robustscape.linear.norms import Norm

_STEPS = 500


def least_subgradient(
    slope: np.ndarray, first: np.ndarray, second: np.ndarray, room: np.ndarray, norm: Norm, small: float
) -> np.ndarray:
    """Return a subgradient at W = 0, (K, d): one not longer than ``small`` where that is found.

    Ends early at one against which F falls: there is none of 0 then.

    Args:
        slope: G, (K, d), whose rows sum to 0.
        first: j of every pair of classes j < k, (pairs,).
        second: k of every pair.
        room: r of every pair, above 0.
        norm: Norm p.
        small: Length (Frobenius) that counts as 0.
    """

    def with_flow(f: np.ndarray) -> np.ndarray:
        total = slope.copy()
        np.add.at(total, first, f)
        np.add.at(total, second, -f)
        return total

    flow = ahead = np.zeros((len(first), slope.shape[1]))
    momentum, left = 1.0, slope
    for _ in range(_STEPS):
        there = with_flow(ahead)
        moved = in_ball(ahead - (there[first] - there[second]) / len(slope), room, norm)
        left = with_flow(moved)
        falls = -float((slope * left).sum()) + float(room @ length(left[first] - left[second], norm))
        if np.linalg.norm(left) <= small or falls < 0:
            break
        after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, flow, momentum = moved + (momentum - 1) / after * (moved - flow), moved, after
    return left
