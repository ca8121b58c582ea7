"""Interactive charts as plain data for plotly.js: what the page's script draws.

Colours are names of the page's CSS variables, such as "--series-0", so that a chart follows the reader's
light or dark setting; every trace says in ``meta`` which group it belongs to (``of`` which part, for a study),
and of which layer it is.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from robustscape.display import FEW, LIGHT, Band, Line, Panel, accuracy_band, lr_drops, sign, tracked_sets
from robustscape.evaluation.result import Evaluation
from robustscape.landscape.flatness import FlatnessResult
from robustscape.landscape.histograms import WeightResult
from robustscape.training.log import TrainingLog

Chart: TypeAlias = dict[str, Any]
"""``data`` and ``layout`` as plotly.js takes them."""

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")

_HELD_OUT = ("solid", "dash", "dashdot")


def curves(logs: Mapping[str, Sequence[TrainingLog]], quantity: Literal["robust", "clean"]) -> Chart:
    """Return an accuracy against the epoch: training dotted, held-out sets solid, then dashed."""
    sets = tracked_sets(logs)
    dashes = {name: _HELD_OUT[min(place, 2)] for place, name in enumerate(n for n in sets if n != "train")}
    data = []
    for group, (label, found) in enumerate(logs.items()):
        for name in sets:
            if (curve := accuracy_band(found, name, quantity)) is not None:
                title = f"{label}, {name}"
                data += _banded(curve, group, title, scale=100, dash=dashes.get(name, "dot"), form=".1f", unit=" %")
    drops = sorted({epoch for found in logs.values() for log in found for epoch in lr_drops(log)})
    lines = [
        {"type": "line", "x0": e - 0.5, "x1": e - 0.5, "y0": 0, "y1": 1, "yref": "paper",
         "line": {"width": 1, "dash": "dot", "color": "--faint"}, "layer": "below"}
        for e in drops
    ]  # fmt: skip
    return chart(data, x="epoch", y=f"{quantity} accuracy, %", shapes=lines)


def scatter(points: Mapping[str, Mapping[str, Sequence[tuple[FlatnessResult, Evaluation]]]]) -> Chart:
    """Return robust error against flatness, a point a run, with 95 % intervals.

    Args:
        points: Checkpoint to label to the pairs of its runs; the first checkpoint is drawn filled.
    """
    data = []
    for place, (checkpoint, groups) in enumerate(points.items()):
        for group, (label, pairs) in enumerate(groups.items()):
            if pairs:
                data.append(_points(f"{label}, {checkpoint}", group, pairs, filled=place == 0))
    return chart(data, x="flatness: rise of the robust loss, nats", y="robust error, %", hovermode="closest")


def histograms(results: Mapping[str, Sequence[WeightResult]], layers: Sequence[str]) -> Chart:
    """Return the density of the weights of every layer, all in one chart that shows one layer at a time."""
    data = []
    for group, (label, found) in enumerate(results.items()):
        for result in found:
            for row, name in enumerate(result.layers):
                edges, counts = result.edges[row], result.counts[row]
                density = counts / max(counts.sum(), 1) / np.diff(edges)
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "name": plain_text(label),
                        "x": numbers((edges[1:] + edges[:-1]) / 2),
                        "y": numbers(np.where(counts > 0, density, np.nan)),
                        "line": {"color": series(group), "width": 1.8, "shape": "hvh"},
                        "hovertemplate": "%{y:.3g}",
                        "meta": {"group": group, "layer": layers.index(name)},
                    }
                )
    return chart(data, x="weight", y="density", logarithmic=True)


def names(panels: Sequence[Panel]) -> dict[str, Line]:
    """Return the names of all lines in their order, each with a line of that name, a solid one where there is."""
    lines = [line for panel in panels for line in panel.lines]
    found = {line.name: line for line in sorted(lines, key=lambda line: not line.dashed)}
    return {name: found[name] for name in dict.fromkeys(line.name for line in lines)}


def dash(line: Line) -> str:
    """Return how a line is drawn, as plotly calls it; groups beyond the palette repeat its colours, dotted."""
    return (("solid", "dash") if line.group < len(LIGHT) else ("dot", "dashdot"))[line.dashed]


def panels(found: Sequence[Panel], *, of: str) -> list[Chart]:
    """Return a chart for each panel of a part of a study; the group of a line is the number of its name.

    Args:
        found: The panels.
        of: What the part is called in the page: its lines are shown and hidden apart from all others.
    """
    groups = list(names(found))
    made = []
    for panel in found:
        data = [
            {
                "type": "scatter",
                "mode": "lines" if len(line.x) > FEW else "lines+markers",
                "name": plain_text(line.name),
                "x": numbers(line.x),
                "y": numbers(line.y),
                "line": {"color": series(line.group), "width": 2, "dash": dash(line)},
                "marker": {"color": series(line.group), "size": 6},
                "hovertemplate": "%{y:.4g}",
                "meta": {"of": of, "group": groups.index(line.name)},
            }
            for line in panel.lines
        ]
        made.append(chart(data, x=plain_text(panel.x), y=plain_text(panel.y)))
    return made


# -- pieces --------------------------------------------------------------------------------------------


def _banded(
    curve: Band, group: int, name: str, *, scale: float, dash: str, form: str, unit: str
) -> list[dict[str, Any]]:
    """A line, under it its band where there are several curves."""
    meta = {"group": group}
    line = {
        "type": "scatter",
        "mode": "lines" if len(curve.x) > FEW else "lines+markers",
        "name": plain_text(name),
        "x": numbers(curve.x),
        "y": numbers(scale * curve.mean),
        "line": {"color": series(group), "width": 2, "dash": dash},
        "marker": {"color": series(group), "size": 6},
        "hovertemplate": f"%{{y:{form}}}{unit}",
        "meta": meta,
    }
    if curve.count == 1:
        return [line]
    outline = {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(np.concatenate([curve.x, curve.x[::-1]])),
        "y": numbers(scale * np.concatenate([curve.high, curve.low[::-1]])),
        "fill": "toself",
        "fillcolor": f"--band-{group % len(LIGHT)}",
        "line": {"width": 0, "color": series(group)},
        "hoverinfo": "skip",
        "meta": meta,
    }
    return [outline, line]


def _points(
    name: str, group: int, pairs: Sequence[tuple[FlatnessResult, Evaluation]], *, filled: bool
) -> dict[str, Any]:
    flats = [flat.robust for flat, _ in pairs]
    errors = [evaluation.robust_error for _, evaluation in pairs]
    symbol = group_symbol(group)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain_text(name),
        "x": numbers([e.value for e in flats]),
        "y": numbers([100 * e.value for e in errors]),
        "error_x": bars([(e.value - e.low, e.high - e.value) for e in flats], group),
        "error_y": bars([(100 * (e.value - e.low), 100 * (e.high - e.value)) for e in errors], group),
        "marker": {"symbol": symbol if filled else f"{symbol}-open", "size": 11, "color": series(group)},
        "hovertemplate": "flatness %{x:.3f} nats<br>robust error %{y:.1f} %",
        "meta": {"group": group},
    }


def bars(lengths: Sequence[tuple[float, float]], group: int) -> dict[str, Any]:
    """Return error bars, (below, above) for each point, in the colour of a group."""
    return {
        "type": "data",
        "symmetric": False,
        "arrayminus": numbers([low for low, _ in lengths]),
        "array": numbers([high for _, high in lengths]),
        "color": series(group),
        "thickness": 1.2,
        "width": 3,
    }


def chart(
    data: list[dict[str, Any]],
    *,
    x: str,
    y: str,
    shapes: Sequence[dict[str, Any]] = (),
    hovermode: str = "x unified",
    logarithmic: bool = False,
) -> Chart:
    """Return a chart of some traces; ``x`` and ``y`` are the axes' titles, ``logarithmic`` is the vertical one."""
    scale = {"type": "log", "exponentformat": "power", "dtick": 1} if logarithmic else {}
    layout = {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, **scale},
        "shapes": list(shapes),
        "hovermode": hovermode,
    }
    return {"data": data, "layout": layout}


def series(group: int) -> str:
    """Return the name of a group's colour."""
    return f"--series-{group % len(LIGHT)}"


def group_symbol(group: int) -> str:
    """Return the marker of a group, a second sign beside the colour: both together tell 64 groups apart."""
    return sign(group, _SYMBOLS)


def plain_text(text: str) -> str:
    """Return words as they are: plotly.js reads a little HTML in the names of traces."""
    return html.escape(text, quote=False)


def numbers(values: Any) -> list[float | None]:
    """Return numbers for JSON, to six digits; None where there is none, which leaves a hole in a line."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in map(float, values)]
