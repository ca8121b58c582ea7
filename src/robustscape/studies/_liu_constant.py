"""Liu 2020, Theorem 1: the set T_eps of linear classifiers that no scale makes better than the constant one."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustscape.linear.bracket import cross_entropy_bracket
from robustscape.linear.multiclass import constant_along, worst_gaps
from robustscape.linear.norms import Norm, dual_norm, size, steepest
from robustscape.studies._liu_linear import CLASSES, EXAMPLES, NEAR, WORDS, Problem, depth, gathered, problem
from robustscape.studies.checks import Check, judged, to_value
from robustscape.studies.study import Cell
from robustscape.types import Plain, Splits

_DEEP = 1e-10  # nats: a dip of the loss above rounding
_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
_SHOWN = (10.0, 1.0, 0.1, 0.01)  # scales of one W


@dataclass(frozen=True, kw_only=True)
class ConstantScales:
    """Theorem 1 and its eps-bar on random classifiers.

    Attributes:
        problems: Classifiers of each norm and number of classes, with 50 examples each; at least 1.
        seed: Seed of all random numbers.
    """

    problems: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return "constant-scales"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Test, yielding (done, total); returns "checks" and, for one W at several scales, "bars"."""
        found = yield from gathered(self.problems, self.seed, _errors)
        one = problem("l2", 5, 0, self.seed)
        bars = {f"{scale:g}": float(printed_bar(scale * one.weights, one.x, one.y, "l2")[0]) for scale in _SHOWN}
        return {
            "checks": to_value(_checks(found)),
            "bars": bars,
            "exact": float(size(one.x[0], "l2")),
        }


def printed_bar(weights: Tensor, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """Return the eps-bar of appendix B.1, (log(K - 1) - (w_m - w_y).x) / ||w_m - w_y||_q, (N,): it depends on W."""
    away = weights[None] - weights[y][:, None]
    norms = dual_norm(away, norm)
    m = norms.argmax(dim=1, keepdim=True)
    score = (away * x[:, None]).sum(dim=2).gather(1, m)[:, 0]
    log = torch.log(torch.tensor(len(weights) - 1, dtype=x.dtype))
    return (log - score) / norms.gather(1, m)[:, 0]


def _told(slope: Tensor) -> Tensor:
    """Return which cases are far enough from the border of T."""
    return slope.abs() > NEAR


def _missed(inside: Tensor, slope: Tensor, deep: Tensor) -> Tensor:
    """Return by how much brute force disagrees with whether W is in T: the dip, or the slope where there is none."""
    found = deep <= _DEEP
    return torch.where(inside == found, 0.0, torch.where(inside, deep, slope.abs()))


def _errors(p: Problem) -> dict[str, Tensor]:
    K = len(p.weights)
    border = (p.a * p.x).sum(dim=1).abs() / dual_norm(p.a, p.norm)
    eps = border * p.rng.tag("eps").uniform(EXAMPLES, high=2.0, dtype=torch.float64)
    more = eps * (1 + p.rng.tag("more").uniform(EXAMPLES, dtype=torch.float64))
    exact, bar = size(p.x, p.norm), printed_bar(p.weights, p.x, p.y, p.norm).clamp(min=0)
    slope, deep = p.slope(eps), depth(torch.cat([p.gaps(radius) for radius in (eps, more, exact, bar)]))
    deep, deep_more, deep_exact, deep_bar = deep.chunk(4)
    inside = constant_along(p.weights, p.x, p.y, norm=p.norm, eps=eps)
    told = _told(slope)
    version = [worst_gaps(sign * p.weights, p.x, p.y, norm=p.norm, eps=eps).amax(dim=1).le(0) for sign in (1.0, -1.0)]
    few = "2" if K == 2 else "3"
    errors = {
        f"form {K}": _missed(inside, slope, deep)[told],
        f"one {few}": _missed(~version[0], slope, deep)[told],
        f"both {few}": _missed(~(version[0] | version[1]), slope, deep)[told],
    }
    lower = cross_entropy_bracket(p.weights, p.x, p.y, norm=p.norm, eps=bar).lower
    errors |= {
        "grows": torch.where(deep <= _DEEP, deep_more, 0.0)[told & _told(p.slope(more))],
        "exact": deep_exact[_told(p.slope(exact))],
        "own": deep_bar[_told(p.slope(bar))],
        "printed": torch.log(torch.tensor(K, dtype=torch.float64)) - lower,
    }
    return errors | _below_errors(p, exact) | _mean_errors(p)


def _below_errors(p: Problem, exact: Tensor) -> dict[str, Tensor]:
    """Return the errors of the last W to enter T, the one whose a is dual to x, just below the exact eps-bar."""
    toward = steepest(p.x[0], _DUAL[p.norm])
    weights = torch.zeros_like(p.weights).index_fill(0, p.y[0], 1.0) * toward
    one = Problem(norm=p.norm, weights=weights, x=p.x[:1], y=p.y[:1], rng=p.rng)
    return {"below": torch.where(depth(one.gaps(0.99 * exact[:1])) <= _DEEP, 0.01 * exact[:1], 0.0)}


def _mean_errors(p: Problem) -> dict[str, Tensor]:
    """Return the error of the closed form for the mean loss of all examples under one eps."""
    score, norms = (p.a * p.x).sum(dim=1).mean().abs(), dual_norm(p.a, p.norm).mean()
    eps = score / norms * p.rng.tag("mean").uniform(1, high=2.0, dtype=torch.float64)
    slope = (eps * norms - score) / len(p.weights)
    missed = _missed(slope >= 0, slope, depth(p.gaps(eps.expand(EXAMPLES)), mean=True))
    return {"mean": missed[_told(slope)]}


def _checks(found: dict[str, Tensor]) -> tuple[Check, ...]:
    near = f"{WORDS}; within {NEAR} of the border left out"
    constant, bar = "Theorem 1: T_ε, where scale 0 is the best of W", "Theorem 1: from some ε̄ on T_ε is everything"
    complement = "Section 3.1: T_ε is the complement of V_ε"
    forms = [
        judged(constant, form=f"closed form, |a·x| ≤ ε‖a‖_q, K = {K}", tested=near, errors=found[f"form {K}"])
        for K in CLASSES
    ]
    mean = "closed form for a mean loss, |mean a·x| ≤ ε mean ‖a‖_q"
    deep = _DEEP
    return (
        *forms,
        judged(constant, form=mean, tested=f"{near}; {EXAMPLES} examples, K = 2, 3, 5", errors=found["mean"]),
        judged(
            "Theorem 1: T_ε2 ⊆ T_ε1 for ε1 ≥ ε2",
            form="as printed",
            tested=f"{near}; K = 2, 3, 5",
            errors=found["grows"],
            tolerance=deep,
        ),
        judged(bar, form="ε̄ = ‖x‖_p", tested=f"{near}; K = 2, 3, 5", errors=found["exact"], tolerance=deep),
        judged(
            bar,
            form="and no smaller ε̄: at 0.99 ‖x‖_p a W is outside",
            tested="the W with a dual to x, K = 2, 3, 5",
            errors=found["below"],
        ),
        judged(
            "Appendix B.1: g_ε(x, W) ≥ log K from ε̄(W) on",
            form="as printed, for that W",
            tested=f"{WORDS}, K = 2, 3, 5",
            errors=found["printed"],
            tolerance=1e-12,
        ),
        judged(
            bar,
            form="appendix B.1, ε̄(W) = (log(K − 1) − (w_m − w_y)·x) / ‖w_m − w_y‖_q: W itself",
            tested=f"{near}; K = 2, 3, 5",
            errors=found["own"],
            tolerance=deep,
            expected=False,
        ),
        judged(complement, form="as printed, K = 2", tested=near, errors=found["one 2"], expected=False),
        judged(complement, form="of V_ε and −V_ε together, K = 2", tested=near, errors=found["both 2"]),
        judged(
            complement,
            form="of V_ε and −V_ε together, K = 3, 5",
            tested=near,
            errors=found["both 3"],
            expected=False,
        ),
    )


def notes(value: Plain) -> tuple[str, ...]:
    """Return what is said beside Theorem 1, from the cell's value."""
    bars = ", ".join(f"{bar:.2f} at {scale}" for scale, bar in value["bars"].items())
    return (
        "a = Σ_j (w_j − w_y). At scale 0 the worst-case loss rises at the rate (ε‖a‖_q ± a·x) / K to either side, and "
        "it is convex: hence the closed form, and ε̄ = max over W of |a·x| / ‖a‖_q = ‖x‖_p for one example.",
        f"The paper's ε̄ depends on W and has no bound as W shrinks (K = 5, L2, one W at several scales: {bars}; "
        f"‖x‖₂ = {value['exact']:.2f}), so it proves no ε̄ for all W.",
        "With two classes T_ε lacks also the W that are wrong on the whole ball, for which a negative scale is best.",
    )
