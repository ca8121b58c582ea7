"""The picture of a measurement in matplotlib."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustscape.figures.style import FAINT, INK, ROOM, caption, figure, group_colour, group_marker, legend, save
from robustscape.pictures.plot import Picture, Plane, Plot, Style, Trace, ends, joined, marked, sentences, way

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES: dict[Style, str] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_LONE: dict[Style, str] = {"solid": "o", "dash": "x", "dot": "^", "dashdot": "v"}  # where no line says which it is
_BARS = ("bars", "hatched")
_MARKED: set[Style] = {"points", "hollow"}
_NAMED = 24  # positions that are named at most
_TITLE = 30  # letters of a title over a plane, beside its scale
_LETTERS = 40  # of a title or label, over half the width


def draw(ax: Axes, plot: Plot) -> None:
    """Draw one plot; a surface needs Axes of three dimensions.

    Args:
        ax: Where.
        plot: One of a picture's ``plots``, as ``robustscape.pictures.similarity.picture({"AT": [result]})`` has them.
    """
    grid = ax.get_gridspec()
    wide = _LETTERS if grid is None or grid.ncols > 1 else 2 * _LETTERS
    ax.set_title(textwrap.fill(plot.title, wide if plot.plane is None else _TITLE))
    ax.set(xlabel=textwrap.fill(plot.x, wide), ylabel=textwrap.fill(plot.y, 34))
    if plot.plane is not None:
        _plane(ax, plot, plot.plane)
    else:
        _traces(ax, plot)


def write(picture: Picture, labels: Sequence[str], text: str, path: Path) -> Path:
    """Write a picture as a file that ends in .pdf, .png or .svg, within ``figures.style.styled``. Returns the path.

    Args:
        picture: What is drawn.
        labels: The groups' labels in their order, "" for one that is not drawn.
        text: What is said below before the picture's own words.
        path: The file.
    """
    count = len(picture.plots)
    columns = min(count, 2)
    rows = -(-count // columns)
    said = f"{text} {sentences((*picture.how, *picture.care))}"
    named = max((len(tick) for plot in picture.plots for tick in plot.ticks), default=0)
    height = (2.3 if columns > 1 else 2.7) * rows + 0.1 * min(len(said) // 118 + 1, ROOM) + 0.3 + 0.04 * named * rows
    made, axes = figure(rows, columns, height=height)
    for ax, plot in zip(axes, picture.plots, strict=False):
        if plot.plane is not None and plot.plane.form == "surface":
            place = ax.get_subplotspec()
            ax.remove()
            ax = made.add_subplot(place, projection="3d")
        draw(ax, plot)
    for ax in axes[count:]:
        ax.set_visible(False)
    traces = [trace for plot in picture.plots for trace in plot.traces if trace.style in _LONE]
    lone = {trace.style for trace in traces if np.isfinite(trace.y).any() and not joined(trace)}
    flat = all(plot.plane is not None for plot in picture.plots)
    styles = {trace.style for plot in picture.plots for trace in plot.traces}
    looks = [(_look(style, lone=style in lone), meaning) for style, meaning in picture.keys]
    legend(made, [] if flat else labels, looks, marked=bool(styles & _MARKED) and not styles & _LINES.keys())
    caption(made, said)
    return save(made, path)


# -- traces --------------------------------------------------------------------------------------------


def _traces(ax: Axes, plot: Plot) -> None:
    bars = [trace for trace in plot.traces if trace.style in _BARS]
    for trace in plot.traces:
        if trace.style in _BARS:
            _bar(ax, trace, bars.index(trace), len(bars))
        elif trace.shade is not None:
            _shaded(ax, plot, trace, trace.shade)
        else:
            _one(ax, plot, trace)
    for value, name in plot.levels:
        ax.axhline(value, color=FAINT, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        ax.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)
    if "x" in plot.log:
        ax.set_xscale("log")
    if "y" in plot.log:
        ax.set_yscale("log")
        _decades(ax, plot)
    if plot.ticks:
        _ticks(ax, plot.ticks)


def _decades(ax: Axes, plot: Plot) -> None:
    """Begin a logarithmic axis at its floor, and name more than powers of ten where it spans few of them."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if plot.floor is not None:
        ax.set_ylim(plot.floor, 3 * max(float(np.nanmax(trace.y)) for trace in plot.traces))
    low, high = ax.get_ylim()
    if high < 300 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _one(ax: Axes, plot: Plot, trace: Trace) -> None:
    """Draw a line with its band, or points with their intervals."""
    colour, found = _colour(trace.group), ends(plot, trace)
    line = _LINES.get(trace.style)
    y = np.where(np.isfinite(trace.y), trace.y, np.nan)
    if line is not None:
        ax.plot(
            trace.x,
            y,
            line,
            color=colour,
            marker=_LONE[trace.style] if not joined(trace) else "." if marked(trace) else "",
            markersize=4,
            linewidth=1.2,
        )
    if found is not None and line is not None and joined(trace):
        ax.fill_between(trace.x, *found, color=colour, alpha=0.18, linewidth=0)
    elif found is not None:
        lengths = np.nan_to_num(np.abs([y - found[0], found[1] - y]))
        ax.errorbar(trace.x, y, yerr=lengths, color=colour, linestyle="none", elinewidth=0.8, capsize=1.5)
    if line is None:
        ax.plot(trace.x, y, color=colour, **_marks(trace))


def _marks(trace: Trace) -> dict[str, Any]:
    if trace.style == "dots":
        return {"marker": ".", "markersize": 3, "linestyle": "none", "alpha": 0.6}
    marker = group_marker(trace.group or 0)
    face = {"markerfacecolor": "white"} if trace.style == "hollow" else {}
    return {"marker": marker, "markersize": 4.5, "linestyle": "none", **face}


def _bar(ax: Axes, trace: Trace, place: int, count: int) -> None:
    width, colour = 0.8 / count, _colour(trace.group)
    open_ones: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "hatch": "////"}
    look: dict[str, Any] = {"color": colour} if trace.style == "bars" else open_ones
    y = np.where(np.isfinite(trace.y), trace.y, np.nan)
    ax.bar(trace.x - 0.4 + (place + 0.5) * width, y, width, linewidth=0.6, **look)


def _shaded(ax: Axes, plot: Plot, trace: Trace, shade: np.ndarray) -> None:
    ax.plot(trace.x, trace.y, color=FAINT, linewidth=0.6, zorder=1)
    points = ax.scatter(trace.x, trace.y, c=shade, cmap="viridis", s=14, zorder=2)
    ax.get_figure(root=True).colorbar(points, ax=ax, label=plot.z)  # pyright: ignore[reportOptionalMemberAccess]


def _ticks(ax: Axes, names: Sequence[str]) -> None:
    every = -(-len(names) // _NAMED)
    places = [place for place in range(0, len(names), every) if len(names) - 1 - place >= every] + [len(names) - 1]
    long = max(map(len, names)) * len(names) > 60
    look: dict[str, Any] = {"rotation": 90, "fontsize": 6} if long else {}
    ax.set_xticks(places, [names[place] for place in places], **look)
    ax.set_xlim(-0.6, len(names) - 0.4)


def _colour(group: int | None) -> str:
    return INK if group is None else group_colour(group)


def _look(style: Style, *, lone: bool) -> dict[str, Any]:
    """Return how a style's line in the legend is drawn."""
    if style in _LINES:
        return {"linestyle": _LINES[style], **({"marker": _LONE[style], "markersize": 4} if lone else {})}
    bars = {
        "bars": {"markersize": 6, "marker": "s"},
        "hatched": {"markersize": 6, "marker": "s", "markerfacecolor": "white"},
    }
    return {"linestyle": "none"} | bars.get(style, {}) | ({} if style in _BARS else _marks(_of(style)))


def _of(style: Style) -> Trace:
    return Trace(name="", group=None, x=np.zeros(0), y=np.zeros(0), style=style)


# -- planes --------------------------------------------------------------------------------------------


def _plane(ax: Any, plot: Plot, plane: Plane) -> None:
    from matplotlib.ticker import MaxNLocator

    scale = {"vmin": plane.lowest, "vmax": plane.highest, "cmap": "viridis"}
    if plane.form == "surface":
        x, y = np.meshgrid(plane.x, plane.y)
        with warnings.catch_warnings():  # of holes, which are meant
            warnings.filterwarnings("ignore", message="Z contains NaN", category=UserWarning)
            ax.plot_surface(x, y, plane.z, rcount=100, ccount=100, linewidth=0, antialiased=True, **scale)
        ax.set_zlim(plane.lowest, plane.highest)
        if len(plane.path):
            ax.computed_zorder = False  # the path lies on the surface
            ax.plot(*way(plane).T, color="white", linewidth=1.2, zorder=5)
            ax.plot(*way(plane).T, color=INK, linewidth=0.6, zorder=6)
        for axis, name in ((ax.xaxis, "α"), (ax.yaxis, "β"), (ax.zaxis, plot.z)):  # contours say what α and β are
            axis.set_label_text(name, fontsize=7)
            axis.labelpad = -8
        ax.set_box_aspect(None, zoom=0.85)  # the label of the heights within the page
        ax.tick_params(labelsize=5, pad=-3)
        return
    levels = MaxNLocator(12).tick_values(plane.lowest, plane.highest)
    z = np.ma.masked_invalid(plane.z)
    with warnings.catch_warnings():  # of a level that few heights beside holes reach
        warnings.filterwarnings("ignore", message="No contour levels were found", category=UserWarning)
        filled = ax.contourf(plane.x, plane.y, z, levels=levels, cmap="viridis")
        ax.contour(plane.x, plane.y, z, levels=levels, colors="white", linewidths=0.3)
    ax.get_figure().colorbar(filled, ax=ax, label=plot.z)
    if len(plane.path):
        ax.plot(*plane.path.T, color="white", marker=".", markersize=3, linewidth=1)
        for at in (0, -1):
            x, y = plane.path[at]
            side = "right" if x > plane.x.mean() else "left"  # inwards
            below = "top" if y > plane.y.mean() else "bottom"
            ax.annotate(plane.stops[at], (x, y), color="white", fontsize=6, ha=side, va=below)
