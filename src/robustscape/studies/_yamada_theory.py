"""The theory of Yamada 2021 as checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from robustscape.display import threat_words
from robustscape.report.study import Shown
from robustscape.studies import _yamada_adversary as adversary
from robustscape.studies import _yamada_noise as noise
from robustscape.studies import _yamada_spectra
from robustscape.studies import _yamada_theorems as theorems
from robustscape.studies._yamada_cells import AtTrained, MadeUp, curve
from robustscape.studies.checks import checks_table, from_value, surprises
from robustscape.studies.published import published
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import Plain

if TYPE_CHECKING:
    from robustscape.studies.yamada import Yamada

PARTS: tuple[str, ...] = ("theory",)

_ORDER = (
    adversary.SEVEN,
    adversary.LEMMA,
    adversary.EIGHT,
    adversary.NINE,
    adversary.CONDITION,
    theorems.SHARPER,
    theorems.LINEAR,
    noise.THIRTEEN,
    noise.FOURTEEN,
    noise.FIFTEEN,
    noise.CONDITION,
    theorems.FLAT,
    theorems.LARGER,
    theorems.SHARPER_THAN_NOISE,
)
_PROBLEMS = {"paper": 50, "small": 5}
_NOISE: dict[str, Literal["l2", "linf"]] = {"table2": "l2", "table4": "linf"}
_RIGHT = (
    "Equation 7 has the sign of its last term wrong for theta between w and η; it and Lemma 1 hold for theta between "
    "w and -η.",
    "Equation 8 has a factor exp(-m) too many, m = y w.x - ‖w‖ ‖η‖: with s = 1 / (1 + exp(m)) the gradient is "
    "mean s (-y x + ‖η‖ w / ‖w‖), as in the paper's appendix B.",
    "Equation 9 is the Hessian only where y x = ‖η‖ w / ‖w‖ for every example. Elsewhere it lacks the factor 2 mean(s) "
    "and the Hessian with the worst inputs held, mean s (1 - s) u u' with u = -y x + ‖η‖ w / ‖w‖; under L∞, where the "
    "worst inputs do not move, that one is all there is.",
    "Theorem 1's condition makes all y x one vector of length eps. The loss is log 2 there, that of w = 0; any length "
    "of w is as good, and a data set can meet it for one eps alone. On other data the weights of the minimum go to 0 "
    "as eps nears the constant classifier's threshold: the largest eigenvalue then grows without end, not on a "
    "line, and falls to 0 where it is filter-normalised.",
    "Equation 13 has the wrong sign and x for x + η: the gradient is mean -y (g - 1) / g (x + η). Equation 14 holds.",
    "Equation 15 holds if κ does not depend on η, but κ = exp(-y w.(x + η)) does: with it more noise can also flatten.",
    "Theorem 2's limit, κ to 0, is that of separable data and weights that grow for ever. There the eigenvalues go to "
    "0 under an adversary too, if eps is less than the margin: the two theorems compare different limits.",
)
_SMALL = "Other images than the paper's: what is at trained weights means nothing."


def cells(study: Yamada, part: str) -> tuple[Cell, ...]:
    """Return the cells of a part."""
    assert part in PARTS
    shaken: list[Trained] = []
    for name, norm in _NOISE.items():
        table = published(f"yamada/{name}")
        radii = [row.eps / table.unit for row in table.rows if row.eps]
        shaken += [study.trained(norm=norm, eps=eps, adversary="noise") for eps in radii]
    curvatures = _yamada_spectra.cells(study)
    return (
        MadeUp(problems=_PROBLEMS[study.scale], seed=study.seed),
        AtTrained(curvatures=curvatures, shaken=tuple(shaken), seed=study.seed),
    )


def show(study: Yamada, part: str, values: Mapping[Any, Plain]) -> Shown:
    """Return a part as it is shown."""
    made_up, at_trained = (values[cell] for cell in cells(study, part))
    checks = from_value(made_up["checks"]) + from_value(at_trained["checks"])
    ordered = sorted(checks, key=lambda check: _ORDER.index(check.claim))
    notes = [
        "The worst violation of an equation is its error in parts of the largest entry, 1e-6 being allowed; of what "
        "is to rise, the largest fall in parts of the value before. Equations have no pixel range, as in the paper.",
        *_RIGHT,
        *(_growth(at_trained["growth"], norm) for norm in ("l2", "linf")),
        *surprises(ordered),
        *[_SMALL] * (study.scale == "small"),
    ]
    title = "Yamada et al. 2021: the theory, tested in float64 against differences of a loss that is attacked anew"
    return Shown(title=title, table=checks_table(ordered), notes=tuple(notes))


def _growth(growth: list[Mapping[str, Any]], norm: str) -> str:
    """Say how the largest eigenvalue grows at the trained weights."""
    attacked, shaken = curve(growth, "pgd", norm), curve(growth, "noise", norm)
    first, last, most = attacked[0], attacked[-1], shaken[-1]
    held = ""
    if norm == "l2":
        printed = last["eps"] / (2 * last["length"])
        held = f" (there {last['held']:.3g} with the worst inputs held; equation 9 has {printed:.3g})"
    return (
        f"Largest eigenvalue at trained weights: {first['total']:.3g} at eps 0, {last['total, pixel range']:.3g} "
        f"under {threat_words(norm, last['eps'])} in the pixel range, {last['total']:.3g} without it{held}; "
        f"{most['total']:.3g} under noise of {threat_words(norm, most['eps'])}, without it."
    )
