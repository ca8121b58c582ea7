"""Each method against the most robust one, on the same images: the table of paired comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustscape.evaluation.paired import Paired, paired
from robustscape.evaluation.result import Evaluation, Number
from robustscape.report.quantities import Quantity, mean
from robustscape.report.tables import Cell, Column, Table
from robustscape.runs import RunFolder, labels
from robustscape.types import BadInput


def comparisons(folders: Sequence[RunFolder], file: str = "evaluation-last-test") -> Table | None:
    """Return a row for each other method and seed that the most robust method has too, and one for their mean.

    Differences are the other method minus the most robust one: above 0 it is worse. What was judged on other images,
    under another threat model or by another attack does not pair and has no row.

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
    errors = {label: float(np.mean([e.robust_error.value for e in of.values()])) for label, of in found.items() if of}
    if len(errors) < 2:
        return None
    leader = min(errors, key=lambda label: errors[label])
    rows: list[tuple[Cell, ...]] = []
    for other in (label for label in errors if label != leader):
        pairs = _pairs(found[other], found[leader])
        rows += [_row(other, str(seed), [pair]) for seed, pair in pairs.items()]
        rows += [_row(other, "mean", list(pairs.values()))] if len(pairs) > 1 else []
    columns = (
        Column(name=f"Method against {leader}"),
        Column(name="Seed"),
        Column(name="Robust error, difference", unit="points"),
        Column(name="Robust loss, difference", unit="nats", decimals=3),
        Column(name="Wrong here alone", decimals=0),
        Column(name="Wrong there alone", decimals=0),
        Column(name="McNemar's p"),
    )
    return Table(columns=columns, rows=tuple(rows)) if rows else None


def _pairs(others: dict[int, Evaluation], leaders: dict[int, Evaluation]) -> dict[int, Paired]:
    """Return the comparisons by seed; those that do not pair are left out."""
    found = {}
    for seed in sorted(set(others) & set(leaders)):
        try:
            found[seed] = paired(others[seed], leaders[seed])
        except BadInput:
            continue
    return found


def _row(method: str, seed: str, pairs: Sequence[Paired]) -> tuple[Cell, ...]:
    one = pairs[0] if len(pairs) == 1 else None
    return (
        method,
        seed,
        mean([_quantity(pair.robust_error, 100) for pair in pairs]),
        mean([_quantity(pair.robust_loss, 1) for pair in pairs]),
        mean([Quantity(value=pair.only_first) for pair in pairs]),
        mean([Quantity(value=pair.only_second) for pair in pairs]),
        _probability(one.p_value) if one else None,
    )


def _quantity(number: Number, scale: float) -> Quantity:
    return Quantity(value=scale * number.value, low=scale * number.low, high=scale * number.high)


def _probability(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
