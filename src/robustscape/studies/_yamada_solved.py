"""What stands solved beside the trained models of Yamada 2021's tables: optima, or directions of largest margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustscape.display import norm_words
from robustscape.report.quantities import Quantity
from robustscape.report.tables import Cell as Entry
from robustscape.report.tables import Column
from robustscape.studies.optimum import Margin, Norm, Optimum
from robustscape.studies.optimum_box import BoxOptimum
from robustscape.studies.optimum_noise import NoiseOptimum
from robustscape.studies.study import Cell
from robustscape.studies.trained import Trained
from robustscape.types import Plain

SOLVED: dict[str, Norm] = {"table1": "l2", "table3": "linf"}
"""Tables under PGD, beside which the optima stand, and their norm."""

NOISED: dict[str, Norm] = {"table2": "l2", "table4": "linf"}
"""Tables under noise, and the norm of its ball."""

SOLUTIONS = {
    "optimal": "optimum",
    "unfinished": "not finished",
    "constant": "w = 0 is best",
    "separable": "none: separable",
    "unattained": "none: only at infinity",
}
"""Outcomes of a solve in words."""

_SOLVED = (
    "Solved: what minimises the adversarial loss without the pixel box or, where all balls can be classified, so that "
    "there is no minimum, the direction of largest margin, up to ε = {}; judged exactly, in ball and box. Losses and "
    "certificates are in the part optimum."
)
_SOLVED_NOISE = (
    "Solved: what minimises the mean loss over noise that is not kept in the pixel range, while training and the "
    "accuracies shown keep it there: its expectation is exact for any weights. Where no such noise reaches a "
    "misclassified point, there is no minimum, and the direction of largest {} margin stands in, up to ε = {}. The "
    "accuracies are those under the draws that the trained model is judged by."
)
_HARDLY = (
    "Beyond it noise can reach the other side, but so rarely that the minimum is between 0 and the loss shown, at most "
    "{:.1e} nats: a bound certifies it for weights along the direction of largest L2 margin, whose accuracies are "
    "shown; other weights may have a loss as small."
)
_BOXED = (
    "Solved in the box: the same under the adversary that stays in the pixel range, as PGD does; a dash where all "
    "balls can be classified without it; where they can only there, weights that do it."
)


def optima(part: str, trained: Sequence[Trained]) -> tuple[Optimum, ...]:
    """Return the optimum beside each training of a table of ``SOLVED``."""
    return tuple(Optimum(norm=SOLVED[part], trained=one) for one in trained)


def cells(part: str, trained: Sequence[Trained]) -> tuple[Cell, ...]:
    """Return what stands beside the trainings of a table."""
    if part in NOISED:
        return (*_noise_optima(part, trained), Margin(norm=NOISED[part]))
    found = optima(part, trained)
    return (*found, *(boxed_cell(cell) for cell in found), Margin(norm=SOLVED[part]))


def beside(
    part: str, trained: Sequence[Trained], values: Mapping[Any, Plain]
) -> tuple[tuple[Column, ...], list[tuple[Entry, ...]], list[str]]:
    """Return further columns of a table, what is in them row by row, and notes."""
    if part in NOISED:
        found = [values[cell] for cell in _noise_optima(part, trained)]
        notes = _noise_notes(part, found, values[Margin(norm=NOISED[part])])
        return _NOISE_COLUMNS, [_noise_row(value) for value in found], notes
    rows = [_solved_row(values[cell]["free"], boxed_value(cell, values)) for cell in optima(part, trained)]
    said = _SOLVED.format(largest(values[Margin(norm=SOLVED[part])], SOLVED[part]))
    return _SOLVED_COLUMNS, rows, [said, _BOXED]


def boxed_cell(cell: Optimum) -> Optimum | BoxOptimum:
    """Return the cell that holds an optimum in the box: its own under linf."""
    return cell if cell.norm == "linf" else BoxOptimum(trained=cell.trained)


def boxed_value(cell: Optimum, values: Mapping[Any, Plain]) -> Plain:
    """Return what was solved in the box, None where that was not done."""
    return values[cell]["boxed"] if cell.norm == "linf" else values[boxed_cell(cell)]


def largest(margin: Plain, norm: Norm) -> str:
    """Return a maximum margin in words, the largest eps at which all balls can be classified."""
    levels = f" = {255 * margin['margin']:.2f}/255" if norm == "linf" else ""
    return f"{margin['margin']:.5f}{levels} (certified to {max(margin['upper'] - margin['margin'], 0.0):.0e})"


def _noise_optima(part: str, trained: Sequence[Trained]) -> tuple[NoiseOptimum, ...]:
    return tuple(NoiseOptimum(norm=NOISED[part], trained=one) for one in trained)


def _percent(what: str) -> tuple[Column, ...]:
    return tuple(Column(name=f"{split}, {what}", unit="%", decimals=2) for split in ("Train", "Test"))


_SOLVED_COLUMNS = (Column(name="Optimum"), *_percent("solved"), *_percent("solved in the box"))
_NOISE_COLUMNS = (
    Column(name="Optimum, no pixel range"),
    *_percent("solved"),
    Column(name="Loss, solved, at most, nats"),
    Column(name="Loss, trained, nats"),
)


def _solved_row(free: Plain, boxed: Plain) -> tuple[Entry, ...]:
    """Return what a solve reached; a dash where it was not done in the box."""
    numbers = [None if found is None else found[split] for found in (free, boxed) for split in ("train", "test")]
    entries = (None if number is None else Quantity(value=100 * number) for number in numbers)
    return (SOLUTIONS[free["outcome"]], *entries)


def _noise_row(value: Plain) -> tuple[Entry, ...]:
    """Return what a solve under noise reached; the losses lie many powers of ten apart."""
    accuracies = (Quantity(value=100 * value[split]) for split in ("train", "test"))
    losses = (None if loss is None else f"{loss:.2e}" for loss in (value["loss"], value["trained"]))
    return (SOLUTIONS[value["outcome"]], *accuracies, *losses)


def _noise_notes(part: str, found: Sequence[Plain], margin: Plain) -> list[str]:
    """Say what was solved under noise, and how small the minima are where they cannot be told from 0."""
    norm = NOISED[part]
    said = [_SOLVED_NOISE.format(norm_words(norm), largest(margin, norm))]
    hardly = [value["loss"] for value in found if value["loss"] is not None and value["gap"] == value["loss"]]
    if hardly:
        said.append(_HARDLY.format(max(hardly)))
    return said
