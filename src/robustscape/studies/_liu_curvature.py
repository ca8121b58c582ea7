"""Liu 2020, Theorem 3: on separable data the curvature of the adversarial logistic loss grows with eps."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustscape.display import norm_words
from robustscape.linear.hessian import Form, hessian
from robustscape.linear.logistic import AdversarialLogistic
from robustscape.linear.norms import dual_norm, steepest
from robustscape.streams import Streams
from robustscape.studies.checks import Check, judged, to_value
from robustscape.studies.study import Cell
from robustscape.types import Plain, Splits

_EXAMPLES, _INPUTS = 20, 5
_ROUNDING = 1e-12
_TURN = 2.399  # m^2 s (1 - s) rises up to here, where m tanh(m / 2) = 2, and falls behind it
_CLAIM = "Theorem 3: the curvature grows with ε up to ε̂"
_FORMS: dict[str, tuple[tuple[Form, str], ...]] = {
    "l2": (("held", "worst inputs held"), ("total", "total Hessian")),
    "linf": (("total", "total Hessian, the same as held"),),
}


@dataclass(frozen=True, kw_only=True)
class SeparableCurvature:
    """Theorem 3 on random separable sets of 20 examples with 5 inputs.

    Attributes:
        norm: Norm of the perturbations, "l2" or "linf".
        sets: How many, at least 1.
        seed: Seed of all random numbers.
    """

    norm: Literal["l2", "linf"]
    sets: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"separable-{self.norm}"

    @property
    def needs(self) -> tuple[Cell, ...]:
        """It needs no other cell."""
        return ()

    def running(self, data: Splits, values: Mapping[Any, Plain]) -> Generator[tuple[int, int], None, Plain]:
        """Test, yielding (done, total); returns checks."""
        found: dict[str, list[Tensor]] = {}
        for number in range(self.sets):
            for name, pair in self._pairs(number).items():
                found.setdefault(name, []).append(pair)
            yield number + 1, self.sets
        return to_value(_checks(self.norm, {name: torch.stack(pairs) for name, pairs in found.items()}))

    def _pairs(self, number: int) -> dict[str, Tensor]:
        """Return the Hessians of one set at two eps, (2, d, d), by form; and more that the checks need."""
        rng = Streams(self.seed, ("liu", "separable", self.norm, number))
        w, other = (rng.tag(name).normal(_INPUTS, dtype=torch.float64) for name in ("w", "other"))
        w, other = w / dual_norm(w, self.norm), other / dual_norm(other, self.norm)
        x = rng.tag("x").normal(_EXAMPLES, _INPUTS, dtype=torch.float64)
        y = torch.where(x @ w > 0, 1.0, -1.0).double()
        margin = rng.tag("margin").uniform(1, low=0.1, high=1.0, dtype=torch.float64)
        x = x + (y * margin)[:, None] * steepest(w, self.norm)  # which raises y w.x by the margin
        hat = (y * (x @ w)).min()
        ends = (hat * rng.tag("eps").uniform(2, dtype=torch.float64)).sort().values.tolist()
        worst = [AdversarialLogistic(x=x, y=y, norm=self.norm, eps=eps).at(w) for eps in ends]
        elsewhere = [AdversarialLogistic(x=x, y=y, norm=self.norm, eps=eps).at(other) for eps in ends]
        forms: tuple[Form, ...] = ("liu", "held", "total")
        pairs = {form: torch.stack([hessian(one, form=form) for one in worst]) for form in forms}
        return pairs | {
            "other": torch.stack([hessian(one, form="liu") for one in elsewhere]),
            "along": torch.stack([w @ H @ w for H in pairs["held"]]),
            "largest": worst[0].margin.max()[None],
        }


def _checks(norm: str, found: dict[str, Tensor]) -> tuple[Check, ...]:
    count = f"{len(found['liu']):,} separable sets, {_EXAMPLES} × {_INPUTS}, {norm_words(norm)}"
    at = f"{count}, w separating at ε̂, ‖w‖_q = 1"
    checks = [
        _order("equation 29: Loewner order", at, found["liu"], True),
        *_ends("equation 29", at, found["liu"], True),
        _order("equation 29: Loewner order, any w", f"{count}, random w, ‖w‖_q = 1", found["other"], False),
    ]
    for form, words in _FORMS[norm]:
        checks.append(_order(f"{words}: Loewner order", at, found[form], False))
        checks += _ends(words, at, found[form], False)
    near = found["largest"][:, 0] < _TURN
    falls = found["along"][:, 1] - found["along"][:, 0]
    checks.append(
        judged(
            "Why: along w the curvature is mean m² s (1 − s), which falls with ε",
            form="held and total, where every margin is below 2.399",
            tested=at,
            errors=falls[near],
            tolerance=_ROUNDING,
        )
    )
    return tuple(checks)


def _order(form: str, tested: str, pairs: Tensor, expected: bool) -> Check:
    """Return the check that the second Hessian minus the first has no negative eigenvalue."""
    errors = -torch.linalg.eigvalsh(pairs[:, 1] - pairs[:, 0])[:, 0]
    return judged(_CLAIM, form=form, tested=tested, errors=errors, tolerance=_ROUNDING, expected=expected)


def _ends(form: str, tested: str, pairs: Tensor, expected: bool) -> tuple[Check, Check]:
    """Return the checks that the largest and the smallest eigenvalue do not fall."""
    falls = -torch.linalg.eigvalsh(pairs).diff(dim=1)[:, 0]
    largest, smallest = (
        judged(
            _CLAIM,
            form=f"{form}: {which} eigenvalue",
            tested=tested,
            errors=falls[:, place],
            tolerance=_ROUNDING,
            expected=expected,
        )
        for which, place in (("largest", -1), ("smallest", 0))
    )
    return largest, smallest


NOTES = (
    "Equation 29 takes ‖w‖_q = 1 and differentiates with that norm and ε held: Σ s (1 − s) x xᵀ / N, each weight of "
    "which grows with ε while every y w·x ≥ ε. The theorem says neither that it is this form nor that w separates; the "
    "Hessian of the loss that is trained is the total one.",
    "Along w both other forms are mean m² s (1 − s) with m = y w·x − ε: below m = 2.399 it falls with ε, so on any set "
    "with smaller margins they break the order.",
)
