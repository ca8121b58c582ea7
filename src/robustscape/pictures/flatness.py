"""Average-case flatness over the radius, its differences between networks, and where its error comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.flatness import FlatnessResult
from robustscape.landscape.paired_flatness import compared
from robustscape.pictures.plot import Picture, Plot, Style, Trace, alike, beside, each, mean, runs, seeds, words
from robustscape.types import BadInput

_PARTS = (("draws", "between_draws"), ("examples", "between_examples"), ("interaction", "interaction"))
_LOSSES: tuple[tuple[str, Style], ...] = (("clean", "dash"), ("robust", "solid"))
_DIFFERENCES = (
    "of differences each seed's own bars: 95 % intervals over draws, and over examples where each one's loss is known"
)


def picture(found: Mapping[str, Sequence[FlatnessResult]]) -> Picture | None:
    """Return the rise over the radius, differences of pairs, and the parts of the error; None where there are none."""
    found = alike(found, lambda r: (r.xi, r.mode, tuple(at.xi for at in r.sweep)))
    differences = _differences(found)
    plots = [plot for plot in (_sweep(found), differences, _parts(found)) if plot is not None]
    if not plots:
        return None
    over = any(r.sweep for _, _, results in runs(found) for r in results)
    return Picture(
        kind="flatness",
        title="Average-case flatness",
        lead="How much the loss rises, on average, when every layer moves at random by a fraction ξ of its norm.",
        plots=tuple(plots),
        keys=(("solid", "robust loss"), ("dash", "clean loss")) if over else (),
        how=(
            words(found, _how),
            seeds(found, what="bands", alone="95 % intervals over draws") if over else "",
            _DIFFERENCES if differences else "",
            f"its error, {split}" if (split := each(found, _split)) else "",
        ),
        care=("intervals over draws hold for these very examples; other examples differ more",),
    )


def rises(found: Mapping[str, Sequence[FlatnessResult]], label: str, group: int) -> list[Trace]:
    """Return the rises of a group over all its radii, clean and robust."""
    results = found[label]
    traces = []
    for loss, style in _LOSSES:
        points = [[(r.xi, getattr(r, loss)), *((at.xi, getattr(at, loss)) for at in r.sweep)] for r in results]
        points = [sorted(of, key=lambda pair: pair[0]) for of in points]
        x = np.array([xi for xi, _ in points[0]])
        values = [np.array([rise.value for _, rise in of]) for of in points]
        ends = [tuple(np.array([getattr(rise, end) for _, rise in points[0]]) for end in ("low", "high"))]
        traces.append(mean(f"{label}, {loss}", group, x, values, ends=[(ends[0][0], ends[0][1])], style=style))
    return traces


def _how(r: FlatnessResult) -> str:
    draws = len(r.robust_losses)
    return f"Mode {r.mode}, ξ = {r.xi:g}, {draws} draws; attacked anew under each, {r.attack}; {r.split}, n = {r.n:,}"


def _sweep(found: Mapping[str, Sequence[FlatnessResult]]) -> Plot | None:
    traces = [t for group, label, results in runs(found) if results[0].sweep for t in rises(found, label, group)]
    if not traces:
        return None
    x, y = "radius ξ, as a share of each layer's norm", "rise of the loss, nats"
    return Plot(title="Rise of the loss over the radius", x=x, y=y, traces=tuple(traces), log="xy")


def _differences(found: Mapping[str, Sequence[FlatnessResult]]) -> Plot | None:
    """Return the flatness of every other group minus that of the first, on common random numbers."""
    there = list(runs(found))
    if len(there) < 2:
        return None
    traces, ticks = [], []
    _, reference, base = there[0]
    for group, label, results in there[1:]:
        pairs = [(r, b) for r in results for b in base if r.provenance.seed == b.provenance.seed]
        try:
            differences = [compared(*pair) for pair in pairs]
        except BadInput:  # measured otherwise: they do not pair
            continue
        for place, found_here in enumerate(differences):
            of = found_here.over_both or found_here.difference
            x = np.array([len(ticks) + beside(place, len(differences))])
            ends = (np.array([of.low]), np.array([of.high]))
            name = f"{label} minus {reference}"
            trace = Trace(
                name=name, group=group, x=x, y=np.array([of.value]), low=ends[0], high=ends[1], style="points"
            )
            traces.append(trace)
        ticks += [label] if differences else []
    if not traces:
        return None
    return Plot(
        title=f"Flatness minus that of {reference}, a point a seed",
        x="",
        y="difference, nats (below 0: flatter)",
        traces=tuple(traces),
        ticks=tuple(ticks),
        levels=((0.0, "equal"),),
    )


def _parts(found: Mapping[str, Sequence[FlatnessResult]]) -> Plot | None:
    traces = []
    for group, label, results in runs(found):
        parts = [r.components for r in results if r.components is not None]
        if parts:
            counts = [(c.draws, c.examples, c.draws * c.examples) for c in parts]
            shares = [
                np.array([getattr(c, field) / n for (_, field), n in zip(_PARTS, count, strict=True)])
                for c, count in zip(parts, counts, strict=True)
            ]
            y = 100 * np.mean([of / max(of.sum(), 1e-300) for of in shares], axis=0)
            traces.append(Trace(name=label, group=group, x=np.arange(3.0), y=y, style="bars"))
    if not traces:
        return None
    ticks = tuple(name for name, _ in _PARTS)
    return Plot(
        title="Where the error comes from", x="", y="share of the variance, %", traces=tuple(traces), ticks=ticks
    )


def _split(r: FlatnessResult) -> str:
    """Return in words what the error is, and which split of the cost makes it smallest."""
    c = r.components
    if c is None:
        return ""
    text = f"standard error {c.error:.2g} nats from {c.draws} draws and {c.examples:,} examples, most from the "
    text += f"{c.dominant}; at the same cost {c.best_draws} draws and {c.best_examples:,} examples"
    return f"{text} are expected to give {c.best_error:.2g}"
