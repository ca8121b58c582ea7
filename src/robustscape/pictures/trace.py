"""The trace of the Hessian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.trace import TraceResult
from robustscape.pictures.plot import RESCALED, Picture, Plot, Trace, alike, beside, first, mean, runs, seeds, words
from robustscape.pictures.spectrum import STEPS


def picture(found: Mapping[str, Sequence[TraceResult]]) -> Picture:
    """Return the trace of each loss with its interval, for each of the coordinates; the replicates as dots."""
    found = alike(found, lambda r: (r.losses, r.coordinates))
    one = first(found)
    return Picture(
        kind="curvature",
        title="Trace of the Hessian",
        lead="The sum of all curvatures: how much noise on all weights raises the loss, to second order.",
        plots=tuple(_plot(found, place) for place in range(len(one.coordinates))),
        keys=(("points", "mean"), ("dots", "each replicate")),
        how=(words(found, _how), seeds(found, alone="95 % intervals over replicates")),
        care=(
            f"in raw coordinates: {RESCALED}" if "raw" in one.coordinates else "",
            "directions of negative curvature count against those of positive curvature",
        ),
    )


def _how(r: TraceResult) -> str:
    text = (
        f"{r.method.capitalize()}, {r.replicates.shape[-1]} replicates of {r.products} products; {r.curvature} inputs; "
    )
    return f"{text}{r.size:,} parameters: {r.scope}; {r.attack or 'no attack'}; {r.split}, n = {r.n:,}"


def _plot(found: Mapping[str, Sequence[TraceResult]], place: int) -> Plot:
    one, traces = first(found), []
    for group, label, results in runs(found):
        x = np.arange(len(one.losses)) + beside(group, len(found))
        ends = [(results[0].low[:, place], results[0].high[:, place])]
        traces.append(mean(label, group, x, [r.trace[:, place] for r in results], ends=ends, style="points"))
        for r in results:
            y = r.replicates[:, place]
            at = np.repeat(x, y.shape[-1])
            traces.append(Trace(name=f"{label}, a replicate", group=group, x=at, y=y.ravel(), style="dots"))
    title = f"A step of 1 is {STEPS[one.coordinates[place]]}"
    return Plot(title=title, x="", y="trace, nats", traces=tuple(traces), ticks=one.losses)
