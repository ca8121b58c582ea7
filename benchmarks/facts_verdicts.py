"""The papers' claims that ``facts.py`` tests, the numbers that are judged, and when each claim holds.

A claim holds where every seed says so, and in part where the means over seeds do. What that comes to is said in words
by each claim; every function here that judges follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from robustscape.landscape.similarity import SimilarityResult
from robustscape.landscape.slices import SliceResult
from robustscape.landscape.spectrum import SpectrumResult
from robustscape.types import Plain

HOLDS, PART, NOT, MISSING = VERDICTS = ("holds", "in part", "does not hold", "not measured")


@dataclass(frozen=True)
class Claim:
    """What a paper says.

    Attributes:
        words: The claim; {} stands for what a row tells apart.
        paper: Where it is from.
        holds_where: When it holds, and when in part.
    """

    words: str
    paper: str
    holds_where: str


_RISES = "it rises at every step of eps for every seed; in part where the mean over seeds does"
EIGENVALUE = Claim("the largest eigenvalue of {} grows with eps", "Liu 2020, figures 2 and 9", _RISES)
SLICES = Claim(
    "slices of the robust loss curve more the larger eps is", "Liu 2020, section 3.2; Wu 2020, figure 2", _RISES
)
SIMILARITY = Claim(
    "adversarial perturbations change along the top eigenvector of the Hessian, not along random directions",
    "Liu 2020, figures 3 and 10",
    "for every network similarity falls more than twice as far along the eigenvector, and by more than two standard "
    "errors farther; in part where the means over networks do",
)
BARRIER = Claim(
    "the barrier between two adversarially trained networks is higher than between two natural ones, {}",
    "Liu 2020, appendix C.2.5",
    "every pair of adversarially trained networks is above every natural pair; in part where the mean is above the "
    "mean; MNIST has one pair for each eps",
)
CURVATURE = Claim(
    "curvature with the inputs following the weights exceeds that with inputs held, the more the larger eps is",
    "Yamada 2021, theorem 1, where held curvature is 0; here on networks, by differences",
    "for every seed the excess is above its noise at every eps and rises at every step; in part where the means over "
    "seeds are and do",
)
AWP = Claim(
    "AT-AWP is flatter than AT on average",
    "Wu 2020, figure 2; Stutz 2021, figure 1",
    "for every seed the paired difference's 95 % interval over draws is below 0; in part where the mean difference is",
)
METHODS = Claim(
    "the largest eigenvalue of AT's robust loss{} is larger than that of AT-AWP's",
    "Wu 2020, figure 2, which shows slices",
    "every network of AT is above every one of AT-AWP; in part where the mean is above the mean",
)
RESCALING = Claim(
    "rescaled without a change of the function, flatness stays and the largest eigenvalue moves about fourfold",
    "Stutz 2021, figure 4 (1990 to 7936 and 505)",
    "for every seed flatness stays within 1 % in every way, and in one of the ways the eigenvalue grows more than "
    "threefold; in part where the means over seeds do",
)


# -- verdicts ------------------------------------------------------------------------------------------


def judged(each: Iterable[bool], mean: bool) -> str:
    """Return the verdict: whether every seed says so, or the means do."""
    return HOLDS if all(each) else PART if mean else NOT


def together(verdicts: Iterable[str]) -> str:
    """Return the verdict on several things that are all claimed: the least of theirs."""
    return max(verdicts, key=VERDICTS.index)


def grows(by_eps: Sequence[Sequence[float]]) -> str:
    """Return the verdict on numbers that are to grow: for each eps, rising, one of each seed."""
    means = [float(np.mean(values)) for values in by_eps]
    return judged((_rises(line) for line in zip(*by_eps, strict=True)), _rises(means))


def _rises(values: Sequence[float]) -> bool:
    return all(after > before for before, after in pairwise(values))


def above(values: Sequence[float], others: Sequence[float]) -> str:
    """Return the verdict on values that are to be above others, each above the one of its seed."""
    return judged((a > b for a, b in zip(values, others, strict=True)), bool(np.mean(values) > np.mean(others)))


def higher(values: Sequence[float], others: Sequence[float]) -> str:
    """Return the verdict on values that are to be higher than others: each than all of them."""
    return judged([min(values) > max(others)], bool(np.mean(values) > np.mean(others)))


def turns(networks: Sequence[Mapping[str, Any]]) -> str:
    """Return the verdict on similarity that is to fall along the eigenvector alone; of each network what ``falls`` has.

    Raises:
        KeyError: a network lacks one of the three numbers.
    """
    names = ("fall along the eigenvector", "fall along a random direction", "standard error")
    each = np.array([[one[name] for name in names] for one in networks])
    return judged((_farther(*row) for row in each), _farther(*each.mean(axis=0)))


def _farther(eigen: float, random: float, error: float) -> bool:
    return bool(eigen - random > 2 * error and eigen > 2 * random)


def rescales(flatness: Sequence[Sequence[float]], eigenvalue: Sequence[Sequence[float]]) -> str:
    """Return the verdict on ratios of rescaled to trained: for each way one of each seed."""
    off, times = np.abs(np.array(flatness) - 1), np.array(eigenvalue)
    each = (off.max(axis=0) < 1e-2) & (times.max(axis=0) > 3)
    return judged(each.tolist(), bool(off.mean(axis=1).max() < 1e-2 and times.mean(axis=1).max() > 3))


# -- numbers -------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> Plain:
    """Return values of several seeds or pairs with their mean and range."""
    return {"each": list(values), "mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def largest(coordinates: str, loss: str) -> Callable[[SpectrumResult], float]:
    """Return what reads the largest eigenvalue, "raw" or relative to each "layer", of the "robust" or "clean" loss."""

    def of(result: SpectrumResult) -> float:
        which = result.losses.index(loss), result.coordinates.index(coordinates)
        return float(result.eigenvalues[which][0])

    return of


def slice_curvature(result: SliceResult) -> float:
    """Return the second difference of the robust loss over the smallest step, mean over directions, nats."""
    centre = int(np.flatnonzero(result.alpha == 0)[0])
    h = result.alpha[centre + 1]
    below, at, over = (result.robust_loss[:, centre + k] for k in (-1, 0, 1))
    return float(((below - 2 * at + over) / h**2).mean())


def falls(result: SimilarityResult) -> Plain:
    """Return how far similarity falls, along the top eigenvector and along a random direction of the same length.

    At the largest position where moving along the eigenvector leaves half of the robust accuracy, or at the first.
    """
    kept = 1 - result.robust_error[-1].max(axis=1) >= (1 - result.same_weights_robust_error) / 2
    place = int(np.flatnonzero(kept).max(initial=0))
    same = result.same_weights if result.same_weights is not None else float("nan")
    random, eigen = (same - float(result.similarity[d, place]) for d in (0, -1))
    return {
        "position": float(result.position[place]),
        "at w": same,
        "fall along the eigenvector": eigen,
        "fall along a random direction": random,
        "standard error": float(np.hypot(*result.standard_error[[0, -1], place])),
        "similarity along the eigenvector": result.similarity[-1].tolist(),
        "similarity along a random direction": result.similarity[0].tolist(),
    }
