"""Held and total curvature of the robust loss over eps."""

from __future__ import annotations

import math
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
_DRAWN = "differences are those of the slope at radius {radius:g}, where noise is the smallest part of total − held"


def picture(found: Mapping[str, Sequence[CurvatureResult]]) -> Picture:
    """Return curvature over eps: the largest eigenvalue, and along each direction, inputs held and following."""
    found = alike(found, lambda r: (r.coordinates, tuple((at.eps, len(at.along)) for at in r.levels)))
    one, radius = first(found), _radius(found)
    names = [along.direction for along in one.levels[0].along]
    plots = [_top(found)] if any(at.top is not None for at in one.levels) else []
    plots += [_along(found, number, name, radius) for number, name in enumerate(names)]
    return Picture(
        kind="curvature",
        title="Curvature with the inputs held, and following",
        lead="How much curvature is missed where the adversarial inputs stay when the weights move.",
        plots=tuple(plots),
        keys=(("dash", "held"), ("solid", "total"), ("dashdot", "held by differences"), ("dot", "total by differences"),
              ("hollow", "not converged")),
        how=(
            words(found, lambda r: _how(r, radius)),
            _DRAWN.format(radius=radius) if radius else "",
            seeds(found, alone="the noise of ascents that end too early, of the total by differences"),
            f"this noise, {said}" if (said := each(found, lambda r: _noise(r, radius))) else "",
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


def _how(r: CurvatureResult, radius: float) -> str:
    text = f"A step of 1 is {STEPS[r.coordinates]}; {r.settle} steps of ascent at w, {r.follow} after a move"
    apart = {at.top.by for at in r.levels if at.top is not None and at.top.by.startswith("differences")}
    apart -= {f"differences at radius {radius:g}"}
    text += f"; largest eigenvalue by {' and '.join(sorted(apart))}" if apart else ""
    return f"{text}; {r.attack}; {r.split}, n = {r.n:,}"


def _noise(r: CurvatureResult, radius: float) -> str:
    """Return in words how far total differences may be off since ascents end too early."""
    noises = [d.noise_by_gradients for at in r.levels for along in at.along if (d := _at(along, radius))]
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


def _along(found: Mapping[str, Sequence[CurvatureResult]], number: int, name: str, radius: float) -> Plot:
    traces = []
    for group, label, results in runs(found):
        x = _eps(results[0])
        for which, style in _WHICH:
            values = [_each(r, lambda at, which=which: getattr(at.along[number], which)) for r in results]
            traces.append(mean(f"{label}, {which}", group, x, values, style=style))
        for which, style in _DIFFERENCES:
            values, noise = (
                [_each(r, lambda at, f=field: _difference(at.along[number], radius, f)) for r in results]
                for field in (f"{which}_by_gradients", "noise_by_gradients")
            )
            own = [(values[0] - noise[0], values[0] + noise[0])] if which == "total" else []
            traces.append(mean(f"{label}, {which} by differences", group, x, values, ends=own, style=style))
    return _plot(found, f"Along {name.replace('random', 'random direction')}", traces, "curvature v'Hv, nats")


def _each(r: CurvatureResult, of: Callable[[AtEps], float | None]) -> np.ndarray:
    return np.array([of(at) for at in r.levels], dtype=float)  # None becomes NaN


def _difference(along: Along, radius: float, field: str) -> float | None:
    """Return a field of the differences at a radius."""
    found = _at(along, radius)
    return None if found is None else getattr(found, field)


def _at(along: Along, radius: float) -> AtRadius | None:
    return next((one for one in along.differences if one.radius == radius), None)


def _radius(found: Mapping[str, Sequence[CurvatureResult]]) -> float:
    """Return the radius at which noise is the smallest part of total minus held, along the worst direction.

    It is the same for all runs and eps, since over another radius the loss is another. 0 where there are none.
    """
    parts: dict[float, dict[str, list[float]]] = {}
    for at in (at for results in found.values() for r in results for at in r.levels):
        for along in at.along:
            for one in along.differences:
                sums = parts.setdefault(one.radius, {}).setdefault(along.direction, [0.0, 0.0])
                sums[0] += one.noise_by_gradients
                sums[1] += abs(one.total_by_gradients - one.held_by_gradients)
    return min(parts, key=lambda radius: max(map(_part, parts[radius].values())), default=0.0)


def _part(sums: Sequence[float]) -> tuple[float, float]:
    noise, excess = sums
    return noise / excess if excess else math.inf, noise
