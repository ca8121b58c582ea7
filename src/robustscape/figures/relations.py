"""Measures beside robustness: a point a run, lines a method, arrows from the last to the early-stopped network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustscape.figures.style import FAINT, INK, MARKERS, group_colour
from robustscape.relations import (
    ERROR,
    LOSS,
    OUTCOMES,
    Network,
    Relations,
    Trend,
    Value,
    arrows,
    halves,
    having,
    trends,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(ax: Axes, found: Relations, *, x: str, y: str) -> None:
    """Draw an outcome against a measure, with 95 % intervals and the line of each method that has three runs.

    Args:
        ax: Where.
        found: The runs: last checkpoints are drawn filled, early-stopped ones open.
        x: The measure, one of ``found.measures``.
        y: The outcome, one of ``relations.OUTCOMES``.
    """
    _draw(ax, found, x, y, trends(having(found.last, x, y), x, y))
    ax.set(xlabel=_axis(x, found.measures[x]), ylabel=_axis(y, OUTCOMES[y]))


def draw_errors(ax: Axes, found: Relations) -> None:
    """Draw the robust error against the robust loss, with a line below ln K and one above (Stutz 2021, figure 8).

    Args:
        ax: Where.
        found: The runs, drawn as by ``draw``.
    """
    networks = having((*found.last, *found.best), LOSS, ERROR)
    _draw(ax, found, LOSS, ERROR, halves(networks, found.classes))
    kink, losses = math.log(found.classes), [network.values[LOSS].value for network in networks]
    if min(losses) < 1.25 * kink and max(losses) > 0.8 * kink:
        ax.axvline(kink, color=FAINT, linewidth=0.8, linestyle=":", zorder=0)
        ax.annotate("ln K", (kink, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7)
    ax.set(xlabel=_axis(LOSS, OUTCOMES[LOSS]), ylabel=_axis(ERROR, OUTCOMES[ERROR]))


# -- pieces --------------------------------------------------------------------------------------------


def _draw(ax: Axes, found: Relations, x: str, y: str, lines: Sequence[Trend]) -> None:
    for line in lines:
        colour = INK if line.group is None else group_colour(line.group)
        ax.plot(line.x, line.y, color=colour, linewidth=1, linestyle=":", zorder=1)
    for last, best in arrows(found, x, y):
        ends = [(network.values[x].value, network.values[y].value) for network in (last, best)]
        style = {"arrowstyle": "->", "color": group_colour(last.group), "linewidth": 0.7, "shrinkA": 2, "shrinkB": 2.5}
        ax.annotate("", ends[1], ends[0], arrowprops=style)
    for networks, filled in ((found.best, False), (found.last, True)):
        for network in having(networks, x, y):
            _point(ax, network, x, y, filled=filled)


def _point(ax: Axes, network: Network, x: str, y: str, *, filled: bool) -> None:
    across, up = network.values[x], network.values[y]
    colour = group_colour(network.group)
    ax.errorbar(
        across.value,
        up.value,
        xerr=_lengths(across),
        yerr=_lengths(up),
        color=colour,
        marker=MARKERS[network.group % len(MARKERS)],
        markersize=4.5,
        markerfacecolor=colour if filled else "white",
        elinewidth=0.7,
        linestyle="none",
    )


def _lengths(of: Value) -> list[list[float]] | None:
    return None if of.low is None or of.high is None else [[of.value - of.low], [of.high - of.value]]


def _axis(name: str, unit: str) -> str:
    return f"{name}, {unit}" if unit else name
