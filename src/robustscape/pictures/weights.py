"""Norm and distance of every layer, and units that never fire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.weights import WeightsResult
from robustscape.pictures.plot import RESCALED, Picture, Plot, Trace, alike, each, first, runs, words


def picture(found: Mapping[str, Sequence[WeightsResult]]) -> Picture:
    """Return the distance of every layer from the start (its norm without one), and dead and active units."""
    found = alike(found, lambda r: (r.layers, r.activations))
    one = first(found)
    gone = all(len(r.relative_distance) for results in found.values() for r in results)
    distances = ("relative_distance", "Distance from the start by layer", "‖w − w₀‖ / ‖w₀‖")
    field, title, y = distances if gone else ("norm", "Norm by layer", "‖w‖")
    plots = [Plot(title=title, x="", y=y, traces=_bars(found, field), ticks=one.layers)]
    if one.activations:
        y = "dead units, and positive outputs, %"
        plots.append(Plot(title="Units by ReLU", x="", y=y, traces=_units(found), ticks=one.activations))
    return Picture(
        kind="weights",
        title="Weights and dead units",
        lead="How large the weights are, how far they went, and which units never fire.",
        plots=tuple(plots),
        keys=(("bars", "dead units"), ("hatched", "positive outputs")) if one.activations else (),
        how=(words(found, _how), f"all weights, {each(found, _numbers)}", "means over seeds"),
        care=(
            f"norms and distances: {RESCALED}",
            f"a unit seen dead may yet fire for {100 * one.fires_at_most:.2g} % of all examples",
        ),
    )


def _how(r: WeightsResult) -> str:
    return f"Clean examples, {r.split}, n = {r.n:,}"


def _numbers(r: WeightsResult) -> str:
    text = f"norm {r.whole_norm:.3g}"
    if r.whole_distance is not None:
        text += f", distance {r.whole_distance:.3g} from {r.start}"
    if r.dead_share is not None:
        text += f"; {100 * r.dead_share:.1f} % of {int(np.sum(r.units)):,} units dead"
    return text


def _bars(found: Mapping[str, Sequence[WeightsResult]], field: str) -> tuple[Trace, ...]:
    x = np.arange(float(len(first(found).layers)))
    return tuple(
        Trace(name=label, group=group, x=x, y=np.mean([getattr(r, field) for r in results], axis=0), style="bars")
        for group, label, results in runs(found)
    )


def _units(found: Mapping[str, Sequence[WeightsResult]]) -> tuple[Trace, ...]:
    x, traces = np.arange(float(len(first(found).activations))), []
    for group, label, results in runs(found):
        dead, active = ([100 * r.dead / r.units for r in results], [100 * r.active for r in results])
        traces.append(Trace(name=f"{label}, dead", group=group, x=x, y=np.mean(dead, axis=0), style="bars"))
        traces.append(Trace(name=f"{label}, active", group=group, x=x, y=np.mean(active, axis=0), style="hatched"))
    return tuple(traces)
