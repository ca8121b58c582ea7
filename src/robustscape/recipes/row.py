"""A row of a paper's table or figure: what it is called there, and the Run that makes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from robustscape.recipes.run import Run


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training that a paper reports, at the paper's own scale.

    A file of the room gives its rows by a function ``rows() -> tuple[Row, ...]``; ``small.smaller`` makes of its run
    the variant for two cores, whose name ends in "_small".

    Attributes:
        paper: First author, in small letters: "wu".
        table: Table, figure or appendix it is in, for example "table1", "figure2a" or "appendix_c".
        row: What it is called there, parts with commas between them: "linf, AT-AWP, CIFAR-10".
        setting: What sets it apart from the other rows, in words.
        run: What is trained, and by what the result is judged.
    """

    paper: str
    table: str
    row: str
    setting: str
    run: Run

    @property
    def name(self) -> str:
        """What ``robustscape train`` is given: "wu_table1_linf_at_awp_cifar_10"."""
        words = re.sub(r"[^a-z0-9]+", "_", f"{self.paper} {self.table} {self.row}".lower())
        return words.strip("_")


def rows_of(paper: str, table: str, entries: Iterable[tuple[str, str, Run]]) -> tuple[Row, ...]:
    """Return the rows of one table or figure.

    Args:
        paper: As ``Row.paper``.
        table: As ``Row.table``.
        entries: Row, setting and run of each, in the table's order.
    """
    return tuple(Row(paper=paper, table=table, row=row, setting=setting, run=run) for row, setting, run in entries)
