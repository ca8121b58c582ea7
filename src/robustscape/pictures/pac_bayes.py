"""Expected robust error under noise on the weights, and the PAC-Bayes bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.pac_bayes import PACBayesResult
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

_BOUNDS: tuple[tuple[str, str, Style], ...] = (("bound", "bound", "solid"), ("bound_as_printed", "as printed", "dash"))


def picture(found: Mapping[str, Sequence[PACBayesResult]]) -> Picture:
    """Return the expected error and the bound over alpha."""
    found = alike(found, lambda r: (r.spread, tuple(at.alpha for at in r.levels)))
    one = first(found)
    whole = "of all weights" if one.spread == "whole" else "of the layer"
    x = f"α: noise σ over the norm {whole}"
    expected: list[Trace] = []
    bounds: list[Trace] = []
    for group, label, results in runs(found):
        at = np.array([level.alpha for level in results[0].levels])
        values = [100 * np.array([level.expected.value for level in r.levels]) for r in results]
        low, high = (
            100 * np.array([getattr(of.expected_over_both, e) for of in results[0].levels]) for e in ("low", "high")
        )
        expected.append(mean(f"{label}, robust error under noise", group, at, values, ends=[(low, high)]))
        level = np.full(2, 100 * np.mean([r.robust_error for r in results]))
        expected.append(Trace(name=f"{label}, without noise", group=group, x=at[[0, -1]], y=level, style="dot"))
        for field, name, style in _BOUNDS:
            of = [np.array([getattr(level, field) for level in r.levels]) for r in results]
            bounds.append(mean(f"{label}, {name}", group, at, of, style=style))
    return Picture(
        kind="bound",
        title="PAC-Bayes terms",
        lead="How much noise on the weights costs, and how far the bound is from saying anything.",
        plots=(
            Plot(title="Expected robust error under noise", x=x, y="robust error, %", traces=tuple(expected), log="x"),
            Plot(title="Bound on unseen examples", x=x, y="bound on the robust error", traces=tuple(bounds), log="xy",
                 levels=((1.0, "says nothing above 1"),)),
        ),
        keys=(("solid", "under noise; the bound"), ("dot", "without noise"), ("dash", "bound as the paper prints it")),
        how=(
            words(found, _how),
            f"smallest bound, {each(found, _bound)}",
            seeds(found, alone="95 % intervals over draws and examples"),
        ),
        care=(
            RESCALED if one.spread == "whole" else "",
            "the bound as printed has 1 / (2 α) for the divergence, where 1 / (2 α²) follows: it does not hold",
        ),
    )  # fmt: skip


def _how(r: PACBayesResult) -> str:
    text = f"{len(r.levels[0].errors)} draws at each α; {r.attack}; {r.split}, n = {r.n:,}; bound for "
    return f"{text}{r.training_examples:,} training examples, δ = {r.delta:g}"


def _bound(r: PACBayesResult) -> str:
    return f"{r.bound.value:.3g}{' (vacuous)' if r.bound.value >= 1 else ''}"
