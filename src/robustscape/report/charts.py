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

from robustscape.display import FEW, LIGHT, Band, Line, Panel, accuracy_band, lr_drops, slice_band, tracked_sets
from robustscape.evaluation.result import Evaluation
from robustscape.landscape.flatness import FlatnessResult
from robustscape.landscape.histograms import WeightResult
from robustscape.landscape.slices import SliceResult
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
    return _chart(data, x="epoch", y=f"{quantity} accuracy, %", shapes=lines)


def slices(results: Mapping[str, Sequence[SliceResult]], quantity: Literal["loss", "error"]) -> Chart:
    """Return the robust (solid) and clean (dashed) loss or error along random directions."""
    scale, form, unit = (100, ".1f", " %") if quantity == "error" else (1, ".3f", " nats")
    data = []
    for group, (label, found) in enumerate(results.items()):
        for inputs, dash in (("clean", "dash"), ("robust", "solid")) if found else ():
            curve = slice_band(found, f"{inputs}_{quantity}")
            data += _banded(curve, group, f"{label}, {inputs}", scale=scale, dash=dash, form=form, unit=unit)
    return _chart(
        data, x="position along the direction", y="error, %" if quantity == "error" else "loss, nats per example"
    )


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
    return _chart(data, x="flatness: rise of the robust loss, nats", y="robust error, %", hovermode="closest")


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
                        "name": _plain_text(label),
                        "x": _numbers((edges[1:] + edges[:-1]) / 2),
                        "y": _numbers(np.where(counts > 0, density, np.nan)),
                        "line": {"color": _series(group), "width": 1.8, "shape": "hvh"},
                        "hovertemplate": "%{y:.3g}",
                        "meta": {"group": group, "layer": layers.index(name)},
                    }
                )
    return _chart(data, x="weight", y="density", logarithmic=True)


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
                "name": _plain_text(line.name),
                "x": _numbers(line.x),
                "y": _numbers(line.y),
                "line": {"color": _series(line.group), "width": 2, "dash": dash(line)},
                "marker": {"color": _series(line.group), "size": 6},
                "hovertemplate": "%{y:.4g}",
                "meta": {"of": of, "group": groups.index(line.name)},
            }
            for line in panel.lines
        ]
        made.append(_chart(data, x=_plain_text(panel.x), y=_plain_text(panel.y)))
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
        "name": _plain_text(name),
        "x": _numbers(curve.x),
        "y": _numbers(scale * curve.mean),
        "line": {"color": _series(group), "width": 2, "dash": dash},
        "marker": {"color": _series(group), "size": 6},
        "hovertemplate": f"%{{y:{form}}}{unit}",
        "meta": meta,
    }
    if curve.count == 1:
        return [line]
    outline = {
        "type": "scatter",
        "mode": "lines",
        "x": _numbers(np.concatenate([curve.x, curve.x[::-1]])),
        "y": _numbers(scale * np.concatenate([curve.high, curve.low[::-1]])),
        "fill": "toself",
        "fillcolor": f"--band-{group % len(LIGHT)}",
        "line": {"width": 0, "color": _series(group)},
        "hoverinfo": "skip",
        "meta": meta,
    }
    return [outline, line]


def _points(
    name: str, group: int, pairs: Sequence[tuple[FlatnessResult, Evaluation]], *, filled: bool
) -> dict[str, Any]:
    flats = [flat.robust for flat, _ in pairs]
    errors = [evaluation.robust_error for _, evaluation in pairs]
    symbol = _SYMBOLS[group % len(_SYMBOLS)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": _plain_text(name),
        "x": _numbers([e.value for e in flats]),
        "y": _numbers([100 * e.value for e in errors]),
        "error_x": _bars([(e.value - e.low, e.high - e.value) for e in flats], group),
        "error_y": _bars([(100 * (e.value - e.low), 100 * (e.high - e.value)) for e in errors], group),
        "marker": {"symbol": symbol if filled else f"{symbol}-open", "size": 11, "color": _series(group)},
        "hovertemplate": "flatness %{x:.3f} nats<br>robust error %{y:.1f} %",
        "meta": {"group": group},
    }


def _bars(lengths: Sequence[tuple[float, float]], group: int) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "arrayminus": _numbers([low for low, _ in lengths]),
        "array": _numbers([high for _, high in lengths]),
        "color": _series(group),
        "thickness": 1.2,
        "width": 3,
    }


def _chart(
    data: list[dict[str, Any]],
    *,
    x: str,
    y: str,
    shapes: Sequence[dict[str, Any]] = (),
    hovermode: str = "x unified",
    logarithmic: bool = False,
) -> Chart:
    scale = {"type": "log", "exponentformat": "power", "dtick": 1} if logarithmic else {}
    layout = {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, **scale},
        "shapes": list(shapes),
        "hovermode": hovermode,
    }
    return {"data": data, "layout": layout}


def _series(group: int) -> str:
    return f"--series-{group % len(LIGHT)}"


def _plain_text(text: str) -> str:
    """Words as they are: plotly.js reads a little HTML in the names of traces."""
    return html.escape(text, quote=False)


def _numbers(values: Any) -> list[float | None]:
    """Numbers for JSON, to six digits; None where there is none, which leaves a hole in a line."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in map(float, values)]
