"""Interactive charts of measures beside robustness: a point a run, lines a method, arrows to the early-stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
from robustscape.report.charts import Chart, bars, chart, group_symbol, numbers, plain_text, series


def outcome(found: Relations, name: str, measures: Sequence[str]) -> Chart:
    """Return an outcome against each of some measures, one shown at a time.

    Args:
        found: The runs.
        name: The outcome, one of ``relations.OUTCOMES``.
        measures: At least one; its number is the chart's layer.
    """
    data = []
    for layer, measure in enumerate(measures):
        data += _scatter(found, measure, name, trends(having(found.last, measure, name), measure, name), layer)
    titles = [axis(measure, found.measures[measure]) for measure in measures]
    made = chart(data, x=titles[0], y=axis(name, OUTCOMES[name]), hovermode="closest")
    return {**made, "across": titles}


def errors(found: Relations) -> Chart:
    """Return the robust error against the robust loss, with a line below ln K and one above."""
    lines = halves(having((*found.last, *found.best), LOSS, ERROR), found.classes)
    made = chart(
        _scatter(found, LOSS, ERROR, lines), x=axis(LOSS, OUTCOMES[LOSS]), y=axis(ERROR, "%"), hovermode="closest"
    )
    if kink_shown(found):
        kink = math.log(found.classes)
        made["layout"]["shapes"] = [
            {"type": "line", "x0": kink, "x1": kink, "y0": 0, "y1": 1, "yref": "paper", "layer": "below",
             "line": {"width": 1, "dash": "dot", "color": "--faint"}}
        ]  # fmt: skip
    return made


def by_level(found: Relations, measure: str) -> Chart:
    """Return a measure of good, average and poor networks, a point a run, with the mean of each.

    Args:
        found: The runs, at least ``relations.ENOUGH``.
        measure: One of ``found.measures``.
    """
    there, data = levels(found), []
    points = []
    for place, level in enumerate(there):
        networks = having(level.networks, measure)
        points += [(network, x) for x, network in zip(spread(place, len(networks)), networks, strict=True)]
        if networks:
            mean = math.fsum(network.values[measure].value for network in networks) / len(networks)
            data.append(_line(Trend(x=(place - 0.35, place + 0.35), y=(mean, mean))) | {"line": _MEAN})
    for group in sorted({network.group for network, _ in points}):
        some = [(network, x) for network, x in points if network.group == group]
        data.append(_of_levels([network for network, _ in some], [x for _, x in some], measure))
    made = chart(data, x="robust error", y=axis(measure, found.measures[measure]), hovermode="closest")
    made["layout"]["xaxis"] |= {"tickvals": list(range(len(there))), "range": [-0.5, len(there) - 0.5],
                                "ticktext": [f"{level.name}<br>{level.errors}" for level in there]}  # fmt: skip
    return made


def kink_shown(found: Relations) -> bool:
    """Return whether ln K is near enough to the losses to be drawn."""
    losses = [network.values[LOSS].value for network in having((*found.last, *found.best), LOSS)]
    return bool(losses) and max(losses) > 0.8 * math.log(found.classes) and min(losses) < 1.25 * math.log(found.classes)


def axis(name: str, unit: str) -> str:
    """Return the title of an axis."""
    return f"{name}, {unit}" if unit else name


# -- pieces --------------------------------------------------------------------------------------------


_MEAN = {"color": "--soft", "width": 1.5}


def _of_levels(networks: Sequence[Network], x: Sequence[float], measure: str) -> dict[str, Any]:
    group, values = networks[0].group, [network.values[measure] for network in networks]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain_text(networks[0].label),
        "x": numbers(x),
        "y": numbers([value.value for value in values]),
        "error_y": bars(_lengths(values), group),
        "marker": {"symbol": group_symbol(group), "size": 9, "color": series(group)},
        "text": [f"{_named(n)}<br>{ERROR} {n.values[ERROR].value:.1f} %" for n in networks],
        "hovertemplate": f"%{{text}}<br>{plain_text(measure)} %{{y:.4g}}<extra></extra>",
        "meta": {"group": group},
    }


def _named(network: Network) -> str:
    return plain_text(f"{network.label}, seed {network.seed}")


def _scatter(
    found: Relations, x: str, y: str, lines: Sequence[Trend], layer: int | None = None
) -> list[dict[str, Any]]:
    last, best = having(found.last, x, y), having(found.best, x, y)
    groups = sorted({network.group for network in (*last, *best)})
    data = [_line(line) for line in lines]
    data += [_arrow(*pair, x, y) for pair in arrows(found, x, y)]
    for group in groups:
        for networks, filled in ((best, False), (last, True)):
            if some := [network for network in networks if network.group == group]:
                data.append(_points(some, x, y, filled=filled))
    extra = {} if layer is None else {"layer": layer}
    return [{**trace, "meta": {**trace["meta"], **extra}} for trace in data]


def _points(networks: Sequence[Network], x: str, y: str, *, filled: bool) -> dict[str, Any]:
    group, checkpoint = networks[0].group, "last" if filled else "best"
    symbol = group_symbol(group)
    across, up = ([network.values[name] for network in networks] for name in (x, y))
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain_text(f"{networks[0].label}, {checkpoint}"),
        "x": numbers([value.value for value in across]),
        "y": numbers([value.value for value in up]),
        "error_x": bars(_lengths(across), group),
        "error_y": bars(_lengths(up), group),
        "marker": {"symbol": symbol if filled else f"{symbol}-open", "size": 10, "color": series(group)},
        "text": [f"{_named(network)}, {checkpoint}" for network in networks],
        "hovertemplate": f"%{{text}}<br>{plain_text(x)} %{{x:.4g}}<br>{plain_text(y)} %{{y:.4g}}<extra></extra>",
        "meta": {"group": group},
    }


def _lengths(values: Sequence[Value]) -> list[tuple[float, float]]:
    nothing = (math.nan, math.nan)
    return [nothing if v.low is None or v.high is None else (v.value - v.low, v.high - v.value) for v in values]


def _line(line: Trend) -> dict[str, Any]:
    colour = "--soft" if line.group is None else series(line.group)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(line.x),
        "y": numbers(line.y),
        "line": {"color": colour, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
        "meta": {"group": line.group},
    }


def _arrow(last: Network, best: Network, x: str, y: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": numbers([last.values[x].value, best.values[x].value]),
        "y": numbers([last.values[y].value, best.values[y].value]),
        "line": {"color": series(last.group), "width": 1},
        "marker": {"symbol": "arrow", "angleref": "previous", "size": [0, 11], "standoff": [0, 6],
                   "color": series(last.group)},
        "opacity": 0.7,
        "hoverinfo": "skip",
        "meta": {"group": last.group},
    }  # fmt: skip
