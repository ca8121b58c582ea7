"""What goes with robustness: overfitting by its definitions, and how measures correlate with it over the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from robustscape.evaluation.correlation import LEAST, Coefficient, correlation
from robustscape.evaluation.overfitting import Overfitting, Term
from robustscape.relations import (
    CLEAN,
    ERROR,
    GAP,
    LATE,
    LOSS,
    OUTCOMES,
    Network,
    Relations,
    having,
    levels,
    overfittings,
    relations,
    unlevelled,
)
from robustscape.report import pieces, relation_charts
from robustscape.report.charts import Chart
from robustscape.report.quantities import Quantity, flatness, mean
from robustscape.report.tables import Cell, Column, Table, to_text
from robustscape.runs import RunFolder, grouped
from robustscape.types import BadInput

_COLUMNS = {
    "gap_loss": Column(name="Test − train, robust loss (Stutz)", unit="nats", decimals=3),
    "gap_error": Column(name="Test − train, robust error (Stutz)", unit="points"),
    "last_minus_best_loss": Column(name="Last − best, robust loss (Stutz)", unit="nats", decimals=3),
    "last_minus_best_error": Column(name="Last − best, robust error (Stutz)", unit="points"),
    "wu_last": Column(name="Train − test, last epoch (Wu)", unit="points"),
    "wu_best": Column(name="Train − test, best epoch (Wu)", unit="points"),
    "yan": Column(name="Best train − best test (Yan)", unit="points"),
    "yamada": Column(name="Last train − best test (Yamada)", unit="points"),
}
"""Field of ``Overfitting`` to its column."""

_COEFFICIENTS = {"pearson": "Pearson", "spearman": "Spearman", "kendall": "Kendall", "partial": "Clean accuracy held",
                 "within": "Within methods"}  # fmt: skip


def gaps(folders: Sequence[RunFolder]) -> Table | None:
    """Return the robust overfitting of each method by every definition, beside its flatness.

    Stutz's are from the evaluations, the others from the training log, of accuracies; see
    ``evaluation.overfitting.Overfitting``.

    Returns:
        A row a method, its mean over seeds; None where nothing can be said of any.
    """
    return _gaps(folders, overfittings(folders))


def correlations(found: Relations) -> Table | None:
    """Return how each measure goes with each outcome over the last checkpoints, a row a pair of them.

    "Clean accuracy held" is Pearson's partial coefficient; "Within methods" is Pearson's of the distances from each
    method's mean, so that methods which merely differ do not count.

    Returns:
        The table; None for no measure.
    """
    rows = [_row(measure, name, found.last) for measure in found.measures for name in OUTCOMES]
    made = [row for row in rows if row is not None]
    if not made:
        return None
    columns = [Column(name="Measure"), Column(name="Goes with"), Column(name="Runs", decimals=0)]
    for name in _COEFFICIENTS.values():
        columns += [Column(name=name, decimals=2), Column(name=f"{name}, p" if " " in name else f"{name}'s p")]
    kept = [p for p in range(len(columns)) if any(row[p] is not None for row in made)]
    return Table(columns=tuple(columns[p] for p in kept), rows=tuple(tuple(row[p] for p in kept) for row in made))


def level_table(found: Relations) -> Table | None:
    """Return means of robust error and measures of good, average and poor networks; None where there are none."""
    there = levels(found)
    if not there:
        return None
    units = {ERROR: "%", **found.measures}
    columns = [Column(name="Networks"), Column(name="Robust errors"), Column(name="Runs", decimals=0)]
    columns += [Column(name=name, unit=unit, decimals=1 if name == ERROR else 3) for name, unit in units.items()]
    rows = []
    for level in there:
        values = [[n.values[name].value for n in having(level.networks, name)] for name in units]
        means = [mean([Quantity(value=value) for value in of]) for of in values]
        rows.append((level.name, level.errors, Quantity(value=len(level.networks)), *means))
    return Table(columns=tuple(columns), rows=tuple(rows))


def to_lines(folders: Sequence[RunFolder], *, width: int) -> str:
    """Return both tables for a terminal under their headings, and what was left out; "" where there is nothing."""
    found = relations(folders)
    parts = []
    if table := gaps(folders):
        parts.append(f"Robust overfitting, by its definitions:\n\n{to_text(table, width=width)}")
    if len(found.last) >= LEAST and (table := correlations(found)):
        parts.append(f"What goes with robustness, over {len(found.last)} runs:\n\n{to_text(table, width=width)}")
    return "\n".join([*parts, *found.notes])


def section(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> str:
    """Return the section of the page; of fewer than four runs it says that they are too few.

    Args:
        folders: The runs.
        drawn: Takes its charts.
    """
    found, apart = relations(folders), overfittings(folders)
    table = _gaps(folders, apart)
    content = "" if table is None else pieces.table(table, caption=_GAPS_CAPTION) + _reasons(apart)
    if len(found.last) < LEAST:
        there = f"{len(found.last)} run{'s' * (len(found.last) != 1)} judged alike"
        content += pieces.note(
            f"There {'is' if len(found.last) == 1 else 'are'} {there}: charts and correlations need {LEAST}."
        )
    else:
        content += _charts(found, drawn) + _correlations(found)
    content += pieces.note(" ".join(found.notes))
    lead = "Whether what was measured of the networks is larger where they are less robust."
    return pieces.section("relations", "What goes with robustness", lead, content)


# -- words ---------------------------------------------------------------------------------------------

_GAPS_CAPTION = (
    "Robust overfitting by every definition in use, the mean over seeds. Stutz: from the evaluations. Wu, Yan, Yamada: "
    "robust accuracy as tracked in training; the best is chosen on the images that judge it."
)
_CAPTION = (
    "Correlation with the robust loss over the runs, last checkpoints, with 95 % bootstrap intervals over runs. "
    "Clean accuracy held: Pearson’s partial coefficient. Within methods: Pearson’s, each method’s mean subtracted."
)
_LEVELS_CAPTION = (
    "Means over good, average and poor networks: divided at the 30 % and the 70 % percentile of the robust error of "
    "all last checkpoints (Stutz 2021, table 1)."
)
_MORE = "The same with robust error, and with both parts of the robust loss"
_CARE = (
    "Runs that differ by their seed alone are not independent: over few methods, intervals and p-values promise too "
    "much. A p-value is that of its row alone: of twenty rows that mean nothing one is below 0.05."
)


def _reasons(found: Mapping[str, Sequence[Overfitting]]) -> str:
    """Say why a number is not there."""
    terms = [getattr(one, field) for of in found.values() for one in of for field in _COLUMNS]
    notes = dict.fromkeys(term.note for term in terms if term.value is None)
    return pieces.note(f"–: {'; '.join(notes)}.") if notes else ""


# -- charts --------------------------------------------------------------------------------------------


def _charts(found: Relations, drawn: dict[str, Chart]) -> str:
    drawn["relation-errors"] = relation_charts.errors(found)
    kink = "; the thin line is at ln K, the loss of guessing" if relation_charts.kink_shown(found) else ""
    note = "Filled: last checkpoint; open: best. Bars are 95 % intervals. "
    error = pieces.figure("relation-errors", "Robust error against robust loss", "Robust error against robust loss.")
    if not found.measures:
        return error + pieces.note(f"{note}Dotted: all runs below ln K, and above{kink}.")
    measures = list(found.measures)
    drawn["relation"] = relation_charts.outcome(found, LOSS, measures)
    for name, outcome in (("relation-gap", GAP), ("relation-late", LATE)):
        drawn[name] = relation_charts.outcome(found, outcome, measures[:1])
    options = "".join(f'<option value="{p}">{escape(name)}</option>' for p, name in enumerate(measures))
    select = f'<p><label>Measure <select data-chart="relation" autocomplete="off">{options}</select></label></p>'
    against = f"against {measures[0].lower()}"
    note += "Arrows lead from the last to the best where both were measured. "
    note += f"Dotted: of each method with three runs; beside errors of all networks below ln K, and above{kink}."
    return (
        select
        + pieces.pair(
            pieces.figure("relation", "Robust loss against the measure", "Robust loss against the chosen measure."),
            error,
        )
        + pieces.pair(
            pieces.figure("relation-gap", f"Test minus train {against}", f"Gap of the robust loss {against}."),
            pieces.figure("relation-late", f"Last minus best {against}", f"What the last epochs cost, {against}."),
        )
        + pieces.note(note)
        + _levels(found, drawn)
    )


def _levels(found: Relations, drawn: dict[str, Chart]) -> str:
    """Return the first measure of good, average and poor networks, and all measures in a table."""
    table, measure = level_table(found), next(iter(found.measures))
    if table is None:
        return pieces.note(unlevelled(found))
    drawn["relation-levels"] = relation_charts.by_level(found, measure)
    title = f"{measure} of good, average and poor networks"
    note = pieces.note(
        "Lines: means; bars: 95 % intervals. Within each of the three the robust error rises to the right."
    )
    return (
        pieces.figure("relation-levels", title, f"{title}.")
        + note
        + pieces.table(table, caption=_LEVELS_CAPTION, groups=False)
    )


# -- tables --------------------------------------------------------------------------------------------


def _gaps(folders: Sequence[RunFolder], found: Mapping[str, Sequence[Overfitting]]) -> Table | None:
    flat = grouped(folders, "flatness-last")
    columns = {
        column: [_over_seeds([getattr(one, field) for one in of], column) for of in found.values()]
        for field, column in _COLUMNS.items()
    }
    if not any(cell is not None for cells in columns.values() for cell in cells):
        return None
    columns = {
        Column(name="Method"): list(found),
        **columns,
        Column(name="Flatness", unit="nats", decimals=3): [mean([flatness(r) for r in flat[label]]) for label in found],
    }
    return Table(columns=tuple(columns), rows=tuple(zip(*columns.values(), strict=True)))


def _over_seeds(terms: Sequence[Term], column: Column) -> Quantity | None:
    scale = 1.0 if column.unit == "nats" else 100.0
    return mean([_quantity(term, scale) for term in terms])


def _quantity(of: Term | Coefficient, scale: float = 1.0) -> Quantity | None:
    if of.value is None:
        return None
    low, high = (None if end is None else scale * end for end in (of.low, of.high))
    return Quantity(value=scale * of.value, low=low, high=high)


def _correlations(found: Relations) -> str:
    """Return the correlations with the robust loss, the others folded behind them."""
    table = correlations(found)
    if table is None:
        return ""
    of_loss = [row for row in table.rows if row[1] == LOSS]
    others = Table(columns=table.columns, rows=tuple(row for row in table.rows if row not in of_loss))
    short = Table(columns=(table.columns[0], *table.columns[2:]), rows=tuple((r[0], *r[2:]) for r in of_loss))
    more = f"<details><summary>{_MORE}</summary>{_correlation_table(others, '')}</details>" if others.rows else ""
    return _correlation_table(short, _CAPTION) + more + pieces.note(_CARE)


def _correlation_table(table: Table, caption: str) -> str:
    return pieces.table(table, caption=caption, groups=False, label="Correlations: table") if table.rows else ""


def _row(measure: str, name: str, networks: Sequence[Network]) -> tuple[Cell, ...] | None:
    """Return the row of a measure and an outcome, None where nothing can be said."""
    some = having(networks, measure, name, CLEAN)
    x, y, clean = ([network.values[of].value for network in some] for of in (measure, name, CLEAN))
    methods = sorted({network.group for network in some})[1:]
    own = np.array([[network.group == group for group in methods] for network in some], dtype=float)
    try:
        first = correlation(x, y, given=clean)
        within = correlation(x, y, given=own).partial if methods else None
    except BadInput:
        return None
    found = {**vars(first), "within": within}
    cells: list[Cell] = [measure, name, Quantity(value=len(some))]
    for field in _COEFFICIENTS:
        of: Coefficient | None = found[field]
        cells += [None, None] if of is None else [_quantity(of), _probability(of.p_value)]
    return tuple(cells)


def _probability(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
