"""The robust loss under adversarial and random weight perturbations, over their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustscape.landscape.perturbed import AtGamma, PerturbedResult
from robustscape.pictures.plot import Picture, Plot, Style, Trace, alike, mean, runs, seeds, words

_KINDS: tuple[tuple[str, str, Style], ...] = (("adversarial", "AWP", "solid"), ("random", "RWP", "dash"))


def picture(found: Mapping[str, Sequence[PerturbedResult]]) -> Picture:
    """Return the robust loss over gamma, the loss at the weights themselves beside it."""
    found = alike(found, lambda r: tuple(tuple(at.gamma for at in of) for of in (r.adversarial, r.random)))
    traces = []
    for group, label, results in runs(found):
        gammas: list[float] = []
        for kind, short, style in _KINDS:
            levels: Sequence[Sequence[AtGamma]] = [getattr(r, kind) for r in results]
            if not levels[0]:
                continue
            x = np.array([at.gamma for at in levels[0]])
            gammas += x.tolist()
            values = [np.array([at.robust_loss for at in of]) for of in levels]
            start = results[0].reference_robust_loss
            own = (np.array([start + getattr(at.rise, end) for at in levels[0]]) for end in ("low", "high"))
            traces.append(mean(f"{label}, {short}", group, x, values, ends=[(next(own), next(own))], style=style))
        level = float(np.mean([r.reference_robust_loss for r in results]))
        x, y = np.array([min(gammas), max(gammas)]), np.full(2, level)
        traces.append(Trace(name=f"{label}, its own weights", group=group, x=x, y=y, style="dot"))
    return Picture(
        kind="flatness",
        title="Robust loss under perturbed weights",
        lead="How large a perturbation must be before the robust loss rises: adversarial ones need far less.",
        plots=(
            Plot(
                title="",
                x="γ, as a share of each layer's norm",
                y="robust loss, nats",
                traces=tuple(traces),
                log="x",
            ),
        ),
        keys=(("solid", "adversarial (AWP)"), ("dash", "random (RWP)"), ("dot", "the weights themselves")),
        how=(words(found, _how), seeds(found, alone="95 % intervals, over draws (RWP) or examples (AWP)")),
        care=("an adversarial perturbation is what the search found: a better one raises the loss further",),
    )


def _how(r: PerturbedResult) -> str:
    text = f"AWP: {r.alternations} round{'s' * (r.alternations != 1)} of {r.steps} step{'s' * (r.steps != 1)}"
    return f"{text}; RWP: {r.samples} draws; attacked anew at every perturbation, {r.attack}; {r.split}, n = {r.n:,}"
