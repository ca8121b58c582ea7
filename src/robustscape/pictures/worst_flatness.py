"""Worst-case flatness over the radius, with the restarts of its search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.worst_flatness import WorstFlatnessResult
from robustscape.pictures.plot import Picture, Plot, Style, Trace, alike, beside, each, mean, runs, seeds, words

_LOSSES: tuple[tuple[str, Style], ...] = (("clean", "dash"), ("robust", "solid"))
_RISE = "rise of the loss, nats"


def picture(found: Mapping[str, Sequence[WorstFlatnessResult]]) -> Picture:
    """Return the rise at the worst weights found, over the radius where there are several; the restarts as dots."""
    found = alike(found, lambda r: (r.xi, r.mode, r.scope, tuple(at.xi for at in r.sweep)))
    swept = any(r.sweep for _, _, results in runs(found) for r in results)
    weak = any(_weak(r) for _, _, results in runs(found) for r in results)
    lines: tuple[tuple[Style, str], ...] = (("solid", "robust loss"), ("dash", "clean loss"))
    return Picture(
        kind="flatness",
        title="Worst-case flatness",
        lead="How much the loss rises at the worst weights found within a fraction ξ of every layer's norm.",
        plots=(_sweep(found) if swept else _single(found),),
        keys=(*(lines if swept else ()), ("dots", "each restart")),
        how=(words(found, _how), seeds(found, alone="95 % intervals over examples, at the weights found")),
        care=(
            "a lower bound of the largest rise: the search may have missed it",
            f"by the search, {each(found, _missed)}",
            "below 0 a new attack finds less than the search: it has not converged, at w neither" if weak else "",
        ),
    )


def _sweep(found: Mapping[str, Sequence[WorstFlatnessResult]]) -> Plot:
    traces = []
    for group, label, results in runs(found):
        for loss, style in _LOSSES:
            points = [[(r.xi, getattr(r, loss)), *((at.xi, getattr(at, loss)) for at in r.sweep)] for r in results]
            points = [sorted(of, key=lambda pair: pair[0]) for of in points]
            x = np.array([xi for xi, _ in points[0]])
            values = [np.array([rise.value for _, rise in of]) for of in points]
            low, high = (np.array([getattr(rise, end) for _, rise in points[0]]) for end in ("low", "high"))
            traces.append(mean(f"{label}, {loss}", group, x, values, ends=[(low, high)], style=style))
        for r in results:
            x = np.full(len(r.robust_rises), r.xi)
            traces.append(Trace(name=f"{label}, a restart", group=group, x=x, y=r.robust_rises, style="dots"))
    return Plot(title="", x="radius ξ, as a share of each layer's norm", y=_RISE, traces=tuple(traces), log="xy")


def _single(found: Mapping[str, Sequence[WorstFlatnessResult]]) -> Plot:
    """Return the rise at the only radius, clean beside robust."""
    traces = []
    for group, label, results in runs(found):
        x = np.arange(2.0) + beside(group, len(found))
        values, low, high = (
            [np.array([getattr(getattr(r, loss), end) for loss, _ in _LOSSES]) for r in results]
            for end in ("value", "low", "high")
        )
        traces.append(mean(label, group, x, values, ends=[(low[0], high[0])], style="points"))
        for r in results:
            for place, rises in zip(x, (r.clean_rises, r.robust_rises), strict=True):
                at = np.full(len(rises), place)
                traces.append(Trace(name=f"{label}, a restart", group=group, x=at, y=rises, style="dots"))
    return Plot(title="", x="", y=_RISE, traces=tuple(traces), ticks=tuple(loss for loss, _ in _LOSSES))


def _how(r: WorstFlatnessResult) -> str:
    one = "one perturbation for all examples" if r.scope == "set" else "a perturbation for each batch"
    count = len(r.robust_rises)
    text = f"Mode {r.mode}, ξ = {r.xi:g}, {one}, {r.steps} steps, {count} restart{'s' * (count != 1)}; {r.attack}"
    return f"{text}; {r.split}, n = {r.n:,}"


def _weak(r: WorstFlatnessResult) -> bool:
    """Return whether a new attack finds less than the search did, by more than a hundredth of the rise."""
    return r.mode == "sound" and r.again_gain < -0.01 * abs(r.robust.value)


def _missed(r: WorstFlatnessResult) -> str:
    text = f"at ξ = {r.xi:g} restarts differ by {r.spread:.2g} nats"
    text += "" if r.doubling_gain is None else f", twice the steps add {r.doubling_gain:.2g}"
    return f"{text}, a new attack {r.again_gain:.2g}"
