"""What each attack of an evaluation came to, a row an attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustscape.evaluation.result import Evaluation, Searched
from robustscape.report.quantities import Quantity, mean, percent
from robustscape.report.tables import Cell, Column, Table, to_text
from robustscape.runs import RunFolder, evaluation_files, grouped, labels

_COLUMNS = (
    Column(name="Model"),
    Column(name="Checkpoint"),
    Column(name="Split"),
    Column(name="Attack"),
    Column(name="Robust error", unit="%"),
    Column(name="Of"),
    Column(name="Searched", decimals=0),
    Column(name="Flips", decimals=0),
    Column(name="Forwards an image", decimals=0),
    Column(name="Backwards an image", decimals=0),
    Column(name="Precision"),
    Column(name="Seconds", decimals=0),
)


def attack_table(rows: Mapping[tuple[str, str, str], Sequence[Evaluation]]) -> Table | None:
    """Return a row for each attack of each evaluation, numbers the means over its runs.

    "Of" says whose the robust error is: the attack's own, on every image that is classified correctly, or that of
    everything so far. Passes are over the images that it searched.

    Args:
        rows: (model, checkpoint, split) to the evaluations of one or more runs that differ by seed.

    Returns:
        The table; None where no evaluation says what its attacks came to.
    """
    made = []
    for names, found in rows.items():
        for place in range(min((len(e.searches) for e in found), default=0)):
            made.append(_row(names, [e.searches[place] for e in found]))
    return Table(columns=_COLUMNS, rows=tuple(made)) if made else None


def attacks(folders: Sequence[RunFolder]) -> Table | None:
    """Return the table of every evaluation that there is in some runs; see ``attack_table``."""
    rows: dict[tuple[str, str, str], list[Evaluation]] = {}
    for label in labels(folders):
        for file, (checkpoint, split) in evaluation_files(folders).items():
            if found := grouped(folders, file)[label]:
                rows[label, checkpoint, split] = found
    return attack_table(rows)


def remarks(folders: Sequence[RunFolder]) -> list[str]:
    """Return a sentence for each attack that its settings weaken, few classes changed or float32 corrected."""
    found = []
    for folder in folders:
        for file, names in evaluation_files([folder]).items():
            where = f"{folder.label}, seed {folder.seed}, {' '.join(names)}"
            for one in folder.results[file].searches:
                parts = [one.note] if one.note else []
                if one.unconfirmed:
                    parts.append(f"{one.unconfirmed} successes of the search were not confirmed in float32")
                if one.again:
                    parts.append(f"{one.again} images were searched again in float32")
                if parts:
                    found.append(f"{where}: {one.name}: {'; '.join(parts)}.")
    return found


def to_lines(table: Table, *, width: int) -> str:
    """Return the table for a terminal, under its heading."""
    return f"Attack by attack:\n\n{to_text(table, width=width)}"


def _row(names: tuple[str, str, str], found: Sequence[Searched]) -> tuple[Cell, ...]:
    first = found[0]
    tried = [max(one.tried, 1) for one in found]
    return (
        *names,
        first.name,
        percent([one.robust_error for one in found]),
        "itself" if first.everyone else "all so far",
        mean([Quantity(value=one.tried) for one in found]),
        mean([Quantity(value=one.flips) for one in found]),
        mean([Quantity(value=one.forwards / n) for one, n in zip(found, tried, strict=True)]),
        mean([Quantity(value=one.backwards / n) for one, n in zip(found, tried, strict=True)]),
        first.precision or "–",
        mean([Quantity(value=one.seconds) for one in found]),
    )
