"""Loss along paths between two networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.connectivity import ConnectivityResult
from robustscape.pictures.plot import RESCALED, Picture, Plot, Style, Trace, alike, each, first, mean, runs, words

_PATHS: tuple[tuple[str, Style], ...] = (("line", "dot"), ("curve", "solid"), ("aligned line", "dashdot"),
                                         ("aligned curve", "dash"))  # fmt: skip


def picture(found: Mapping[str, Sequence[ConnectivityResult]]) -> Picture:
    """Return robust and clean loss and robust error against the place on the path, line beside trained curves."""
    found = alike(found, lambda r: (tuple(r.t), r.paths))
    there = [pair for pair in _PATHS if any(_rows(r, pair[0]) for rs in found.values() for r in rs)]
    names = {"line": "straight line", "curve": "trained curve", "aligned line": "line after alignment",
             "aligned curve": "curve after alignment"}  # fmt: skip
    plots = (
        _plot(found, "robust_loss", "Robust loss", "loss, nats"),
        _plot(found, "clean_loss", "Clean loss", "loss, nats"),
        _plot(found, "robust_error", "Robust error", "error, %"),
    )
    ends = f"the two networks{' with their own BatchNorm statistics' if first(found).statistics else ''}"
    return Picture(
        kind="networks",
        title="Connectivity of two networks",
        lead="The loss on the way from one network to the other: a hump is a barrier.",
        plots=plots,
        keys=(*((style, names[name]) for name, style in there), ("points", ends)),
        how=(
            words(found, _how),
            f"robust barriers in nats, {each(found, _barriers)}",
            "bands: one standard deviation over trained curves and seeds",
        ),
        care=(
            RESCALED,
            "a barrier narrower than the distance of two places may be missed",
            "curves are what training found",
        ),
    )


def _rows(r: ConnectivityResult, name: str) -> list[int]:
    """Return which paths are of a kind: "curve" for "curve 1", "curve 2"."""
    return [k for k, path in enumerate(r.paths) if path.rstrip("0123456789 ") == name]


def _how(r: ConnectivityResult) -> str:
    text = f"To {r.other}; {r.attack}; {r.split}, n = {r.n:,}"
    if r.order > 1:
        text += f"; curves of order {r.order}, trained on the {r.objective} loss of {r.trained_n:,} examples"
        text += f" ({r.training_attack})" if r.training_attack else ""
    return text + (f"; BatchNorm statistics: {r.statistics}" if r.statistics else "")


def _barriers(r: ConnectivityResult) -> str:
    return ", ".join(f"{path} {rise:.2f}" for path, rise in zip(r.paths, r.robust_barrier, strict=True))


def _plot(found: Mapping[str, Sequence[ConnectivityResult]], field: str, title: str, y: str) -> Plot:
    scale, traces = 100.0 if field.endswith("error") else 1.0, []
    for group, label, results in runs(found):
        for name, style in _PATHS:
            curves = [scale * getattr(r, field)[row] for r in results for row in _rows(r, name)]
            if curves:
                traces.append(mean(f"{label}, {name}", group, results[0].t, curves, style=style))
        for r in results if field.endswith("loss") else ():
            x, own = np.array([0.0, 1.0]), getattr(r, f"own_{field}")
            traces.append(Trace(name=f"{label}, own statistics", group=group, x=x, y=own, style="points"))
    return Plot(title=title, x="t: 0 this network, 1 the other", y=y, traces=tuple(traces))
