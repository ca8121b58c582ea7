"""Liu 2020, Proposition 1: the version space V_eps of a linear classifier shrinks as eps grows."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustscape.linear.bracket import classwise_bound
from robustscape.linear.multiclass import largest_eps, worst_gaps
from robustscape.studies._liu_linear import EXAMPLES, NEAR, WORDS, Problem, gathered
from robustscape.studies.checks import Check, judged, to_value
from robustscape.studies.study import Cell
from robustscape.types import Plain, Splits


@dataclass(frozen=True, kw_only=True)
class VersionSpaces:
    """Proposition 1 on random classifiers.

    Attributes:
        problems: Classifiers of each norm and number of classes, with 50 examples each; at least 1.
        seed: Seed of all random numbers.
    """

    problems: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return "version-spaces"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Test, yielding (done, total); returns checks."""
        found = yield from gathered(self.problems, self.seed, _errors)
        return to_value(_checks(found))


def _errors(p: Problem) -> dict[str, Tensor]:
    """Return the errors on one classifier; labels are what it says, so that V_eps holds it for a small eps."""
    K, y = len(p.weights), (p.x @ p.weights.T).argmax(dim=1)
    p = Problem(norm=p.norm, weights=p.weights, x=p.x, y=y, rng=p.rng)
    nearest = largest_eps(p.weights, p.x, y, norm=p.norm)
    larger = nearest * p.rng.tag("larger").uniform(EXAMPLES, high=1.5, dtype=torch.float64)
    smaller = larger * p.rng.tag("smaller").uniform(EXAMPLES, dtype=torch.float64)
    gap = worst_gaps(p.weights, p.x, y, norm=p.norm, eps=larger).amax(dim=1)
    members, told = gap <= 0, gap.abs() > NEAR
    at_larger, at_smaller = p.gaps(larger), p.gaps(smaller)
    tried = at_larger.amax(dim=(1, 2))  # the label's own gap 0 included
    loss = [torch.logsumexp(gaps, dim=2).amax(dim=1) for gaps in (at_smaller, at_larger)]
    bound = classwise_bound(p.weights, p.x, y, norm=p.norm, eps=larger)
    log_K = torch.log(torch.tensor(K, dtype=torch.float64))
    errors = {
        "nested": at_smaller.amax(dim=(1, 2))[members],
        "form": torch.where((gap <= 0) == (tried <= 0), 0.0, gap.abs())[told],
        "loss": (bound - log_K)[members],
        "grows": loss[0] - loss[1],
    }
    below = told & (bound <= log_K)
    return errors | {f"only {min(K, 3)}": gap[below]}


def _checks(found: dict[str, Tensor]) -> tuple[Check, ...]:
    claim, many = "Proposition 1: V_ε2 ⊆ V_ε1 for ε1 ≤ ε2", f"{WORDS}, K = 2, 3, 5"
    hint = "Section 3.1: g_ε ≤ log K for W in V_ε"
    rounding = 1e-12
    return (
        judged(
            claim,
            form="as printed: members of V_ε2 against every extreme point of the smaller ball",
            tested=many,
            errors=found["nested"],
            tolerance=rounding,
        ),
        judged(
            "Section 3.1: V_ε",
            form="closed form, (w_j − w_y)·x + ε‖w_j − w_y‖_q ≤ 0 for all j",
            tested=f"{many}; within {NEAR} of its border left out",
            errors=found["form"],
        ),
        judged(hint, form="as printed", tested=many, errors=found["loss"], tolerance=rounding),
        judged(
            hint,
            form="and nowhere else, K = 2",
            tested=WORDS,
            errors=found["only 2"],
            tolerance=rounding,
        ),
        judged(
            hint,
            form="and nowhere else, K = 3, 5",
            tested=WORDS,
            errors=found["only 3"],
            tolerance=rounding,
            expected=False,
        ),
        judged(
            "Section 3.1: g_ε1 ≤ g_ε2 for ε1 ≤ ε2",
            form="as printed",
            tested=many,
            errors=found["grows"],
            tolerance=rounding,
        ),
    )


NOTES = (
    "V_ε2 ⊆ V_ε1 because the smaller ball is inside the larger one. The paper's reason, that g_ε grows and is at most "
    "log K on V_ε, is not enough for K ≥ 3: g_ε ≤ log K outside V_ε too.",
)
