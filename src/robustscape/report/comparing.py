"""Methods against the most robust one, on the same images: the tables of paired comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from robustscape.evaluation.paired import Paired, paired
from robustscape.evaluation.result import Evaluation, Number
from robustscape.report.quantities import Quantity, mean
from robustscape.report.tables import Cell, Column, Table, to_text
from robustscape.runs import RunFolder, labels
from robustscape.types import BadInput

Judged: TypeAlias = Mapping[str, Mapping[int, Evaluation]]
"""Method to seed to evaluation."""

_COUNTS = (Column(name="Wrong here alone", decimals=0), Column(name="Wrong there alone", decimals=0))
_NUMBERS = (
    Column(name="Robust error, difference", unit="points"),
    Column(name="Robust loss, difference", unit="nats", decimals=3),
    *_COUNTS,
    Column(name="McNemar's p"),
)


def comparisons(folders: Sequence[RunFolder], file: str = "evaluation-last-test") -> Table | None:
    """Return a row for each other method and seed that the most robust method has too, and one for their mean.

    Differences are the other method minus the most robust one: above 0 it is worse. What was judged on other images,
    under another threat model or by another attack does not pair; those methods are compared among themselves.

    Args:
        folders: The runs.
        file: Which evaluation.

    Returns:
        The table; None where nothing pairs.
    """
    found = {
        label: {f.seed: f.results[file] for f in folders if f.label == label and file in f.results}
        for label in labels(folders)
    }
    rows: list[tuple[Cell, ...]] = []
    for words, pairs in _against(found):
        rows += [(words, str(seed), *_numbers([pair])) for seed, pair in pairs.items()]
        rows += [(words, "mean", *_numbers(list(pairs.values())))] if len(pairs) > 1 else []
    columns = (Column(name="Methods"), Column(name="Seed"), *_NUMBERS)
    return Table(columns=columns, rows=tuple(rows)) if rows else None


def model_comparisons(rows: Mapping[tuple[str, str, str], Evaluation]) -> Table | None:
    """Return a row for each model but the most robust one, of every checkpoint and split, against that one.

    Args:
        rows: (model, checkpoint, split) to its evaluation.

    Returns:
        The table, signs as those of ``comparisons``; None where nothing pairs.
    """
    found: list[tuple[Cell, ...]] = []
    for place in dict.fromkeys((checkpoint, split) for _, checkpoint, split in rows):
        judged = {model: {0: result} for (model, *where), result in rows.items() if tuple(where) == place}
        found += [(words, *place, *_numbers(list(pairs.values()))) for words, pairs in _against(judged)]
    columns = (Column(name="Models"), Column(name="Checkpoint"), Column(name="Split"), *_NUMBERS)
    return Table(columns=columns, rows=tuple(found)) if found else None


def to_lines(table: Table, *, width: int) -> str:
    """Return a table of comparisons for a terminal: a heading, then the table without its counts of images.

    Args:
        table: What ``comparisons`` or ``model_comparisons`` returned.
        width: Characters that the table may be wide.
    """
    kept = [place for place, column in enumerate(table.columns) if column not in _COUNTS]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    short = Table(columns=tuple(table.columns[place] for place in kept), rows=rows)
    return f"Image by image, the less robust minus the more robust (above 0 is worse):\n\n{to_text(short, width=width)}"


def _against(found: Judged) -> Iterator[tuple[str, dict[int, Paired]]]:
    """Give "A against B" and their comparisons by seed, B the most robust of those that A pairs with."""
    errors = {label: np.mean([e.robust_error.value for e in of.values()]) for label, of in found.items() if of}
    left = sorted(errors, key=lambda label: errors[label])
    while left:
        leader, *others = left
        left = []
        for other in (label for label in found if label in others):
            if pairs := _pairs(found[other], found[leader]):
                yield f"{other} against {leader}", pairs
            else:
                left.append(other)
        left.sort(key=lambda label: errors[label])


def _pairs(others: Mapping[int, Evaluation], leaders: Mapping[int, Evaluation]) -> dict[int, Paired]:
    """Return the comparisons by seed; those that do not pair are left out."""
    found = {}
    for seed in sorted(set(others) & set(leaders)):
        try:
            found[seed] = paired(others[seed], leaders[seed])
        except BadInput:
            continue
    return found


def _numbers(pairs: Sequence[Paired]) -> tuple[Cell, ...]:
    """Return the cells of ``_NUMBERS``; of several seeds their mean and spread, without a p."""
    return (
        mean([_quantity(pair.robust_error, 100) for pair in pairs]),
        mean([_quantity(pair.robust_loss, 1) for pair in pairs]),
        mean([Quantity(value=pair.only_first) for pair in pairs]),
        mean([Quantity(value=pair.only_second) for pair in pairs]),
        _probability(pairs[0].p_value) if len(pairs) == 1 else None,
    )


def _quantity(number: Number, scale: float) -> Quantity:
    return Quantity(value=scale * number.value, low=scale * number.low, high=scale * number.high)


def _probability(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
