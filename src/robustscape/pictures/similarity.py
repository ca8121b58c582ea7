"""Similarity of adversarial perturbations on both sides of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.similarity import SimilarityResult
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


def picture(found: Mapping[str, Sequence[SimilarityResult]]) -> Picture:
    """Return the cosine against the distance, beside that at the weights themselves, and the robust error."""
    found = alike(found, lambda r: (r.directions, tuple(r.position)))
    one = first(found)
    x = "distance a, L2 length" if one.normalisation == "unit" else "distance a, in lengths of the direction"
    similar, wrong, clean = [], [], []
    for group, label, results in runs(found):
        similar += [*_level(label, group, results)]
        for row, name in enumerate(one.directions):
            similar += _curve(f"{label}, {name}", group, results, row)
            for of, lines in (("robust_error", wrong), ("clean_error", clean)):
                errors = [100 * getattr(r, of)[row].mean(axis=-1) for r in results]
                lines.append(mean(f"{label}, {name}", group, one.position, errors, style=_style(name)))
    least = 100 * (1 - one.least_accuracy)
    title, levels = "Robust error at both ends", ((least, f"robust accuracy {100 * one.least_accuracy:.0f} %"),)
    return Picture(
        kind="inputs",
        title="Similarity of adversarial perturbations",
        lead="Whether the same examples get the same perturbations at w + a v and w − a v; where not, the robust loss "
        "is not smooth.",
        plots=(
            Plot(title="Similarity", x=x, y="cosine of the perturbations", traces=tuple(similar), log="x"),
            Plot(title=title, x=x, y="robust error, %", traces=tuple(wrong), log="x", levels=levels),
            Plot(title="Clean error at both ends", x=x, y="clean error, %", traces=tuple(clean), log="x"),
        ),
        keys=(("solid", "random direction"), ("dash", "eigenvector"), ("dot", "at the same weights"),
              ("hollow", "broken down")),
        how=(
            words(found, _how),
            f"eigenvalues (adversarial inputs held), {values}" if (values := each(found, _eigenvalues)) else "",
            seeds(found, alone="two standard errors over examples"),
        ),
        care=(
            RESCALED,
            "read it beside the dotted level, where perturbations differ by their random starts alone",
            f"hollow: robust accuracy below {100 * one.least_accuracy:.0f} %, where similarity says little",
            "lines end where the loss overflows"
            if any(r.overflowed.any() for _, _, results in runs(found) for r in results)
            else "",
        ),
    )  # fmt: skip


def _how(r: SimilarityResult) -> str:
    unit = {"unit": "length 1", "filter": "the norm of each filter", "layer": "the norm of each layer"}[r.normalisation]
    text = f"Random directions of {unit}; {r.starts} pair{'s' * (r.starts != 1)} of starts; {r.attack}; {r.split}, "
    return f"{text}n = {r.n:,}"


def _eigenvalues(r: SimilarityResult) -> str:
    pairs = [pair for pair in zip(r.eigenvalue, r.converged, strict=True) if np.isfinite(pair[0])]
    return ", ".join(f"{value:.3g}{'' if converged else ' (not converged)'}" for value, converged in pairs)


def _style(name: str) -> Style:
    return "dash" if name.startswith("eigenvector") else "solid"


def _level(label: str, group: int, results: Sequence[SimilarityResult]) -> list[Trace]:
    known = [(r.same_weights, r.same_weights_error or 0.0) for r in results if r.same_weights is not None]
    if not known:
        return []
    x = results[0].position[[0, -1]]
    values = [np.full(2, value) for value, _ in known]
    ends = [(values[0] - 2 * known[0][1], values[0] + 2 * known[0][1])]
    return [mean(f"{label}, same weights", group, x, values, ends=ends, style="dot")]


def _curve(name: str, group: int, results: Sequence[SimilarityResult], row: int) -> list[Trace]:
    values = [r.similarity[row] for r in results]
    error = 2 * results[0].standard_error[row]
    ends = [(values[0] - error, values[0] + error)]
    line = mean(name, group, results[0].position, values, ends=ends, style=_style(name.rpartition(", ")[2]))
    broken = ~np.all([r.trusted[row] for r in results], axis=0) & np.isfinite(line.y)
    if not broken.any():
        return [line]
    return [line, Trace(name=f"{name}, broken down", group=group, x=line.x[broken], y=line.y[broken], style="hollow")]
