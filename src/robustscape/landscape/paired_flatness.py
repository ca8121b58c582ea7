"""Which of two networks is flatter: their average-case flatness on the same random numbers, and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustscape.landscape.crossed import half_width
from robustscape.landscape.flatness import Estimate, FlatnessResult, t_interval
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class FlatnessDifference:
    """The flatness of one network minus that of another, nats.

    Attributes:
        difference: First minus second; below 0 the first is flatter. The interval, Student's t over the draws (over
            antithetic pairs), covers the draws of weights on these very examples.
        over_both: The same difference, with an interval that covers the draws and the choice of the examples; None
            where a result is too old to tell.
        correlation: Between the two networks' rises over the draws, in [-1, 1]; NaN where one does not vary. The
            higher, the more the common random numbers shorten the interval.
        of: "robust" or "clean" loss.
        xi: Radius of the balls.
    """

    difference: Estimate
    over_both: Estimate | None
    correlation: float
    of: str
    xi: float


def compared(
    first: FlatnessResult, second: FlatnessResult, *, of: Literal["robust", "clean"] = "robust"
) -> FlatnessDifference:
    """Return the difference of two networks' flatness over the draws that they have in common.

    Where the networks have the same parameters by name and shape, each draw moves them in the same relative
    direction; otherwise the starts of the attacks and the examples alone are common, and the interval is right still.

    Args:
        first: One network's result.
        second: The other's, with the same settings, seed and examples.
        of: Which loss.

    Raises:
        BadInput: the results differ in something else than the network.
    """
    if of not in ("robust", "clean"):
        raise BadInput(f"of must be robust or clean, not {of!r}")
    for what, one, other in zip(_WHAT, _measured(first), _measured(second), strict=True):
        if one != other:
            raise BadInput(
                f"the two flatness results differ in {what}, {one} and {other}, and not in the network alone; "
                f"measure both with the same {what}"
            )
    rises, others = _rises(first, of), _rises(second, of)
    apart, samples = rises - others, len(first.robust_losses)
    columns, theirs = getattr(first, f"{of}_rises"), getattr(second, f"{of}_rises")
    mean, over_both = float(apart.mean()), None
    if len(columns) and len(columns) == len(theirs):
        half = half_width(apart, columns - theirs)
        over_both = Estimate(value=mean, low=mean - half, high=mean + half, n=samples)
    varies = len(apart) > 1 and rises.std() > 0 and others.std() > 0
    return FlatnessDifference(
        difference=t_interval(apart, n=samples),
        over_both=over_both,
        correlation=float(np.corrcoef(rises, others)[0, 1]) if varies else math.nan,
        of=of,
        xi=first.xi,
    )


_WHAT = ("xi", "mode", "attack", "samples", "law", "group", "n", "split", "data", "seed")


def _measured(result: FlatnessResult) -> tuple[object, ...]:
    """Return everything that two results must have in common, in the order of ``_WHAT``."""
    settings = result.provenance.settings
    settings = settings if isinstance(settings, dict) else {}
    where = result.provenance
    return (
        *(result.xi, result.mode, result.attack, len(result.robust_losses)),
        *(settings.get("law"), settings.get("group")),
        *(result.n, result.split, where.data, where.seed),
    )


def _rises(result: FlatnessResult, of: str) -> np.ndarray:
    """Return the rise under each independent draw, (D,); antithetic pairs are one."""
    rises = getattr(result, f"{of}_losses") - getattr(result, f"reference_{of}_loss")
    return rises.reshape(-1, 2).mean(axis=1) if result.mode == "sound" else rises
