"""Held and total curvature of the robust loss over eps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from robustscape.display import norm_words
from robustscape.landscape.curvature import CurvatureResult
from robustscape.landscape.curvature_levels import Along, AtEps, AtRadius, Top
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
from robustscape.pictures.spectrum import STEPS

_WHICH: tuple[tuple[str, Style], ...] = (("held", "dash"), ("total", "solid"))
_DIFFERENCES: tuple[tuple[str, Style], ...] = (("held", "dashdot"), ("total", "dot"))


def picture(found: Mapping[str, Sequence[CurvatureResult]]) -> Picture:
    """Return curvature over eps: the largest eigenvalue, and along each direction, inputs held and following."""
    found = alike(found, lambda r: (r.coordinates, tuple((at.eps, len(at.along)) for at in r.levels)))
    one = first(found)
    names = [along.direction for along in one.levels[0].along]
    plots = [_top(found)] if any(at.top is not None for at in one.levels) else []
    plots += [_along(found, number, name) for number, name in enumerate(names)]
    return Picture(
        kind="curvature",
        title="Curvature with the inputs held, and following",
        lead="How much curvature is missed where the adversarial inputs stay when the weights move.",
        plots=tuple(plots),
        keys=(("dash", "held"), ("solid", "total"), ("dashdot", "held by differences"), ("dot", "total by differences"),
              ("hollow", "not converged")),
        how=(
            words(found, _how),
            seeds(found, alone="95 % intervals over examples"),
            f"noise of the ascents in total by differences, {said}" if (said := each(found, _noise)) else "",
        ),
        care=_care(one),
    )  # fmt: skip


def _care(one: CurvatureResult) -> tuple[str, ...]:
    undefined = any(along.total is None for at in one.levels for along in at.along)
    return (
        RESCALED if one.coordinates == "raw" else "",
        "the total is not defined at some ε: there only differences over a radius are drawn" if undefined else "",
        "over a radius the loss is not quadratic: set total by differences beside held by differences",
        "leaps of an input to another maximum are missed",
    )


def _how(r: CurvatureResult) -> str:
    radii = [d.radius for at in r.levels for along in at.along for d in along.differences]
    middle = sorted(set(radii))[len(set(radii)) // 2] if radii else 0.0
    text = f"A step of 1 is {STEPS[r.coordinates]}; differences at radius {middle:g}; {r.settle} steps of ascent at w, "
    return f"{text}{r.follow} after a move; {r.attack}; {r.split}, n = {r.n:,}"


def _noise(r: CurvatureResult) -> str:
    """Return in words how far total differences may be off since ascents end too early."""
    noises = [_middle(along).noise for at in r.levels for along in at.along if along.differences]
    return f"up to {max(noises):.2g} nats" if noises else ""


def _eps(r: CurvatureResult) -> np.ndarray:
    return np.array([at.eps for at in r.levels])


def _plot(found: Mapping[str, Sequence[CurvatureResult]], title: str, traces: Sequence[Trace], y: str) -> Plot:
    one = first(found)
    drawn = tuple(trace for trace in traces if np.isfinite(trace.y).any())
    return Plot(title=title, x=f"ε of the inputs, {norm_words(one.norm)}", y=y, traces=drawn)


def _top(found: Mapping[str, Sequence[CurvatureResult]]) -> Plot:
    lines: tuple[tuple[str, Style, Callable[[Top], float | None]], ...] = (
        ("held", "dash", lambda top: top.held),
        ("total", "solid", lambda top: None if top.by.startswith("differences") else top.total),
        ("held by differences", "dashdot", lambda top: top.held_by_differences),
        ("total by differences", "dot", lambda top: top.total if top.by.startswith("differences") else None),
    )
    traces = []
    for group, label, results in runs(found):
        for which, style, value in lines:
            values = [_each(r, lambda at, value=value: value(at.top) if at.top else None) for r in results]
            traces.append(mean(f"{label}, {which}", group, _eps(results[0]), values, style=style))
        apart = _each(results[0], lambda at: at.top.total if at.top and not at.top.converged else None)
        traces.append(Trace(name=f"{label}, not converged", group=group, x=_eps(results[0]), y=apart, style="hollow"))
    return _plot(found, "Largest eigenvalue", traces, "eigenvalue, nats")


def _along(found: Mapping[str, Sequence[CurvatureResult]], number: int, name: str) -> Plot:
    traces = []
    for group, label, results in runs(found):
        x = _eps(results[0])
        for which, style in _WHICH:
            values = [_each(r, lambda at, which=which: getattr(at.along[number], which)) for r in results]
            traces.append(mean(f"{label}, {which}", group, x, values, style=style))
        for which, style in _DIFFERENCES:
            values, *ends = (
                [_each(r, lambda at, w=which, end=end: _difference(at.along[number], w, end)) for r in results]
                for end in ("value", "low", "high")
            )
            own = [(ends[0][0], ends[1][0])]
            traces.append(mean(f"{label}, {which} by differences", group, x, values, ends=own, style=style))
    return _plot(found, f"Along {name.replace('random', 'random direction')}", traces, "curvature v'Hv, nats")


def _each(r: CurvatureResult, of: Callable[[AtEps], float | None]) -> np.ndarray:
    return np.array([of(at) for at in r.levels], dtype=float)  # None becomes NaN


def _difference(along: Along, which: str, end: str) -> float | None:
    """Return the held or total curvature by differences at the middle radius, or an end of its interval."""
    return getattr(getattr(_middle(along), which), end) if along.differences else None


def _middle(along: Along) -> AtRadius:
    rising = sorted(along.differences, key=lambda one: one.radius)
    return rising[len(rising) // 2]
