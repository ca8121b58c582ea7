"""The largest eigenvalues of the Hessian by their index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.spectrum import SpectrumResult
from robustscape.pictures.plot import (
    RESCALED,
    Picture,
    Plot,
    Style,
    Trace,
    alike,
    each,
    first,
    mean,
    runs,
    seeds,
    words,
)

STEPS = {"raw": "1 in every weight", "layer": "the norm of each layer", "filter": "the norm of each filter"}
"""What a step of 1 is, by the coordinates."""

_LOSSES: dict[str, Style] = {"clean": "dash", "robust": "solid"}


def picture(found: Mapping[str, Sequence[SpectrumResult]]) -> Picture:
    """Return eigenvalue against index for each of the coordinates, and Liu's normalised ones where they are."""
    found = alike(found, lambda r: (r.losses, r.coordinates, r.eigenvalues.shape))
    one = first(found)
    plots = [_plot(found, place, "eigenvalues") for place in range(len(one.coordinates))]
    if one.normalised.shape[-1] and "raw" in one.coordinates:
        plots.append(_plot(found, one.coordinates.index("raw"), "normalised"))
    keys: list[tuple[Style, str]] = [("solid", "robust loss"), ("dash", "clean loss")]
    if not all(r.converged.all() for results in found.values() for r in results):
        keys.append(("hollow", "not converged"))
    return Picture(
        kind="curvature",
        title="Spectrum of the Hessian",
        lead="The largest curvatures of the loss, one after another; small is flat.",
        plots=tuple(plots),
        keys=tuple(keys),
        how=(
            words(found, _how),
            f"|smallest| / |largest|, {each(found, _ratios)}",
            seeds(found, alone="the residuals"),
        ),
        care=(
            f"in raw coordinates: {RESCALED}" if "raw" in one.coordinates else "",
            f"curvature is {one.curvature}: what adversarial inputs add as they follow the weights is left out",
        ),
    )


def _how(r: SpectrumResult) -> str:
    text = f"Lanczos to a residual of {r.tolerance:g}; parameters: {r.scope}; {r.attack or 'no attack'}; "
    return f"{text}{r.split}, n = {r.n:,}"


def _ratios(r: SpectrumResult) -> str:
    return ", ".join(f"{ratio:.2g} ({c})" for ratio, c in zip(r.ratio[-1], r.coordinates, strict=True))


def _plot(found: Mapping[str, Sequence[SpectrumResult]], place: int, field: str) -> Plot:
    traces: list[Trace] = []
    for group, label, results in runs(found):
        x = np.arange(1.0, 1 + getattr(results[0], field).shape[-1])
        for row, loss in enumerate(results[0].losses):
            values = [getattr(r, field)[row, place] for r in results]
            wrong = results[0].residuals[row, place] * (values[0] / results[0].eigenvalues[row, place])
            ends = [(values[0] - np.abs(wrong), values[0] + np.abs(wrong))]
            line = mean(f"{label}, {loss}", group, x, values, ends=ends, style=_LOSSES[loss])
            apart = ~np.all([r.converged[row, place] for r in results], axis=0)
            traces.append(line)
            if apart.any():
                name = f"{label}, {loss}, not converged"
                traces.append(Trace(name=name, group=group, x=x[apart], y=line.y[apart], style="hollow"))
    coordinates = first(found).coordinates[place]
    low = min(float(np.min(trace.y)) for trace in traces)
    high = max(float(np.max(trace.y)) for trace in traces)
    y = "eigenvalue, nats" if field == "eigenvalues" else "eigenvalue over the loss at random weights"
    title = f"A step of 1 is {STEPS[coordinates]}" if field == "eigenvalues" else "Normalised as Liu 2020, raw"
    return Plot(title=title, x="index", y=y, traces=tuple(traces), log="y" if high > 10 * low > 0 else "")
