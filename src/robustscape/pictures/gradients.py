"""Norms of the gradient by layer, and its noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.gradients import GradientResult
from robustscape.pictures.plot import (
    RESCALED,
    Picture,
    Plot,
    Style,
    Trace,
    alike,
    beside,
    each,
    first,
    mean,
    runs,
    seeds,
    words,
)

_LOSSES: tuple[tuple[str, Style], ...] = (("clean", "hatched"), ("robust", "bars"))


def picture(found: Mapping[str, Sequence[GradientResult]]) -> Picture:
    """Return the slope of each layer, and norm and noise scale of the whole gradient."""
    found = alike(found, lambda r: (r.losses, r.layers))
    return Picture(
        kind="weights",
        title="Gradients and their noise",
        lead="How steep the loss still is in the weights, and how large a batch tells its slope from noise.",
        plots=(_slopes(found), _norms(found), _scales(found)),
        keys=(
            ("bars", "robust loss"),
            ("hatched", "clean loss"),
            ("points", "all examples"),
            ("hollow", "a mini-batch"),
        ),
        how=(
            words(found, _how),
            f"noise scale of the robust loss, {each(found, _range)}",
            f"of norms, {seeds(found, what='bars', alone='the spread over mini-batches')}",
            "of the noise scale each seed's own bars: 95 % intervals",
        ),
        care=(
            f"norms and noise scale: {RESCALED}; the slope by layer does not",
            "a noise scale without an upper end, or none at all: too few examples to tell the gradient from its noise",
        ),
    )


def _how(r: GradientResult) -> str:
    return f"{r.minibatches} mini-batches of {r.minibatch}; {r.attack}; {r.split}, n = {r.n:,}"


def _range(r: GradientResult) -> str:
    e = r.robust_noise_scale
    if not np.isfinite(e.value):
        return "unknown"
    low = f"from {max(e.low, 0):.3g}" if np.isfinite(e.low) else ""
    high = f"to {e.high:.3g}" if np.isfinite(e.high) else "without an upper end"
    return f"{e.value:.3g} examples [{low} {high}]"


def _slopes(found: Mapping[str, Sequence[GradientResult]]) -> Plot:
    layers, traces = first(found).layers, []
    for group, label, results in runs(found):
        for row, (loss, style) in enumerate(_LOSSES):
            y = np.mean([r.slope[row] for r in results], axis=0)
            traces.append(
                Trace(name=f"{label}, {loss}", group=group, x=np.arange(float(len(layers))), y=y, style=style)
            )
    return Plot(
        title="Slope by layer", x="", y="‖gradient‖ · ‖weights‖, nats", traces=tuple(traces), ticks=tuple(layers)
    )


def _norms(found: Mapping[str, Sequence[GradientResult]]) -> Plot:
    traces = []
    for group, label, results in runs(found):
        x = np.arange(2.0) + beside(group, len(found))
        traces.append(mean(f"{label}, all examples", group, x, [r.norm for r in results], style="points"))
        middle = [r.stochastic_norm for r in results]
        ends = [(middle[0] - results[0].stochastic_deviation, middle[0] + results[0].stochastic_deviation)]
        traces.append(mean(f"{label}, a mini-batch", group, x, middle, ends=ends, style="hollow"))
    return Plot(
        title="Norm of the gradient",
        x="",
        y="‖gradient‖, nats",
        traces=tuple(traces),
        ticks=first(found).losses,
    )


def _scales(found: Mapping[str, Sequence[GradientResult]]) -> Plot:
    traces = []
    for group, label, results in runs(found):
        for r in results:
            scales = (r.clean_noise_scale, r.robust_noise_scale)
            y, low, high = (np.array([getattr(e, end) for e in scales]) for end in ("value", "low", "high"))
            x = np.arange(2.0) + beside(group, len(found))
            traces.append(Trace(name=label, group=group, x=x, y=y, low=low, high=high, style="points"))
    return Plot(
        title="Noise scale", x="", y="examples", traces=tuple(traces), ticks=first(found).losses, log="y", floor=None
    )
