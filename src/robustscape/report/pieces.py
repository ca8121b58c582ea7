"""Pieces of the report's page as HTML: sections, tables, places for charts. Words are escaped, content is HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from robustscape.display import LIGHT
from robustscape.report import tables
from robustscape.report.quantities import Quantity
from robustscape.report.tables import Cell, Column, Table

_LONG = 30  # characters of words that wrap


def swatch(group: int) -> str:
    """Return a dot in the colour of a group."""
    return f'<span class="swatch series-{group % len(LIGHT)}" aria-hidden="true"></span>'


def stroke(dash: str, group: int | None = None) -> str:
    """Return a short line of a dash pattern, for example "7 4", in the colour of a group or of the text."""
    colour = "" if group is None else f' class="series-{group % len(LIGHT)}"'
    path = f'<path d="M0 4H32" stroke-dasharray="{dash}"/>'
    return f'<svg viewBox="0 0 32 8" aria-hidden="true"{colour}>{path}</svg>'


def section(name: str, title: str, lead: str, content: str) -> str:
    """Return a section with its heading; ``name`` is its address in the page."""
    text = note(lead)
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{text}{content}</section>'


def figure(name: str, title: str, description: str, *, level: int = 3) -> str:
    """Return a place for a chart; ``title`` is "" where the section's own says it, ``level`` that of its heading."""
    chart = f'<div class="chart" id="{name}" role="img" aria-label="{escape(description)}"></div>'
    return f"<figure>{f'<h{level}>{escape(title)}</h{level}>' if title else ''}{chart}</figure>"


def pair(*figures: str) -> str:
    """Return places for charts beside each other where there is room."""
    return f'<div class="pair">{"".join(figures)}</div>'


def note(text: str) -> str:
    """Return a paragraph in small, "" where there is no text."""
    return f'<p class="lead">{escape(text)}</p>' if text else ""


def keys(lines: Sequence[tuple[str, str]]) -> str:
    """Return what the line styles mean: (dash pattern, meaning)."""
    parts = [f"<span>{stroke(dash)}{escape(meaning)}</span>" for dash, meaning in lines]
    return f'<p class="keys">{"".join(parts)}</p>'


def pre(value: Any) -> str:
    """Return text as it is, or plain data as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f'<pre tabindex="0">{escape(text)}</pre>'


def table(content: Table, *, label: str = "", caption: str = "", groups: bool = True) -> str:
    """Return a table in a box of its own that scrolls: numbers at the right, long words wrapped.

    On a narrow screen the cells of a table with several columns of long words stand below each other, each behind its
    column's name.

    Args:
        content: The table; the first column names the rows.
        label: What the box is called for those who do not see it; by default after the first column.
        caption: HTML above the table, "" for none.
        groups: Whether each row is a group of runs and shows its colour.
    """
    kinds = [_kind(content, place) for place in range(len(content.columns))]
    stacked = sum("long" in kind for kind in kinds) > 1
    head = "".join(
        f'<th scope="col"{kind}>{escape(column.name)}{_unit(column.unit)}</th>'
        for column, kind in zip(content.columns, kinds, strict=True)
    )
    rows = []
    for group, (first, *rest) in enumerate(content.rows):
        cells = "".join(
            f"<td{kind}{_named(column) if stacked else ''}>{_cell(cell, column)}</td>"
            for cell, column, kind in zip(rest, content.columns[1:], kinds[1:], strict=True)
        )
        name = (swatch(group) if groups else "") + _cell(first, content.columns[0])
        rows.append(f'<tr><th scope="row"{kinds[0]}>{name}</th>{cells}</tr>')
    label = label or f"{content.columns[0].name}: table"
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
    above = f"<caption><span>{caption}</span></caption>" if caption else ""
    parts = f"{above}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'{box}<table class="wide{" stacked" if stacked else ""}">{parts}</table></div>'


def _kind(content: Table, place: int) -> str:
    """The class of a column's cells: words, perhaps so long that they wrap; none for numbers."""
    if not tables.is_words(content, place):
        return ""
    long = any(len(cell) > _LONG for row in content.rows if isinstance(cell := row[place], str))
    return ' class="words long"' if long else ' class="words"'


def _named(column: Column) -> str:
    return f' data-name="{escape(column.title())}"'


def _unit(unit: str) -> str:
    return f'<span class="unit">{escape(unit)}</span>' if unit else ""


def _cell(cell: Cell, column: Column) -> str:
    """The number, and under it, small, its uncertainty."""
    if isinstance(cell, Quantity):
        value, space, rest = tables.to_words(cell, column).partition(" ")
        return escape(value) + (f"<small>{escape(rest)}</small>" if space else "")
    return escape(tables.to_words(cell, column))
