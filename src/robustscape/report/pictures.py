"""The pictures of measurements on the page: a section each, with its charts and its words."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from robustscape.pictures.all import Shown, shown
from robustscape.pictures.plot import Picture, Plane, Plot, Style, Trace, ends, joined, marked, sentences, way
from robustscape.report import pieces
from robustscape.report.asking import command
from robustscape.report.charts import Chart, bars, chart, group_symbol, numbers, plain_text, series
from robustscape.runs import RunFolder

_DASHES: dict[Style, str] = {"solid": "none", "dash": "7 4", "dot": "1 4", "dashdot": "7 3 2 3"}
_PLOTLY: dict[Style, str] = {"solid": "solid", "dash": "dash", "dot": "dot", "dashdot": "dashdot"}
_BARS = ("bars", "hatched")
_LONE: dict[Style, str] = {"solid": "circle", "dash": "x", "dot": "triangle-up", "dashdot": "triangle-down"}
_LETTERS = 40  # of all names of positions, that stand side by side
_WIDE, _HIGH = 56, 34  # letters of a title beside an axis


def sections(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> list[str]:
    """Return a section for every measurement that has a picture and a result.

    Args:
        folders: The runs.
        drawn: Takes the charts.
    """
    found = shown(folders)
    names = [f"measured-{each.stem}" for each in found]
    names = [f"{name}-{each.split}" if name in names[:place] else name
             for place, (name, each) in enumerate(zip(names, found, strict=True))]  # fmt: skip
    return [_section(each, name, drawn) for each, name in zip(found, names, strict=True)]


def _section(each: Shown, name: str, drawn: dict[str, Chart]) -> str:
    picture = each.picture
    found: list[str] = []
    planes: list[Plot] = []
    for place, plot in enumerate(picture.plots, start=1):
        if plot.plane is not None and plot.plane.form == "surface":
            planes.append(plot)
            continue
        drawn[f"{name}-{place}"] = line_chart(plot) if plot.plane is None else contour(plot, plot.plane)
        found.append(pieces.figure(f"{name}-{place}", plot.title, _about(picture, plot)))
    if planes:
        drawn[f"{name}-3d"] = surfaces(planes)
        found.append(_turning(f"{name}-3d", planes))
    content = (pieces.pair(*found) if len(found) > 1 else found[0]) + _keys(picture)
    where = f"Checkpoint {each.checkpoint}. " if each.checkpoint else ""
    content += pieces.note(where + sentences(picture.how))
    content += pieces.note(f"Read with care. {sentences(picture.care)}") if any(picture.care) else ""
    return pieces.section(name, picture.title, picture.lead, content + _missing(each))


def _about(picture: Picture, plot: Plot) -> str:
    what = plot.z if plot.plane is not None else plot.y
    return f"{picture.title}{f', {plot.title}' if plot.title else ''}: {what} against {plot.x or 'names'}."


def _turning(name: str, plots: Sequence[Plot]) -> str:
    """Return the place of a chart in three dimensions that shows one network at a time."""
    chart_here = pieces.figure(name, "The surface, to be turned", f"{plots[0].z} as a surface over the plane.")
    if len(plots) == 1:
        return chart_here
    options = "".join(f'<option value="{place}">{escape(plot.title)}</option>' for place, plot in enumerate(plots))
    select = f'<p><label>Network <select data-chart="{name}" autocomplete="off">{options}</select></label></p>'
    return f"<div>{select}{chart_here}</div>"


def _missing(each: Shown) -> str:
    if not each.lacking:
        return ""
    who = ", ".join(f"{folder.label} (seed {folder.seed})" for folder in each.lacking)
    line = command(each.measure, each.example, each.checkpoint, each.lacking)
    return f'<p class="missing">Not measured of {escape(who)}. To do it: <code>{escape(line)}</code></p>'


def _keys(picture: Picture) -> str:
    parts = [f"<span>{_key(style)}{escape(meaning)}</span>" for style, meaning in picture.keys]
    return f'<p class="keys">{"".join(parts)}</p>' if parts else ""


def _key(style: Style) -> str:
    if style in _DASHES:
        return pieces.stroke(_DASHES[style])
    fill = "none" if style in ("hollow", "hatched") else "currentColor"
    size = 1.5 if style == "dots" else 3
    mark = f'<rect x="12" y="1" width="9" height="6" fill="{fill}"/>'
    mark = mark if style in _BARS else f'<circle cx="16" cy="4" r="{size}" fill="{fill}" stroke-width="1.5"/>'
    return f'<svg viewBox="0 0 32 8" aria-hidden="true">{mark}</svg>'


# -- charts --------------------------------------------------------------------------------------------


def line_chart(plot: Plot) -> Chart:
    """Return lines, points and bars as a chart."""
    data = [one for trace in plot.traces for one in _trace(plot, trace)]
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "layer": "below",
         "line": {"width": 1, "dash": "dot", "color": "--faint"}}
        for value, _ in plot.levels
    ]  # fmt: skip
    over = all(trace.style in _PLOTLY for trace in plot.traces)
    made = chart(data, x=_wrapped(plot.x, _WIDE), y=_wrapped(plot.y, _HIGH), shapes=shapes,
                 hovermode="x unified" if over and not plot.ticks else "closest")  # fmt: skip
    layout = made["layout"]
    layout["annotations"] = [
        {"xref": "paper", "x": 1, "xanchor": "right", "y": np.log10(value) if "y" in plot.log else value,
         "yanchor": "bottom", "text": plain_text(name), "showarrow": False, "font": {"size": 11, "color": "--soft"}}
        for value, name in plot.levels
    ]  # fmt: skip
    for axis, name in (("x", "xaxis"), ("y", "yaxis")):
        if axis in plot.log:
            layout[name] |= {"type": "log", "exponentformat": "power", "dtick": _step(plot, axis)}
    if plot.floor is not None:
        most = max(float(np.nanmax(trace.y)) for trace in plot.traces)
        layout["yaxis"] |= {"range": [np.log10(plot.floor), np.log10(most) + 0.2]}
    if plot.ticks:
        names = [plain_text(tick) for tick in plot.ticks]
        layout["xaxis"] |= {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.6, len(names) - 0.4]}
        if max(map(len, names)) * len(names) > _LETTERS:
            layout["xaxis"] |= {"tickangle": -90}  # an oblique name that leaves the chart is not drawn at all
    if any(trace.style in _BARS for trace in plot.traces):
        layout["barmode"] = "group"
    return made


def _step(plot: Plot, axis: str) -> str | int:
    """Return which numbers of a logarithmic axis have names: powers of ten, or 1, 2 and 5, or all digits."""
    drawn = [trace.x if axis == "x" else trace.y for trace in plot.traces]
    drawn += [end for trace in plot.traces if axis == "y" for end in ends(plot, trace) or ()]
    values = np.concatenate(drawn)
    values = values[np.isfinite(values) & (values > 0)]
    low = values.min(initial=np.inf) if plot.floor is None or axis == "x" else plot.floor
    ratio = values.max(initial=0.0) / low
    return 1 if ratio >= 300 else "D2" if ratio >= 4 else "D1"


def _wrapped(words: str, width: int) -> str:
    return "<br>".join(plain_text(line) for line in textwrap.wrap(words, width))


def _trace(plot: Plot, trace: Trace) -> list[dict[str, Any]]:
    group = trace.group or 0
    meta = {"group": -1 if trace.group is None else trace.group}
    common = {"name": plain_text(trace.name), "x": numbers(trace.x), "y": numbers(trace.y), "meta": meta,
              "hovertemplate": "%{y:.4g}"}  # fmt: skip
    if trace.style in _BARS:
        pattern = {"pattern": {"shape": "/" if trace.style == "hatched" else "", "fillmode": "replace", "size": 6}}
        return [{**common, "type": "bar", "marker": {"color": series(group), **pattern}}]
    if trace.shade is not None:
        return [{**common, "type": "scatter", "mode": "markers+lines", "line": {"width": 1, "color": "--faint"},
                 "text": [f"{plot.z} {value:g}" for value in trace.shade],
                 "hovertemplate": "%{text}<br>%{x:.3g}, %{y:.3g}",
                 "marker": {"size": 9, "color": numbers(trace.shade), "colorscale": "Viridis", "showscale": True,
                            "colorbar": _colorbar(plot.z)}}]  # fmt: skip
    found, line = ends(plot, trace), _PLOTLY.get(trace.style)
    made: dict[str, Any] = {**common, "type": "scatter"}
    if line is not None:
        look = {"color": series(group), "width": 2, "dash": line}
        made |= {"mode": "lines+markers" if marked(trace) else "lines", "line": look}
        symbol = "circle" if joined(trace) else _LONE[trace.style]
        made |= {"marker": {"color": series(group), "size": 6 if joined(trace) else 8, "symbol": symbol}}
        if found is not None and joined(trace):
            return [_band(trace, found, group, meta), made]
    else:
        symbol = group_symbol(group) if trace.style != "dots" else "circle"
        symbol += "-open" if trace.style == "hollow" else ""
        size = 4 if trace.style == "dots" else 9
        made |= {"mode": "markers", "marker": {"color": series(group), "size": size, "symbol": symbol}}
    if found is not None:
        below, above = trace.y - found[0], found[1] - trace.y
        made["error_y"] = bars([(float(a), float(b)) for a, b in zip(below, above, strict=True)], group)
    return [made]


def _band(trace: Trace, found: tuple[np.ndarray, np.ndarray], group: int, meta: Mapping[str, Any]) -> dict[str, Any]:
    there = np.isfinite(found[0])
    x, low, high = trace.x[there], found[0][there], found[1][there]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(np.concatenate([x, x[::-1]])),
        "y": numbers(np.concatenate([high, low[::-1]])),
        "fill": "toself",
        "fillcolor": series(group).replace("series", "band"),
        "line": {"width": 0, "color": series(group)},
        "hoverinfo": "skip",
        "meta": meta,
    }


def contour(plot: Plot, plane: Plane) -> Chart:
    """Return values over a plane as contours, the same levels in all planes of one scale, with the path in it."""
    step = (plane.highest - plane.lowest) / 12 or 1.0
    made: list[dict[str, Any]] = [
        {"type": "contour", "name": plain_text(plane.name), "meta": {"group": plane.group}, **_heights(plot, plane),
         "autocontour": False, "contours": {"start": plane.lowest, "end": plane.highest, "size": step},
         "zmin": plane.lowest, "zmax": plane.highest, "zauto": False, "line": {"width": 0.5},
         "hovertemplate": "%{z:.3f} nats at (%{x:.3g}, %{y:.3g})"}
    ]  # fmt: skip
    if len(plane.path):
        made.append(
            {"type": "scatter", "mode": "lines+markers", "name": "path", "x": numbers(plane.path[:, 0]),
             "y": numbers(plane.path[:, 1]), "text": [plain_text(stop) for stop in plane.stops],
             "hovertemplate": "%{text}", "line": {"color": "--ground", "width": 2},
             "marker": {"color": "--ground", "size": 6}, "meta": {"group": plane.group}}
        )  # fmt: skip
    return chart(made, x=_wrapped(plot.x, _WIDE), y=_wrapped(plot.y, _HIGH), hovermode="closest")


def surfaces(plots: Sequence[Plot]) -> Chart:
    """Return values over planes as surfaces on one scale, one shown at a time."""
    data: list[dict[str, Any]] = []
    for layer, plot in enumerate(plots):
        plane = plot.plane
        assert plane is not None
        data.append({"type": "surface", "name": plain_text(plane.name), "meta": {"group": -1, "layer": layer},
                     **_heights(plot, plane), "cmin": plane.lowest, "cmax": plane.highest,
                     "hovertemplate": "%{z:.3f} nats at (%{x:.3g}, %{y:.3g})"})  # fmt: skip
        if len(plane.path):
            x, y, z = way(plane).T
            data.append({"type": "scatter3d", "mode": "lines", "name": "path", "meta": {"group": -1, "layer": layer},
                         "x": numbers(x), "y": numbers(y), "z": numbers(z), "hoverinfo": "skip",
                         "line": {"color": "--ink", "width": 5}})  # fmt: skip
    plot, plane = plots[0], plots[0].plane
    assert plane is not None
    made = chart(data, x="", y="", hovermode="closest")
    made["layout"]["scene"] = {
        "xaxis": {"title": {"text": "α"}},
        "yaxis": {"title": {"text": "β"}},
        "zaxis": {"title": {"text": "loss"}, "range": [plane.lowest, plane.highest]},
        "aspectratio": {"x": 1, "y": 1, "z": 0.7},
        "camera": {"eye": {"x": 1.3, "y": -1.3, "z": 0.8}},
    }
    return made


def _heights(plot: Plot, plane: Plane) -> dict[str, Any]:
    return {
        "x": numbers(plane.x),
        "y": numbers(plane.y),
        "z": [numbers(row) for row in plane.z],
        "colorscale": "Viridis",
        "colorbar": _colorbar(plot.z),
    }


def _colorbar(words: str) -> dict[str, Any]:
    return {"title": {"text": plain_text(words), "side": "right"}, "thickness": 10, "outlinewidth": 0}
