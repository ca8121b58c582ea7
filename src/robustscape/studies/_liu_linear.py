"""Random linear classifiers and their worst-case loss by brute force: what Liu 2020, section 3.1, is tested on.

The worst-case cross-entropy of a linear classifier is the maximum of a convex function, reached at an extreme point
of the ball: a corner of the box under linf, of the cross-polytope under l1. Under l2 the circle is tried at 90 angles.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustscape.linear.norms import Norm, dual_norm
from robustscape.streams import Streams

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
_INPUTS = {"linf": 4, "l2": 2, "l1": 4}
CLASSES = (2, 3, 5)
EXAMPLES = 50  # of each classifier
_ANGLES = 90
NEAR = 0.01  # slopes and gaps below this are too near the border of a set for the l2 angles to tell
_SCALES = 20.0  # scales from minus to plus this are searched
WORDS = "normal W and x, norms L∞ and L1 (4 inputs), L2 (2)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A random linear classifier with examples.

    Attributes:
        norm: Which p measures perturbations.
        weights: W, (K, d), float64, standard normal.
        x: (50, d), standard normal.
        y: (50,), labels, drawn evenly from the K classes.
        rng: Further random numbers.
    """

    norm: Norm
    weights: Tensor
    x: Tensor
    y: Tensor
    rng: Streams

    @property
    def a(self) -> Tensor:
        """The sum over j of w_j - w_y, (50, d)."""
        return (self.weights.sum(dim=0) - len(self.weights) * self.weights)[self.y]

    def slope(self, eps: Tensor) -> Tensor:
        """Return how fast the worst-case loss rises from scale 0 to its better side, nats per unit, (50,)."""
        rise = eps * dual_norm(self.a, self.norm) - (self.a * self.x).sum(dim=1).abs()
        return rise / len(self.weights)

    def gaps(self, eps: Tensor) -> Tensor:
        """Return logit_j - logit_y at all extreme points of every ball, (50, V, K)."""
        inputs = self.x[:, None] + eps[:, None, None] * extreme_points(self.norm)
        logits = inputs @ self.weights.T
        return logits - logits.gather(2, self.y[:, None, None].expand(-1, logits.shape[1], 1))


def extreme_points(norm: Norm) -> Tensor:
    """Return points of the ball of radius 1 that a convex function is largest at, (V, d)."""
    d = _INPUTS[norm]
    if norm == "linf":
        return 1 - 2 * ((torch.arange(2**d)[:, None] >> torch.arange(d)) & 1).double()
    if norm == "l1":
        return torch.cat([torch.eye(d), -torch.eye(d)]).double()
    angles = torch.arange(_ANGLES, dtype=torch.float64) * (2 * torch.pi / _ANGLES)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def problem(norm: Norm, classes: int, number: int, seed: int) -> Problem:
    """Return a problem by its number."""
    rng, d = Streams(seed, ("liu", "linear", norm, classes, number)), _INPUTS[norm]
    weights = rng.tag("w").normal(classes, d, dtype=torch.float64)
    x = rng.tag("x").normal(EXAMPLES, d, dtype=torch.float64)
    return Problem(norm=norm, weights=weights, x=x, y=rng.tag("y").integers(classes, EXAMPLES), rng=rng)


def depth(gaps: Tensor, mean: bool = False) -> Tensor:
    """Return by how much some scale of W beats scale 0 in the worst-case loss, nats, at least about 0: brute force.

    The loss at scale s is max_v log sum_j exp(s gap_vj), convex in s; a ternary search over s from -20 to 20.

    Args:
        gaps: (N, V, K), from ``Problem.gaps``.
        mean: Whether all examples share one scale, and their mean loss is meant: then (1,) instead of (N,).
    """

    def loss(scale: Tensor) -> Tensor:
        each = torch.logsumexp(scale[:, None, None] * gaps, dim=2).amax(dim=1)
        return each.mean(dim=0, keepdim=True) if mean else each

    low = gaps.new_full((1 if mean else len(gaps),), -_SCALES)
    high = -low
    for _ in range(30):
        third = (high - low) / 3
        left = loss(low + third) < loss(high - third)
        low, high = torch.where(left, low, low + third), torch.where(left, high - third, high)
    return loss(0 * low) - loss((low + high) / 2)


def gathered(
    problems: int, seed: int, errors_of: Callable[[Problem], dict[str, Tensor]]
) -> Generator[tuple[int, int], None, dict[str, Tensor]]:
    """Take so many problems of each norm and number of classes, yielding (done, total); returns errors by name."""
    each: list[tuple[Norm, int, int]] = [
        (norm, K, number) for norm in NORMS for K in CLASSES for number in range(problems)
    ]
    found: dict[str, list[Tensor]] = {}
    for done, (norm, K, number) in enumerate(each):
        for name, errors in errors_of(problem(norm, K, number, seed)).items():
            found.setdefault(name, []).append(errors)
        yield done + 1, len(each)
    return {name: torch.cat(parts) for name, parts in found.items()}
