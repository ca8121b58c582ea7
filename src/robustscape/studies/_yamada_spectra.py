"""Figure 3 of Yamada 2021: the three largest eigenvalues of the Hessian over eps, measured and exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from robustscape.display import Line, Panel, norm_words
from robustscape.report.quantities import Quantity
from robustscape.report.study import Shown
from robustscape.report.tables import Cell as Entry
from robustscape.report.tables import Column, Table
from robustscape.studies import _yamada_tables as tables
from robustscape.studies.curvatures import Curvature
from robustscape.types import Plain

if TYPE_CHECKING:
    from robustscape.studies.yamada import Yamada

_Norm: TypeAlias = Literal["l2", "linf"]
_TABLES: dict[_Norm, str] = {"l2": "table1", "linf": "table3"}  # whose models they are
_RANGES: tuple[tuple[_Norm, int | None, str], ...] = (  # so many eps of a norm; the paper's figure 2 has 5
    ("l2", None, "1"),
    ("linf", 5, "16/255"),
    ("linf", None, "76.5/255"),
)
_STRAIGHT = 0.95  # R squared of what is called nearly linear
_PLACES = ("first", "second", "third")
_FORMS = ("held", "total", "held, no box", "total, no box")


def cells(study: Yamada) -> tuple[Curvature, ...]:
    """Return a curvature for each model of Tables 1 and 3; those at eps 0 are one."""
    return tuple(dict.fromkeys(_cell(study, norm, eps) for norm in _TABLES for eps in _radii(norm)))


def _radii(norm: _Norm) -> tuple[float, ...]:
    """Return every eps of the paper's table in pixel units."""
    table = tables.printed(_TABLES[norm])
    return tuple(row.eps / table.unit for row in table.rows)


def _cell(study: Yamada, norm: _Norm, eps: float) -> Curvature:
    return Curvature(trained=study.trained(norm=norm, eps=eps), seed=study.seed)


def show(study: Yamada, values: Mapping[Any, Plain]) -> Shown:
    """Return the figure and its table."""
    found: dict[_Norm, list[Plain]] = {
        norm: [values[_cell(study, norm, eps)] for eps in _radii(norm)] for norm in _TABLES
    }
    names = ("Measured", "Exact, held", "Measured minus exact", "Exact, total")
    names += ("Held, no pixel range", "Total, no pixel range")
    words = (Column(name="Norm"), Column(name="ε"), Column(name="Eigenvalue"))
    columns = (*words, *(Column(name=name, decimals=5) for name in names), Column(name="‖w‖₂", decimals=2))
    rows = tuple(
        (norm_words(norm), f"{eps:g}" if norm == "l2" else f"{255 * eps:g}/255", which, *_numbers(value, place))
        for norm, each in found.items()
        for eps, value in zip(_radii(norm), each, strict=True)
        for place, which in enumerate(_PLACES)
    )
    panels = tuple(_panel(norm, found[norm][:stop], words) for norm, stop, words in _RANGES)
    notes = (*_straightness(found), *_remarks(study, found))
    title = "Yamada et al. 2021, Figure 3: the three largest eigenvalues of the Hessian of the training loss"
    return Shown(title=title, table=Table(columns=columns, rows=rows), notes=notes, panels=panels)


def _numbers(value: Plain, place: int) -> tuple[Entry, ...]:
    measured, held, total, *free = (value[form][place] for form in ("measured", *_FORMS))
    return tuple(Quantity(value=number) for number in (measured, held, measured - held, total, *free, value["norm"]))


def _panel(norm: _Norm, found: Sequence[Plain], words: str) -> Panel:
    """Return the three eigenvalues over eps: solid what was measured, dashed what is exact."""
    lines = tuple(
        Line(
            name=which,
            x=_radii(norm)[: len(found)],
            y=tuple(value[form][place] for value in found),
            dashed=form != "measured",
            group=place,
        )
        for place, which in enumerate(_PLACES)
        for form in ("measured", "total")
    )
    return Panel(title=f"{norm_words(norm)} up to {words}", x="ε, pixels in [0, 1]", y="Eigenvalue, nats", lines=lines)


def _straightness(found: Mapping[_Norm, Sequence[Plain]]) -> tuple[str, ...]:
    """Say how straight each eigenvalue is over eps, in every form; under L-infinity also without the large eps."""
    notes = []
    for norm, stop, words in _RANGES:
        forms = ("measured", *(_FORMS if norm == "l2" else _FORMS[::2]))
        squares = {form: _squares(_radii(norm)[:stop], found[norm][:stop], form) for form in forms}
        straight = sum(square >= _STRAIGHT for square in squares["measured"])
        each = "; ".join(f"{form} {', '.join(f'{square:.3f}' for square in of)}" for form, of in squares.items())
        notes.append(
            f"R² of a line over ε, {norm_words(norm)} up to {words}, by eigenvalue: {each}. Nearly linear, by "
            f"{_STRAIGHT:g} at least: {straight} of the {len(_PLACES)} measured."
        )
    return tuple(notes)


def _squares(eps: Sequence[float], found: Sequence[Plain], form: str) -> list[float]:
    """Return R squared of the least-squares line of each eigenvalue over eps."""
    curves = ([value[form][place] for value in found] for place in range(len(_PLACES)))
    return [float(np.corrcoef(eps, curve)[0, 1] ** 2) for curve in curves]


def _remarks(study: Yamada, found: Mapping[_Norm, Sequence[Plain]]) -> tuple[str, ...]:
    """Say what was measured, how far it is from exact, and what the pixel range changes."""
    l2, linf = (
        max(abs(value["measured"][place] / value["held"][place] - 1) for value in found[norm] for place in range(3))
        for norm in found
    )
    wider = [value["held, no box"][0] / value["held"][0] for each in found.values() for value in each[1:]]
    last = found["l2"][-1]
    added = 100 * (1 - last["held"][0] / last["total"][0])
    kinks = sum(value["kinks"] for each in found.values() for value in each)
    notes = [
        f"Measured: Lanczos' method on autograd's Hessian-vector products at held inputs of PGD-{study.test_steps}, "
        f"at most {100 * l2:.2g} % off the exact value under L2 and {100 * linf:.2g} % under L∞. Exact: closed forms "
        "at the exact worst inputs. Nats per unit of weight squared, over all training images, at the weights as "
        "trained.",
        "Held: the adversarial inputs stay where they are. Total: they follow the weights, which makes it the loss's "
        "own Hessian; under L∞ both are one wherever the loss has a gradient"
        + (f", which it lacks at {kinks} models." if kinks else ", as it has at all these models."),
        f"Without the pixel range the first eigenvalue is {min(wider):.2f} to {max(wider):.2f} times that within it. "
        "The paper's theory has no pixel range, its PGD has.",
        "The paper's theorem covers L2 alone, and there what total adds to held: at the largest ε "
        f"{added:.2g} % of the first eigenvalue. The rest is held, which is 0 where the theorem's condition is met.",
        "In the figure what was measured, at held inputs, is solid; the exact total is dashed.",
    ]
    return (*notes, *["Other images than the paper's."] * (study.scale == "small"))
