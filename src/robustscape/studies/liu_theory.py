"""Liu et al. 2020: theory of the adversarial loss landscape, every claim tested as printed and as it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from robustscape.report.study import Shown
from robustscape.studies import (
    _liu_constant,
    _liu_curvature,
    _liu_descent,
    _liu_kink,
    _liu_smoothness,
    _liu_version,
)
from robustscape.studies._liu_bound import Rearranged
from robustscape.studies._liu_logistic import LogisticSmoothness
from robustscape.studies.checks import checks_table, from_value, surprises
from robustscape.studies.study import Cell
from robustscape.types import BadInput, Images, Plain, Splits

_TITLES = {
    "proposition1": "Liu et al. 2020, Proposition 1: the version space of a linear classifier shrinks with ε",
    "theorem1": "Liu et al. 2020, Theorem 1: from some ε on the constant linear classifier is the best",
    "proposition2": "Liu et al. 2020, Proposition 2 and Corollary 1: the adversary takes smoothness from the gradient",
    "theorem2": "Liu et al. 2020, Theorem 2 and Corollary 2: how often the gradient is large",
    "theorem3": "Liu et al. 2020, Theorem 3: does the curvature grow with ε on separable data?",
    "figure5": "Liu et al. 2020, figure 5: the kink that the adversary makes at θ = 0, x = 1",
}


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """How much is done.

    Attributes:
        problems: Linear classifiers of each norm and number of classes, with 50 examples each.
        sets: Separable sets of each norm.
        pairs: Pairs of weights.
        distributions: Distributions of gradient norms.
        steps: Steps of descent with one weight.
        network_steps: Steps of descent of a network.
        runs: Runs for each eps.
        points: Values of theta in the figure.
    """

    problems: int = 8
    sets: int = 2000
    pairs: int = 2000
    distributions: int = 10_000
    steps: int = 10_000
    network_steps: int = 2000
    runs: int = 4
    points: int = 201


_SMALL = _Sizes(problems=1, sets=200, pairs=60, distributions=200, steps=400, network_steps=100, runs=2, points=41)


@dataclass(frozen=True, kw_only=True)
class LiuTheory:
    """Theory of the adversarial loss landscape as checks: Propositions 1 and 2, Theorems 1 to 3, figure 5.

    Paper: Liu et al. 2020, https://arxiv.org/abs/2006.08403, section 3 and appendices A and B. Every claim is tested
    on random problems, as printed and, where that does not hold, in a form that does; the worst violation is shown.
    No data set is needed.

    Attributes:
        scale: "paper" for thousands of cases of each claim, half a minute on one core; "small" for a look in seconds.
        seed: Seed of all random numbers.
    """

    name: ClassVar[str] = "liu_theory"
    precision: ClassVar[str] = "float64"

    scale: Literal["paper", "small"] = "paper"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.scale not in ("paper", "small"):
            raise BadInput(f"scale {self.scale!r} is not one of paper, small")

    def parts(self) -> tuple[str, ...]:
        """Return the names of the claims, in the paper's order."""
        return tuple(_TITLES)

    def cells(self, part: str) -> tuple[Cell, ...]:
        """Return the cells whose checks, one after the other, are a part."""
        n, seed = _Sizes() if self.scale == "paper" else _SMALL, self.seed
        if part == "proposition1":
            return (_liu_version.VersionSpaces(problems=n.problems, seed=seed),)
        if part == "theorem1":
            return (_liu_constant.ConstantScales(problems=n.problems, seed=seed),)
        if part == "proposition2":
            return (
                *(LogisticSmoothness(norm=norm, pairs=n.pairs, seed=seed) for norm in ("l2", "linf")),
                *(
                    _liu_smoothness.NetworkSmoothness(activation=kind, pairs=n.pairs, seed=seed)
                    for kind in ("softplus", "silu", "relu")
                ),
            )
        if part == "theorem2":
            return (
                Rearranged(distributions=n.distributions, seed=seed),
                _liu_descent.ScalarDescent(steps=n.steps, runs=50 * n.runs, seed=seed),
                *(
                    _liu_descent.NetworkDescent(activation=kind, steps=n.network_steps, runs=n.runs, seed=seed)
                    for kind in ("softplus", "silu", "relu")
                ),
            )
        if part == "theorem3":
            return tuple(
                _liu_curvature.SeparableCurvature(norm=norm, sets=n.sets, seed=seed) for norm in ("l2", "linf")
            )
        return (_liu_kink.Kink(points=n.points),)

    def data(self) -> Splits:
        """Return no images: every problem is drawn from the seed."""
        none = torch.zeros(0, dtype=torch.int64)
        images = Images(
            x=torch.zeros(0, 1, 1, 1, dtype=torch.uint8), y=none, index=none, classes=("-1", "1"), name="no images"
        )
        return Splits(train=images, validation=images, test=images)

    def show(self, part: str, values: Mapping[Any, Plain]) -> Shown:
        """Return a part: its checks as a table, what failed unexpectedly first among the notes; or the figure."""
        found = [values[cell] for cell in self.cells(part)]
        if part == "figure5":
            return _liu_kink.show(found[0], title=_TITLES[part])
        notes: dict[str, tuple[str, ...]] = {
            "proposition1": _liu_version.NOTES,
            "theorem1": _liu_constant.notes(found[0]) if part == "theorem1" else (),
            "proposition2": _liu_smoothness.NOTES,
            "theorem2": _liu_descent.NOTES,
            "theorem3": _liu_curvature.NOTES,
        }
        checks = [check for value in found for check in from_value(value["checks"] if part == "theorem1" else value)]
        return Shown(title=_TITLES[part], table=checks_table(checks), notes=(*surprises(checks), *notes[part]))
