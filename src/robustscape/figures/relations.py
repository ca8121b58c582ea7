"""Measures beside robustness: a point a run, lines a method, arrows from the last to the early-stopped network."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustscape.figures.style import FAINT, INK, group_colour, group_marker
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
    levels,
    spread,
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
    _name(ax, having(found.last, x, y), x, y)
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


def draw_levels(ax: Axes, found: Relations, *, measure: str) -> None:
    """Draw a measure of good, average and poor networks, with the mean of each (Stutz 2021, table 1).

    Args:
        ax: Where.
        found: The runs, at least ``relations.ENOUGH``.
        measure: One of ``found.measures``.
    """
    there = levels(found)
    for place, level in enumerate(there):
        networks = having(level.networks, measure)
        for x, network in zip(spread(place, len(networks)), networks, strict=True):
            _mark(ax, network, x, network.values[measure], Value(value=x), filled=True)
        if networks:
            mean = math.fsum(network.values[measure].value for network in networks) / len(networks)
            ax.plot([place - 0.35, place + 0.35], [mean, mean], color=INK, linewidth=0.9, zorder=1)
    ax.set_xticks(range(len(there)), [f"{level.name}\n{level.errors}" for level in there], fontsize=6)
    ax.set(xlabel="robust error", ylabel=textwrap.fill(_axis(measure, found.measures[measure]), 24))


# -- pieces --------------------------------------------------------------------------------------------

_SIZE = 4.5  # of names, points
_LONGEST = 26  # letters of a name


def _name(ax: Axes, networks: Sequence[Network], x: str, y: str) -> None:
    """Write the names of points beside them, where neither another name nor another point is in the way."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    box = ax.get_window_extent()
    letter, line = (_SIZE * ax.figure.dpi / 72 * part / whole for part, whole in ((0.6, box.width), (1.3, box.height)))
    points = [((n.values[x].value - left) / (right - left), (n.values[y].value - low) / (high - low)) for n in networks]
    taken: list[tuple[float, float, float, float]] = []
    for network, (across, up) in zip(networks, points, strict=True):
        name = network.label if len(network.label) <= _LONGEST else f"{network.label[: _LONGEST - 1]}…"
        name = f"{name}, {network.seed}"
        gap, width = 1.5 * letter, len(name) * letter
        others = [(a, a, u, u) for a, u in points if (a, u) != (across, up)]
        for side, left, right in (("left", across, across + gap + width), ("right", across - gap - width, across)):
            own = (left, right, up, up + line)  # above the bar
            if left >= 0 and right <= 1 and not any(_overlap(own, other) for other in (*taken, *others)):
                taken.append(own)
                at = across + gap if side == "left" else across - gap
                ax.text(at, up, name, transform=ax.transAxes, ha=side, va="bottom", fontsize=_SIZE, color=INK)
                break


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1] and one[2] <= other[3] and other[2] <= one[3]


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
    _mark(ax, network, network.values[x].value, network.values[y], network.values[x], filled=filled)


def _mark(ax: Axes, network: Network, x: float, up: Value, across: Value, *, filled: bool) -> None:
    colour = group_colour(network.group)
    ax.errorbar(
        x,
        up.value,
        xerr=_lengths(across),
        yerr=_lengths(up),
        color=colour,
        marker=group_marker(network.group),
        markersize=4.5,
        markerfacecolor=colour if filled else "white",
        elinewidth=0.7,
        linestyle="none",
    )


def _lengths(of: Value) -> list[list[float]] | None:
    return None if of.low is None or of.high is None else [[of.value - of.low], [of.high - of.value]]


def _axis(name: str, unit: str) -> str:
    return f"{name}, {unit}" if unit else name
