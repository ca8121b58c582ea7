"""What a study shows: the Result of each of its parts, a table beside the published one and perhaps a figure."""

from __future__ import annotations

from dataclasses import dataclass

from robustscape.display import Panel
from robustscape.report.tables import Table
from robustscape.types import Provenance


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One part of a study as it is shown.

    Attributes:
        title: What it shows, in one sentence.
        table: Our numbers, the published ones and the differences, side by side.
        notes: What must be said beside the numbers.
        panels: The figure, side by side; () for none.
    """

    title: str
    table: Table
    notes: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found for one of its parts.

    Attributes:
        study: Name of the study, for example "yamada".
        part: Name of the part, for example "table1".
        scale: How much was done, for example "paper".
        shown: The table, with title and notes.
        provenance: When, where and by which settings; ``seconds`` are those of the part's cells, whenever done.
        place: The part's number in the study's order, from 0: parts are shown in it.
    """

    study: str
    part: str
    scale: str
    shown: Shown
    provenance: Provenance
    place: int = 0
