"""The figures of Yamada 2021: slices of the loss (1, 2 and 5); for figure 3 see ``_yamada_spectra``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from robustscape.display import Line, Panel, norm_words
from robustscape.report.quantities import Quantity
from robustscape.report.study import Shown
from robustscape.report.tables import Cell as Entry
from robustscape.report.tables import Column, Table
from robustscape.studies import _yamada_solved as solved
from robustscape.studies import _yamada_spectra
from robustscape.studies import _yamada_tables as tables
from robustscape.studies.landscapes import Slices
from robustscape.studies.optimum import Norm
from robustscape.studies.published import PublishedRow
from robustscape.studies.study import Cell
from robustscape.types import Plain

if TYPE_CHECKING:
    from robustscape.studies.yamada import Yamada

PARTS: tuple[str, ...] = ("figure1", "figure2", "figure3", "figure5")

_HARDLY = 0.1  # "hardly": less than this part of what PGD does


@dataclass(frozen=True, kw_only=True)
class _Models:
    """The models of a figure: the clean one, and those of a table whose eps, in its unit, is from least to most."""

    table: str
    least: float = 0
    most: float = inf

    @property
    def norm(self) -> Norm:
        """The norm of the perturbations."""
        return solved.SOLVED[self.table]

    @property
    def rows(self) -> tuple[PublishedRow, ...]:
        """The models' rows."""
        return tuple(
            row for row in tables.printed(self.table).rows if not row.eps or self.least <= row.eps <= self.most
        )

    @property
    def radii(self) -> list[float]:
        """Every eps in pixel units."""
        return [row.eps / tables.printed(self.table).unit for row in self.rows]

    @property
    def words(self) -> list[str]:
        """Every eps in words."""
        return [tables.eps_in(row, tables.printed(self.table)) for row in self.rows]

    @property
    def name(self) -> str:
        """The norm in words."""
        return norm_words(self.norm)


@dataclass(frozen=True, kw_only=True)
class _Series:
    """Slices of one panel: what the models were trained on, and under what their loss is."""

    words: str
    adversary: Literal["pgd", "noise"]
    under: Literal["adversary", "noise"]


_MODELS = {
    "figure1": _Models(table="table1"),
    "figure2": _Models(table="table3", most=16),
    "figure5": _Models(table="table3", least=25.5),
}
_PGD = _Series(words="trained on PGD, under the adversary", adversary="pgd", under="adversary")
_NOISE = _Series(words="trained on noise, under its noise", adversary="noise", under="noise")
_ATTACKED = _Series(words="trained on noise, under the adversary", adversary="noise", under="adversary")


def cells(study: Yamada, part: str) -> tuple[Cell, ...]:
    """Return the cells of a part; those at eps 0 are one."""
    if part == "figure3":
        return _yamada_spectra.cells(study)
    of = _MODELS[part]
    return tuple(dict.fromkeys(_cell(study, of, each, eps) for each in _series(part) for eps in of.radii))


def show(study: Yamada, part: str, values: Mapping[Any, Plain]) -> Shown:
    """Return a part as it is shown."""
    return _yamada_spectra.show(study, values) if part == "figure3" else _slices(study, part, values)


def _series(part: str) -> tuple[_Series, ...]:
    """Return the series of a figure: the paper's figure 5 has no panel of noise."""
    return (_PGD,) if part == "figure5" else (_PGD, _NOISE, _ATTACKED)


def _cell(study: Yamada, of: _Models, series: _Series, eps: float) -> Slices:
    """Return a model's slices; at eps 0 the images stay clean, whatever the series."""
    trained = study.trained(norm=of.norm, eps=eps, adversary=series.adversary)
    under: Literal["adversary", "noise"] = series.under if eps else "adversary"
    if study.scale == "small":
        return Slices(trained=trained, under=under, seed=study.seed, positions=5, directions=3)
    return Slices(trained=trained, under=under, seed=study.seed)


def _slices(study: Yamada, part: str, values: Mapping[Any, Plain]) -> Shown:
    """Return a figure of slices, and what they measure as a table."""
    of = _MODELS[part]
    found = {each: [values[_cell(study, of, each, eps)] for eps in of.radii] for each in _series(part)}
    columns = (
        Column(name="Slices"),
        Column(name="ε"),
        Column(name="Loss at 0", unit="nats", decimals=4),
        Column(name="Curvature at 0", unit="nats", decimals=4),
        Column(name="Rise at the ends", unit="nats", decimals=4),
        Column(name="Curvature over that at ε 0", decimals=1),
        Column(name="Rise over that at ε 0", decimals=1),
        Column(name="‖w‖₂", decimals=2),
    )
    rows = tuple(
        (each.words, eps, *_numbers(value, found[each][0]))
        for each in found
        for eps, value in zip(of.words, found[each], strict=True)
    )
    return Shown(
        title=f"Yamada et al. 2021, Figure {part[-1]}: slices of the training loss of linear models, {of.name}",
        table=Table(columns=columns, rows=rows),
        notes=(*_verdict(found), *_remarks(study, found)),
        panels=tuple(_panel(of, each, found) for each in found),
    )


def _measures(value: Plain) -> tuple[np.ndarray, np.ndarray]:
    """Return curvature at 0 and rise at the ends along each direction, (D,) each, nats."""
    loss, alpha = np.array(value["loss"]), value["alpha"]
    middle = len(alpha) // 2
    bend = loss[:, middle - 1] + loss[:, middle + 1] - 2 * loss[:, middle]
    return bend / alpha[middle + 1] ** 2, (loss[:, 0] + loss[:, -1]) / 2 - loss[:, middle]


def _numbers(value: Plain, natural: Plain) -> tuple[Entry, ...]:
    """Return the numbers of a row; the ratios are to the model trained on clean images."""
    here, plain = _measures(value), _measures(natural)
    middle = len(value["alpha"]) // 2
    return (
        Quantity(value=value["loss"][0][middle]),
        *(Quantity(value=float(each.mean()), spread=float(each.std(ddof=1))) for each in here),
        *(Quantity(value=float(a.mean() / b.mean())) for a, b in zip(here, plain, strict=True)),
        Quantity(value=value["norm"]),
    )


def _panel(of: _Models, series: _Series, found: Mapping[_Series, Sequence[Plain]]) -> Panel:
    """Return the mean over directions, a line an eps; beside noise, dashed, those of PGD: they give it their scale."""
    lines = tuple(
        Line(
            name=f"ε {eps}",
            x=tuple(value["alpha"]),
            y=tuple(np.mean(value["loss"], axis=0).tolist()),
            dashed=each is not series,
            group=group,
        )
        for each in ((_NOISE, _PGD) if series is _NOISE else (series,))
        for group, (eps, value) in enumerate(zip(of.words, found[each], strict=True))
    )
    title = f"{of.name}, {series.words}{' (dashed: PGD)' if series is _NOISE else ''}"
    return Panel(title=title, x="α, in ‖w‖", y="Training loss, nats", lines=lines)


def _verdict(found: Mapping[_Series, Sequence[Plain]]) -> tuple[str, ...]:
    """Say whether slices sharpen with eps, and hardly so for noise, by the curvature at 0."""
    bends = {each: [float(_measures(value)[0].mean()) for value in values] for each, values in found.items()}
    growth = {each: curve[-1] / curve[0] for each, curve in bends.items()}
    times = "; ".join(f"{each.words}, {value:,.4g}" for each, value in growth.items())
    always = all(before < after for before, after in pairwise(bends[_PGD]))
    notes = [
        f"Curvature at 0, the largest ε over ε 0: {times}.",
        f"That slices sharpen with ε under PGD {_answer(always)}, from each ε to the next.",
    ]
    if _NOISE in found:
        noise, attacked = (abs(growth[each] - 1) < _HARDLY * (growth[_PGD] - 1) for each in (_NOISE, _ATTACKED))
        again = bends[_ATTACKED][-1] / bends[_NOISE][-1]
        notes.append(
            f"That they hardly do so under random noise, by less than a tenth of that, {_answer(noise)} for models "
            f"trained on noise under their noise; for the same models under the adversary it {_answer(attacked)}. At "
            f"the largest ε these have {again:.3g} times the curvature under the adversary that they have under noise."
        )
    return tuple(notes)


def _answer(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _remarks(study: Yamada, found: Mapping[_Series, Sequence[Plain]]) -> tuple[str, ...]:
    """Say how the slices were made."""
    value = found[_PGD][0]
    directions, positions = np.shape(value["loss"])
    below = max(each["pgd"] for values in found.values() for each in values)
    notes = [
        f"Mean over {directions} random directions, the same for all models, ± their standard deviation, at "
        f"{positions} positions; a direction has the norm of w, which is filter normalisation here. Curvature: second "
        f"difference over α = {value['alpha'][positions // 2 + 1]:g}. Rise: mean of both ends, α = "
        f"±{value['alpha'][-1]:g}, less the middle. The paper gives none of these numbers.",
        "The loss is over all training images. The adversary is the exact one in ball and pixel range, taken anew at "
        f"every point; on 100 images at the middle and both ends PGD-{study.test_steps} stays at most {below:.1g} nats "
        "below it.",
    ]
    if _NOISE in found:
        error = max(each["error"] for each in found[_NOISE])
        notes.append(
            "Which loss the paper shows for models trained on noise is not said: both are here. Their noise is clipped "
            f"to the pixel range; its draws leave a standard error of {error:.1g} nats at most."
        )
    return (*notes, *["Other images than the paper's."] * (study.scale == "small"))
