"""The loss and the error along directions in weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.display import slice_band
from robustscape.landscape.slices import SliceResult
from robustscape.landscape.surface import SurfaceResult
from robustscape.pictures.plot import (
    RESCALED,
    Picture,
    Plot,
    Style,
    Trace,
    alike,
    each,
    first,
    interval,
    mean,
    runs,
    seeds,
    words,
)

_MOST = 3  # directions of one's own that are drawn
_INPUTS: tuple[tuple[str, Style], ...] = (("clean", "dash"), ("robust", "solid"))
_LEADS = {
    "random": "The loss when the weights move along random directions; flat is better.",
    "other": "The loss on the straight line to other weights; a rise between them is a barrier.",
    "hessian": "The loss along the directions of largest curvature of the adversarial loss.",
    "clean_hessian": "The loss along the directions of largest curvature of the clean loss.",
    "adversarial": "The loss along directions that were searched to raise it; flat is better.",
    "path": "The loss along the principal directions of the training path.",
}
_TITLES = {
    "random": "along random directions",
    "other": "on the line to other weights",
    "hessian": "along top eigenvectors",
    "clean_hessian": "along top eigenvectors of the clean loss",
    "adversarial": "along adversarial directions",
    "path": "along the training path",
}


def picture(found: Mapping[str, Sequence[SliceResult]]) -> Picture:
    """Return loss and error along directions: the mean of random ones, the largest of adversarial ones.

    Eigenvectors and principal directions have a plot each.
    """
    found = alike(found, lambda r: (r.facts.along, r.scheme, tuple(r.alpha)))
    along = first(found).facts.along
    if along in ("hessian", "clean_hessian", "path"):
        most = max(len(r.robust_loss) for _, _, results in runs(found) for r in results)
        plots = tuple(_own(found, along, number) for number in range(min(_MOST, most)))
    else:
        plots = (_plot(found, along, "loss"), _plot(found, along, "error"))
    keys: list[tuple[Style, str]] = [("solid", "under attack"), ("dash", "clean")]
    if any(r.full_robust_loss.size for results in found.values() for r in results):
        keys.append(("dots", "a full attack"))
    bands = "bands: one standard deviation over directions and seeds"
    return Picture(
        kind="loss",
        title=f"Loss {_TITLES[along]}",
        lead=_LEADS[along],
        plots=plots,
        keys=tuple(keys),
        how=(
            words(found, _how),
            f"L2 length of 1, {each(found, _length)}",
            bias(found),
            "lines: the largest loss over the directions" if along == "adversarial" else "",
            bands if along == "random" else seeds(found, alone=""),
        ),
        care=_care(found, along),
    )


def position(scheme: str, along: str) -> str:
    """Return the label of an axis of positions: what 1 is."""
    if along == "other":
        return "position: 0 these weights, 1 the others"
    if along == "path":
        return "position: 1 is as far as the path goes"
    unit = {"filter": "the norm of each filter", "layer": "the norm of each layer"}.get(scheme, "an L2 length of 1")
    return f"position α: 1 is {unit}"


def directions(scheme: str, along: str) -> str:
    """Return in words what directions are normalised to."""
    if along in ("other", "path"):
        return "not normalised"
    return {"filter": "filter-normalised", "layer": "layer-normalised"}.get(scheme, "of length 1")


def _how(r: SliceResult) -> str:
    count = len(r.clean_loss)
    text = f"{count} direction{'s' * (count != 1)}, {directions(r.scheme, r.facts.along)}"
    text += f"; {r.attack}; adversarial examples {r.examples}; {r.split}, n = {r.n:,}"
    return f"{text}; BatchNorm statistics {r.facts.statistics}"


def _length(r: SliceResult) -> str:
    low, high = f"{r.direction_norm.min():.3g}", f"{r.direction_norm.max():.3g}"
    return low if low == high else f"{low} to {high}"


def bias(found: Mapping[str, Sequence[SliceResult]] | Mapping[str, Sequence[SurfaceResult]]) -> str:
    """Return in words by how much the robust loss misses that of a full attack, "" where that was not asked."""
    told = each(found, lambda r: "" if r.bias is None else interval(r.bias, "+.3f"))
    return f"robust loss over that of a full attack, off the centre, in nats, {told}" if told else ""


def _care(found: Mapping[str, Sequence[SliceResult]], along: str) -> tuple[str, ...]:
    results = [r for rs in found.values() for r in rs]
    schemes = {r.scheme for r in results}
    return (
        "random directions hardly ever meet the few that are sharp" if along == "random" else "",
        "directions were normalised in different ways: positions do not compare" if len(schemes) > 1 else "",
        "" if all(all(r.facts.converged) for r in results) else "some eigenvectors did not converge",
        "lines end where the loss overflows" if any(r.overflowed.any() for r in results) else "",
        "" if along == "random" and "none" not in schemes else RESCALED,
    )


def _plot(found: Mapping[str, Sequence[SliceResult]], along: str, quantity: str) -> Plot:
    scale = 100.0 if quantity == "error" else 1.0
    traces = []
    for group, label, results in runs(found):
        for inputs, style in _INPUTS:
            traces.append(_line(label, group, results, f"{inputs}_{quantity}", scale, style, along))
        for r in results:
            if (full := getattr(r, f"full_robust_{quantity}")).size:
                d, p = np.nonzero(np.isfinite(full))
                name = f"{label}, full attack"
                traces.append(Trace(name=name, group=group, x=r.alpha[p], y=scale * full[d, p], style="dots"))
    y = "error, %" if quantity == "error" else "loss, nats per example"
    x = position(first(found).scheme, along)
    return Plot(title=f"{quantity.capitalize()} {_TITLES[along]}", x=x, y=y, traces=tuple(traces))


def _line(
    label: str, group: int, results: Sequence[SliceResult], field: str, scale: float, style: Style, along: str
) -> Trace:
    name = f"{label}, {field.partition('_')[0]}"
    if along == "adversarial":
        return mean(
            name, group, results[0].alpha, [scale * getattr(r, field).max(axis=0) for r in results], style=style
        )
    band = slice_band(results, field)
    low, high = (scale * band.low, scale * band.high) if band.count > 1 else (None, None)
    return Trace(name=name, group=group, x=band.x, y=scale * band.mean, low=low, high=high, style=style)


def _own(found: Mapping[str, Sequence[SliceResult]], along: str, number: int) -> Plot:
    """Return the loss along one direction that has a meaning of its own."""
    traces, known = [], []
    for group, label, results in runs(found):
        there = [r for r in results if number < len(r.robust_loss)]
        for inputs, style in _INPUTS if there else ():
            values = [getattr(r, f"{inputs}_loss")[number] for r in there]
            traces.append(mean(f"{label}, {inputs}", group, there[0].alpha, values, style=style))
        for r in there:
            at = np.nonzero(np.isfinite(r.full_robust_loss[number]))[0] if r.full_robust_loss.size else []
            if len(at):
                y = r.full_robust_loss[number, at]
                traces.append(Trace(name=f"{label}, full attack", group=group, x=r.alpha[at], y=y, style="dots"))
            held = ", inputs held" if along == "hessian" else ""
            known += [f"{r.facts.eigenvalues[number]:.3g}{held}"] if r.facts.eigenvalues else []
            known += [f"{100 * r.facts.explained[number]:.0f} %"] if r.facts.explained else []
    what = "Component" if along == "path" else "Eigenvector"
    title = f"{what} {number + 1}" + (f" ({', '.join(dict.fromkeys(known))})" if len(known) == 1 else "")
    x = position(first(found).scheme, along)
    return Plot(title=title, x=x, y="loss, nats per example", traces=tuple(traces))
