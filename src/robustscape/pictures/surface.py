"""The robust loss over a plane in weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from robustscape.landscape.surface import SurfaceResult
from robustscape.pictures.plot import RESCALED, Picture, Plane, Plot, each, first, runs, words
from robustscape.pictures.slices import bias, directions, position

_FORMS: tuple[Literal["contour", "surface"], ...] = ("contour", "surface")
_TITLES = {
    "random": "two random directions",
    "other": "the line to other weights and a random direction",
    "hessian": "the top two eigenvectors",
    "clean_hessian": "the top two eigenvectors of the clean loss",
    "adversarial": "an adversarial and a random direction",
    "path": "the training path",
}


def picture(found: Mapping[str, Sequence[SurfaceResult]]) -> Picture:
    """Return contours and a surface of each group's first run, all on one scale."""
    shown = {label: results[:1] for label, results in found.items()}
    results = [r for rs in shown.values() for r in rs]
    losses = np.concatenate([r.robust_loss[np.isfinite(r.robust_loss)] for r in results])
    ends = (float(losses.min()), float(losses.max())) if len(losses) else (0.0, 1.0)
    ends = ends if ends[0] < ends[1] else (ends[0], ends[0] + 1)  # a level plane has a scale too
    along = first(found).facts.along
    plots = tuple(_plot(r, group, label, form, ends) for form in _FORMS for group, label, (r,) in runs(shown))
    return Picture(
        kind="loss",
        title=f"Loss surface: {_TITLES[along]}",
        lead="The robust loss where the weights move along two directions; wide and level is better.",
        plots=plots,
        how=(
            words(shown, _how),
            f"directions, {each(shown, _lengths)}",
            bias(shown),
            "one run of each method; one scale for all",
        ),
        care=_care(results),
    )


def _how(r: SurfaceResult) -> str:
    text = f"First direction {directions(r.scheme, r.facts.along)}; {r.attack}; adversarial examples {r.examples}; "
    return f"{text}{r.split}, n = {r.n:,}; BatchNorm statistics {r.facts.statistics}"


def _lengths(r: SurfaceResult) -> str:
    return f"L2 lengths {r.direction_norm[0]:.3g} and {r.direction_norm[1]:.3g}, cosine {r.cosine:.2g}"


def _care(results: Sequence[SurfaceResult]) -> tuple[str, ...]:
    moves = any(r.facts.along != "random" or r.scheme == "none" for r in results)
    return (
        "a plane is a small part of the space: what is level here may be steep elsewhere",
        "holes are where the loss overflows" if any(r.overflowed.any() for r in results) else "",
        "" if all(all(r.facts.converged) for r in results) else "some eigenvectors did not converge",
        RESCALED if moves else "",
    )


def _plot(
    r: SurfaceResult, group: int, label: str, form: Literal["contour", "surface"], ends: tuple[float, float]
) -> Plot:
    along = r.facts.along
    second = "random" if along in ("other", "adversarial") else along
    axes = [position(r.scheme, along), position("filter" if along == "other" else r.scheme, second)]
    if along == "path":
        axes = [f"α: component {k + 1}, {100 * share:.0f} % of the path; 1 is as far as it goes"
                for k, share in enumerate(r.facts.explained)]  # fmt: skip
    plane = Plane(
        name=label,
        group=group,
        x=r.alpha,
        y=r.beta,
        z=np.where(np.isfinite(r.robust_loss), r.robust_loss, np.nan),
        lowest=ends[0],
        highest=ends[1],
        path=np.array(r.facts.path, dtype=float).reshape(-1, 2),
        stops=r.facts.checkpoints,
        form=form,
    )
    return Plot(title=label, x=axes[0], y=axes[1].replace("α", "β"), plane=plane, z="robust loss, nats")
