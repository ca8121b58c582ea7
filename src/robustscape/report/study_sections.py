"""The section of a study on the report's page: each part with its table, its charts and its notes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from robustscape.config import to_plain
from robustscape.display import Panel
from robustscape.report import charts, pieces
from robustscape.report.charts import Chart
from robustscape.report.study import StudyResult
from robustscape.runs import StudyFolder

_DASHES = {"solid": "none", "dash": "7 4", "dot": "1 4", "dashdot": "7 3 2 3"}


def study(folder: StudyFolder, number: int, drawn: dict[str, Chart]) -> str:
    """Return the section of a study.

    Args:
        folder: The study.
        number: Its number on the page, from 1.
        drawn: Takes its charts.
    """
    name = f"study-{number}"
    parts: Sequence[StudyResult] = folder.parts
    places = [f"{name}-part-{place}" for place in range(1, len(parts) + 1)]
    links = "".join(
        f'<li><a href="#{place}">{escape(part.shown.title)}</a></li>' for place, part in zip(places, parts, strict=True)
    )
    contents = f'<nav aria-label="Parts of {escape(folder.name)}"><ol>{links}</ol></nav>' if len(parts) > 1 else ""
    body = "".join(_part(part, place, drawn) for part, place in zip(parts, places, strict=True))
    lead = " · ".join(dict.fromkeys([*(part.provenance.data for part in parts), str(folder.path)]))
    return pieces.section(name, f"Study {folder.name}, scale {folder.scale}", lead, contents + body)


def _part(part: StudyResult, name: str, drawn: dict[str, Chart]) -> str:
    """Return one part: title, table, charts, notes, provenance."""
    shown = part.shown
    table = pieces.table(shown.table, label=f"{part.part}: table", groups=False)
    notes = "".join(f"<li>{escape(text)}</li>" for text in shown.notes)
    notes = f'<ul class="notes">{notes}</ul>' if notes else ""
    origin = (
        f"<details><summary>Provenance <span>{escape(part.part)}: settings, versions, device, seed</span></summary>"
        f"{pieces.pre(to_plain(part.provenance))}</details>"
    )
    figure = _figure(shown.panels, name, drawn) if shown.panels else ""
    return f'<h3 class="part" id="{name}">{escape(shown.title)}</h3>{table}{figure}{notes}{origin}'


def _figure(panels: Sequence[Panel], name: str, drawn: dict[str, Chart]) -> str:
    """Return the charts of a part beside each other, above them a button for each name that shows or hides it."""
    names = charts.names(panels)
    places = [f"{name}-chart-{place}" for place in range(1, len(panels) + 1)]
    drawn.update(zip(places, charts.panels(panels, of=name), strict=True))
    figures = [
        pieces.figure(place, panel.title, f"{panel.title}: {panel.y} against {panel.x}.", level=4)
        for place, panel in zip(places, panels, strict=True)
    ]
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-group="{place}">'
        f"{pieces.stroke(_DASHES[charts.dash(line)], line.group)}{escape(line.name)}</button>"
        for place, line in enumerate(names.values())
    )
    both = any(line.dashed and not names[line.name].dashed for panel in panels for line in panel.lines)
    keys = pieces.keys([(_DASHES["dash"], "dashed: the same, computed otherwise")]) if both else ""
    label = "Lines shown in the charts below"
    legend = f'<div class="legend part" role="group" aria-label="{label}" data-of="{name}">{buttons}</div>'
    return legend + pieces.pair(*figures) + keys
