"""The figure of a part of a study: its panels side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustscape.display import FEW, LIGHT, Line, Panel
from robustscape.figures.style import caption, figure, group_colour, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 3  # panels side by side


def write(panels: Sequence[Panel], paths: Sequence[Path]) -> None:
    """Write the figure of some panels, in robustscape's style, as files that end in .pdf, .png or .svg."""
    with styled():
        made = draw(panels)
        for path in paths:
            save(made, path)


def draw(panels: Sequence[Panel]) -> Figure:
    """Draw panels side by side, at most three a row, with one legend of all names above them.

    Call it, and save the figure, within ``figures.style.styled``. A name that is drawn both solid and dashed is in
    the legend once; what dashed means is said below. Groups beyond the palette repeat its colours, dotted.

    Args:
        panels: At least one.
    """
    columns = min(len(panels), _ROW)
    rows = -(-len(panels) // columns)
    handles, both = _handles(panels)
    longest = max((len(str(handle.get_label())) for handle in handles), default=0) + 7
    legend_rows = -(-len(handles) // max(1, 88 // longest))
    made, axes = figure(rows, columns, height=2.4 * rows + 0.17 * legend_rows)
    for ax, panel in zip(axes, panels, strict=False):
        _draw(ax, panel, letters=72 // columns)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if handles:
        made.legend(handles=handles, loc="outside upper left", ncols=-(-len(handles) // legend_rows))
    if both:
        caption(made, "Dashed: the same, computed otherwise.")
    return made


def _draw(ax: Axes, panel: Panel, *, letters: int) -> None:
    """Draw the lines of one panel, its words wrapped after so many letters."""
    for line in panel.lines:
        ax.plot(line.x, line.y, marker="." if len(line.x) <= FEW else "", label=line.name, **_look(line))
    ax.set_title(textwrap.fill(panel.title, letters))
    ax.set(xlabel=textwrap.fill(panel.x, letters), ylabel=textwrap.fill(panel.y, 40))


def _look(line: Line) -> dict[str, Any]:
    """Colour and style of a line."""
    styles = ("-", "--") if line.group < len(LIGHT) else (":", "-.")
    return {"color": group_colour(line.group), "linestyle": styles[line.dashed]}


def _handles(panels: Sequence[Panel]) -> tuple[list[Any], bool]:
    """Return what the legend shows, each name once, solid where it is drawn so too; and whether a name is both."""
    from matplotlib.lines import Line2D

    lines = [line for panel in panels for line in panel.lines]
    named = {line.name: line for line in sorted(lines, key=lambda line: not line.dashed)}
    names = dict.fromkeys(line.name for line in lines)
    handles = [Line2D([], [], label=name, **_look(named[name])) for name in names]
    return handles, any(line.dashed and not named[line.name].dashed for line in lines)
