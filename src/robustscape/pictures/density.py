"""The density of the Hessian's eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from robustscape.landscape.density import DensityResult
from robustscape.pictures.plot import RESCALED, Picture, Plot, Style, Trace, alike, each, first, interval, runs, words
from robustscape.pictures.spectrum import STEPS

_LOSSES: dict[str, Style] = {"clean": "dash", "robust": "solid"}


def picture(found: Mapping[str, Sequence[DensityResult]]) -> Picture:
    """Return the density of each run on a logarithmic axis, with a band of two standard errors."""
    found = alike(found, lambda r: (r.losses, r.coordinates))
    one = first(found)
    traces = []
    for group, label, results in runs(found):
        for r in results:
            for row, loss in enumerate(r.losses):
                y, error = r.density[row], 2 * r.error[row]
                trace = Trace(name=f"{label}, {loss}", group=group, x=r.positions, y=y, low=y - error, high=y + error,
                              style=_LOSSES[loss])  # fmt: skip
                traces.append(trace)
    single = min(1 / (r.size * r.sigma * math.sqrt(2 * math.pi)) for rs in found.values() for r in rs)
    x, y = f"eigenvalue, nats (a step of 1 is {STEPS[one.coordinates]})", "share of the eigenvalues per nat"
    levels = ((single, "one eigenvalue"),)
    plot = Plot(title="", x=x, y=y, traces=tuple(traces), log="y", levels=levels, floor=single / 10)
    return Picture(
        kind="curvature",
        title="Density of the spectrum",
        lead="How many directions have which curvature: most have almost none, few a large one.",
        plots=(plot,),
        keys=(("solid", "robust loss"), ("dash", "clean loss")),
        how=(
            words(found, _how),
            f"a line a run, {each(found, _numbers)}",
            "bands: two standard errors over the random starts",
        ),
        care=(
            RESCALED if one.coordinates == "raw" else "",
            "peaks are as wide as the kernel; below the dotted line there is less than one eigenvalue",
        ),
    )


def _how(r: DensityResult) -> str:
    text = f"Stochastic Lanczos quadrature, {r.nodes.shape[1]} starts; {r.curvature} inputs; "
    return f"{text}{r.size:,} parameters: {r.scope}; {r.attack or 'no attack'}; {r.split}, n = {r.n:,}"


def _numbers(r: DensityResult) -> str:
    trace, nuclear = interval(r.robust_trace or r.clean_trace), interval(r.robust_nuclear or r.clean_nuclear)
    return f"kernel σ = {r.sigma:.3g}, trace {trace}, nuclear norm {nuclear}"
